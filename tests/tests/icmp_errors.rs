//! Rung: namespaces, truth-table row T4, dataplane §12 cases 55, 57, 59 to 61. Errors about translated flows reach whom they concern.

use std::{net::IpAddr, net::UdpSocket, time::Duration};

use netd_tests::{
    Capture, Family, H, Host, Lab, Ns, Options, Outcome, PATIENCE, Packet, Proto, R, Server, Topology, at,
};

/// The far host, two routers beyond `H`: H — R — Y — X, with a narrow link between R and Y.
const X: Host = Host {
    v4: std::net::Ipv4Addr::new(10, 0, 9, 3),
    v6: std::net::Ipv6Addr::new(0xfd00, 0xa, 9, 0, 0, 0, 0, 3),
};

/// Builds a lab with Y and X behind R; the second value keeps the two alive.
fn lab_with_a_far_host(narrow: u32) -> (Lab, [Ns; 2]) {
    let topology = Topology::new();
    let (y, x) = (Ns::new("Y"), Ns::new("X"));
    topology.r.connect("eth1", &y, "eth0");
    y.connect("eth1", &x, "eth0");
    let addresses = [
        (&topology.r, "eth1", "10.0.8.2", "fd00:a:8::2"),
        (&y, "eth0", "10.0.8.3", "fd00:a:8::3"),
        (&y, "eth1", "10.0.9.2", "fd00:a:9::2"),
        (&x, "eth0", "10.0.9.3", "fd00:a:9::3"),
    ];
    for (ns, dev, v4, v6) in addresses {
        ns.ip_batch(&format!("addr add {v4}/24 dev {dev}\naddr add {v6}/64 dev {dev} nodad"));
    }
    topology.r.ip_batch(&format!("link set eth1 mtu {narrow}"));
    y.ip_batch(&format!("link set eth0 mtu {narrow}"));
    topology.h.ip_batch("route add 10.0.8.0/23 via 10.0.0.3\nroute add fd00:a:8::/47 via fd00:a::3");
    topology.r.ip_batch("route add 10.0.9.0/24 via 10.0.8.3\nroute add fd00:a:9::/64 via fd00:a:8::3");
    y.ip_batch("route add default via 10.0.8.2\nroute add default via fd00:a:8::2");
    x.ip_batch("route add default via 10.0.9.2\nroute add default via fd00:a:9::2");
    for router in [&topology.r, &y] {
        router.sysctl("net/ipv4/ip_forward", "1");
        router.sysctl("net/ipv6/conf/all/forwarding", "1");
    }
    (Lab::on(topology, &Options::default()), [y, x])
}

/// An ICMP error's type and the source and destination of the packet it quotes.
fn quoted(packet: &Packet) -> Option<(u8, IpAddr, IpAddr)> {
    let (at, v6) = match packet.proto? {
        1 => (14 + 20, false),
        58 => (14 + 40, true),
        _ => return None,
    };
    let (kind, inner) = (*packet.bytes.get(at)?, packet.bytes.get(at + 8..)?);
    if v6 {
        let address = |range| Some(IpAddr::from(<[u8; 16]>::try_from(inner.get(range)?).ok()?));
        Some((kind, address(8..24)?, address(24..40)?))
    } else {
        let address = |range| Some(IpAddr::from(<[u8; 4]>::try_from(inner.get(range)?).ok()?));
        Some((kind, address(12..16)?, address(16..20)?))
    }
}

