//! Rung: namespaces, dataplane §7.3 step 5 and §12 case 55. Packets at the end of their TTL: each router on the way says so, the host in place of
//! the address that was dialled, and quotes what its sender sent.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use netd_tests::{
    Family, H, Lab, Ns, PATIENCE, Packet, Proto, R, Server, Wire, at,
    far::{X, lab_with_a_far_host},
    fix_header,
};

/// Where IP begins.
const L3: usize = 14;

/// How a path is traced, as traceroute(8) does it by default, with `-T` and with `-I`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Udp,
    Syn,
    Echo,
}

/// Who answered a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hop {
    /// A router where the TTL ended.
    Router(IpAddr),
    /// The target, in whatever words.
    Target(IpAddr),
}

/// Traces paths from the `eth0` of a namespace.
struct Tracer(Wire);

impl Tracer {
    /// From a namespace whose way begins at this neighbour.
    fn new(ns: &Ns, next: IpAddr) -> Self {
        Self(Wire::to(ns, next))
    }

    /// A probe. The port to trace from tells it from all others.
    fn probe(&self, by: By, from: SocketAddr, to: SocketAddr, ttl: u8) -> Vec<u8> {
        let mut probe = match by {
            By::Udp => self.0.frame.udp(from, to, b"how far?"),
            By::Syn => self.0.frame.tcp_syn(from, to),
            By::Echo => self.0.frame.echo(from.ip(), to.ip(), from.port()),
        };
        if to.is_ipv4() {
            probe[L3 + 8] = ttl;
            fix_header(&mut probe);
        } else {
            probe[L3 + 7] = ttl;
        }
        probe
    }

    /// Sends a probe, and returns who answers.
    fn hop(&self, by: By, from: SocketAddr, to: SocketAddr, ttl: u8) -> Hop {
        let probe = self.probe(by, from, to, ttl);
        let (end, mut hop) = (Instant::now() + PATIENCE, None);
        // Sent anew: hosts limit the rate of their errors (`icmp_ratelimit`).
        while hop.is_none() {
            assert!(Instant::now() < end, "{by:?} {from} -> {to} at TTL {ttl}: no answer");
            self.0.socket.send(&probe);
            let patience = Instant::now() + Duration::from_millis(1_500);
            while hop.is_none() && Instant::now() < patience {
                hop = self.0.socket.take().iter().find_map(|packet| answer(packet, &probe, from, to));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        hop.expect("an answer")
    }

    /// Returns the hops to a target, at most eight.
    fn trace(&self, by: By, from: SocketAddr, to: SocketAddr) -> Vec<Hop> {
        let mut hops = Vec::new();
        for ttl in 1..=8 {
            hops.push(self.hop(by, from, to, ttl));
            if matches!(hops.last(), Some(Hop::Target(_))) {
                break;
            }
        }
        hops
    }
}

fn is_echo_reply(packet: &Packet) -> bool {
    let (v4, v6) = (packet.bytes.get(L3 + 20), packet.bytes.get(L3 + 40));
    match packet.proto {
        Some(1) => v4 == Some(&0),
        Some(58) => v6 == Some(&129),
        _ => false,
    }
}

/// The sum of RFC 1071, folded; 0 over bytes with their checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | two.get(1).map_or(0, |&b| u32::from(b)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded")
}

/// Whether the checksum of an ICMP message is right.
fn is_sound(packet: &Packet, message: &[u8]) -> bool {
    let mut covered = Vec::new();
    if let (Some(IpAddr::V6(src)), Some(IpAddr::V6(dst))) = (packet.src, packet.dst) {
        covered.extend(src.octets().into_iter().chain(dst.octets()));
        covered.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
        covered.extend([0, 0, 0, 58]);
    }
    covered.extend_from_slice(message);
    checksum(&covered) == 0
}

/// A packet without what routers change on the way.
fn as_sent(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let changing: &[usize] = if packet[0] >> 4 == 4 { &[8, 10, 11] } else { &[7] };
    for &at in changing {
        packet[at] = 0;
    }
    packet
}

/// Reads an answer to a probe. Errors have to be sound, and to quote the probe as it was sent.
fn answer(packet: &Packet, probe: &[u8], from: SocketAddr, to: SocketAddr) -> Option<Hop> {
    if packet.outgoing || packet.dst != Some(from.ip()) {
        return None;
    }
    let src = packet.src?;
    if !matches!(packet.proto?, 1 | 58) || is_echo_reply(packet) {
        let ours = packet.dport == Some(from.port()) && src == to.ip();
        let port = is_echo_reply(packet) || packet.sport == Some(to.port());
        return (ours && port).then_some(Hop::Target(src));
    }
    let v4 = src.is_ipv4();
    let message = &packet.bytes[L3 + if v4 { 20 } else { 40 }..];
    let (kind, quote) = (*message.first()?, message.get(8..)?);
    let expired = kind == if v4 { 11 } else { 3 };
    if !expired && kind != if v4 { 3 } else { 1 } {
        return None; // neighbour discovery
    }
    let ports = L3 + if v4 { 20 } else { 40 };
    if quote.get(ports - L3..ports - L3 + 8)? != &probe[ports..ports + 8] {
        return None; // about an earlier probe
    }
    assert!(is_sound(packet, message), "{packet:x?}");
    // IPv4 hosts need not quote all of it (RFC 792).
    assert_eq!(as_sent(quote), as_sent(&probe[L3..])[..quote.len()], "the quote is what was sent");
    if v4 && expired {
        assert_eq!(checksum(&quote[..20]), 0, "its header is sound");
    }
    Some(if expired { Hop::Router(src) } else { Hop::Target(src) })
}

fn address(family: Family, v4: &str, v6: &str) -> IpAddr {
    if family == Family::V4 { v4 } else { v6 }.parse().expect("an address")
}

fn router(family: Family, v4: &str, v6: &str) -> Hop {
    Hop::Router(address(family, v4, v6))
}

#[test]
fn case55_a_sandbox_sees_its_gateway_and_every_router_to_the_outside() {
    let (lab, [_y, x]) = lab_with_a_far_host(1500);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&x, &[80]);
    for family in Family::BOTH {
        let tracer = Tracer::new(&a1, net.gateway(family));
        for (by, from, to) in [(By::Udp, 5_001, 81), (By::Syn, 5_002, 80), (By::Echo, 5_003, 0)] {
            let hops = tracer.trace(by, at(a1.ip(family), from), at(X.ip(family), to));
            let expected = [
                Hop::Router(net.gateway(family)),
                Hop::Router(R.ip(family)),
                router(family, "10.0.8.3", "fd00:a:8::3"),
                Hop::Target(X.ip(family)),
            ];
            assert_eq!(hops, expected, "{family:?} {by:?}");
        }
    }
}

