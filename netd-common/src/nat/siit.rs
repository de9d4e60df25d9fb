//! Exchanges a packet's IP header for one of the other family (RFC 7915), so that IPv6 clients reach sandboxes that have IPv4 alone.
//!
//! In netd's IPv6 flows such a sandbox takes part by its mapped address, `::ffff:a.b.c.d`: translation between it and the client is ordinary
//! NAT. Between the mapped form and IPv4 only the header differs: the mapped prefix adds 0xffff to a ones' complement sum, which is nothing, so
//! transport checksums stay as they are.

use crate::{
    env::Packet,
    family::{Address, Family, V4, V6},
    net::{Addr4, Addr6},
    verdict::DropReason,
    wire::{csum, ethernet, headers::L3, ipv4, ipv6, l4},
};

/// "Don't fragment", as the first byte of flags and offset has it.
const DONT_FRAGMENT: u8 = 0x40;

/// How much of a transport header an error quotes, in bytes (RFC 792).
const QUOTED: u32 = 8;

/// Whether a protocol's header is the same in both families, but for its checksum. ICMP's is not.
const fn is_common(proto: u8) -> bool {
    matches!(proto, l4::TCP | l4::UDP)
}

/// Makes an IPv6 packet between mapped addresses the IPv4 packet it stands for.
///
/// # Errors
/// `UnknownL4` for anything but TCP and UDP without extension headers, `UnknownL3` for other addresses, `KernelRefused`.
#[inline(always)]
pub fn to_v4<P: Packet>(packet: &mut P) -> Result<(), DropReason> {
    let [first, second, _, _, high, low, proto, ttl] = packet.load::<8>(L3)?;
    let src = Addr6::from_wire(packet.load::<16>(L3 + V6::SOURCE)?);
    let dst = Addr6::from_wire(packet.load::<16>(L3 + V6::SOURCE + V6::ADDRESS)?);
    if !is_common(proto) {
        return Err(DropReason::UnknownL4);
    }
    let (Some(src), Some(dst)) = (src.as_mapped(), dst.as_mapped()) else {
        return Err(DropReason::UnknownL3);
    };
    let tos = first << 4 | second >> 4;
    let length = u16::from_be_bytes([high, low]).wrapping_add(V4::HEADER as u16);
    packet.exchange_header(V4::ETHERTYPE)?;
    packet.renew(ethernet::ETHERTYPE, V4::ETHERTYPE.to_wire())?;
    store_v4(packet, L3, [tos, ttl, proto], length, [src, dst])
}

/// Writes a whole IPv4 header at an offset.
#[inline(always)]
fn store_v4<P: Packet>(
    packet: &mut P,
    at: u32,
    [tos, ttl, proto]: [u8; 3],
    length: u16,
    [src, dst]: [Addr4; 2],
) -> Result<(), DropReason> {
    let [high, low] = length.to_be_bytes();
    let word = |a, b| u32::from(u16::from_ne_bytes([a, b]));
    let sum = word(ipv4::PLAIN, tos)
        + word(high, low)
        + word(DONT_FRAGMENT, 0)
        + word(ttl, proto)
        + src.sum()
        + dst.sum();
    let [a, b] = (!csum::fold(sum)).to_ne_bytes();
    packet.renew(at, [ipv4::PLAIN, tos, high, low, 0, 0, DONT_FRAGMENT, 0, ttl, proto, a, b])?;
    let ([a, b, c, d], [e, f, g, h]) = (src.to_wire(), dst.to_wire());
    packet.renew(at + V4::SOURCE, [a, b, c, d, e, f, g, h])
}

/// What an ICMPv6 error is called in IPv4 (RFC 7915 §5.2): type, code, and the rest of its header.
#[inline(always)]
fn error_name([kind, code]: [u8; 2], mtu: u32) -> Option<[u8; 8]> {
    let name = match (kind, code) {
        (1, 1) => [3, 10], // prohibited
        (1, 4) => [3, 3],  // port unreachable
        (1, _) => [3, 1],  // host unreachable
        (2, _) => [3, 4],  // packet too big: fragmentation needed
        (3, _) => [11, code],
        (4, 1) => [3, 2], // unknown next header: protocol unreachable
        _ => return None,
    };
    let room = if kind == 2 { mtu.saturating_sub(V6::HEADER - V4::HEADER) as u16 } else { 0 };
    let [high, low] = room.to_be_bytes();
    Some([name[0], name[1], 0, 0, 0, 0, high, low])
}

