//! ICMP and ICMPv6 errors about translated flows (RFC 5508 §4, RFC 4443): the quoted packet is translated like the flow it belongs to.
//!
//! An error travels against the packet it quotes. So the quote, turned round, is a packet of the direction in which the error travels: its flow's
//! entry says what the error's own addresses become, and, turned round again, what the quote's become.

use crate::{
    env::{ChecksumChange, Packet},
    family::{Address, Ip},
    maps::{Flow, Tuple, flow_flags},
    net::{Be16, UPLINK_ZONE, Zone},
    verdict::DropReason,
    wire::{
        Headers, csum,
        headers::L3,
        l4::{
            ECHO_ID, ICMP_CHECKSUM, ICMP_ERROR_HEADER, SCTP, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, has_ports,
        },
    },
};

/// Bytes that an error quotes behind the IP header at least (RFC 792).
const QUOTED: u32 = 8;

/// The packet that an error quotes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quote<A> {
    /// What a packet of the error's direction would say.
    pub against: Tuple<A>,
    /// Offset of the quoted IP header.
    ip: u32,
    /// Offset of the quoted transport header.
    l4: u32,
}

/// Reads the quoted packet. None: it is no error, or quotes too little or a later fragment.
#[inline(always)]
pub fn quote<F: Ip, P: Packet>(packet: &P, headers: &Headers<F>, zone: Zone) -> Option<Quote<F::Addr>> {
    if !F::is_error(headers.icmp_type) {
        return None;
    }
    let ip = headers.l4_offset + ICMP_ERROR_HEADER;
    let (proto, l4) = F::quoted_transport(packet, ip)?;
    if !is_in::<F, P>(packet, l4 + QUOTED) {
        return None;
    }
    let src = F::load_address(packet, ip + F::SOURCE)?;
    let dst = F::load_address(packet, ip + F::SOURCE + F::ADDRESS)?;
    // An error goes to whom it quotes: another one is forged, or the host's own business (as nf_conntrack_inet_error has it).
    if src != headers.dst {
        return None;
    }
    let [a, b, c, d] = packet.load::<4>(l4).ok()?;
    let (mut sport, mut dport) = (Be16::from_wire([a, b]), Be16::from_wire([c, d]));
    if proto == F::ICMP {
        if a != F::ECHO_REQUEST && a != F::ECHO_REPLY {
            return None;
        }
        let id = Be16::from_wire(packet.load::<2>(l4 + ECHO_ID).ok()?);
        let request = a == F::ECHO_REQUEST;
        sport = if request { id } else { Be16::ZERO };
        dport = if request { Be16::ZERO } else { id };
    } else if !has_ports(proto) {
        (sport, dport) = (Be16::ZERO, Be16::ZERO);
    }
    let against = Tuple { src: dst, dst: src, sport: dport, dport: sport, zone, proto, pad: [0; 3] };
    Some(Quote { against, ip, l4 })
}

/// Translates an error as the flow of its quote says. The flow's timers stay: an error is no sign of life.
///
/// # Errors
/// `KernelRefused` when the packet's memory cannot be changed.
#[inline(always)]
pub fn translate<F: Ip, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    quote: &Quote<F::Addr>,
    flow: &Flow<F::Addr>,
) -> Result<(), DropReason> {
    if flow.flags & flow_flags::TRANSLATE == 0 {
        return Ok(());
    }
    // Outside, routers on the way keep their own address. Of what a sandbox sends nothing but the flow's end is believed, or shown.
    let from_outside = quote.against.zone == UPLINK_ZONE;
    let src = if from_outside && headers.src != quote.against.src { headers.src } else { flow.src };
    F::store_addresses(packet, &src, &flow.dst)?;
    let outer = csum::delta(headers.src.sum() + headers.dst.sum(), src.sum() + flow.dst.sum());
    if let Some(at) = F::HEADER_CHECKSUM {
        update(packet, L3 + at, outer)?;
    }
    // The quote: `change` gathers what every changed word adds to the ICMP checksum, which covers them all.
    let inner =
        csum::delta(quote.against.src.sum() + quote.against.dst.sum(), flow.src.sum() + flow.dst.sum());
    F::store_addresses_at(packet, quote.ip, &flow.dst, &flow.src)?;
    let mut change = inner;
    if let Some(at) = F::HEADER_CHECKSUM {
        change += update(packet, quote.ip + at, inner)?;
    }
    let ports = csum::delta(sum(quote.against.sport, quote.against.dport), sum(flow.sport, flow.dport));
    let proto = quote.against.proto;
    if has_ports(proto) && proto != F::ICMP {
        let ([a, b], [c, d]) = (flow.dport.to_wire(), flow.sport.to_wire());
        packet.store(quote.l4, [a, b, c, d])?;
        change += ports + transport_checksum::<F, P>(packet, quote, inner + ports)?;
    } else if proto == F::ICMP {
        let id = if flow.sport == Be16::ZERO { flow.dport } else { flow.sport };
        packet.store(quote.l4 + ECHO_ID, id.to_wire())?;
        let covered = if F::ICMP_PSEUDO_HEADER { inner + ports } else { ports };
        change += ports + update(packet, quote.l4 + ICMP_CHECKSUM, covered)?;
    }
    let at = headers.l4_offset + ICMP_CHECKSUM;
    let kind = |pseudo_header| ChecksumChange { pseudo_header, ipv6: F::V6, zero_is_none: false };
    packet.update_checksum(at, u32::from(csum::fold(change)), kind(false))?;
    if F::ICMP_PSEUDO_HEADER {
        packet.update_checksum(at, outer, kind(true))?;
    }
    Ok(())
}

/// Whether a packet ends at this offset or later by its own account: what a frame has behind that (padding, a switch's trailer) no checksum covers.
#[inline(always)]
fn is_in<F: Ip, P: Packet>(packet: &P, end: u32) -> bool {
    F::length(packet).is_ok_and(|length| end <= L3 + length)
}

fn sum(a: Be16, b: Be16) -> u32 {
    u32::from(a.raw()) + u32::from(b.raw())
}

/// Updates the quoted transport checksum where the quote reaches that far: eight bytes hold UDP's, not TCP's (RFC 792). Returns what changed.
#[inline(always)]
fn transport_checksum<F: Ip, P: Packet>(
    packet: &mut P,
    quote: &Quote<F::Addr>,
    delta: u32,
) -> Result<u32, DropReason> {
    let udp = quote.against.proto == UDP;
    if quote.against.proto == SCTP {
        return Ok(0); // a checksum over bytes that are not here; nobody can check it
    }
    let at = quote.l4 + if quote.against.proto == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    if !is_in::<F, P>(packet, at + 2) {
        return Ok(0);
    }
    let old = packet.load::<2>(at)?;
    if udp && F::UDP_ZERO_IS_NONE && old == [0, 0] {
        return Ok(0);
    }
    let change = update(packet, at, delta)?;
    if udp && packet.load::<2>(at)? == [0, 0] {
        packet.store(at, [0xff, 0xff])?; // zero would mean "none"; in a sum they are the same
    }
    Ok(change)
}

/// Changes a checksum inside the packet by a delta. Returns what that adds to a checksum over it.
#[inline(always)]
fn update<P: Packet>(packet: &mut P, at: u32, delta: u32) -> Result<u32, DropReason> {
    let old = u16::from_ne_bytes(packet.load::<2>(at)?);
    let new = csum::update(old, u32::from(csum::fold(delta)));
    packet.store(at, new.to_ne_bytes())?;
    Ok(csum::delta(u32::from(old), u32::from(new)))
}
