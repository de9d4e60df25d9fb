//! Rung: namespaces, beside truth-table row T25, dataplane 7.14. A sandbox on two networks answers from each of its addresses by that address's network.

use std::process::Command;

use netd_tests::{Family, H, Lab, Net, Ns, Outcome, Proto, R, Sandbox, Server, at, denied, invariants};
use nix::sys::signal::Signal;
use serde_json::Value;

/// What a routed network is made with.
const ROUTED: [&str; 4] = [
    "-o",
    "com.docker.network.bridge.gateway_mode_ipv4=routed",
    "-o",
    "com.docker.network.bridge.gateway_mode_ipv6=routed",
];

/// A network whose gateway its sandboxes have, and a routed one.
fn networks() -> (Lab, Net, Net) {
    let lab = Lab::new();
    for subnet in ["172.26.0.0/24", "fd00:c:26::/64"] {
        lab.allow_on_uplinks(subnet);
    }
    let (a, t) = (lab.network("netA", 20, &[]), lab.network("netT", 26, &ROUTED));
    (lab, a, t)
}

/// A sandbox on both, with port 80 open.
fn on_both(lab: &Lab, a: Net, t: Net, extra: &[&str]) -> Sandbox {
    let of = |net: Net, priority: u8| {
        let (v4, v6) = (net.ip(Family::V4, 6), net.ip(Family::V6, 6));
        format!("{},gw-priority={priority},ip={v4},ip6={v6}", net.name())
    };
    let (first, second) = (of(a, 1), of(t, 0));
    let mut options = vec![
        "--network",
        &first,
        "--network",
        &second,
        "-p",
        "8080:80",
        "-p",
        "8080:80/udp",
        "-p",
        "8081:81/udp",
    ];
    options.extend_from_slice(extra);
    let sandbox = lab.sandbox_with("s", &options);
    // Whatever the machine's own namespace has: a packet that came in is answered, and what becomes of the answer is for netd.
    for place in ["all", "eth0", "eth1"] {
        sandbox.sysctl(&format!("net/ipv4/conf/{place}/rp_filter"), "0");
    }
    sandbox.serving(&[80])
}

/// Both ways in are answered: the address of the routed network, and the published port.
fn serves(lab: &Lab, s: &Sandbox, t: Net, host: u8) {
    // A datagram's answer has the address of its socket; those of sockets without one have whichever leads to the client.
    let bound = Family::BOTH.map(|family| (Proto::Udp, at(t.ip(family, host), 81)));
    let _bound = Server::bind(s, &bound);
    for family in Family::BOTH {
        let published = at(H.ip(family), 8080);
        for (proto, to) in [
            (Proto::Tcp, at(t.ip(family, host), 80)),
            (Proto::Udp, at(t.ip(family, host), 81)),
            (Proto::Tcp, published),
            (Proto::Udp, published),
        ] {
            let seen = lab.r.reach(proto, to);
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("s", R.ip(family)), "{proto:?} to {to}");
        }
        lab.r.ping(t.ip(family, host));
    }
}

/// The namespace's rules and its default routes in every table.
fn policy(ns: &Ns) -> [Value; 4] {
    ["-4", "-6"]
        .map(|family| ns.ip_json(&[family, "rule", "show"]))
        .into_iter()
        .chain(["-4", "-6"].map(|family| ns.ip_json(&[family, "route", "show", "default", "table", "all"])))
        .collect::<Vec<_>>()
        .try_into()
        .expect("four")
}

fn intact(lab: &Lab) {
    let daemon = &lab.daemon;
    let instance = invariants::Instance { ns: &lab.h, dirs: daemon.dirs(), pid: daemon.pid(), held: true };
    assert_eq!(invariants::violations(instance), Vec::<String>::new());
}

#[test]
fn t25_answers_leave_by_the_network_of_their_source_until_it_is_disconnected() {
    let (mut lab, a, t) = networks();
    let s = on_both(&lab, a, t, &[]);
    serves(&lab, &s, t, 6);
    intact(&lab);

    // The rules are what leads them there: without, they go to the default gateway, whose network does not know their source.
    for family in ["-4", "-6"] {
        let out = s.output(Command::new("ip").args([family, "rule", "flush", "protocol", "110"]));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    for family in Family::BOTH {
        denied(&lab, &s, &["SPOOF_IP"], || {
            assert_eq!(lab.r.probe(Proto::Tcp, at(t.ip(family, 6), 80)), Outcome::Timeout, "{family:?}");
        });
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).server, "s", "by the default gateway");
    }
    lab.daemon.end(Signal::SIGKILL);
    lab.daemon.restart();
    serves(&lab, &s, t, 6);
    intact(&lab);

    let made = policy(&s);
    lab.daemon.end(Signal::SIGKILL);
    lab.daemon.restart();
    assert_eq!(policy(&s), made, "what is there is not touched");

    lab.netd(&["network", "disconnect", "netT", "s"]).ok();
    intact(&lab);
    for family in Family::BOTH {
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).server, "s", "{family:?}");
    }
    let (v4, v6) = (t.ip(Family::V4, 7).to_string(), t.ip(Family::V6, 7).to_string());
    lab.netd(&["network", "connect", "--ip", &v4, "--ip6", &v6, "netT", "s"]).ok();
    serves(&lab, &s, t, 7);
    intact(&lab);
}

#[test]
fn a_given_namespace_keeps_its_own_rules_and_nothing_of_netds() {
    let (mut lab, a, t) = networks();
    let given = Ns::new("given");
    let mounted = given.bind_at(lab.daemon.dirs().path("given"));
    // Tables around those that netd would take first, and rules of the same kind.
    let busy =
        (1..=16).map(|number| format!("route add blackhole 10.9.0.{number} table {}\n", 110_000 + number));
    let rules = format!("rule add from {} lookup 7\nrule add from 10.9.9.9 lookup 7", a.ip(Family::V4, 6));
    given.ip_batch(&(busy.collect::<String>() + &rules));
    let before = policy(&given);
    let path = ["--netns", mounted.path()];

    let s = on_both(&lab, a, t, &path);
    serves(&lab, &s, t, 6);
    assert_ne!(policy(&given), before, "the control");
    drop(s);
    lab.netd(&["sandbox", "rm", "s"]).ok();
    assert_eq!(policy(&given), before, "after the sandbox");

    let s = on_both(&lab, a, t, &path);
    serves(&lab, &s, t, 6);
    drop(s);
    lab.daemon.end(Signal::SIGKILL);
    assert_ne!(policy(&given), before, "the control");
    assert_eq!(lab.daemon.down().code, 0);
    assert_eq!(policy(&given), before, "after everything");
}