/// Makes an ICMPv6 error that quotes a packet between mapped addresses its IPv4 counterpart, which quotes eight bytes of the transport header. It
/// comes from the quoted destination: IPv4 cannot show the router that sent it. An error to another address stays as it is.
///
/// # Errors
/// As [`to_v4`].
#[inline(always)]
pub fn error_to_v4<P: Packet>(packet: &mut P) -> Result<(), DropReason> {
    const ICMP: u32 = L3 + V6::HEADER;
    const QUOTE: u32 = ICMP + l4::ICMP_ERROR_HEADER;
    const ANSWER: u32 = l4::ICMP_ERROR_HEADER + V4::HEADER + QUOTED;
    if !Addr6::from_wire(packet.load::<16>(L3 + V6::SOURCE + V6::ADDRESS)?).is_mapped() {
        return Ok(());
    }
    let [ttl] = packet.load::<1>(L3 + V6::TTL)?;
    let [kind, code, _, _, a, b, c, d] = packet.load::<8>(ICMP)?;
    let name = error_name([kind, code], u32::from_be_bytes([a, b, c, d])).ok_or(DropReason::UnknownL4)?;
    let [high, low, proto, quoted_ttl] = packet.load::<4>(QUOTE + ipv6::PAYLOAD_LENGTH)?;
    let src = Addr6::from_wire(packet.load::<16>(QUOTE + V6::SOURCE)?);
    let dst = Addr6::from_wire(packet.load::<16>(QUOTE + V6::SOURCE + V6::ADDRESS)?);
    let (Some(src), Some(dst)) = (src.as_mapped(), dst.as_mapped()) else {
        return Err(DropReason::UnknownL3);
    };
    if !is_common(proto) {
        return Err(DropReason::UnknownL4);
    }
    let transport = packet.load::<8>(QUOTE + V6::HEADER)?;
    packet.exchange_header(V4::ETHERTYPE)?;
    packet.truncate(L3 + V4::HEADER + ANSWER)?;
    packet.renew(ethernet::ETHERTYPE, V4::ETHERTYPE.to_wire())?;
    let length = u16::from_be_bytes([high, low]).wrapping_add(V4::HEADER as u16);
    store_v4(packet, L3, [0, ttl, V4::ICMP], (V4::HEADER + ANSWER) as u16, [dst, src])?;
    store_v4(packet, L3 + V4::HEADER + l4::ICMP_ERROR_HEADER, [0, quoted_ttl, proto], length, [src, dst])?;
    packet.renew(L3 + V4::HEADER + l4::ICMP_ERROR_HEADER + V4::HEADER, transport)?;
    // The quoted header sums to nothing by its own checksum.
    let sum = words8(name) + words8(transport);
    let [low, high] = (!csum::fold(sum)).to_ne_bytes();
    packet.renew(L3 + V4::HEADER, [name[0], name[1], low, high, name[4], name[5], name[6], name[7]])
}

/// Returns the ones' complement sum of eight bytes.
fn words8([a, b, c, d, e, f, g, h]: [u8; 8]) -> u32 {
    csum::words(u32::from_ne_bytes([a, b, c, d])) + csum::words(u32::from_ne_bytes([e, f, g, h]))
}

