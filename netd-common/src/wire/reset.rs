//! Turns a TCP segment that belongs to no flow into the reset that answers it (RFC 9293 §3.10.7.1), so that an application whose state is gone
//! fails at once and not by timeout.

use crate::{
    env::Packet,
    family::{Address, Ip},
    verdict::DropReason,
    wire::{
        Fragment, Headers, L4, csum, ethernet,
        headers::L3,
        l4::{ACK, FIN, RST, SYN, TCP_CHECKSUM},
    },
};

/// Length of a TCP header without options, in bytes.
const HEADER: u32 = 20;
/// TTL of an answer, as Linux has it by default.
const TTL: u8 = 64;

/// Whether a segment can be answered in place: whole, not itself a reset, without IP options, not a GSO packet.
#[inline(always)]
pub fn can_answer<F: Ip, P: Packet>(packet: &P, headers: &Headers<F>) -> bool {
    headers.l4 == L4::Tcp
        && headers.fragment == Fragment::Whole
        && headers.tcp_flags & RST == 0
        && headers.l4_offset == L3 + F::HEADER
        && packet.segment_payload() == 0
}

/// Makes the packet the reset that answers it.
///
/// # Errors
/// `Malformed` when the segment is shorter than it says, `KernelRefused` when the packet cannot be changed.
#[inline(always)]
pub fn answer<F: Ip, P: Packet>(packet: &mut P, headers: &Headers<F>) -> Result<(), DropReason> {
    let at = headers.l4_offset;
    let [a, b, c, d, e, f, g, h] = packet.load::<8>(at + 4)?;
    let (seq, ack) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let [g, h, i, j, k, l] = packet.load::<6>(ethernet::DESTINATION)?;
    let [a, b, c, d, e, f] = packet.load::<6>(ethernet::SOURCE)?;
    let end = at + u32::from(headers.tcp_header);
    let payload = packet.length().checked_sub(end).ok_or(DropReason::Malformed)?;
    let controls = u32::from(headers.tcp_flags & SYN != 0) + u32::from(headers.tcp_flags & FIN != 0);
    let answered = headers.tcp_flags & ACK != 0;
    let (seq, ack, flags) = if answered {
        (ack, 0, RST)
    } else {
        (0, seq.wrapping_add(payload).wrapping_add(controls), RST | ACK)
    };
    packet.truncate(at + HEADER)?;
    packet.store(ethernet::DESTINATION, [a, b, c, d, e, f, g, h, i, j, k, l])?;
    F::answer_header(packet, &headers.dst, &headers.src, HEADER as u16, TTL)?;
    let (sport, dport) = (headers.dport.to_wire(), headers.sport.to_wire());
    packet.store(at, [sport[0], sport[1], dport[0], dport[1]])?;
    packet.store(at + 4, seq.to_be_bytes())?;
    packet.store(at + 8, ack.to_be_bytes())?;
    packet.store(at + 12, [5 << 4, flags, 0, 0])?;
    let words = |word: u32| csum::words(u32::from_ne_bytes(word.to_be_bytes()));
    let pseudo = headers.src.sum() + headers.dst.sum() + words(u32::from(headers.proto)) + words(HEADER);
    let ports = u32::from(headers.sport.raw()) + u32::from(headers.dport.raw());
    let header = ports + words(seq) + words(ack) + u32::from(u16::from_ne_bytes([5 << 4, flags]));
    let [low, high] = (!csum::fold(pseudo + header)).to_ne_bytes();
    packet.store(at + TCP_CHECKSUM, [low, high, 0, 0])
}
