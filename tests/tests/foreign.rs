//! Rung: namespaces, dataplane §12 cases 105, 106 and 107. Programs, rules and settings of others on the host's interfaces.

use std::process::Command;

use aya::programs::{SchedClassifier, TcAttachType};
use netd_tests::{
    Family, Foreign, ForeignPlace as Place, H, Lab, Ns, Options, Outcome, Proto, R, Sandbox, Server,
    Topology, at,
};
use nix::sys::signal::Signal;

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

/// Messages on a stream: far more than what else crosses an uplink meanwhile.
const MESSAGES: u64 = 200;

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    _remote: Server,
    a1: Sandbox,
    a2: Sandbox,
    lab: Lab,
}

fn world(topology: Topology, options: &Options) -> World {
    let lab = Lab::on(topology, options);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let remote = Server::start(&lab.r, &[80]);
    World { _remote: remote, a1, a2, lab }
}

impl World {
    /// Every way goes, and what was closed is closed.
    fn holds(&self) {
        let Self { a1, a2, lab, .. } = self;
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                assert_eq!(a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
                assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family));
                assert_eq!(a2.reach(proto, at(a1.ip(family), 80)).source.ip(), a2.ip(family));
                assert_eq!(a2.reach(proto, at(H.ip(family), 8080)).server, "a1");
                assert_eq!(lab.h.reach(proto, at(family.loopback(), 8080)).server, "a1");
            }
            a1.ping(R.ip(family));
            assert_eq!(lab.r.probe(Proto::Tcp, at(a1.ip(family), 80)), Outcome::Timeout, "{family:?} direct");
        }
    }
}

fn eth0_programs(places: &[Place], h: &Ns) -> Vec<Foreign> {
    let both = [TcAttachType::Ingress, TcAttachType::Egress];
    let every = places.iter().flat_map(|&place| both.map(|direction| (place, direction)));
    every.map(|(place, direction)| Foreign::attach(h, "eth0", direction, place)).collect()
}

/// Each sees packets while every way goes, what netd moves by itself included.
fn all_run(w: &World, foreign: &[Foreign]) {
    let before: Vec<u64> = foreign.iter().map(Foreign::runs).collect();
    w.holds();
    for (index, (program, before)) in foreign.iter().zip(before).enumerate() {
        assert!(program.runs() > before, "foreign program {index} saw nothing");
    }
}

/// Whether TCX links can be made here (Linux 6.6).
fn has_tcx() -> bool {
    let ns = Ns::new("probe");
    let attached = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Foreign::attach(&ns, "lo", TcAttachType::Ingress, Place::First)
    }));
    attached.is_ok()
}

#[test]
fn case105_programs_of_others_run_before_netds_whoever_came_first() {
    if !has_tcx() {
        println!("skipped: no TCX before Linux 6.6");
        return;
    }
    let topology = Topology::new();
    let early = eth0_programs(&[Place::First, Place::Last, Place::Filter(7)], &topology.h);
    let mut w = world(topology, &Options::default());
    // A filter comes after every TCX link, and sees what netd passes on.
    all_run(&w, &early[..4]);
    let mut late = eth0_programs(&[Place::First], &w.lab.h);
    all_run(&w, &late);
    w.lab.daemon.end(Signal::SIGKILL);
    late.extend(eth0_programs(&[Place::First], &w.lab.h));
    all_run(&w, &late);
    w.lab.daemon.restart();
    all_run(&w, &late);
    drop(late);
    w.holds();
    drop(w);
    assert!(early.iter().all(|program| program.runs() > 0), "they are still there when netd has gone");
}

#[test]
fn case105_a_program_behind_netds_sees_what_netd_passes_on() {
    if !has_tcx() {
        println!("skipped: no TCX before Linux 6.6");
        return;
    }
    let topology = Topology::new();
    let qdisc = topology.h.output(Command::new("tc").args(["qdisc", "add", "dev", "eth0", "clsact"]));
    assert!(qdisc.status.success(), "{}", String::from_utf8_lossy(&qdisc.stderr));
    let w = world(topology, &Options::default());
    let behind = eth0_programs(&[Place::Last, Place::Filter(9)], &w.lab.h);
    let before: Vec<u64> = behind.iter().map(Foreign::runs).collect();
    w.holds();
    w.lab.h.ping(R.ip(Family::V4));
    for (program, before) in behind.iter().zip(before) {
        assert!(program.runs() > before, "the host's own packets pass");
    }
}

#[test]
fn case105_filters_of_others_run_beside_netds_filters() {
    let topology = Topology::new();
    let early = eth0_programs(&[Place::Filter(7), Place::Filter(60_000)], &topology.h);
    let options =
        Options { config: "attach = \"tc\"\n[flows]\nentries = 4096\n".into(), ..Options::default() };
    let w = world(topology, &options);
    all_run(&w, &early[..2]);
    w.lab.h.ping(R.ip(Family::V4));
    assert!(early.iter().all(|program| program.runs() > 0), "those behind see what netd passes on");
    let late = eth0_programs(&[Place::Filter(8)], &w.lab.h);
    all_run(&w, &late);
}

