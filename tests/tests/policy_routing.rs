//! Rung: namespaces, dataplane 7.5 and 7.14. Policy routing: rules by mark, by interface, by prefix length, several tables, and rules that forbid.

use std::{io::Write as _, process::Command};

use aya::programs::TcAttachType;
use netd::kernel_release;
use netd_tests::{
    Asking, Capture, Family, Foreign, ForeignPlace, H, H1, Lab, Ns, Options, Proto, R, R2, Sandbox, at,
    far::quoted,
    ways::{X, default_by, serve, two_ways},
};

const MARK: i32 = 0x7;

fn rule(h: &Ns, family: Family, rest: &str) {
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    let out = h.output(Command::new("ip").arg(flag).arg("rule").args(rest.split(' ')));
    assert!(out.status.success(), "ip {flag} rule {rest}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Whether `bpf_fib_lookup` knows marks (Linux 6.10); before that, what is marked is dropped where nobody translates it (README).
fn routes_by_mark() -> bool {
    let known = kernel_release::version() >= Some((6, 10));
    if !known {
        println!("skipped: Linux {} has no BPF_FIB_LOOKUP_MARK (6.10)", kernel_release::text());
    }
    known
}

/// The host side of a sandbox's veth.
fn host_side(lab: &Lab, sandbox: &Sandbox) -> String {
    let inside = sandbox.ip_json(&["link", "show", "dev", "eth0"]);
    let index = inside[0]["link_index"].as_u64().expect("the peer's index");
    let links = lab.h.ip_json(&["link", "show"]);
    let link = links.as_array().expect("links").iter().find(|link| link["ifindex"] == index);
    link.and_then(|link| link["ifname"].as_str()).expect("the peer").to_owned()
}

/// A lab whose default route leads by R, with a table 100 that leads by R2.
fn lab_with_two_tables() -> (Lab, Ns) {
    let (topology, x) = two_ways();
    default_by(&topology.h, &R);
    topology.h.ip_batch(&format!(
        "route add default via {} table 100\nroute add default via {} table 100",
        R2.v4, R2.v6
    ));
    (Lab::on(topology, &Options::default()), x)
}

#[test]
fn a_mark_that_a_program_before_netds_sets_chooses_the_table() {
    if !routes_by_mark() {
        return;
    }
    let (lab, x) = lab_with_two_tables();
    let net = lab.network("netA", 20, &[]);
    let publish = ["-p", "8080:80", "-p", "8080:80/udp"];
    let a1 = lab.sandbox("a1", net, 2, &publish).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let _server = serve(&x);
    let veth = host_side(&lab, &a1);
    // A program that becomes a link is the first of its device from then on.
    lab.until_promoted();
    for family in Family::BOTH {
        let to = at(X.ip(family), 80);
        let mut before = a1.connect_stream(to).0;
        before.echo(b"unmarked").expect("a stream");
        rule(&lab.h, family, &format!("add fwmark {MARK} lookup 100"));
        let marking = Foreign::marking(&lab.h, &veth, TcAttachType::Ingress, ForeignPlace::First, Some(MARK));
        for proto in Proto::BOTH {
            assert_eq!(a1.reach(proto, to).source.ip(), H1.ip(family), "{proto:?}, marked");
            assert_eq!(a2.reach(proto, to).source.ip(), H.ip(family), "{proto:?}, not marked");
        }
        // Marked answers of a published port follow the rule as well.
        let (right, wrong) = (Capture::start(&lab.r2, "eth0"), Capture::start(&lab.r, "eth0"));
        for proto in Proto::BOTH {
            assert_eq!(x.reach(proto, at(H1.ip(family), 8080)).server, "a1");
        }
        let answers = |wire: &Capture| {
            wire.take().iter().any(|p| !p.outgoing && p.src == Some(H1.ip(family)) && p.sport == Some(8080))
        };
        assert!(answers(&right) && !answers(&wrong), "{family:?}: answers by the table of the mark");
        drop(marking);
        let asking = Asking::start(&a1, to);
        asking.until("an answer by the main way", |seen| seen.source.ip() == H.ip(family));
        rule(&lab.h, family, &format!("del fwmark {MARK} lookup 100"));
    }
}

/// As `wg-quick` does it: everything that is not the tunnel's own goes by the tunnel's table, but for what the main table knows exactly. What was on
/// its way before moves with the rules.
#[test]
fn rules_that_suppress_the_default_route_and_exclude_a_mark_are_followed() {
    let (lab, x) = lab_with_two_tables();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _servers = (serve(&x), netd_tests::Server::start(&lab.r, &[80]));
    for family in Family::BOTH {
        let to = at(X.ip(family), 80);
        let asking = Asking::start(&a1, to);
        let mut before = a1.connect_stream(to).0;
        before.echo(b"by the main way").expect("a stream");
        let beside = Capture::start(&lab.r, "eth0");
        let to_x = |wire: &Capture| {
            wire.take().iter().filter(|p| !p.outgoing && p.dst == Some(X.ip(family))).count()
        };
        netd_tests::eventually("packets by the main way", || to_x(&beside) > 0);
        // In this order, who is answered by the tunnel's table is known to be led by both rules.
        let rules = ["table main suppress_prefixlength 0 pref 99", "not fwmark 51820 lookup 100 pref 100"];
        for text in rules {
            rule(&lab.h, family, &format!("add {text}"));
        }
        asking.until("an answer by the tunnel's table", |seen| seen.source.ip() == H1.ip(family));
        to_x(&beside);
        // Its source belongs to the old way: it is refused, sooner or later.
        let _sent = before.tcp().write_all(b"nothing more goes that way");
        for proto in Proto::BOTH {
            // Who comes by either uplink is answered by it.
            for host in [H, H1] {
                assert_eq!(x.reach(proto, at(host.ip(family), 8080)).server, "a1", "{proto:?} by {host:?}");
            }
            assert_eq!(a1.reach(proto, to).source.ip(), H1.ip(family), "{proto:?} to the world");
            assert_eq!(
                a1.reach(proto, at(R.ip(family), 80)).source.ip(),
                H.ip(family),
                "{proto:?} to the link"
            );
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).server, "a1");
        }
        let answers = beside.take().into_iter().filter(|p| !p.outgoing && p.dst == Some(X.ip(family)));
        let strays: Vec<_> = answers.filter(|p| p.sport != Some(8080)).collect();
        assert!(strays.is_empty(), "{family:?}: beside the tunnel: {strays:?}");
        for text in rules {
            rule(&lab.h, family, &format!("del {text}"));
        }
        asking.until("an answer by the main way", |seen| seen.source.ip() == H.ip(family));
    }
}

