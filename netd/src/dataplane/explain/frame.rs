//! The first packet of a connection that nobody has opened.

use std::net::IpAddr;

use etherparse::PacketBuilder;

use super::{Probe, Question};

/// Hops that a packet of the usual sender may go (RFC 1700).
const HOPS: u8 = 64;
/// Of a first segment: any sequence number is as good, and the usual window.
const SEQUENCE: u32 = 1;
const WINDOW: u16 = 64_240;

/// Returns the frame with these Ethernet addresses, from this address. None: one address is of another family.
pub fn first_packet(question: &Question, source: IpAddr, from: [u8; 6], to: [u8; 6]) -> Option<Vec<u8>> {
    let link = PacketBuilder::ethernet2(from, to);
    let (ip, ipv6) = match (source, question.to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => (link.ipv4(src.octets(), dst.octets(), HOPS), false),
        (IpAddr::V6(src), IpAddr::V6(dst)) => (link.ipv6(src.octets(), dst.octets(), HOPS), true),
        _ => return None,
    };
    let (sport, dport) = (question.source_port, question.port);
    let mut frame = Vec::new();
    let written = match (question.probe, ipv6) {
        (Probe::Tcp, _) => ip.tcp(sport, dport, SEQUENCE, WINDOW).syn().write(&mut frame, &[]),
        (Probe::Udp, _) => ip.udp(sport, dport).write(&mut frame, &[0; 8]),
        (Probe::Icmp, false) => ip.icmpv4_echo_request(sport, 1).write(&mut frame, &[0; 8]),
        (Probe::Icmp, true) => ip.icmpv6_echo_request(sport, 1).write(&mut frame, &[0; 8]),
    };
    written.is_ok().then_some(frame)
}