#[test]
fn from_outside_the_host_is_one_hop_and_the_sandbox_behind_a_published_port_the_next() {
    let (lab, [_y, x]) = lab_with_a_far_host(1500);
    let net = lab.network("netA", 20, &[]);
    let options = ["-p", "8080:80", "-p", "8081:81/udp", "-p", "8080:80/udp"];
    let _a1 = lab.sandbox("a1", net, 2, &options).serving(&[80]);
    for family in Family::BOTH {
        let tracer = Tracer::new(&x, address(family, "10.0.9.2", "fd00:a:9::2"));
        let (h, x) = (H.ip(family), X.ip(family));
        let way = [
            router(family, "10.0.9.2", "fd00:a:9::2"),
            router(family, "10.0.8.2", "fd00:a:8::2"),
            Hop::Router(h),
            Hop::Target(h),
        ];
        // To a port that answers, to a closed one, and by TCP.
        for (by, from, to) in [(By::Udp, 5_001, 8080), (By::Udp, 5_002, 8081), (By::Syn, 5_003, 8080)] {
            assert_eq!(tracer.trace(by, at(x, from), at(h, to)), way, "{family:?} {by:?} {to}");
        }
        // What is the host's own ends there: a port that is not published, and an echo.
        for (by, from, to) in [(By::Udp, 5_004, 8082), (By::Syn, 5_005, 8082), (By::Echo, 5_006, 0)] {
            let hops = tracer.trace(by, at(x, from), at(h, to));
            assert_eq!(hops, [way[0], way[1], Hop::Target(h)], "{family:?} {by:?} {to}");
        }
    }
}

