//! Writes a flow's translation into a packet: addresses, ports, checksums, TTL, link addresses.

use crate::{
    env::{ChecksumChange, Packet},
    family::{Address, Ip},
    maps::{Flow, Tuple, flow_flags},
    net::Be16,
    verdict::DropReason,
    wire::{Fragment, Headers, L4, csum, ethernet, headers::L3, l4},
};

/// Works out a flow's checksum deltas from the key it translates.
#[inline(always)]
pub fn prepare<A: Address>(key: &Tuple<A>, flow: &mut Flow<A>) {
    flow.addr_delta = csum::delta(key.src.sum() + key.dst.sum(), flow.src.sum() + flow.dst.sum());
    flow.port_delta = csum::delta(ports(key.sport, key.dport), ports(flow.sport, flow.dport));
    if (key.src, key.dst, key.sport, key.dport) == (flow.src, flow.dst, flow.sport, flow.dport) {
        flow.flags &= !flow_flags::TRANSLATE;
    }
}

fn ports(a: Be16, b: Be16) -> u32 {
    u32::from(a.raw()) + u32::from(b.raw())
}

/// Rewrites a packet as its flow says. With `routed`, TTL goes down where the flow crosses a router, and a packet for a sandbox gets its
/// link addresses; without, both were done by the stack.
///
/// # Errors
/// `KernelRefused` when the packet's memory cannot be changed.
#[inline(always)]
pub fn apply<F: Ip, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    flow: &Flow<F::Addr>,
    routed: bool,
) -> Result<(), DropReason> {
    let routes = routed && flow.flags & flow_flags::ROUTED != 0;
    if flow.flags & flow_flags::TRANSLATE != 0 {
        translate(packet, headers, flow)?;
    }
    if let Some(checksum) = F::HEADER_CHECKSUM {
        let mut delta = if flow.flags & flow_flags::TRANSLATE != 0 { flow.addr_delta } else { 0 };
        if routes {
            delta += ttl_delta(headers);
        }
        if delta != 0 {
            let old = Be16::from_wire(packet.load::<2>(L3 + checksum)?);
            packet.store(L3 + checksum, csum::update(old.raw(), delta).to_ne_bytes())?;
        }
    }
    if routes {
        packet.store(L3 + F::TTL, [headers.ttl.wrapping_sub(1)])?;
    }
    if routed && flow.flags & flow_flags::TO_SANDBOX != 0 {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (flow.dmac.into(), flow.smac.into());
        packet.store(ethernet::DESTINATION, [a, b, c, d, e, f, g, h, i, j, k, l])?;
    }
    Ok(())
}

/// Does what a router does to a packet that is translated already: TTL down, link addresses for a sandbox.
///
/// # Errors
/// `Ttl` at its end, `KernelRefused`.
#[inline(always)]
pub fn route<F: Ip, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    flow: &Flow<F::Addr>,
) -> Result<(), DropReason> {
    if flow.flags & flow_flags::ROUTED != 0 && headers.ttl <= 1 {
        return Err(DropReason::Ttl);
    }
    let routed = Flow {
        flags: flow.flags & !flow_flags::TRANSLATE,
        dmac: flow.dmac,
        smac: flow.smac,
        ..Flow::default()
    };
    apply(packet, headers, &routed, true)
}

/// What the IPv4 header's checksum changes by when TTL, which shares a word with the protocol, goes down by one.
fn ttl_delta<F: Ip>(headers: &Headers<F>) -> u32 {
    let word = |ttl: u8| u32::from(u16::from_ne_bytes([ttl, headers.proto]));
    csum::delta(word(headers.ttl), word(headers.ttl.wrapping_sub(1)))
}

