//! Whether a packet of a flow is one that its receiver would take: lengths that agree, and no route of the sender's choice.
//!
//! Asked before a flow is opened, and of every packet of one that is not plain; what is not translated is for the receiver to judge (dataplane.md 7.9). The kernel's own tracking
//! refuses the same (`nf_conntrack_proto_{tcp,udp}.c`, `ip_options_compile`).

use crate::{
    env::Packet,
    family::Ip,
    verdict::DropReason,
    wire::{
        Fragment, Headers, L4,
        headers::L3,
        ipv4::{self, LOOSE_ROUTE, NO_OPERATION, OPTIONS_END, STRICT_ROUTE},
        ipv6, l4,
    },
};

/// Checks the lengths that IP and the transport header give, and IPv4's options.
///
/// # Errors
/// `Malformed`, `SourceRoute`.
#[inline(always)]
pub fn check<F: Ip, P: Packet>(packet: &P, headers: &Headers<F>) -> Result<(), DropReason> {
    let end = end::<F, P>(packet)?;
    let transport = match headers.l4 {
        L4::Tcp => u32::from(headers.tcp_header),
        L4::Udp | L4::Echo => l4::UDP_HEADER,
        _ => 0,
    };
    let short = headers.l4 == L4::Tcp && transport < l4::TCP_HEADER;
    if short || headers.l4_offset + transport > end {
        return Err(DropReason::Malformed);
    }
    if headers.l4 == L4::Udp {
        let length = u32::from(u16::from_be_bytes(packet.load::<2>(headers.l4_offset + l4::UDP_LENGTH)?));
        // A first fragment gives the length of the whole datagram.
        let beyond = headers.fragment == Fragment::Whole && headers.l4_offset + length > end;
        if length < l4::UDP_HEADER || beyond {
            return Err(DropReason::Malformed);
        }
    }
    if !F::V6 && headers.l4_offset > L3 + ipv4::HEADER {
        return options(packet, headers.l4_offset);
    }
    Ok(())
}

/// Returns where the packet ends by its own account, as an offset from the start of the frame.
#[inline(always)]
fn end<F: Ip, P: Packet>(packet: &P) -> Result<u32, DropReason> {
    let length = packet.length();
    let end = if F::V6 {
        let payload = u32::from(u16::from_be_bytes(packet.load::<2>(L3 + ipv6::PAYLOAD_LENGTH)?));
        // BIG TCP leaves it zero (kernel 5.19): then the buffer's own length counts.
        if payload == 0 && packet.segment_payload() != 0 { length } else { L3 + ipv6::HEADER + payload }
    } else {
        let total = u32::from(u16::from_be_bytes(packet.load::<2>(L3 + ipv4::TOTAL_LENGTH)?));
        if total == 0 && packet.segment_payload() != 0 { length } else { L3 + total }
    };
    if end > length { Err(DropReason::Malformed) } else { Ok(end) }
}

/// Walks IPv4 options (RFC 791 §3.1).
///
/// # Errors
/// `SourceRoute` where they name a route, `Malformed` where they cannot be walked.
#[inline(always)]
fn options<P: Packet>(packet: &P, end: u32) -> Result<(), DropReason> {
    let mut at = L3 + ipv4::HEADER;
    for _ in 0..ipv4::MOST_OPTIONS {
        if at >= end {
            break;
        }
        // The byte behind a lone one-byte option at the end belongs to the transport header, and is not looked at.
        let [kind, length] = packet.load::<2>(at)?;
        match kind {
            OPTIONS_END => return Ok(()),
            NO_OPERATION => at += 1,
            LOOSE_ROUTE | STRICT_ROUTE => return Err(DropReason::SourceRoute),
            _ if length < 2 => return Err(DropReason::Malformed),
            _ => at += u32::from(length),
        }
    }
    if at == end { Ok(()) } else { Err(DropReason::Malformed) }
}
