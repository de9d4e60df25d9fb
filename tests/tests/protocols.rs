//! Rung: namespaces, truth table T1, T5, T37 and T81, dataplane §7.6. Transport protocols beside TCP, UDP and ICMP: translated with right checksums, by
//! address alone, or dropped with a reason; never leaked. The peers are the test itself: no kernel has all of these sockets.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use netd_common::wire::crc32c;
use netd_tests::{Capture, Family, H, Lab, Net, Packet, R, Sandbox, Wire, at, denied};

const UDP_LITE: u8 = 136;
const DCCP: u8 = 33;
const SCTP: u8 = 132;

/// How long a packet may take that has to come.
const LIMIT: Duration = Duration::from_secs(5);

/// Returns what IP carries.
fn carried(packet: &Packet) -> &[u8] {
    let header = if packet.ethertype == 0x0800 { 20 } else { 40 };
    &packet.bytes[14 + header..]
}

/// Returns the ports in front of a payload.
fn ports(payload: &[u8]) -> (u16, u16) {
    let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    (port(0), port(2))
}

/// Waits for a packet of a protocol that ends in these bytes.
fn arrives(at: &Capture, proto: u8, tail: &[u8]) -> Packet {
    at.wait(&format!("protocol {proto}"), LIMIT, |p| {
        !p.outgoing && p.proto == Some(proto) && p.bytes.ends_with(tail)
    })
}

/// Builds an SCTP packet (RFC 9260 §3) with one chunk.
fn sctp(sport: u16, dport: u16, chunk: u8, value: &[u8]) -> Vec<u8> {
    let mut packet = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    packet.extend_from_slice(&[0, 0, 0, 7, 0, 0, 0, 0, chunk, 0]);
    packet.extend_from_slice(&u16::try_from(4 + value.len()).expect("short").to_be_bytes());
    packet.extend_from_slice(value);
    let sum = crc32c::of(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// Checks an SCTP packet's checksum.
fn assert_sctp_sum(packet: &[u8]) {
    let mut blank = packet.to_vec();
    blank[8..12].fill(0);
    assert_eq!(crc32c::of(&blank).to_le_bytes(), packet[8..12], "CRC32c of {packet:x?}");
}

/// Returns the ones' complement sum of a pseudo header and of what follows it.
fn sum(from: IpAddr, to: IpAddr, proto: u8, length: usize, data: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut all = [octets(from), octets(to)].concat();
    all.extend_from_slice(&[0, proto]);
    all.extend_from_slice(&u16::try_from(length).expect("short").to_be_bytes());
    all.extend_from_slice(data);
    if all.len() % 2 == 1 {
        all.push(0);
    }
    let sum =
        all.chunks_exact(2).fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded")
}

/// Bytes that the checksum of a UDP-Lite (RFC 3828 §3.1) or DCCP packet covers.
fn covered(proto: u8, packet: &[u8]) -> usize {
    if proto == DCCP { packet.len() } else { usize::from(u16::from_be_bytes([packet[4], packet[5]])) }
}

/// Builds a UDP-Lite packet whose checksum covers its header and three bytes, or a DCCP request; both have their checksum at the same place.
fn lite(proto: u8, from: SocketAddr, to: SocketAddr, tail: &[u8]) -> Vec<u8> {
    let mut packet = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    match proto {
        DCCP => packet.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 42]),
        _ => packet.extend_from_slice(&[0, 11, 0, 0]),
    }
    packet.extend_from_slice(tail);
    let field = !sum(from.ip(), to.ip(), proto, packet.len(), &packet[..covered(proto, &packet)]);
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    packet
}

/// A sandbox with its wire, and the remote with its own.
struct World {
    lab: Lab,
    net: Net,
    a1: Sandbox,
    a2: Sandbox,
}

impl World {
    fn new(publish: &[&str]) -> Self {
        let lab = Lab::new();
        let net = lab.network("netA", 20, &[]);
        let (a1, a2) = (lab.sandbox("a1", net, 2, publish), lab.sandbox("a2", net, 3, &[]));
        Self { lab, net, a1, a2 }
    }

    fn wire(&self, sandbox: &Sandbox, family: Family) -> Wire {
        Wire::to(sandbox, self.net.gateway(family))
    }