/// Writes addresses and ports, and what they change in the transport checksum.
#[inline(always)]
fn translate<F: Ip, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    flow: &Flow<F::Addr>,
) -> Result<(), DropReason> {
    F::store_addresses(packet, &flow.src, &flow.dst)?;
    let Some(checksum) = headers.checksum_offset() else {
        let moves = headers.l4 == L4::Sctp && (flow.sport, flow.dport) != (headers.sport, headers.dport);
        return if moves { sctp_ports::<F, P>(packet, headers, flow) } else { Ok(()) };
    };
    let zero_is_none = F::UDP_ZERO_IS_NONE && headers.l4 == L4::Udp;
    let change = |pseudo_header| ChecksumChange { pseudo_header, ipv6: F::V6, zero_is_none };
    let covers_addresses = F::ICMP_PSEUDO_HEADER || headers.l4 != L4::Echo;
    if covers_addresses && flow.addr_delta != 0 {
        packet.update_checksum(checksum, flow.addr_delta, change(true))?;
    }
    if (flow.sport, flow.dport) == (headers.sport, headers.dport) {
        return Ok(());
    }
    packet.update_checksum(checksum, flow.port_delta, change(false))?;
    if headers.l4 == L4::Echo {
        // One of the two is zero: see `Headers`.
        let id = if flow.sport == Be16::ZERO { flow.dport } else { flow.sport };
        return packet.store(headers.l4_offset + l4::ECHO_ID, id.to_wire());
    }
    let ([a, b], [c, d]) = (flow.sport.to_wire(), flow.dport.to_wire());
    packet.store(headers.l4_offset + l4::PORTS, [a, b, c, d])
}

/// Writes the ports of SCTP, whose checksum covers them and no addresses. Where it is left to the device, that works it out anew.
///
/// # Errors
/// `UnknownL4` for a fragment: its checksum is over bytes that are not here. `KernelRefused`.
#[inline(always)]
fn sctp_ports<F: Ip, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    flow: &Flow<F::Addr>,
) -> Result<(), DropReason> {
    if headers.fragment != Fragment::Whole {
        return Err(DropReason::UnknownL4);
    }
    let at = headers.l4_offset;
    let length = F::length(packet)?.checked_sub(at - L3).ok_or(DropReason::Malformed)?;
    let ([a, b], [c, d]) = (flow.sport.to_wire(), flow.dport.to_wire());
    let (new, old) = ([a, b, c, d], packet.load::<4>(at + l4::PORTS)?);
    let sum = u32::from_le_bytes(packet.load::<4>(at + l4::SCTP_CHECKSUM)?);
    // Zero: left out by agreement (RFC 9653).
    if sum != 0 {
        let change = P::crc32c_change(u32::from_le_bytes(old) ^ u32::from_le_bytes(new), length);
        packet.store(at + l4::SCTP_CHECKSUM, (sum ^ change).to_le_bytes())?;
    }
    packet.store(at + l4::PORTS, new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fake::{Cast, FakePacket, Kind, Party, Wire, mac},
        family::{V4, V6},
        net::UPLINK_ZONE,
        wire::l4::UDP_CHECKSUM,
    };

    /// Translates a datagram that carries this word; returns its checksum.
    fn checksum_after<F: Cast>(word: [u8; 2]) -> [u8; 2] {
        let (from, to) = (Party::A1, Party::Remote);
        let wire = Wire {
            from: mac(from),
            src: F::of(from),
            dst: F::of(to),
            sport: 5000,
            dport: 53,
            kind: Kind::Udp,
            ttl: 64,
        };
        let mut packet = FakePacket::new(wire.build::<F>(), 0);
        let headers = Headers::<F>::read(&packet).expect("a datagram");
        let at = headers.l4_offset + UDP_CHECKSUM;
        let payload = headers.l4_offset + 8;
        let old = packet.load::<2>(payload).expect("the payload");
        let sum = csum::delta(u32::from(u16::from_ne_bytes(old)), u32::from(u16::from_ne_bytes(word)));
        packet.store(payload, word).expect("the payload");
        let udp = ChecksumChange { pseudo_header: false, ipv6: F::V6, zero_is_none: true };
        packet.update_checksum(at, sum, udp).expect("the checksum");
        let key = headers.tuple(UPLINK_ZONE);
        let (src, dst, sport, dport) = (F::of(Party::Host), key.dst, Be16::from(20_000), key.dport);
        let mut flow = Flow { src, dst, sport, dport, flags: flow_flags::TRANSLATE, ..Flow::default() };
        prepare(&key, &mut flow);
        apply(&mut packet, &headers, &flow, false).expect("a translation");
        packet.load::<2>(at).expect("the checksum")
    }

    fn a_udp_checksum_never_becomes_none<F: Cast>() {
        let zero = checksum_after::<F>([0, 0]);
        // The word that adds what the checksum lacks: a sum of ones, whose complement is zero.
        assert_eq!(checksum_after::<F>(zero), [0xff, 0xff]);
        assert_ne!(zero, [0xff, 0xff], "an ordinary word leaves an ordinary checksum");
    }

    #[test]
    fn a_udp_checksum_never_becomes_none_in_either_family() {
        a_udp_checksum_never_becomes_none::<V4>();
        a_udp_checksum_never_becomes_none::<V6>();
    }
}
