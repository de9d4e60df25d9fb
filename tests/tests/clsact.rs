//! Rung: namespaces. Kernels without TCX: every program is a clsact filter, and everything holds as with links.

use std::process::Command;

use netd::kernel_release;
use netd_tests::{Family, H, Lab, Ns, Options, Outcome, Proto, R, Server, Topology, at};
use nix::sys::signal::Signal;

fn options() -> Options {
    Options { config: "attach = \"tc\"\n[flows]\nentries = 4096\n".into(), ..Options::default() }
}

fn tc(ns: &Ns, args: &[&str]) -> String {
    let out = ns.output(Command::new("tc").args(args));
    assert!(out.status.success(), "tc {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// How many filters run this program on both hooks of an interface.
fn filters(ns: &Ns, ifname: &str, program: &str) -> usize {
    let name = format!("name {program} ");
    ["ingress", "egress"]
        .iter()
        .map(|hook| tc(ns, &["filter", "show", "dev", ifname, hook]).matches(&name).count())
        .sum()
}

#[test]
fn every_path_works_and_outlives_the_daemon() {
    let mut lab = Lab::with(&options());
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let b1 = lab.sandbox("b1", b, 2, &[]);
    let _remote = Server::start(&lab.r, &[80]);
    let all_rules_hold = |lab: &Lab| {
        for (ifname, program) in [("eth0", "from_uplink"), ("eth0", "to_uplink")] {
            assert_eq!(filters(&lab.h, ifname, program), 1, "{program} on {ifname}");
        }
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family));
                assert_eq!(a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
                assert_eq!(b1.reach(proto, at(H.ip(family), 8080)).server, "a1");
                assert_eq!(lab.h.reach(proto, at(a1.ip(family), 80)).server, "a1");
            }
            assert_eq!(lab.r.probe(Proto::Tcp, at(a1.ip(family), 80)), Outcome::Timeout);
            assert_eq!(b1.probe(Proto::Tcp, at(a1.ip(family), 80)), Outcome::Timeout);
        }
    };
    all_rules_hold(&lab);
    let mut stream = lab.r.connect_stream(at(H.v4, 8080)).0;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let kernel = lab.snapshot();
        lab.daemon.end(signal);
        stream.echo(b"without a daemon").expect("an answer");
        all_rules_hold(&lab);
        lab.daemon.restart();
        stream.echo(b"with the next daemon").expect("an answer");
        all_rules_hold(&lab);
        kernel.assert_unchanged(&lab.snapshot(), "the next daemon");
    }
    assert_eq!(stream.retransmissions(), 0, "segments were lost on the way");
}

#[test]
fn filters_give_way_to_links_when_the_configuration_takes_links_again() {
    if kernel_release::version() < Some(kernel_release::TCX) {
        println!("skipped: Linux {} has no TCX links", kernel_release::text());
        return;
    }
    let mut lab = Lab::with(&options());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _remote = Server::start(&lab.r, &[80]);
    let on_uplink = |lab: &Lab| filters(&lab.h, "eth0", "from_uplink") + filters(&lab.h, "eth0", "to_uplink");
    assert_eq!(on_uplink(&lab), 2);
    let mut stream = lab.r.connect_stream(at(H.v4, 8080)).0;
    lab.daemon.end(Signal::SIGTERM);
    lab.daemon.configure("[flows]\nentries = 4096\n");
    lab.daemon.restart();
    assert_eq!(on_uplink(&lab), 0, "each packet meets each program once");
    stream.echo(b"by links").expect("an answer");
    assert_eq!(stream.retransmissions(), 0, "segments were lost on the way");
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family));
            assert_eq!(a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
        }
        assert_eq!(lab.r.probe(Proto::Tcp, at(a1.ip(family), 80)), Outcome::Timeout);
    }
}

#[test]
fn down_leaves_the_filters_of_others_and_their_qdisc() {
    for running in [true, false] {
        let topology = Topology::new();
        tc(&topology.h, &["qdisc", "add", "dev", "eth0", "clsact"]);
        // A classic program of one instruction that matches nothing.
        let foreign =
            ["filter", "add", "dev", "eth0", "ingress", "prio", "7", "bpf", "bytecode", "1,6 0 0 0"];
        tc(&topology.h, &foreign);
        let mut lab = Lab::on(topology, &options());
        let net = lab.network("netA", 20, &[]);
        drop(lab.sandbox("a1", net, 2, &[]));
        assert_eq!(filters(&lab.h, "eth0", "from_uplink"), 1);
        if !running {
            lab.daemon.end(Signal::SIGKILL);
        }
        assert_eq!(lab.daemon.down().code, 0);
        assert_eq!(filters(&lab.h, "eth0", "from_uplink") + filters(&lab.h, "eth0", "to_uplink"), 0);
        assert!(tc(&lab.h, &["filter", "show", "dev", "eth0", "ingress"]).contains("pref 7 bpf"));
        // The lab compares qdiscs with those before the daemon: clsact stays on eth0 and goes from eth1.
    }
}
