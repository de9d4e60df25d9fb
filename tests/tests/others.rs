//! Rung: namespaces, reliability F9, F10, F23. Others write to settings, unmount names, take interfaces off their bridges and addresses off interfaces, all
//! while the daemon runs: it is seen, put right, and said once.

use std::{fs, process::Command};

use netd_tests::{
    Child, Family, Foreign, ForeignPlace, H, Lab, Ns, Options, Outcome, Proto, R, Sandbox, Server, at,
    eventually,
};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
};

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    _remote: Server,
    a1: Sandbox,
    a2: Sandbox,
    lab: Lab,
}

impl World {
    fn new(config: &str) -> Self {
        let config = format!("{config}[flows]\nentries = 4096\n");
        let lab = Lab::with(&Options { config, ..Options::default() });
        let net = lab.network("netA", 20, &["-o", "com.docker.network.bridge.name=netd-a"]);
        let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
        let a2 = lab.sandbox("a2", net, 3, &["-p", "8082:80"]);
        let remote = Server::start(&lab.r, &[80]);
        Self { _remote: remote, a1, a2, lab }
    }

    fn host_side(&self, sandbox: &str) -> String {
        let networks = &self.lab.inspect(sandbox)["NetworkSettings"]["Networks"];
        networks["netA"]["HostInterface"].as_str().expect("HostInterface").to_owned()
    }

    /// Waits until everything goes.
    fn holds(&self, after: &str) {
        for family in Family::BOTH {
            for (client, to) in [
                (&self.lab.r, at(H.ip(family), 8080)),
                (&*self.a1, at(R.ip(family), 80)),
                (&*self.a2, at(self.a1.ip(family), 80)),
            ] {
                for proto in Proto::BOTH {
                    eventually(&format!("{proto:?} {} to {to} after {after}", client.name()), || {
                        client.probe(proto, to).seen().is_some()
                    });
                }
            }
            let id = if family == Family::V4 { 901 } else { 902 };
            eventually(&format!("the gateway after {after}"), || {
                matches!(self.a2.ping_with(gateway(family), id, netd_tests::SILENCE), Outcome::Ok(_))
            });
        }
    }

    /// How often the log says this among what was done to netd by others.
    fn said(&self, what: &str) -> usize {
        self.lab.daemon.log().lines().filter(|line| line.contains("by others") && line.contains(what)).count()
    }
}

/// The gateway of the network.
fn gateway(family: Family) -> std::net::IpAddr {
    let text = if family == Family::V4 { "172.20.0.1" } else { "fd00:c:20::1" };
    text.parse().expect("an address")
}

