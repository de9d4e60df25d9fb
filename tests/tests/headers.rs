//! Rung: namespaces, reliability A.4 and S31. Headers that contradict themselves, and headers that only few have: from a sandbox dropped with a reason
//! or translated right, from outside never to a sandbox unless translated right.

use std::net::{IpAddr, SocketAddr};

use netd_tests::{Capture, Family, H, Lab, PATIENCE, Packet, R, Wire, at, fix_header};

/// What every frame of these tests ends in.
const MARKER: &[u8] = b"marked by the test";
/// Where IP starts, and what it carries in IPv4 and IPv6.
const L3: usize = 14;
const L4_4: usize = L3 + 20;
const L4_6: usize = L3 + 40;

/// A whole frame between two ends, to be spoilt.
#[derive(Clone)]
struct Sample {
    udp: Vec<u8>,
    tcp: Vec<u8>,
}

impl Sample {
    fn new(wire: &Wire, from: SocketAddr, to: SocketAddr) -> Self {
        let udp = wire.frame.udp(from, to, MARKER);
        let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend_from_slice(MARKER);
        Self { udp, tcp: wire.frame.ip_payload(from.ip(), to.ip(), 6, &segment) }
    }
}

/// Puts options behind the header of an IPv4 frame; their length is a multiple of four.
fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut frame = [&frame[..L4_4], options, &frame[L4_4..]].concat();
    frame[L3] += u8::try_from(options.len() / 4).expect("at most 40 bytes");
    let total = u16::try_from(frame.len() - L3).expect("short");
    frame[L3 + 2..L3 + 4].copy_from_slice(&total.to_be_bytes());
    fix_header(&mut frame);
    frame
}

/// Puts extension headers of eight bytes in front of what an IPv6 frame carries: type, and the bytes behind type and length.
fn with_extensions(frame: &[u8], headers: &[(u8, [u8; 6])]) -> Vec<u8> {
    let (mut all, mut next) = (frame[L4_6..].to_vec(), frame[L3 + 6]);
    for (kind, bytes) in headers.iter().rev() {
        all = [&[next, 0], &bytes[..], &all].concat();
        next = *kind;
    }
    let mut frame = [&frame[..L4_6], &all].concat();
    frame[L3 + 6] = next;
    frame[L3 + 4..L3 + 6].copy_from_slice(&u16::try_from(all.len()).expect("short").to_be_bytes());
    frame
}

/// Changes bytes at places.
fn set(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for &(at, byte) in changes {
        frame[at] = byte;
    }
    frame
}

/// As [`set`], with the IPv4 header's checksum right again.
fn set4(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = set(frame, changes);
    fix_header(&mut frame);
    frame
}

/// Padding, as options of extension headers have it.
const PAD: [u8; 6] = [1, 4, 0, 0, 0, 0];
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

type Case = (&'static str, Vec<u8>, &'static str);

fn spoilt4(Sample { udp, tcp }: &Sample) -> Vec<Case> {
    vec![
        ("version 6", set(udp, &[(L3, 0x65)]), "malformed"),
        ("header length 0", set(udp, &[(L3, 0x40)]), "malformed"),
        ("header length 16", set(udp, &[(L3, 0x44)]), "malformed"),
        ("header length 60 of a short packet", set(udp, &[(L3, 0x4f)]), "malformed"),
        ("total length below the header's", set4(udp, &[(L3 + 3, 19)]), "malformed"),
        ("total length of the header alone", set4(udp, &[(L3 + 3, 20)]), "malformed"),
        ("total length beyond the frame", set4(udp, &[(L3 + 2, 1)]), "malformed"),
        ("total length 0", set4(udp, &[(L3 + 3, 0)]), "malformed"),
        ("loose source route", with_options(udp, &[131, 7, 4, 10, 0, 0, 9, 0]), "sourceroute"),
        (
            "strict source route behind others",
            with_options(udp, &[1, 1, 148, 4, 0, 0, 137, 7, 4, 10, 0, 9, 9, 0, 0, 0]),
            "sourceroute",
        ),
        ("an option without length", with_options(udp, &[7, 0, 0, 0]), "malformed"),
        ("a fragment beyond the largest datagram", set4(udp, &[(L3 + 6, 0x3f), (L3 + 7, 0xff)]), "malformed"),
    ]
    .into_iter()
    .chain(transport(udp, tcp, L4_4))
    .collect()
}