    fn remote(&self, family: Family) -> Wire {
        Wire::to(&self.lab.r, H.ip(family))
    }
}

#[test]
fn t81_an_association_to_a_published_port_is_translated_with_right_checksums() {
    let world = World::new(&["-p", "8080:80/sctp"]);
    for family in Family::BOTH {
        let (inside, outside) = (world.wire(&world.a1, family), world.remote(family));
        let (r, h, a) = (R.ip(family), H.ip(family), world.a1.ip(family));
        // INIT, its answer, COOKIE ECHO, COOKIE ACK, DATA, SACK; INIT names another address, which stays as it is.
        for (chunk, back) in [(1_u8, 2_u8), (10, 11), (0, 3)] {
            let value: Vec<u8> =
                (0..u16::from(chunk) * 37 + 21).map(|n| n.to_be_bytes()[1] ^ chunk).collect();
            outside.socket.send(&outside.frame.ip_payload(r, h, SCTP, &sctp(5000, 8080, chunk, &value)));
            let seen = arrives(&inside.socket, SCTP, &value);
            assert_eq!((seen.src, seen.dst, ports(carried(&seen))), (Some(r), Some(a), (5000, 80)));
            assert_sctp_sum(carried(&seen));
            inside.socket.send(&inside.frame.ip_payload(a, r, SCTP, &sctp(80, 5000, back, &value)));
            let seen = arrives(&outside.socket, SCTP, &value);
            assert_eq!((seen.src, seen.dst, ports(carried(&seen))), (Some(h), Some(r), (8080, 5000)));
            assert_sctp_sum(carried(&seen));
        }
    }
}

#[test]
fn t01_sctp_leaves_with_its_own_port_and_a_second_sandbox_with_another() {
    let world = World::new(&[]);
    for family in Family::BOTH {
        let outside = world.remote(family);
        let (r, h) = (R.ip(family), H.ip(family));
        let mut external = Vec::new();
        for sandbox in [&world.a1, &world.a2] {
            let inside = world.wire(sandbox, family);
            let a = sandbox.ip(family);
            let init = sctp(5000, 9000, 1, sandbox.name().as_bytes());
            inside.socket.send(&inside.frame.ip_payload(a, r, SCTP, &init));
            let seen = arrives(&outside.socket, SCTP, sandbox.name().as_bytes());
            assert_eq!((seen.src, seen.dst), (Some(h), Some(r)));
            assert_sctp_sum(carried(&seen));
            let (port, to) = ports(carried(&seen));
            assert_eq!(to, 9000);
            let back = sctp(9000, port, 2, b"init ack");
            outside.socket.send(&outside.frame.ip_payload(r, h, SCTP, &back));
            let seen = arrives(&inside.socket, SCTP, b"init ack");
            assert_eq!((seen.src, seen.dst, ports(carried(&seen))), (Some(r), Some(a), (9000, 5000)));
            assert_sctp_sum(carried(&seen));
            external.push(port);
        }
        assert_eq!(external[0], 5000, "a free port is kept");
        assert_ne!(external[1], 5000, "answers could not be told apart");
    }
}

#[test]
fn t37_another_network_reaches_a_published_sctp_port() {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let (a1, b1) = (lab.sandbox("a1", a, 2, &["-p", "8080:80/sctp"]), lab.sandbox("b1", b, 2, &[]));
    for family in Family::BOTH {
        let (server, client) = (Wire::to(&a1, a.gateway(family)), Wire::to(&b1, b.gateway(family)));
        let init = sctp(5000, 8080, 1, b"init");
        client.socket.send(&client.frame.ip_payload(b1.ip(family), H.ip(family), SCTP, &init));
        let seen = arrives(&server.socket, SCTP, b"init");
        let (port, to) = ports(carried(&seen));
        assert_eq!((seen.src, seen.dst, to), (Some(a.gateway(family)), Some(a1.ip(family)), 80));
        assert_sctp_sum(carried(&seen));
        let back = sctp(80, port, 2, b"init ack");
        server.socket.send(&server.frame.ip_payload(a1.ip(family), a.gateway(family), SCTP, &back));
        let seen = arrives(&client.socket, SCTP, b"init ack");
        assert_eq!((seen.src, ports(carried(&seen))), (Some(H.ip(family)), (8080, 5000)));
        assert_sctp_sum(carried(&seen));
    }
}

