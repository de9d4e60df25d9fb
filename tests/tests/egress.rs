//! Rung: namespaces, beside truth-table row T1. What leaves a sandbox carries the host's address, and answers find their way back.

use std::time::{Duration, Instant};

use netd_tests::{Capture, Family, H, Lab, Options, PATIENCE, Proto, R, Server, at};

#[test]
fn t01_two_sandboxes_ping_with_one_identifier() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    let capture = Capture::start(&lab.r, "eth0");
    for family in Family::BOTH {
        for sandbox in [&a1, &a2, &a1] {
            let outcome = sandbox.ping_with(R.ip(family), 7, PATIENCE);
            assert!(outcome.seen().is_some(), "{} {family:?}", sandbox.name());
        }
    }
    let requests = capture.take().into_iter().filter(|p| !p.outgoing && p.is_echo_request());
    let ids: Vec<_> = requests.map(|p| p.dport).collect();
    assert_eq!(ids.len(), 6);
    assert!(ids[0] != ids[1] && ids[3] != ids[4], "replies could not be told apart: {ids:?}");
}

#[test]
fn t01_streams_carry_their_data_both_ways() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    let chunk: Vec<u8> = (0..16_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for family in Family::BOTH {
        let (mut stream, _) = a1.connect_stream(at(R.ip(family), 80));
        for _ in 0..200 {
            stream.echo(&chunk).expect("what was sent comes back");
        }
    }
}

#[test]
fn egress_needs_no_forwarding_of_the_host() {
    let lab = Lab::with(&Options { forwarding: false, ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _server = Server::start(&lab.r, &[80]);
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/eth0/forwarding"] {
        assert_eq!(lab.h.sysctl_get(key), "0", "netd leaves {key} alone");
    }
    // netd may switch forwarding on for packets that have to take the stack; the paths below must not depend on it.
    lab.h.sysctl("net/ipv4/ip_forward", "0");
    lab.h.sysctl("net/ipv6/conf/all/forwarding", "0");
    forwards(&lab, "netA");
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family));
        }
    }
}

#[test]
fn forwarding_that_others_switch_off_comes_back_on_own_bridges_alone() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    let flows = Family::BOTH.map(|family| a1.connect_stream(at(R.ip(family), 80)).0);
    for (key, uplink) in [
        ("net/ipv4/ip_forward", "net/ipv4/conf/eth0/forwarding"),
        ("net/ipv6/conf/all/forwarding", "net/ipv6/conf/eth0/forwarding"),
    ] {
        lab.h.sysctl(key, "0");
        forwards(&lab, "netA");
        assert_eq!((lab.h.sysctl_get(key), lab.h.sysctl_get(uplink)), ("0".into(), "0".into()));
    }
    for mut stream in flows {
        stream.echo(b"still here").expect("established connections go on");
    }
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
        }
    }
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        lab.h.sysctl(key, "1");
    }
}

/// Waits until the daemon has put back what others changed: the bridge of a network forwards both families.
fn forwards(lab: &Lab, network: &str) {
    let id = lab.inspect_network(network)["Id"].as_str().expect("an id").to_owned();
    let keys = ["ipv4", "ipv6"].map(|family| format!("net/{family}/conf/br-{}/forwarding", &id[..12]));
    let deadline = Instant::now() + PATIENCE;
    while keys.iter().any(|key| lab.h.sysctl_get(key) != "1") {
        assert!(Instant::now() < deadline, "{keys:?} stay off");
        std::thread::sleep(Duration::from_millis(2));
    }
}