#[test]
fn t04_time_exceeded_from_every_hop_reaches_the_sandbox_and_quotes_its_own_packet() {
    let (lab, [_y, _x]) = lab_with_a_far_host(1500);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let wire = a1.capture();
    let y = ["10.0.8.3", "fd00:a:8::3"].map(|text| text.parse::<IpAddr>().expect("an address"));
    for (family, y) in Family::BOTH.into_iter().zip(y) {
        let expected = if family == Family::V4 { 11 } else { 3 };
        for (ttl, hop) in [(1, net.gateway(family)), (2, R.ip(family)), (3, y)] {
            a1.run(|| send_with_ttl(family, ttl));
            let error = wire.wait("time exceeded", PATIENCE, |p| {
                !p.outgoing && quoted(p).is_some_and(|q| q.0 == expected)
            });
            assert_eq!((error.src, error.dst), (Some(hop), Some(a1.ip(family))), "hop {ttl}");
            assert_eq!(quoted(&error), Some((expected, a1.ip(family), X.ip(family))), "hop {ttl}");
        }
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

#[test]
fn case57_a_closed_port_outside_refuses_the_sandboxs_datagrams() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        assert_eq!(a1.probe(Proto::Udp, at(R.ip(family), 81)), Outcome::Refused, "{family:?}");
    }
}

#[test]
fn case61_a_closed_port_inside_refuses_in_the_hosts_name() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:81/udp"]);
    let wire = Capture::start(&lab.r, "eth0");
    for family in Family::BOTH {
        assert_eq!(lab.r.probe(Proto::Udp, at(H.ip(family), 8080)), Outcome::Refused, "{family:?}");
        let expected = if family == Family::V4 { 3 } else { 1 };
        let error = wire.wait("port unreachable", Duration::from_secs(5), |p| {
            !p.outgoing && quoted(p).is_some_and(|q| q.0 == expected)
        });
        assert_eq!(error.src, Some(H.ip(family)));
        assert_eq!(quoted(&error), Some((expected, R.ip(family), H.ip(family))));
    }
}

#[test]
fn case59_a_stream_out_finds_the_narrow_link() {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&x, &[80]);
    for family in Family::BOTH {
        let (mut stream, seen) = a1.connect_stream(at(X.ip(family), 80));
        assert_eq!(seen.source.ip(), H.ip(family));
        for _ in 0..5 {
            stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
        }
    }
}

#[test]
fn case60_a_published_server_finds_the_narrow_link() {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    for family in Family::BOTH {
        let (mut stream, seen) = x.connect_stream(at(H.ip(family), 8080));
        assert_eq!(seen.source.ip(), X.ip(family));
        for _ in 0..5 {
            stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
        }
    }
}

#[test]
fn case60_an_ipv4_only_server_finds_the_narrow_link_to_an_ipv6_client() {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    lab.netd(&["network", "create", "--subnet", "172.20.0.0/24", "netV"]).ok();
    let v1 = lab.sandbox_with("v1", &["--network", "netV,ip=172.20.0.2", "-p", "8080:80"]).serving(&[80]);
    let (mut stream, seen) = x.connect_stream(at(H.v6, 8080));
    assert_eq!(seen.source.ip(), IpAddr::from([172, 20, 0, 1]));
    let errors = Capture::start(&v1, "eth0");
    for _ in 0..5 {
        stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
    }
    // Fragmentation needed, in IPv4, about the sandbox's own packet to its gateway.
    let own = (3, IpAddr::from([172, 20, 0, 2]), IpAddr::from([172, 20, 0, 1]));
    errors.wait("fragmentation needed", PATIENCE, |packet| quoted(packet) == Some(own));
}

#[test]
fn case76_a_narrow_uplink_is_told_to_the_sandbox() {
    let topology = Topology::new();
    topology.h.ip_batch("link set eth0 mtu 1400");
    topology.r.ip_batch("link set eth0 mtu 1400");
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        if family == Family::V6 {
            // Routers do not fragment: the first datagram comes to nothing, and the sender is told (RFC 8201 §4).
            let told = a1.try_datagram(at(R.ip(family), 80), 4_000).expect_err("too big for the uplink");
            assert_eq!(told.raw_os_error(), Some(libc::EMSGSIZE), "{told}");
        }
        for (client, to) in [(&*a1, at(R.ip(family), 80)), (&lab.r, at(H.ip(family), 8080))] {
            let (mut stream, _) = client.connect_stream(to);
            for _ in 0..5 {
                stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the uplink's MTU");
            }
            client.exchange_datagram(to, 4_000);
        }
    }
}
