//! T1 to T4: what leaves a sandbox.

use std::net::{IpAddr, UdpSocket};

use netd_tests::{
    Family, PATIENCE, R, Server, at,
    far::{X, lab_with_a_far_host, quoted},
    truth::{
        ALL_PORTS,
        Expect::Ok,
        PORTS,
        Place::{Fixed, Of, Second},
        Row, Stage,
        Who::{A1, H, M1, P1, R as RW, R2 as R2W},
        ask, ping, row, story,
    },
};

pub fn rows() -> Vec<Row> {
    vec![
        row(
            1,
            "egress carries the address of its uplink",
            [
                ask(A1, Of(RW), 80, ALL_PORTS, Ok(RW, Of(H))),
                ping(A1, Of(RW), Ok(RW, Of(H))),
                ask(A1, Of(R2W), 80, ALL_PORTS, Ok(R2W, Second(H))),
                ping(A1, Of(R2W), Ok(R2W, Second(H))),
            ],
        ),
        row(
            2,
            "a fixed host address is the source of a network's egress",
            [ask(P1, Of(RW), 80, ALL_PORTS, Ok(RW, Fixed)), ping(P1, Of(RW), Ok(RW, Fixed))],
        ),
        row(
            3,
            "without masquerade addresses stay and answers arrive",
            [ask(M1, Of(RW), 80, PORTS, Ok(RW, Of(M1))), ping(M1, Of(RW), Ok(RW, Of(M1)))],
        ),
        row(
            4,
            "errors about a translated flow reach the sandbox",
            [
                story(
                    "icmp",
                    "a1 → X, TTL 1 to 3",
                    "time exceeded quotes a1's packet",
                    Stage::Own(time_exceeded),
                ),
                story("tcp", "a1 → X behind MTU 1300", "the stream finds the MTU", Stage::Own(path_mtu)),
            ],
        ),
    ]
}

fn time_exceeded(family: Family) {
    let (lab, [_y, _x]) = lab_with_a_far_host(1500);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let wire = a1.capture();
    let (y, expected) = match family {
        Family::V4 => ("10.0.8.3", 11),
        Family::V6 => ("fd00:a:8::3", 3),
    };
    let y: IpAddr = y.parse().expect("an address");
    for (ttl, hop) in [(1, net.gateway(family)), (2, R.ip(family)), (3, y)] {
        a1.run(|| send_with_ttl(family, ttl));
        let error = wire
            .wait("time exceeded", PATIENCE, |p| !p.outgoing && quoted(p).is_some_and(|q| q.0 == expected));
        assert_eq!((error.src, error.dst), (Some(hop), Some(a1.ip(family))), "hop {ttl}");
        assert_eq!(quoted(&error), Some((expected, a1.ip(family), X.ip(family))), "hop {ttl}");
    }
}

/// Sends a datagram to X that lives this many hops.
fn send_with_ttl(family: Family, ttl: u32) {
    let socket = UdpSocket::bind(at(family.any(), 0)).expect("a socket");
    match family {
        Family::V4 => socket.set_ttl(ttl).expect("IP_TTL"),
        Family::V6 => {
            let hops = i32::try_from(ttl).expect("a hop limit");
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6Ttl, &hops)
                .expect("IPV6_UNICAST_HOPS");
        }
    }
    socket.send_to(b"traceroute", at(X.ip(family), 33_434)).expect("send");
}

fn path_mtu(family: Family) {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&x, &[80]);
    let (mut stream, seen) = a1.connect_stream(at(X.ip(family), 80));
    assert_eq!(seen.source.ip(), netd_tests::H.ip(family));
    for _ in 0..5 {
        stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
    }
}