fn spoilt6(Sample { udp, tcp }: &Sample) -> Vec<Case> {
    let nine = [(DESTINATION, PAD); 9];
    vec![
        ("version 4", set(udp, &[(L3, 0x45)]), "malformed"),
        ("payload length beyond the frame", set(udp, &[(L3 + 4, 1)]), "malformed"),
        ("payload length 0", set(udp, &[(L3 + 5, 0)]), "malformed"),
        ("nine extension headers", with_extensions(udp, &nine), "malformed"),
        ("nine of them hop-by-hop", with_extensions(udp, &[(HOP_BY_HOP, PAD); 9]), "malformed"),
        (
            "a routing header with a way to go",
            with_extensions(udp, &[(ROUTING, [0, 1, 0, 0, 0, 0])]),
            "sourceroute",
        ),
        (
            "the same behind another",
            with_extensions(udp, &[(DESTINATION, PAD), (ROUTING, [4, 2, 0, 0, 0, 0])]),
            "sourceroute",
        ),
        (
            "nothing behind a fragment header",
            with_extensions(&set(udp, &[(L3 + 6, 59)]), &[(FRAGMENT, [0; 6])]),
            "unknownl4",
        ),
    ]
    .into_iter()
    .chain(transport(udp, tcp, L4_6))
    .collect()
}

fn transport(udp: &[u8], tcp: &[u8], l4: usize) -> Vec<Case> {
    vec![
        ("UDP length 0", set(udp, &[(l4 + 5, 0)]), "malformed"),
        ("UDP length 7", set(udp, &[(l4 + 5, 7)]), "malformed"),
        ("UDP length beyond the packet", set(udp, &[(l4 + 4, 1)]), "malformed"),
        ("TCP header length 0", set(tcp, &[(l4 + 12, 0)]), "malformed"),
        ("TCP header length 16", set(tcp, &[(l4 + 12, 0x40)]), "malformed"),
        ("TCP header length 60 of a short segment", set(tcp, &[(l4 + 12, 0xf0)]), "malformed"),
        ("TCP without flags", set(tcp, &[(l4 + 13, 0)]), "ctinvalid"),
        ("TCP with all flags", set(tcp, &[(l4 + 13, 0xff)]), "ctinvalid"),
        ("TCP SYN and FIN", set(tcp, &[(l4 + 13, 3)]), "ctinvalid"),
        ("TCP SYN and RST", set(tcp, &[(l4 + 13, 6)]), "ctinvalid"),
    ]
}

fn spoilt(family: Family, sample: &Sample) -> Vec<Case> {
    match family {
        Family::V4 => spoilt4(sample),
        Family::V6 => spoilt6(sample),
    }
}

/// Packets with headers that only few have, and that are good.
fn rare(family: Family, Sample { udp, .. }: &Sample) -> Vec<(&'static str, Vec<u8>)> {
    match family {
        Family::V4 => vec![
            // Full, so that no receiver writes to it.
            ("record route", with_options(udp, &[7, 7, 8, 10, 0, 0, 9, 0])),
            ("stream identifier", with_options(udp, &[136, 4, 0, 1])),
            ("router alert", with_options(udp, &[148, 4, 0, 0])),
            ("no operations, end", with_options(udp, &[1, 1, 1, 0])),
        ],
        Family::V6 => vec![
            ("hop-by-hop options", with_extensions(udp, &[(HOP_BY_HOP, PAD)])),
            ("destination options", with_extensions(udp, &[(DESTINATION, PAD); 3])),
            ("a routing header at its end", with_extensions(udp, &[(ROUTING, [0; 6])])),
            ("an atomic fragment", with_extensions(udp, &[(FRAGMENT, [0, 0, 0, 0, 0, 7])])),
        ],
    }
}

/// Frames that arrived and carry the marker.
fn marked(capture: &Capture) -> Vec<Packet> {
    let has_marker = |p: &Packet| p.bytes.windows(MARKER.len()).any(|window| window == MARKER);
    let is_error = |p: &Packet| matches!(p.proto, Some(1 | 58));
    capture.take().into_iter().filter(|p| !p.outgoing && has_marker(p) && !is_error(p)).collect()
}

#[test]
fn what_contradicts_itself_never_leaves_a_sandbox_and_is_counted() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        let wire = Wire::to(&a1, net.gateway(family));
        let outside = Capture::start(&lab.r, "eth0");
        let sample = Sample::new(&wire, at(a1.ip(family), 5000), at(R.ip(family), 9));
        for (name, frame, reason) in spoilt(family, &sample) {
            let before = lab.drops();
            wire.socket.send(&frame);
            let after = lab.drops();
            assert_eq!(after[reason], before[reason] + 1, "{family:?} {name}: {before:?} {after:?}");
            assert_eq!(marked(&outside), [], "{family:?} {name}");
        }
        wire.socket.send(&sample.udp);
        outside.wait("the control", PATIENCE, |p| !p.outgoing && p.bytes.ends_with(MARKER));
    }
}