#[test]
fn f23_settings_that_others_write_to_are_put_back_and_said_once() {
    let w = World::new("");
    w.holds("the beginning");
    let host = &w.lab.h;
    // What the kernel tells of, what it does not, and what it clears on every link.
    let flips = [
        ("net/ipv4/conf/netd-a/forwarding", "0"),
        ("net/ipv6/conf/netd-a/forwarding", "0"),
        ("net/ipv6/conf/netd-a/accept_ra", "2"),
        ("net/ipv6/conf/netd-a/accept_redirects", "1"),
        ("net/ipv4/conf/netd-a/accept_redirects", "1"),
        ("net/ipv4/conf/netd-a/send_redirects", "1"),
        ("net/ipv4/conf/netd-a/proxy_arp", "1"),
        ("net/ipv6/conf/netd-a/proxy_ndp", "1"),
        ("net/ipv6/conf/netd-a/autoconf", "1"),
    ];
    for (key, value) in flips {
        let (before, told) = (host.sysctl_get(key), w.said(key.trim_start_matches("net/")));
        assert_ne!(before, value, "{key}");
        host.sysctl(key, value);
        eventually(&format!("{key} to be put back"), || host.sysctl_get(key) == before);
        let now = || w.said(key.trim_start_matches("net/"));
        eventually(&format!("{key} to be told of"), || now() > told);
        assert_eq!(now(), told + 1, "{key}: {}", w.lab.daemon.log());
    }
    w.holds("the settings of the bridge");
    // With it go the bridge's addresses, which is what is told.
    host.sysctl("net/ipv6/conf/netd-a/disable_ipv6", "1");
    eventually("IPv6 on the bridge", || host.sysctl_get("net/ipv6/conf/netd-a/disable_ipv6") == "0");
    w.holds("a bridge without IPv6");
    assert!(w.said("netd-a") > flips.len(), "{}", w.lab.daemon.log());
    for (key, own) in [
        ("net/ipv4/ip_forward", "net/ipv4/conf/netd-a/forwarding"),
        ("net/ipv6/conf/all/forwarding", "net/ipv6/conf/netd-a/forwarding"),
    ] {
        host.sysctl(key, "0");
        eventually(&format!("{own} after {key}"), || host.sysctl_get(own) == "1");
        w.holds(key);
        assert_eq!(host.sysctl_get(key), "0", "it is the host's own");
        host.sysctl(key, "1");
    }
    let ports = "net/ipv4/ip_local_reserved_ports";
    let before = host.sysctl_get(ports);
    assert!(!before.is_empty(), "ports of masqueraded flows are reserved");
    host.sysctl(ports, "77\n");
    eventually("the reserved ports to be put back", || {
        let now = host.sysctl_get(ports);
        now.starts_with("77,") && now.ends_with(&before)
    });
    host.sysctl(ports, &format!("{before}\n"));
    // Strict source checks are nothing that netd needs to be otherwise.
    for name in ["all", "netd-a"] {
        host.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1");
    }
    w.holds("strict source checks");
    host.sysctl("net/ipv4/conf/all/rp_filter", "0");
}

#[test]
fn f23_an_adopted_bridge_that_others_keep_from_forwarding_forwards_again() {
    let topology = netd_tests::Topology::new();
    topology.h.ip_batch("link add mine address 02:00:00:00:00:aa type bridge\nlink set mine up");
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &["-o", "com.docker.network.bridge.name=mine"]);
    let (a1, _remote) = (lab.sandbox("a1", net, 2, &[]), Server::start(&lab.r, &[80]));
    for (family, key) in
        [(Family::V4, "net/ipv4/conf/mine/forwarding"), (Family::V6, "net/ipv6/conf/mine/forwarding")]
    {
        a1.reach(Proto::Tcp, at(R.ip(family), 80));
        lab.h.sysctl(key, "0");
        eventually(&format!("{key} to be put back"), || lab.h.sysctl_get(key) == "1");
        a1.reach(Proto::Tcp, at(R.ip(family), 80));
    }
}

#[test]
fn f10_a_veth_off_its_bridge_and_a_gateway_without_its_addresses_are_put_right() {
    let w = World::new("");
    w.holds("the beginning");
    let side = w.host_side("a2");
    let master = |name: &str| {
        let links = w.lab.h.ip_json(&["link", "show", "dev", name]);
        links[0]["master"].as_str().map(str::to_owned)
    };
    for batch in [format!("link set {side} nomaster"), format!("link set {side} master netd0")] {
        w.lab.h.ip_batch(&batch);
        eventually(&batch, || master(&side).as_deref() == Some("netd-a"));
        w.holds(&batch);
    }
    for family in Family::BOTH {
        let length = if family == Family::V4 { 24 } else { 64 };
        let batch = format!("addr del {}/{length} dev netd-a", gateway(family));
        w.lab.h.ip_batch(&batch);
        w.holds(&batch);
    }
    assert!(w.said("netd-a") >= 2, "{}", w.lab.daemon.log());
}

/// Somebody who lives in a sandbox and does nothing.
fn inhabitant(sandbox: &Ns) -> Child {
    sandbox.spawn(Command::new("sleep").arg("1000")).into()
}

