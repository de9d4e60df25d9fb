//! Rung: namespaces, dataplane §7.3 and 4.7, reliability A.4. IPv4 options and IPv6 extension headers that are good: translated as packets without them.

use std::net::IpAddr;

use netd_tests::{Capture, Family, H, Lab, PATIENCE, Packet, R, Wire, at, fix_header};

/// What every frame of these tests ends in.
const MARKER: &[u8] = b"marked by the test";
/// Where IP starts, and what it carries in IPv4 and IPv6.
const L3: usize = 14;
const L4_4: usize = L3 + 20;
const L4_6: usize = L3 + 40;

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

/// Padding, as options of extension headers have it.
const PAD: [u8; 6] = [1, 4, 0, 0, 0, 0];
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Packets with headers that only few have, and that are good.
fn rare(family: Family, udp: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
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

#[test]
fn headers_that_few_packets_have_are_translated_as_those_without() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    for family in Family::BOTH {
        let (out, inward) = (Wire::to(&a1, net.gateway(family)), Wire::to(&lab.r, H.ip(family)));
        let (inside, outside) = (a1.capture(), Capture::start(&lab.r, "eth0"));
        let (a, r) = (at(a1.ip(family), 5000), at(R.ip(family), 9));
        for (name, frame) in rare(family, &out.frame.udp(a, r, MARKER)) {
            arrives(&out, &outside, &frame, (H.ip(family), r.ip()), name);
        }
        for (name, frame) in rare(family, &inward.frame.udp(at(r.ip(), 5001), at(H.ip(family), 8080), MARKER))
        {
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

/// Packets whose sender says by whom they have to go.
fn source_routed(family: Family, udp: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    match family {
        Family::V4 => vec![
            ("loose source route", with_options(udp, &[131, 7, 4, 10, 0, 0, 9, 0])),
            ("strict source route", with_options(udp, &[137, 7, 4, 10, 0, 0, 9, 0])),
            ("one behind another option", with_options(udp, &[1, 148, 4, 0, 0, 131, 7, 4, 10, 0, 0, 9])),
        ],
        Family::V6 => vec![
            ("routing header, type 0", with_extensions(udp, &[(ROUTING, [0, 1, 0, 0, 0, 0])])),
            (
                "one behind another",
                with_extensions(udp, &[(DESTINATION, PAD), (ROUTING, [4, 2, 0, 0, 0, 0])]),
            ),
        ],
    }
}

#[test]
fn s31_nobody_prescribes_the_way_through_netd() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    for family in Family::BOTH {
        let (out, inward) = (Wire::to(&a1, net.gateway(family)), Wire::to(&lab.r, H.ip(family)));
        let (inside, outside) = (a1.capture(), Capture::start(&lab.r, "eth0"));
        let (a, r, h) = (at(a1.ip(family), 5000), at(R.ip(family), 9), at(H.ip(family), 8080));
        for (name, frame) in source_routed(family, &out.frame.udp(a, r, MARKER)) {
            let before = lab.drops()["sourceroute"];
            out.socket.send(&frame);
            assert_eq!(lab.drops()["sourceroute"], before + 1, "{name}");
        }
        for to in [h, at(a1.ip(family), 80)] {
            for (_, frame) in source_routed(family, &inward.frame.udp(r, to, MARKER)) {
                inward.socket.send(&frame);
            }
        }
        // The controls, behind them: the first to arrive on either side.
        out.socket.send(&out.frame.udp(a, r, b"plain"));
        inward.socket.send(&inward.frame.udp(r, h, b"plain"));
        for capture in [&inside, &outside] {
            let first = capture.wait("a datagram", PATIENCE, |p| !p.outgoing && p.proto == Some(17));
            assert!(first.bytes.ends_with(b"plain"), "{first:x?}");
        }
    }
}
