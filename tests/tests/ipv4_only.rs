//! Rung: namespaces, truth-table rows T7, T45. IPv6 clients reach sandboxes that have IPv4 alone, without a proxy.

use std::net::{IpAddr, Ipv4Addr};

use netd_tests::{Family, H, H1, Lab, Outcome, Proto, R, R2, Sandbox, Server, at};
use nix::sys::signal::Signal;

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 20, 0, 1));

/// A network without IPv6, and a server in it that is published in every way.
fn lab() -> (Lab, Sandbox) {
    let lab = Lab::new();
    lab.netd(&["network", "create", "--subnet", "172.20.0.0/24", "netV"]).ok();
    let publish = ["-p", "8080:80", "-p", "8080:80/udp"];
    let v1 = lab.sandbox_with("v1", &[&["--network", "netV,ip=172.20.0.2"][..], &publish].concat());
    (lab, v1.serving(&[80]))
}

#[test]
fn t07_an_ipv6_client_reaches_an_ipv4_only_sandbox_as_its_gateway() {
    let (lab, _v1) = lab();
    for proto in Proto::BOTH {
        for (client, host) in [(&lab.r, H), (&lab.r, H1), (&lab.r2, H1), (&lab.r2, H)] {
            let seen = client.reach(proto, at(host.v6, 8080));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("v1", GATEWAY), "{proto:?}");
            let seen = client.reach(proto, at(host.v4, 8080));
            assert!([IpAddr::from(R.v4), R2.v4.into()].contains(&seen.source.ip()), "IPv4 keeps its client");
        }
        assert_eq!(lab.r.attempt(proto, at(H.v6, 8081)), Outcome::Refused, "not published");
    }
}

#[test]
fn t07_clients_with_one_port_are_told_apart_and_streams_keep_their_bytes() {
    let (lab, _v1) = lab();
    let from = Family::V6.from_port(40_000);
    let (mut one, first) = lab.r.connect_stream_from(at(H.v6, 8080), from);
    let (mut two, second) = lab.r2.connect_stream_from(at(H1.v6, 8080), from);
    assert_eq!((first.source.ip(), second.source.ip()), (GATEWAY, GATEWAY));
    assert_ne!(first.source.port(), second.source.port());
    // Larger than a segment, and than what offloads join.
    let large: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    one.echo(&large).expect("all of it, unchanged");
    two.echo(&large).expect("all of it, unchanged");
    assert_eq!(one.retransmissions() + two.retransmissions(), 0);
    let flows = lab.flows(&["proto=tcp"]);
    assert_eq!(flows.len(), 2, "{flows:?}");
    let text = format!("{flows:?}");
    assert!(
        text.contains("172.20.0.2") && !text.contains("::ffff:"),
        "addresses as users write them: {text}"
    );
}

#[test]
fn t07_with_offloads_switched_off_the_checksums_are_right() {
    let (lab, v1) = lab();
    for (ns, ifname) in [(&lab.r, "eth0"), (&lab.h, "eth0"), (&*v1, "eth0")] {
        ns.disable_offloads(ifname);
    }
    for proto in Proto::BOTH {
        assert_eq!(lab.r.reach(proto, at(H.v6, 8080)).source.ip(), GATEWAY);
    }
    lab.r.connect_stream(at(H.v6, 8080)).0.echo(&vec![7; 100_000]).expect("all of it, unchanged");
}

#[test]
fn t07_sandboxes_dial_it_through_the_host_over_ipv6() {
    let (lab, v1) = lab();
    let net = lab.network("netB", 21, &[]);
    let b1 = lab.sandbox("b1", net, 2, &[]);
    for proto in Proto::BOTH {
        let seen = b1.reach(proto, at(H.v6, 8080));
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("v1", GATEWAY), "{proto:?}");
    }
    // Both families meet at the gateway's ports: neither takes the other's.
    let (mut four, _) = b1.connect_stream_from(at(H.v4, 8080), Family::V4.from_port(41_000));
    let (mut six, _) = b1.connect_stream_from(at(H.v6, 8080), Family::V6.from_port(41_000));
    four.echo(b"four").expect("IPv4");
    six.echo(b"six").expect("IPv6");
    // What the host itself dials is carried by the socket programs (T45).
    assert_eq!(lab.h.reach(Proto::Tcp, at(Family::V6.loopback(), 8080)).source.ip(), GATEWAY);
    let remote = Server::start(&lab.r, &[80]);
    assert_eq!(v1.reach(Proto::Tcp, at(R.v4, 80)).source.ip(), IpAddr::from(H.v4));
    drop(remote);
}

#[test]
fn t07_streams_survive_the_daemon_and_end_with_the_sandbox() {
    let (mut lab, v1) = lab();
    let (mut stream, _) = lab.r.connect_stream(at(H.v6, 8080));
    lab.daemon.end(Signal::SIGKILL);
    stream.echo(b"without a daemon").expect("an answer");
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v6, 8080)).source.ip(), GATEWAY);
    lab.daemon.restart();
    stream.echo(b"with the next daemon").expect("an answer");
    drop(v1);
    lab.netd(&["sandbox", "rm", "-f", "v1"]).ok();
    assert_eq!(lab.flows(&[]), Vec::<serde_json::Value>::new());
    assert_eq!(lab.r.attempt(Proto::Tcp, at(H.v6, 8080)), Outcome::Refused);
}
