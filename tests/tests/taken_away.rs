//! Rung: namespaces, reliability F7, F10 and F22. What is netd's is removed by somebody else while the daemon runs: it is put back, said once, and what belongs to
//! others stays as it is.

use std::{fs, os::unix::fs::DirBuilderExt as _, process::Command};

use aya::programs::TcAttachType;
use netd_tests::{
    Family, Foreign, ForeignPlace, H, Lab, Ns, Options, Outcome, Proto, R, Sandbox, Server, Topology, at,
    eventually,
};
use nix::sys::signal::Signal;

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    _remote: Server,
    a1: Sandbox,
    a2: Sandbox,
    b1: Sandbox,
    lab: Lab,
}

impl World {
    fn new(topology: Topology, config: &str) -> Self {
        let config = format!("{config}[flows]\nentries = 4096\n");
        let lab = Lab::on(topology, &Options { config, ..Options::default() });
        let bridge = ["-o", "com.docker.network.bridge.name=netd-a"];
        let (net, b) = (lab.network("netA", 20, &bridge), lab.network("netB", 21, &[]));
        let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
        let (a2, b1) = (lab.sandbox("a2", net, 3, &[]), lab.sandbox("b1", b, 2, &[]));
        let remote = Server::start(&lab.r, &[80]);
        Self { _remote: remote, a1, a2, b1, lab }
    }

    /// The host side of a sandbox's veth.
    fn host_side(&self, sandbox: &str) -> String {
        let networks = self.lab.inspect(sandbox)["NetworkSettings"]["Networks"].clone();
        let mut sides = networks.as_object().expect("networks").values();
        sides.find_map(|network| network["HostInterface"].as_str()).expect("HostInterface").to_owned()
    }

    /// Waits until everything goes again, and what is closed is closed.
    fn holds(&self, after: &str) {
        let Self { a1, a2, b1, lab, .. } = self;
        for family in Family::BOTH {
            let ways = [
                (&lab.r, at(H.ip(family), 8080)),
                (&**a1, at(R.ip(family), 80)),
                (&**a2, at(a1.ip(family), 80)),
                (&lab.h, at(family.loopback(), 8080)),
            ];
            for (client, to) in ways {
                for proto in Proto::BOTH {
                    eventually(&format!("{proto:?} {} to {to} after {after}", client.name()), || {
                        client.probe(proto, to).seen().is_some()
                    });
                }
            }
            for client in [&lab.r, &**b1] {
                let outcome = client.probe(Proto::Tcp, at(a1.ip(family), 80));
                assert_eq!(outcome, Outcome::Timeout, "{family:?} {} after {after}", client.name());
            }
        }
    }

    /// What `netd debug check` says.
    fn check(&self) -> String {
        let dirs = self.lab.daemon.dirs();
        let (config, options) = (dirs.path("netd.toml").display().to_string(), dirs.options());
        let args = ["debug", "check", "--config", &config].into_iter();
        let args: Vec<&str> = args.chain(options.iter().map(String::as_str)).collect();
        self.lab.netd(&args).stdout
    }

    /// How often the log says this.
    fn said(&self, what: &str) -> usize {
        self.lab.daemon.log().lines().filter(|line| line.contains("put back") && line.contains(what)).count()
    }

    /// Takes something away, and waits until that was said, once.
    fn repaired(&self, what: &str, take: impl FnOnce()) {
        let before = self.said(what);
        take();
        eventually(&format!("{what} to be put back:\n{}", self.lab.daemon.log()), || {
            self.said(what) > before
        });
        self.holds(what);
        assert_eq!(self.said(what), before + 1, "{what}: {}", self.lab.daemon.log());
    }
}