#[test]
fn sctp_that_opens_no_association_goes_nowhere() {
    let world = World::new(&["-p", "8080:80/sctp"]);
    for family in Family::BOTH {
        let (inside, outside) = (world.wire(&world.a1, family), world.remote(family));
        let (r, h, a) = (R.ip(family), H.ip(family), world.a1.ip(family));
        let errors = [world.a1.capture(), Capture::start(&world.lab.r, "eth0")];
        let before = world.lab.drops()["ctinvalid"];
        inside.socket.send(&inside.frame.ip_payload(a, r, SCTP, &sctp(5000, 9000, 0, b"stray")));
        outside.socket.send(&outside.frame.ip_payload(r, h, SCTP, &sctp(5000, 8080, 0, b"stray")));
        // The control: what opens one arrives, behind what does not.
        inside.socket.send(&inside.frame.ip_payload(a, r, SCTP, &sctp(5000, 9000, 1, b"opens")));
        outside.socket.send(&outside.frame.ip_payload(r, h, SCTP, &sctp(5000, 8080, 1, b"opens")));
        // Neither kernel has SCTP: both say so, and each of these errors belongs to one of the two flows.
        for (side, errors) in [&inside, &outside].into_iter().zip(&errors) {
            let opening = |p: &Packet| !p.outgoing && p.proto == Some(SCTP);
            let first = side.socket.wait("INIT", LIMIT, opening);
            assert!(first.bytes.ends_with(b"opens"), "{first:x?}");
            errors.wait("the other kernel's error", LIMIT, |p| {
                !p.outgoing && matches!(p.proto, Some(1 | 58)) && p.bytes.ends_with(b"opens")
            });
        }
        assert_eq!(world.lab.drops()["ctinvalid"], before + 1, "the host judges what comes from outside");
    }
}

#[test]
fn udp_lite_and_dccp_are_masqueraded_by_port_with_right_checksums() {
    let world = World::new(&[]);
    for family in Family::BOTH {
        let outside = world.remote(family);
        let (r, h) = (at(R.ip(family), 9000), H.ip(family));
        for proto in [UDP_LITE, DCCP] {
            let mut external = Vec::new();
            for sandbox in [&world.a1, &world.a2] {
                let inside = world.wire(sandbox, family);
                let a = at(sandbox.ip(family), 5000);
                inside.socket.send(&inside.frame.ip_payload(
                    a.ip(),
                    r.ip(),
                    proto,
                    &lite(proto, a, r, b"request"),
                ));
                let seen = arrives(&outside.socket, proto, b"request");
                let payload = carried(&seen);
                let (port, to) = ports(payload);
                assert_eq!((seen.src, seen.dst, to), (Some(h), Some(r.ip()), 9000));
                let check = |from, to, payload: &[u8]| {
                    sum(from, to, proto, payload.len(), &payload[..covered(proto, payload)])
                };
                assert_eq!(check(h, r.ip(), payload), 0xffff, "protocol {proto}: checksum");
                let back = lite(proto, r, at(h, port), b"response");
                outside.socket.send(&outside.frame.ip_payload(r.ip(), h, proto, &back));
                let seen = arrives(&inside.socket, proto, b"response");
                assert_eq!(
                    (seen.src, seen.dst, ports(carried(&seen))),
                    (Some(r.ip()), Some(a.ip()), (9000, 5000))
                );
                assert_eq!(
                    check(r.ip(), a.ip(), carried(&seen)),
                    0xffff,
                    "protocol {proto}: checksum of the answer"
                );
                external.push(port);
            }
            assert_ne!(external[0], external[1], "protocol {proto}: answers could not be told apart");
        }
    }
}

/// Protocols without ports that are translated by address: IP in IP, IPv6 in IP, GRE, ESP, AH, L2TP. In IPv6 AH is a header in front of another.
fn portless(family: Family) -> Vec<u8> {
    [4, 41, 47, 50, 51, 115].into_iter().filter(|&proto| family == Family::V4 || proto != 51).collect()
}