/// Makes an IPv4 packet the IPv6 packet between mapped addresses that stands for it.
///
/// # Errors
/// `UnknownL4` for anything but TCP, and UDP with a checksum, without options and unfragmented; `KernelRefused`.
#[inline(always)]
pub fn to_v6<P: Packet>(packet: &mut P) -> Result<(), DropReason> {
    let [first, tos, high, low] = packet.load::<4>(L3)?;
    let [flags, offset, ttl, proto] = packet.load::<4>(L3 + ipv4::FRAGMENT)?;
    let fragment = u16::from_be_bytes([flags, offset]) & (ipv4::MORE | ipv4::OFFSET_MASK) != 0;
    if first != ipv4::PLAIN || fragment || !is_common(proto) {
        return Err(DropReason::UnknownL4);
    }
    let unsummed = packet.load::<2>(L3 + V4::HEADER + l4::UDP_CHECKSUM)? == [0; 2];
    if proto == l4::UDP && unsummed {
        return Err(DropReason::UnknownL4); // IPv6 requires one (RFC 8200 §8.1)
    }
    let src = Addr4::from_wire(packet.load::<4>(L3 + V4::SOURCE)?);
    let dst = Addr4::from_wire(packet.load::<4>(L3 + V4::SOURCE + V4::ADDRESS)?);
    let [high, low] = u16::from_be_bytes([high, low]).wrapping_sub(V4::HEADER as u16).to_be_bytes();
    packet.exchange_header(V6::ETHERTYPE)?;
    packet.renew(ethernet::ETHERTYPE, V6::ETHERTYPE.to_wire())?;
    packet.renew(L3, [0x60 | tos >> 4, tos << 4, 0, 0, high, low, proto, ttl])?;
    packet.renew(L3 + V6::SOURCE, Addr6::mapped(src).to_wire())?;
    packet.renew(L3 + V6::SOURCE + V6::ADDRESS, Addr6::mapped(dst).to_wire())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::fake::FakePacket;

    fn mapped(last: u8) -> [u8; 16] {
        Addr6::mapped(Addr4::from_wire([172, 20, 0, last])).to_wire()
    }

    fn tcp(payload: &[u8], hop_limit: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(mapped(1), mapped(2), hop_limit);
        builder.tcp(40_000, 80, 7, 1000).write(&mut frame, payload).expect("a frame");
        frame
    }

    proptest! {
        #[test]
        fn an_exchange_and_its_reverse_give_the_packet_back(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            hop_limit in 1_u8..,
            class in any::<u8>(),
        ) {
            let mut frame = tcp(&payload, hop_limit);
            (frame[14], frame[15]) = (0x60 | class >> 4, class << 4);
            let mut packet = FakePacket::new(frame.clone(), 1);
            to_v4(&mut packet).expect("IPv4");
            let bytes = packet.bytes.clone();
            let sliced = SlicedPacket::from_ethernet(&bytes).expect("well formed");
            let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
            let header = ip.header().to_header();
            prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
            let Some(TransportSlice::Tcp(segment)) = sliced.transport else { panic!("not TCP") };
            prop_assert_eq!(segment.calc_checksum_ipv4(header.source, header.destination).ok(), Some(segment.checksum()));
            to_v6(&mut packet).expect("IPv6 again");
            prop_assert_eq!(packet.bytes, frame);
        }
    }

    #[test]
    fn packet_too_big_becomes_fragmentation_needed_with_room_for_the_larger_header() {
        let inner = &tcp(b"quoted", 60)[14..];
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([0x20; 16], mapped(1), 64);
        let too_big = etherparse::Icmpv6Type::PacketTooBig { mtu: 1300 };
        builder.icmpv6(too_big).write(&mut frame, inner).expect("a frame");
        let mut packet = FakePacket::new(frame, 1);
        error_to_v4(&mut packet).expect("IPv4");
        let sliced = SlicedPacket::from_ethernet(&packet.bytes).expect("well formed");
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("not ICMP") };
        let needed = etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1280 };
        assert_eq!(icmp.icmp_type(), etherparse::Icmpv4Type::DestinationUnreachable(needed));
        assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
        let quoted =
            etherparse::Ipv4HeaderSlice::from_slice(icmp.payload()).expect("a quoted header").to_header();
        assert_eq!((quoted.source, quoted.destination), ([172, 20, 0, 1], [172, 20, 0, 2]));
        assert_eq!(quoted.calc_header_checksum(), quoted.header_checksum);
        assert_eq!(icmp.payload()[20..], tcp(b"", 60)[54..62], "ports and sequence number");
    }

    #[test]
    fn what_ipv4_cannot_say_is_refused() {
        let mut frame = tcp(b"", 64);
        frame[20] = 47; // GRE
        assert_eq!(to_v4(&mut FakePacket::new(frame, 1)), Err(DropReason::UnknownL4));
        let mut frame = tcp(b"", 64);
        frame[22] = 0x20; // a real IPv6 source
        assert_eq!(to_v4(&mut FakePacket::new(frame, 1)), Err(DropReason::UnknownL3));
    }
}