/// Places of netd's programs on eth0 and the number of all, where packets come in and where they leave.
fn places(h: &Ns) -> [(usize, usize); 2] {
    let hooks = [(TcAttachType::Ingress, "from_uplink"), (TcAttachType::Egress, "to_uplink")];
    hooks.map(|(direction, name)| {
        let (_, all) = h.run(|| SchedClassifier::query_tcx("eth0", direction)).expect("the programs of eth0");
        let ours = all.iter().position(|program| program.name_as_str() == Some(name));
        (ours.unwrap_or_else(|| panic!("no {name} on eth0")), all.len())
    })
}

#[test]
fn case105_netds_programs_run_first_where_the_configuration_says_so_and_move_when_it_changes() {
    if !has_tcx() {
        println!("skipped: no TCX before Linux 6.6");
        return;
    }
    let config = |order: &str| format!("[flows]\nentries = 4096\n[dataplane]\ntcx_order = \"{order}\"\n");
    let topology = Topology::new();
    let early = eth0_programs(&[Place::First], &topology.h);
    let mut w = world(topology, &Options { config: config("first"), ..Options::default() });
    assert_eq!(places(&w.lab.h), [(0, 2); 2]);
    let mut stream = w.lab.r.connect_stream(at(H.v4, 8080)).0;
    let mut seen = |messages: u64| {
        let before = early[0].runs();
        (0..messages).for_each(|_| stream.echo(b"goes on").expect("an echo"));
        early[0].runs() - before
    };
    assert!(seen(MESSAGES) < MESSAGES, "what netd moves is not for those behind it");
    w.holds();
    let restart = |w: &mut World, signal, order: &str| {
        w.lab.daemon.end(signal);
        w.lab.daemon.configure(&config(order));
        w.lab.daemon.restart();
        w.lab.until_uplink("eth0");
        w.holds();
    };
    restart(&mut w, Signal::SIGTERM, "last");
    assert_eq!(places(&w.lab.h), [(1, 2); 2]);
    assert!(seen(MESSAGES) >= MESSAGES, "those before netd see everything");
    restart(&mut w, Signal::SIGKILL, "first");
    assert_eq!(places(&w.lab.h), [(0, 2); 2]);
    assert!(seen(MESSAGES) < MESSAGES);
    // Who comes later and says "first" stands there: netd does not quarrel.
    let late = eth0_programs(&[Place::First], &w.lab.h);
    restart(&mut w, Signal::SIGTERM, "first");
    assert_eq!(places(&w.lab.h), [(1, 3); 2]);
    drop(late);
}

fn run(ns: &Ns, program: &str, args: &[&str]) {
    let out = ns.output(Command::new(program).args(args));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn case107_a_firewall_that_forwards_nothing_strict_source_checks_and_no_forwarding_change_nothing() {
    let topology = Topology::new();
    for program in ["iptables", "ip6tables"] {
        run(&topology.h, program, &["-w", "-P", "FORWARD", "DROP"]);
    }
    for key in ["all", "default", "eth0", "eth1"] {
        topology.h.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "1");
    }
    let w = world(topology, &Options { forwarding: false, ..Options::default() });
    w.holds();
    // The rules do hold for what takes the stack: nobody crosses the host.
    assert_eq!(w.lab.r.probe(Proto::Udp, at(netd_tests::R2.v4, 80)), Outcome::Timeout);
    // Large datagrams take the stack where they have to be cut: within an MTU they do not.
    for family in Family::BOTH {
        w.a1.exchange_datagram(at(R.ip(family), 80), 1000);
        w.a1.exchange_datagram(at(R.ip(family), 80), 8000);
    }
}

#[test]
fn case106_rules_of_others_that_come_and_go_change_nothing_for_established_streams() {
    let w = world(Topology::new(), &Options::default());
    let mut streams = Family::BOTH.map(|family| {
        [w.a1.connect_stream(at(R.ip(family), 80)).0, w.lab.r.connect_stream(at(H.ip(family), 8080)).0]
    });
    let mut go_on = |when: &str| {
        for stream in streams.iter_mut().flatten() {
            stream.echo(when.as_bytes()).unwrap_or_else(|e| panic!("{when}: {e}"));
        }
    };
    let drop_all = "add table inet strict; add chain inet strict forward { type filter hook forward priority 0; policy drop; }";
    let marks = "add table inet marks; add chain inet marks pre { type filter hook prerouting priority -300; policy accept; }; add rule inet marks pre meta mark set 7";
    for rules in [drop_all, marks] {
        run(&w.lab.h, "nft", &[rules]);
        go_on("with a ruleset of others");
        w.holds();
    }
    run(&w.lab.h, "nft", &["flush", "ruleset"]);
    go_on("after the flush");
    w.holds();
}
