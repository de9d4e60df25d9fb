//! Rung: namespaces, beside truth-table rows T5, T6. Published ports as remote hosts see them.

use std::net::SocketAddr;

use netd_tests::{Family, H, H1, Lab, Ns, Outcome, Proto, R, Sandbox, Server, at, denied};

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

fn lab_with_web(publish: &[&str]) -> (Lab, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, publish).serving(&[80]);
    (lab, a1)
}

/// Reaches the server and expects that it sees the very address and port that the client dialled from.
fn reaches_as_itself(client: &Ns, proto: Proto, to: SocketAddr, from: SocketAddr, server: &str) {
    let seen = client.reach_from(proto, to, Some(from));
    assert_eq!((seen.server.as_str(), seen.source), (server, from), "{} {proto:?} to {to}", client.name());
}

#[test]
fn two_front_ends_of_one_server_serve_one_client_port_at_once() {
    let (lab, _a1) = lab_with_web(&WEB);
    for family in Family::BOTH {
        // Seen from the server both have the same addresses and ports: one of them has to look different.
        let from = family.from_port(40_000);
        let (mut one, first) = lab.r.connect_stream_from(at(H.ip(family), 8080), from);
        let (mut two, second) = lab.r.connect_stream_from(at(H1.ip(family), 8080), from);
        assert_eq!(first.source, at(R.ip(family), 40_000));
        assert_ne!(first.source, second.source);
        one.echo(b"first").expect("the first stream lives");
        two.echo(b"second").expect("the second stream lives");
    }
}

#[test]
fn t05_a_stream_through_a_published_port_carries_its_data() {
    let (lab, _a1) = lab_with_web(&WEB);
    let chunk: Vec<u8> = (0..16_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for family in Family::BOTH {
        let (mut stream, _) = lab.r.connect_stream(at(H.ip(family), 8080));
        for _ in 0..200 {
            stream.echo(&chunk).expect("what was sent comes back");
        }
    }
}

#[test]
fn t05_a_gateways_address_is_one_of_the_hosts_own() {
    let (lab, a1) = lab_with_web(&WEB);
    for family in Family::BOTH {
        let (gateway, subnet) = match family {
            Family::V4 => ("172.20.0.1", "172.20.0.1/32"),
            Family::V6 => ("fd00:c:20::1", "fd00:c:20::1/128"),
        };
        lab.allow_on_uplinks(subnet);
        let gateway: std::net::IpAddr = gateway.parse().expect("an address");
        for proto in Proto::BOTH {
            let from = at(R.ip(family), 40_000);
            reaches_as_itself(&lab.r, proto, at(gateway, 8080), from, "a1");
        }
        // What nobody published is refused at once by the host itself, and the sandbox's own address stays closed.
        assert_eq!(lab.r.attempt(Proto::Tcp, at(gateway, 8081)), Outcome::Refused);
        denied(&lab, &a1, &["DIRECT_ACCESS"], || {
            assert_eq!(lab.r.probe(Proto::Tcp, at(a1.ip(family), 80)), Outcome::Timeout);
        });
    }
}

#[test]
fn case23_a_port_published_on_one_address_leaves_the_others_alone() {
    let publish = [
        "-p",
        "10.0.0.2:8080:80",
        "-p",
        "10.0.0.2:8080:80/udp",
        "-p",
        "[fd00:a::2]:8080:80",
        "-p",
        "[fd00:a::2]:8080:80/udp",
    ];
    let (lab, _a1) = lab_with_web(&publish);
    let addresses = Family::BOTH.map(|family| at(H1.ip(family), 8080));
    let both = addresses.into_iter().flat_map(|to| Proto::BOTH.map(|proto| (proto, to)));
    let _host = Server::bind(&lab.h, &both.collect::<Vec<_>>());
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            reaches_as_itself(&lab.r, proto, at(H.ip(family), 8080), at(R.ip(family), 40_000), "a1");
            reaches_as_itself(&lab.r, proto, at(H1.ip(family), 8080), at(R.ip(family), 40_000), "H");
        }
    }
}

#[test]
fn case32_one_port_leads_to_two_sandboxes_by_protocol() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "53:53"]).serving(&[53]);
    let _a2 = lab.sandbox("a2", net, 3, &["-p", "53:53/udp"]).serving(&[53]);
    for family in Family::BOTH {
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 53)).server, "a1");
        assert_eq!(lab.r.reach(Proto::Udp, at(H.ip(family), 53)).server, "a2");
    }
}

#[test]
fn case33_every_port_of_a_range_leads_to_its_own() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let inside: Vec<u16> = (0..1000).step_by(111).map(|n| 9_000 + n).collect();
    let a1 = lab.sandbox("a1", net, 2, &["-p", "20000-20999:9000-9999"]).serving(&inside);
    for port in inside {
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, port + 11_000)).server, "a1");
    }
    assert_eq!(lab.r.attempt(Proto::Tcp, at(H.v4, 21_000)), Outcome::Refused);
    assert_eq!(lab.netd(&["port", "a1"]).ok().lines().filter(|line| line.contains("0.0.0.0")).count(), 1000);
    drop(a1);
    lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    for port in [20_000, 20_500, 20_999] {
        assert_eq!(lab.r.attempt(Proto::Tcp, at(H.v4, port)), Outcome::Refused);
    }
}

#[test]
fn a_closed_port_behind_a_publish_refuses_and_the_refusal_comes_from_the_host() {
    let (lab, a1) = lab_with_web(&["-p", "8080:81", "-p", "8080:81/udp"]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(
                lab.r.attempt(proto, at(H.ip(family), 8080)),
                Outcome::Refused,
                "{family:?} {proto:?}"
            );
        }
    }
    drop(a1);
}