#[test]
fn f10_a_namespace_whose_name_others_remove_has_it_again_while_somebody_lives_in_it() {
    let mut w = World::new("");
    w.holds("the beginning");
    let _somebody = inhabitant(&w.a1);
    let name = w.lab.daemon.dirs().run().join("netns/a1");
    let mut stream = w.lab.r.connect_stream(at(H.v4, 8080)).0;
    let take_away = || {
        umount2(&name, MntFlags::MNT_DETACH).expect("unmounted");
        fs::remove_file(&name).expect("removed");
    };
    let is_there = || Ns::open("again", &name).links() == w.a1.links();
    // As `ip netns del` does.
    take_away();
    eventually("the name to be there again", || {
        name.exists() && fs::metadata(&name).is_ok_and(|found| found.len() == 0) && w.said("sandbox=a1") > 0
    });
    assert!(is_there(), "it is the same namespace");
    assert_eq!(w.said("sandbox=a1"), 1, "{}", w.lab.daemon.log());
    stream.echo(b"nobody noticed").expect("the flow is kept");
    w.lab.netd(&["exec", "a1", "--", "true"]).ok();
    // While no daemon runs.
    w.lab.daemon.end(Signal::SIGKILL);
    take_away();
    w.lab.daemon.restart();
    assert!(Ns::open("again", &name).links() == w.a1.links(), "it is the same namespace");
    stream.echo(b"nor at the next start").expect("the flow is kept");
    w.holds("the next start");
}

#[test]
fn f10_a_sandbox_ends_with_its_namespace_and_gives_its_ports_back() {
    let w = World::new("");
    w.holds("the beginning");
    assert_eq!(w.lab.r.probe(Proto::Tcp, at(H.v4, 8082)), Outcome::Refused, "nobody listens, in the sandbox");
    let side = w.host_side("a2");
    let World { a2, lab, a1, _remote } = w;
    drop(a2); // the test's own hold on it
    let name = lab.daemon.dirs().run().join("netns/a2");
    umount2(&name, MntFlags::MNT_DETACH).expect("unmounted");
    fs::remove_file(&name).expect("removed");
    eventually("the sandbox to be forgotten", || lab.netd(&["sandbox", "inspect", "a2"]).code == 3);
    assert!(lab.h.link(&side).is_none());
    lab.netd(&["publish", "a1", "8082:80"]).ok();
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8082)).server, "a1");
    drop(a1);
}

#[test]
fn f9_what_was_removed_while_the_kernel_lost_its_notifications_comes_back() {
    let topology = netd_tests::Topology::new();
    let foreign =
        Foreign::attach(&topology.h, "eth1", aya::programs::TcAttachType::Ingress, ForeignPlace::Filter(7));
    let lab = Lab::on(topology, &Options { config: "attach = \"tc\"\n".to_owned(), ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    lab.daemon.signal(Signal::SIGSTOP);
    // More than the daemon's socket holds (a mebibyte at most), and then the removal.
    lab.h.ip_batch(&"link set eth1 mtu 1400\nlink set eth1 mtu 1500\n".repeat(1500));
    for side in ["ingress", "egress"] {
        let gone =
            lab.h.output(Command::new("tc").args(["filter", "del", "dev", "eth0", side, "pref", "28261"]));
        assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    }
    lab.daemon.signal(Signal::SIGCONT);
    for side in ["ingress", "egress"] {
        eventually(&format!("netd's filter at the {side} of eth0"), || {
            let shown = lab.h.output(Command::new("tc").args(["filter", "show", "dev", "eth0", side]));
            String::from_utf8_lossy(&shown.stdout).contains("_uplink")
        });
    }
    assert!(lab.daemon.log().contains("programs of eth0"), "{}", lab.daemon.log());
    let _remote = Server::start(&lab.r, &[80]);
    a1.reach(Proto::Tcp, at(R.v4, 80));
    drop(foreign);
}