#[test]
fn tunnels_are_masqueraded_by_address_for_one_sandbox_at_a_time() {
    let world = World::new(&[]);
    for family in Family::BOTH {
        let outside = world.remote(family);
        let (one, two) = (world.wire(&world.a1, family), world.wire(&world.a2, family));
        let (r, h, a) = (R.ip(family), H.ip(family), world.a1.ip(family));
        for proto in portless(family) {
            let packet = one.frame.ip_payload(a, r, proto, b"a tunnel's packet out");
            one.socket.send(&packet);
            let seen = arrives(&outside.socket, proto, b"packet out");
            assert_eq!(
                (seen.src, seen.dst, carried(&seen)),
                (Some(h), Some(r), &b"a tunnel's packet out"[..])
            );
            outside.socket.send(&outside.frame.ip_payload(r, h, proto, b"a tunnel's packet in"));
            let seen = arrives(&one.socket, proto, b"packet in");
            assert_eq!(
                (seen.src, seen.dst, carried(&seen)),
                (Some(r), Some(a), &b"a tunnel's packet in"[..])
            );
            // A second sandbox's answers could not be told from the first one's.
            let before = world.lab.drops()["natconflict"];
            two.socket.send(&two.frame.ip_payload(world.a2.ip(family), r, proto, b"another tunnel"));
            one.socket.send(&packet);
            let seen = arrives(&outside.socket, proto, b"");
            assert_eq!(carried(&seen), b"a tunnel's packet out", "the first goes on");
            assert_eq!(world.lab.drops()["natconflict"], before + 1, "protocol {proto}");
        }
    }
}

#[test]
fn protocols_that_cannot_be_translated_are_dropped_with_a_reason_and_stay_allowed_at_home() {
    let world = World::new(&[]);
    for family in Family::BOTH {
        let (one, neighbour) = (world.wire(&world.a1, family), Wire::to(&world.a1, world.a2.ip(family)));
        let (a, inside) = (world.a1.ip(family), world.a2.capture());
        for proto in [89, 103, 253, 255] {
            let before = world.lab.drops()["unknownl4"];
            denied(&world.lab, &world.lab.r, &["UNKNOWN_L4"], || {
                one.socket.send(&one.frame.ip_payload(a, R.ip(family), proto, b"unknown"));
            });
            assert_eq!(world.lab.drops()["unknownl4"], before + 1);
            // The control: a neighbour gets it.
            neighbour.socket.send(&neighbour.frame.ip_payload(a, world.a2.ip(family), proto, b"unknown"));
            arrives(&inside, proto, b"unknown");
        }
    }
}

#[test]
fn no_protocol_enters_unasked_or_crosses_networks() {
    let world = World::new(&["-p", "8080:80/udp"]);
    let other = world.lab.network("netB", 21, &[]);
    let b1 = world.lab.sandbox("b1", other, 2, &[]);
    for family in Family::BOTH {
        let (outside, across) = (world.remote(family), Wire::to(&b1, other.gateway(family)));
        let (inside, a) = (world.a1.capture(), world.a1.ip(family));
        let mut protocols = portless(family);
        protocols.extend([UDP_LITE, DCCP, SCTP, 255]);
        for proto in protocols {
            let bytes = sctp(8080, 8080, 1, b"unasked"); // ports of a published port, should somebody look
            let before = world.lab.drops();
            outside.socket.send(&outside.frame.ip_payload(R.ip(family), H.ip(family), proto, &bytes));
            outside.socket.send(&outside.frame.ip_payload(R.ip(family), a, proto, &bytes));
            across.socket.send(&across.frame.ip_payload(b1.ip(family), a, proto, &bytes));
            let end = Instant::now() + LIMIT;
            for (reason, what) in
                [("directaccess", "its address from outside"), ("isolation", "another network")]
            {
                while world.lab.drops()[reason] == before[reason] {
                    assert!(Instant::now() < end, "protocol {proto}: {what}: no drop is counted");
                }
            }
        }
        let arrived: Vec<_> = inside.take().into_iter().filter(|p| p.bytes.ends_with(b"unasked")).collect();
        assert_eq!(arrived, [], "{family:?}");
        // The control: a neighbour's packet arrives.
        let neighbour = Wire::to(&world.a2, a);
        neighbour.socket.send(&neighbour.frame.ip_payload(world.a2.ip(family), a, 47, b"unasked"));
        arrives(&inside, 47, b"unasked");
    }
}