#[test]
fn a_rule_by_the_networks_bridge_chooses_the_table() {
    let (lab, x) = lab_with_two_tables();
    let (a, b) = (
        lab.network("netA", 20, &["-o", "com.docker.network.bridge.name=netd-a"]),
        lab.network("netB", 21, &[]),
    );
    let (a1, b1) = (lab.sandbox("a1", a, 2, &[]), lab.sandbox("b1", b, 2, &[]));
    let _server = serve(&x);
    for family in Family::BOTH {
        let to = at(X.ip(family), 80);
        let askings = [Asking::start(&a1, to), Asking::start(&b1, to)];
        rule(&lab.h, family, "add iif netd-a lookup 100");
        askings[0].until("an answer by the bridge's table", |seen| seen.source.ip() == H1.ip(family));
        askings[1].until("an answer by the main way", |seen| seen.source.ip() == H.ip(family));
        assert_eq!(a1.reach(Proto::Tcp, to).source.ip(), H1.ip(family));
        assert_eq!(b1.reach(Proto::Tcp, to).source.ip(), H.ip(family));
        rule(&lab.h, family, "del iif netd-a lookup 100");
    }
}

#[test]
fn the_first_of_several_rules_that_knows_the_way_counts() {
    let (lab, x) = lab_with_two_tables();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = serve(&x);
    for (family, from, far) in
        [(Family::V4, "172.20.0.0/24", "198.51.100.0/24"), (Family::V6, "fd00:c:20::/64", "2001:db8::/64")]
    {
        let to = at(X.ip(family), 80);
        let asking = Asking::start(&a1, to);
        // Table 101 is empty, 102 knows another destination, 100 knows all.
        let elsewhere = if family == Family::V4 { "203.0.113.0/24" } else { "2001:db8:9::/64" };
        let other = |action: &str| format!("route {action} {elsewhere} via {} table 102", R.ip(family));
        lab.h.ip_batch(&other("add"));
        let rules = [
            format!("from {from} lookup 101 pref 50"),
            format!("from {from} lookup 102 pref 51"),
            format!("from {from} to {far} lookup 100 pref 52"),
        ];
        for text in &rules {
            rule(&lab.h, family, &format!("add {text}"));
        }
        asking.until("an answer by the third rule's way", |seen| seen.source.ip() == H1.ip(family));
        assert_eq!(a1.reach(Proto::Tcp, to).source.ip(), H1.ip(family));
        for text in &rules {
            rule(&lab.h, family, &format!("del {text}"));
        }
        asking.until("an answer by the main way", |seen| seen.source.ip() == H.ip(family));
        lab.h.ip_batch(&other("del"));
    }
}

#[test]
fn rules_that_forbid_are_obeyed_for_sandboxes_and_told_by_the_host() {
    let (lab, x) = lab_with_two_tables();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    let _server = serve(&x);
    // The sandbox alone: the host tells it in the gateway's name.
    for (family, from) in [(Family::V4, "172.20.0.2"), (Family::V6, "fd00:c:20::2")] {
        let to = at(X.ip(family), 80);
        a1.reach(Proto::Tcp, to);
        let (outside, inside) = (Capture::start(&lab.r, "eth0"), a1.capture());
        for action in ["unreachable", "blackhole"] {
            inside.take();
            rule(&lab.h, family, &format!("add from {from} {action} pref 60"));
            netd_tests::eventually("the rule to be obeyed", || a1.probe(Proto::Udp, to).seen().is_none());
            outside.take();
            for proto in Proto::BOTH {
                assert_eq!(a1.probe(proto, to).seen(), None, "{family:?} {action} {proto:?}");
            }
            let left =
                outside.take().into_iter().filter(|p| !p.outgoing && p.dst == Some(X.ip(family))).count();
            assert_eq!(left, 0, "nothing leaves by the main way");
            // No hard error for a program (RFC 1122 §4.2.3.9), but the host tells.
            let unreachable = if family == Family::V4 { 3 } else { 1 };
            let quotes = |p: &netd_tests::Packet| {
                !p.outgoing && quoted(p) == Some((unreachable, a1.ip(family), X.ip(family)))
            };
            assert_eq!(inside.take().iter().any(quotes), action == "unreachable", "{family:?} {action}");
            rule(&lab.h, family, &format!("del from {from} {action} pref 60"));
            netd_tests::eventually("the way to be free again", || a1.probe(Proto::Udp, to).seen().is_some());
        }
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).server, "a1");
    }
}