fn tc(ns: &Ns, args: &[&str]) -> String {
    let out = ns.output(Command::new("tc").args(args));
    assert!(out.status.success(), "tc {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn filters_and_qdiscs(attach: &str) {
    let topology = Topology::new();
    let foreign = Foreign::attach(&topology.h, "eth1", TcAttachType::Ingress, ForeignPlace::Filter(7));
    let w = World::new(topology, attach);
    let (veth, programs) = (w.host_side("a1"), |ifname: &str| format!("programs of {ifname}"));
    w.holds("the beginning");
    w.repaired(&programs(&veth), || drop(tc(&w.lab.h, &["qdisc", "del", "dev", &veth, "clsact"])));
    w.repaired(&programs(&veth), || drop(tc(&w.lab.h, &["filter", "del", "dev", &veth, "egress"])));
    assert!(tc(&w.lab.h, &["filter", "show", "dev", &veth, "egress"]).contains("to_endpoint"));
    if !attach.is_empty() {
        w.repaired(&programs("eth0"), || drop(tc(&w.lab.h, &["qdisc", "del", "dev", "eth0", "clsact"])));
        assert!(tc(&w.lab.h, &["filter", "show", "dev", "eth0", "ingress"]).contains("from_uplink"));
        w.repaired(&programs("eth1"), || {
            drop(tc(&w.lab.h, &["filter", "del", "dev", "eth1", "ingress", "pref", "28261"]));
        });
    }
    assert!(
        tc(&w.lab.h, &["filter", "show", "dev", "eth1", "ingress"]).contains("pref 7 "),
        "it is another's"
    );
    drop(foreign);
}

#[test]
fn filters_and_qdiscs_that_others_remove_come_back_and_theirs_stay() {
    filters_and_qdiscs("");
}

#[test]
fn filters_and_qdiscs_come_back_where_every_program_is_a_filter() {
    filters_and_qdiscs("attach = \"tc\"\n");
}

#[test]
fn pins_and_links_that_others_remove_come_back() {
    let mut w = World::new(Topology::new(), "");
    let mut stream = w.lab.r.connect_stream(at(H.v4, 8080)).0;
    let layout =
        fs::read_dir(w.lab.daemon.dirs().bpffs()).expect("pins").flatten().next().expect("a layout").path();
    let remove = |name: &str| fs::remove_file(layout.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    w.repaired("pin of map FLOW4", || remove("FLOW4"));
    w.repaired("socket programs", || remove("links/connect4"));
    let veth = w.host_side("a1");
    let index = w.lab.h.link(&veth).expect("the veth").index;
    w.lab.until_promoted();
    if layout.join(format!("links/{index}-from_endpoint")).exists() {
        w.repaired(&format!("programs of {veth}"), || remove(&format!("links/{index}-from_endpoint")));
    } else {
        println!("skipped: no TCX before Linux 6.6");
    }
    // All of it, and the flows are still there for the next daemon.
    w.repaired("pin of map FLOW4", || {
        // At once, as far as the daemon can see.
        w.lab.daemon.signal(Signal::SIGSTOP);
        let status = format!("/proc/{}/status", w.lab.daemon.pid().expect("a daemon"));
        eventually("the daemon to stop", || {
            fs::read_to_string(&status).expect("its status").contains("State:\tT")
        });
        fs::remove_dir_all(&layout).expect("removed");
        w.lab.daemon.signal(Signal::SIGCONT);
    });
    stream.echo(b"still here").expect("the flow is kept");
    w.lab.daemon.end(Signal::SIGKILL);
    w.lab.daemon.restart();
    stream.echo(b"and with the next daemon").expect("the flow is kept");
    w.holds("the next daemon");
    // What is no layout of netd's is nobody's business.
    let mine = w.lab.daemon.dirs().bpffs().join("mine");
    fs::DirBuilder::new().mode(0o700).create(&mine).expect("made");
    w.lab.daemon.end(Signal::SIGKILL);
    w.lab.daemon.restart();
    assert!(mine.exists());
}

#[test]
fn bridges_and_veths_that_others_remove_or_rename_come_back() {
    let w = World::new(Topology::new(), "");
    let veth = w.host_side("a1");
    w.holds("the beginning");
    w.lab.h.ip_batch(&format!("link del {veth}"));
    w.holds("a veth's removal");
    w.lab.h.ip_batch("link del netd-a");
    w.holds("the bridge's removal");
    w.lab.h.ip_batch("addr flush dev netd-a scope global");
    w.holds("the removal of the bridge's addresses");
    let veth = w.host_side("a1");
    w.lab.h.ip_batch(&format!("link set {veth} nomaster"));
    w.holds("a veth's removal from its bridge");
    w.lab.h.ip_batch(&format!("link set {veth} name mine0"));
    w.holds("a veth's renaming");
    assert!(w.lab.h.link(&veth).is_some(), "it has its name again");
    eventually("everything to agree", || w.check().contains("everything agrees"));
}

#[test]
fn routes_to_a_bridges_subnets_that_others_remove_come_back() {
    let mut w = World::new(Topology::new(), "");
    w.holds("the beginning");
    let routes = |w: &World, family: &str| -> Vec<String> {
        let out = w.lab.h.output(Command::new("ip").args([family, "route", "show", "dev", "netd-a"]));
        let text = String::from_utf8(out.stdout).expect("text");
        text.lines().filter(|line| !line.starts_with("fe80:")).map(|line| line.trim().to_owned()).collect()
    };
    let remove = |w: &World, family: &str| {
        let subnet = routes(w, family)[0].split(' ').next().expect("a subnet").to_owned();
        w.lab.h.ip_batch(&format!("route del {subnet} dev netd-a"));
        subnet
    };
    let reached = |w: &World, after: &str| {
        for family in Family::BOTH {
            eventually(&format!("the host to reach the sandbox after {after}"), || {
                w.lab.h.probe(Proto::Tcp, at(w.a1.ip(family), 80)).seen().is_some()
            });
        }
    };
    let before = ["-4", "-6"].map(|family| routes(&w, family));
    assert!(before.iter().all(|routes| routes.len() == 1), "{before:?}");
    reached(&w, "the beginning");
    for (family, before) in ["-4", "-6"].into_iter().zip(&before) {
        let subnet = remove(&w, family);
        eventually(&format!("the route to {subnet}"), || {
            routes(&w, family) == *before && w.said(&subnet) == 1
        });
    }
    reached(&w, "the removal of its routes");
    w.holds("the removal of routes");
    // Nobody else puts them back, and the next daemon does.
    w.lab.daemon.end(Signal::SIGKILL);
    for family in ["-4", "-6"] {
        remove(&w, family);
        assert!(routes(&w, family).is_empty());
    }
    w.lab.daemon.restart();
    assert_eq!(["-4", "-6"].map(|family| routes(&w, family)), before);
    reached(&w, "a start");
}