#[test]
fn what_contradicts_itself_never_enters_a_sandbox() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]);
    for family in Family::BOTH {
        let wire = Wire::to(&lab.r, H.ip(family));
        let inside = a1.capture();
        let client = at(R.ip(family), 5000);
        for to in [at(H.ip(family), 8080), at(a1.ip(family), 80), at(a1.ip(family), 8080)] {
            let sample = Sample::new(&wire, client, to);
            for (name, frame, _) in spoilt(family, &sample) {
                wire.socket.send(&frame);
                assert_eq!(marked(&inside), [], "{family:?} to {to}: {name}");
            }
        }
        let control = Sample::new(&wire, client, at(H.ip(family), 8080));
        wire.socket.send(&control.udp);
        inside.wait("the control", PATIENCE, |p| !p.outgoing && p.bytes.ends_with(MARKER));
    }
}

#[test]
fn headers_that_few_packets_have_are_translated_as_those_without() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    for family in Family::BOTH {
        let (out, inward) = (Wire::to(&a1, net.gateway(family)), Wire::to(&lab.r, H.ip(family)));
        let (inside, outside) = (a1.capture(), Capture::start(&lab.r, "eth0"));
        let (a, r) = (at(a1.ip(family), 5000), at(R.ip(family), 9));
        for (name, frame) in rare(family, &Sample::new(&out, a, r)) {
            arrives(&out, &outside, &frame, (H.ip(family), r.ip()), name);
        }
        for (name, frame) in rare(family, &Sample::new(&inward, at(r.ip(), 5001), at(H.ip(family), 8080))) {
            arrives(&inward, &inside, &frame, (r.ip(), a.ip()), name);
        }
    }
}

/// Sends a frame and expects it translated, what is in its rarer headers unchanged.
fn arrives(wire: &Wire, capture: &Capture, frame: &[u8], (src, dst): (IpAddr, IpAddr), name: &str) {
    wire.socket.send(frame);
    let is_error = |p: &Packet| matches!(p.proto, Some(1 | 58)); // of a kernel without a socket there
    let seen = capture.wait(name, PATIENCE, |p| !p.outgoing && p.bytes.ends_with(MARKER) && !is_error(p));
    let header = if src.is_ipv4() { 20 } else { 40 };
    let transport = frame.len() - MARKER.len() - 8;
    assert_eq!(
        seen.bytes[L3 + header..transport],
        frame[L3 + header..transport],
        "{name}: the rarer headers"
    );
    let (from, to) = addresses(&seen.bytes, src.is_ipv4());
    assert_eq!((from, to), (src, dst), "{name}");
    if src.is_ipv4() {
        let mut fixed = seen.bytes.clone();
        fix_header(&mut fixed);
        assert_eq!(fixed, seen.bytes, "{name}: the header's checksum");
    }
    assert_eq!(udp_sum(&seen.bytes, transport, src.is_ipv4()), 0xffff, "{name}: the checksum of UDP");
}

/// Reads the addresses of a frame.
fn addresses(bytes: &[u8], v4: bool) -> (IpAddr, IpAddr) {
    let take = |at: usize| -> IpAddr {
        if v4 {
            <[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four bytes").into()
        } else {
            <[u8; 16]>::try_from(&bytes[at..at + 16]).expect("sixteen bytes").into()
        }
    };
    if v4 { (take(L3 + 12), take(L3 + 16)) } else { (take(L3 + 8), take(L3 + 24)) }
}

/// Returns the sum of a UDP datagram with its pseudo header.
fn udp_sum(bytes: &[u8], at: usize, v4: bool) -> u16 {
    let ends = if v4 { &bytes[L3 + 12..L3 + 20] } else { &bytes[L3 + 8..L3 + 40] };
    let datagram = &bytes[at..];
    let length = u16::try_from(datagram.len()).expect("short").to_be_bytes();
    let mut all = [ends, &[0, 17], &length, datagram].concat();
    if all.len() % 2 == 1 {
        all.push(0);
    }
    let sum =
        all.chunks_exact(2).fold(0_u32, |sum, two| sum + u32::from(u16::from_be_bytes([two[0], two[1]])));
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded")
}