#[test]
fn an_established_connection_from_outside_can_be_traced_too() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    for family in Family::BOTH {
        let (r, h) = (R.ip(family), H.ip(family));
        let (mut stream, _) = lab.r.connect_stream(at(h, 8080));
        let from = stream.tcp().local_addr().expect("a local address");
        let tracer = Tracer::new(&lab.r, H.ip(family));
        assert_eq!(tracer.hop(By::Syn, at(r, from.port()), at(h, 8080), 1), Hop::Router(h), "{family:?}");
        stream.echo(b"and it goes on").expect("the connection is as before");
    }
}

#[test]
fn a_reply_to_a_masqueraded_flow_that_ends_at_the_host_is_answered_in_the_hosts_name() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let (r, h) = (R.ip(family), H.ip(family));
        let seen = a1.reach(Proto::Udp, at(r, 80));
        assert_eq!(seen.source.ip(), h);
        let tracer = Tracer::new(&lab.r, h); // listens from now on: the question looks like an answer
        assert_eq!(tracer.hop(By::Udp, at(r, 80), seen.source, 1), Hop::Router(h), "{family:?}");
    }
}

#[test]
fn a_sandbox_sees_the_host_and_then_the_sandbox_of_another_network_behind_a_published_port() {
    let lab = Lab::new();
    let (net_a, net_b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let options = ["-p", "8080:80", "-p", "8081:81/udp", "-p", "8080:80/udp"];
    let a1 = lab.sandbox("a1", net_a, 2, &options).serving(&[80]);
    let a2 = lab.sandbox("a2", net_a, 3, &[]);
    let b1 = lab.sandbox("b1", net_b, 2, &[]);
    for family in Family::BOTH {
        let h = H.ip(family);
        let probes = [(By::Udp, 5_001, 8080), (By::Udp, 5_002, 8081), (By::Syn, 5_003, 8080)];
        let tracer = Tracer::new(&b1, net_b.gateway(family));
        for (by, from, to) in probes {
            let hops = tracer.trace(by, at(b1.ip(family), from), at(h, to));
            assert_eq!(hops, [Hop::Router(h), Hop::Target(h)], "{family:?} {by:?} {to}");
        }
        // On one network there is no router between the two, as under Docker with br_netfilter.
        for (sandbox, name) in [(&a2, "a2"), (&a1, "itself")] {
            let tracer = Tracer::new(sandbox, net_a.gateway(family));
            for (by, from, to) in probes {
                let hops = tracer.trace(by, at(sandbox.ip(family), from), at(h, to));
                assert_eq!(hops, [Hop::Target(h)], "{family:?} {by:?} {to} from {name}");
            }
        }
    }
}

#[test]
fn a_reply_to_a_sandbox_of_another_network_that_ends_at_the_host_is_answered() {
    let lab = Lab::new();
    let (net_a, net_b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", net_a, 2, &["-p", "8080:80/udp"]).serving(&[80]);
    let b1 = lab.sandbox("b1", net_b, 2, &[]);
    for family in Family::BOTH {
        let client = b1.reach(Proto::Udp, at(H.ip(family), 8080)).source;
        assert_eq!(client.ip(), net_a.gateway(family), "masqueraded");
        let tracer = Tracer::new(&a1, net_a.gateway(family));
        let hop = tracer.hop(By::Udp, at(a1.ip(family), 80), client, 1);
        assert_eq!(hop, Hop::Router(client.ip()), "{family:?}");
    }
}

#[test]
fn an_ipv6_clients_way_to_an_ipv4_only_sandbox_ends_at_the_host() {
    let lab = Lab::new();
    lab.netd(&["network", "create", "--subnet", "172.20.0.0/24", "netV"]).ok();
    let options = ["--network", "netV,ip=172.20.0.2", "-p", "8080:80", "-p", "8080:80/udp"];
    let _v1 = lab.sandbox_with("v1", &options).serving(&[80]);
    let tracer = Tracer::new(&lab.r, H.v4.into());
    for (by, from) in [(By::Udp, 5_001), (By::Syn, 5_002)] {
        let hops = tracer.trace(by, at(R.v6, from), at(H.v6, 8080));
        assert_eq!(hops, [Hop::Target(H.v6.into())], "{by:?}: as under Docker, whose proxy answers");
        let hops = tracer.trace(by, at(R.v4, from), at(H.v4, 8080));
        assert_eq!(hops, [Hop::Router(H.v4.into()), Hop::Target(H.v4.into())], "{by:?}: IPv4 goes on");
    }
}
