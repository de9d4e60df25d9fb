//! What a packet says: addresses, protocol, ports, flags. Two ways in, one value out.

use crate::{
    env::Packet,
    family::{Address, Family},
    maps::Tuple,
    net::{Addr4, Addr6, Be16, Zone},
    verdict::DropReason,
    wire::{Fragment, Place, Span, csum, ethernet, ipv4, ipv6, l4},
};

/// The transport part of a packet.
///
/// None of these enums carries data: LLVM copies the undefined payload of another variant, and the verifier refuses it ("R3 !read_ok").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum L4 {
    /// A protocol without ports that netd can read; translated by address.
    Other,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite and DCCP: ports and checksum as UDP's, but the checksum is never left out.
    Lite,
    /// SCTP: ports as UDP's, and a checksum of its own kind.
    Sctp,
    /// An ICMP echo request or reply; the identifier takes the place of the asker's port.
    Echo,
    /// Any other ICMP or ICMPv6 message.
    Icmp,
}

/// What a packet says. Ports of an echo request are (id, 0), of its reply (0, id); of protocols without ports (0, 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<F: Family> {
    /// Source address.
    pub src: F::Addr,
    /// Destination address.
    pub dst: F::Addr,
    /// Source port.
    pub sport: Be16,
    /// Destination port.
    pub dport: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Offset of the transport header from the start of the frame.
    pub l4_offset: u32,
    /// The datagram's identification, of a fragment.
    pub fragment_id: u32,
    /// The transport part.
    pub l4: L4,
    /// Its place in a fragmented datagram.
    pub fragment: Fragment,
    /// Whether nothing follows it in the datagram.
    pub last: bool,
    /// What of the datagram it holds.
    pub span: Span,
    /// Flags of TCP.
    pub tcp_flags: u8,
    /// Header length of TCP in bytes.
    pub tcp_header: u8,
    /// Type of an ICMP message, or of SCTP's first chunk.
    pub icmp_type: u8,
}

/// What a family's header says.
#[derive(Clone, Copy)]
pub struct IpHeader<A> {
    src: A,
    dst: A,
    proto: u8,
    ttl: u8,
    place: Place,
    fragment_id: u32,
    l4_offset: u32,
}

/// Where IP starts in an Ethernet frame.
pub const L3: u32 = ethernet::HEADER;

/// IP families whose header netd can read.
pub trait Readable: Family {
    /// Reads the fixed header: (source, destination, protocol, TTL), or None for options, extensions and fragments.
    fn plain<P: Packet>(packet: &P) -> Option<(Self::Addr, Self::Addr, u8, u8)>;
    /// Reads the header with everything it may carry.
    ///
    /// # Errors
    /// `Malformed`, `SourceRoute` for an IPv6 routing header with hops left.
    fn full<P: Packet>(packet: &P) -> Result<IpHeader<Self::Addr>, DropReason>;
    /// Returns the length of the packet from IP's header on, in bytes, as that header has it.
    ///
    /// # Errors
    /// `Malformed`.
    fn length<P: Packet>(packet: &P) -> Result<u32, DropReason>;
    /// Reads one address.
    fn load_address<P: Packet>(packet: &P, offset: u32) -> Option<Self::Addr>;
    /// Writes both addresses.
    ///
    /// # Errors
    /// `KernelRefused` when the packet's memory cannot be changed.
    #[inline(always)]
    fn store_addresses<P: Packet>(
        packet: &mut P,
        src: &Self::Addr,
        dst: &Self::Addr,
    ) -> Result<(), DropReason> {
        Self::store_addresses_at(packet, L3, src, dst)
    }
    /// Writes both addresses of the header at an offset.
    ///
    /// # Errors
    /// `KernelRefused` when the packet's memory cannot be changed.
    fn store_addresses_at<P: Packet>(
        packet: &mut P,
        header: u32,
        src: &Self::Addr,
        dst: &Self::Addr,
    ) -> Result<(), DropReason>;
    /// Writes what an answer's header differs in: addresses, length of the transport part, TTL; with the header's checksum.
    ///
    /// # Errors
    /// `KernelRefused` when the packet's memory cannot be changed.
    fn answer_header<P: Packet>(
        packet: &mut P,
        src: &Self::Addr,
        dst: &Self::Addr,
        length: u16,
        ttl: u8,
    ) -> Result<(), DropReason>;
    /// Returns protocol and offset of the transport header of a quoted packet; None for a later fragment, or a quote without eight bytes of it.
    fn quoted_transport<P: Packet>(packet: &P, header: u32) -> Option<(u8, u32)>;
}

/// Whether a header's account of a length, which includes this many bytes of the header itself, leaves room for a transport header and is not beyond what
/// there is. Zero stands for more than the field can say (BIG TCP).
#[inline(always)]
const fn is_honest(said: u32, header: u32, there: u32) -> bool {
    (said >= header + l4::UDP_HEADER && said <= there) || (said == 0 && there > 0xffff)
}

impl<F: Readable> Headers<F> {
    /// Reads the ordinary packet: no options, no extension headers, no fragment; TCP, UDP or echo.
    ///
    /// Every offset is a constant, so that the kernel side compiles to direct loads. None: leave it to [`Headers::read`].
    #[inline(always)]
    pub fn read_plain<P: Packet>(packet: &P) -> Option<Self> {
        let (src, dst, proto, ttl) = F::plain(packet)?;
        let l4_offset = L3 + F::HEADER;
        let ip = IpHeader { src, dst, proto, ttl, place: Place::WHOLE, fragment_id: 0, l4_offset };
        let headers = Self::with_transport(packet, &ip).ok()?;
        matches!(headers.l4, L4::Tcp | L4::Udp | L4::Echo).then_some(headers)
    }

    /// Reads any packet of the family.
    ///
    /// # Errors
    /// `Malformed` when a header does not fit in the packet or contradicts itself.
    #[inline(always)]
    pub fn read<P: Packet>(packet: &P) -> Result<Self, DropReason> {
        let ip = F::full(packet)?;
        Self::with_transport(packet, &ip)
    }

    /// Reads ports and flags.
    #[inline(always)]
    fn with_transport<P: Packet>(packet: &P, ip: &IpHeader<F::Addr>) -> Result<Self, DropReason> {
        let mut headers = Self {
            src: ip.src,
            dst: ip.dst,
            sport: Be16::ZERO,
            dport: Be16::ZERO,
            proto: ip.proto,
            ttl: ip.ttl,
            l4_offset: ip.l4_offset,
            fragment_id: ip.fragment_id,
            l4: L4::Other,
            fragment: ip.place.fragment,
            last: ip.place.last,
            span: ip.place.span,
            tcp_flags: 0,
            tcp_header: 0,
            icmp_type: 0,
        };
        if !matches!(ip.place.fragment, Fragment::Whole | Fragment::First) {
            return Ok(headers);
        }
        if matches!(ip.proto, l4::TCP | l4::UDP | l4::UDP_LITE | l4::DCCP | l4::SCTP) {
            let [a, b, c, d] = packet.load::<4>(ip.l4_offset + l4::PORTS)?;
            (headers.sport, headers.dport) = (Be16::from_wire([a, b]), Be16::from_wire([c, d]));
            headers.l4 = if ip.proto == l4::UDP { L4::Udp } else { L4::Lite };
        }
        if ip.proto == l4::SCTP {
            let [kind, _] = packet.load::<2>(ip.l4_offset + l4::SCTP_CHUNK)?;
            (headers.icmp_type, headers.l4) = (kind, L4::Sctp);
        }
        if ip.proto == l4::TCP {
            let [offset, flags] = packet.load::<2>(ip.l4_offset + l4::TCP_OFFSET)?;
            (headers.tcp_flags, headers.tcp_header) = (flags, (offset >> 4) * 4);
            headers.l4 = L4::Tcp;
        }
        if ip.proto == F::ICMP {
            let [kind, _] = packet.load::<2>(ip.l4_offset + l4::ICMP_TYPE)?;
            (headers.icmp_type, headers.l4) = (kind, L4::Icmp);
            if kind == F::ECHO_REQUEST || kind == F::ECHO_REPLY {
                let id = Be16::from_wire(packet.load::<2>(ip.l4_offset + l4::ECHO_ID)?);
                headers.l4 = L4::Echo;
                headers.sport = if kind == F::ECHO_REQUEST { id } else { Be16::ZERO };
                headers.dport = if kind == F::ECHO_REQUEST { Be16::ZERO } else { id };
            }
        }
        Ok(headers)
    }

    /// Returns the packet's tuple as seen in a zone.
    pub fn tuple(&self, zone: Zone) -> Tuple<F::Addr> {
        Tuple {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            zone,
            proto: self.proto,
            pad: [0; 3],
        }
    }

    /// Whether it opens a TCP connection: SYN without ACK, RST or FIN.
    pub const fn is_opening(&self) -> bool {
        matches!(self.l4, L4::Tcp) && self.tcp_flags & (l4::SYN | l4::ACK | l4::RST | l4::FIN) == l4::SYN
    }

    /// Whether it resets a TCP connection.
    pub const fn is_reset(&self) -> bool {
        matches!(self.l4, L4::Tcp) && self.tcp_flags & l4::RST != 0
    }

    /// Whether it may end a TCP connection at once or begin another one under the same tuple: more than one look-up is needed.
    pub const fn is_turning(&self) -> bool {
        let (opens, resets) =
            (self.tcp_flags & (l4::SYN | l4::ACK) == l4::SYN, self.tcp_flags & l4::RST != 0);
        matches!(self.l4, L4::Tcp) && (opens || resets)
    }

    /// Returns the length of the headers from IP on, in bytes.
    pub const fn header_length(&self) -> u32 {
        let transport = match self.l4 {
            L4::Tcp => self.tcp_header as u32,
            L4::Udp | L4::Lite | L4::Sctp | L4::Echo | L4::Icmp | L4::Other => 8,
        };
        self.l4_offset - L3 + transport
    }

    /// Returns the offset of the transport checksum from the start of the frame, where the protocol has one that netd knows.
    pub const fn checksum_offset(&self) -> Option<u32> {
        match self.l4 {
            L4::Tcp => Some(self.l4_offset + l4::TCP_CHECKSUM),
            L4::Udp | L4::Lite => Some(self.l4_offset + l4::UDP_CHECKSUM),
            L4::Echo | L4::Icmp => Some(self.l4_offset + l4::ICMP_CHECKSUM),
            L4::Sctp | L4::Other => None,
        }
    }
}

impl Readable for crate::family::V4 {
    #[inline(always)]
    fn plain<P: Packet>(packet: &P) -> Option<(Addr4, Addr4, u8, u8)> {
        let h = packet.load::<20>(L3).ok()?;
        let fragment = u16::from_be_bytes([h[6], h[7]]) & (ipv4::OFFSET_MASK | ipv4::MORE);
        let known = matches!(h[9], l4::TCP | l4::UDP | l4::ICMP);
        let total = u16::from_be_bytes([h[2], h[3]]);
        let honest = is_honest(u32::from(total), ipv4::HEADER, packet.length() - L3);
        (h[0] == ipv4::PLAIN && fragment == 0 && known && honest).then(|| {
            let (src, dst) = ([h[12], h[13], h[14], h[15]], [h[16], h[17], h[18], h[19]]);
            (Addr4::from_wire(src), Addr4::from_wire(dst), h[9], h[8])
        })
    }

    #[inline(always)]
    fn full<P: Packet>(packet: &P) -> Result<IpHeader<Addr4>, DropReason> {
        let h = packet.load::<20>(L3)?;
        let length = u32::from(h[0] & 0x0f) * 4;
        // BIG TCP leaves the total length zero (kernel 6.3): then the buffer's own length counts.
        let total = u32::from(u16::from_be_bytes([h[2], h[3]]));
        if h[0] >> 4 != 4 || length < ipv4::HEADER || (total != 0 && total < length) {
            return Err(DropReason::Malformed);
        }
        let bits = u16::from_be_bytes([h[6], h[7]]);
        let (start, more) = (bits & ipv4::OFFSET_MASK, bits & ipv4::MORE != 0);
        let carried = total.saturating_sub(length);
        let place = Place::new(start, more, carried, carried, h[9])?;
        let (src, dst) = ([h[12], h[13], h[14], h[15]], [h[16], h[17], h[18], h[19]]);
        Ok(IpHeader {
            src: Addr4::from_wire(src),
            dst: Addr4::from_wire(dst),
            proto: h[9],
            ttl: h[8],
            place,
            fragment_id: u32::from(u16::from_be_bytes([h[4], h[5]])),
            l4_offset: L3 + length,
        })
    }

    #[inline(always)]
    fn length<P: Packet>(packet: &P) -> Result<u32, DropReason> {
        Ok(u32::from(u16::from_be_bytes(packet.load::<2>(L3 + ipv4::TOTAL_LENGTH)?)))
    }

    #[inline(always)]
    fn load_address<P: Packet>(packet: &P, offset: u32) -> Option<Addr4> {
        packet.load::<4>(offset).ok().map(Addr4::from_wire)
    }

    #[inline(always)]
    fn store_addresses_at<P: Packet>(
        packet: &mut P,
        header: u32,
        src: &Addr4,
        dst: &Addr4,
    ) -> Result<(), DropReason> {
        let ([a, b, c, d], [e, f, g, h]) = (src.to_wire(), dst.to_wire());
        packet.store(header + ipv4::SOURCE, [a, b, c, d, e, f, g, h])
    }

    #[inline(always)]
    fn answer_header<P: Packet>(
        packet: &mut P,
        src: &Addr4,
        dst: &Addr4,
        length: u16,
        ttl: u8,
    ) -> Result<(), DropReason> {
        let total = (ipv4::HEADER as u16 + length).to_be_bytes();
        let [tos, ..] = packet.load::<2>(L3 + ipv4::VERSION_IHL + 1)?;
        let [_, proto] = packet.load::<2>(L3 + ipv4::TTL)?;
        // Identification zero and "don't fragment", as Linux sends resets.
        let sum = u32::from(u16::from_ne_bytes([ipv4::PLAIN, tos]))
            + u32::from(u16::from_ne_bytes(total))
            + u32::from(u16::from_ne_bytes([0x40, 0]))
            + u32::from(u16::from_ne_bytes([ttl, proto]))
            + src.sum()
            + dst.sum();
        let [low, high] = (!csum::fold(sum)).to_ne_bytes();
        packet.store(L3 + ipv4::TOTAL_LENGTH, [total[0], total[1], 0, 0])?;
        packet.store(L3 + ipv4::FRAGMENT, [0x40, 0, ttl, proto])?;
        packet.store(L3 + ipv4::CHECKSUM, [low, high])?;
        Self::store_addresses(packet, src, dst)
    }

    #[inline(always)]
    fn quoted_transport<P: Packet>(packet: &P, header: u32) -> Option<(u8, u32)> {
        let [version, _] = packet.load::<2>(header + ipv4::VERSION_IHL).ok()?;
        let fragment = u16::from_be_bytes(packet.load::<2>(header + ipv4::FRAGMENT).ok()?);
        let [_, proto] = packet.load::<2>(header + ipv4::TTL).ok()?;
        let l4 = header + u32::from(version & 0x0f) * 4;
        let whole = version >> 4 == 4 && version & 0x0f >= 5 && fragment & ipv4::OFFSET_MASK == 0;
        (whole && packet.load::<8>(l4).is_ok()).then_some((proto, l4))
    }
}

/// Takes the two addresses out of an IPv6 header.
#[inline(always)]
fn addresses6(h: &[u8; 40]) -> (Addr6, Addr6) {
    let take = |at: usize| {
        Addr6::from_wire([
            h[at],
            h[at + 1],
            h[at + 2],
            h[at + 3],
            h[at + 4],
            h[at + 5],
            h[at + 6],
            h[at + 7],
            h[at + 8],
            h[at + 9],
            h[at + 10],
            h[at + 11],
            h[at + 12],
            h[at + 13],
            h[at + 14],
            h[at + 15],
        ])
    };
    (take(8), take(24))
}

impl Readable for crate::family::V6 {
    #[inline(always)]
    fn plain<P: Packet>(packet: &P) -> Option<(Addr6, Addr6, u8, u8)> {
        let h = packet.load::<40>(L3).ok()?;
        let known = matches!(h[6], l4::TCP | l4::UDP) || h[6] == Self::ICMP;
        let payload = u16::from_be_bytes([h[4], h[5]]);
        let honest = is_honest(u32::from(payload), 0, packet.length() - L3 - ipv6::HEADER);
        (h[0] >> 4 == 6 && known && honest).then(|| {
            let (src, dst) = addresses6(&h);
            (src, dst, h[6], h[7])
        })
    }

    #[inline(always)]
    fn full<P: Packet>(packet: &P) -> Result<IpHeader<Addr6>, DropReason> {
        let h = packet.load::<40>(L3)?;
        if h[0] >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        let (src, dst) = addresses6(&h);
        let mut ip = IpHeader {
            src,
            dst,
            proto: h[6],
            ttl: h[7],
            place: Place::WHOLE,
            fragment_id: 0,
            l4_offset: L3 + ipv6::HEADER,
        };
        // Where the packet ends, and where the fragment header does; 0: it has none.
        let end = L3 + ipv6::HEADER + u32::from(u16::from_be_bytes([h[4], h[5]]));
        let (mut bits, mut behind) = (0, 0);
        for _ in 0..ipv6::MAX_EXTENSIONS {
            if !ipv6::is_extension(ip.proto) || bits >> 3 != 0 {
                break;
            }
            let f = packet.load::<8>(ip.l4_offset)?;
            if ip.proto == ipv6::ROUTING && f[3] != 0 {
                return Err(DropReason::SourceRoute); // on its way to somewhere else than it says (RFC 5095)
            }
            let length = match ip.proto {
                ipv6::FRAGMENT => 8,
                ipv6::AUTH => (u32::from(f[1]) + 2) * 4,
                _ => (u32::from(f[1]) + 1) * 8,
            };
            if ip.proto == ipv6::FRAGMENT {
                bits = u16::from_be_bytes([f[2], f[3]]);
                behind = ip.l4_offset + length;
                ip.fragment_id = u32::from_be_bytes([f[4], f[5], f[6], f[7]]);
            }
            ip.proto = f[0];
            ip.l4_offset += length;
        }
        if behind != 0 {
            let (carried, transport) = (end.saturating_sub(behind), end.saturating_sub(ip.l4_offset));
            ip.place = Place::new(bits >> 3, bits & 1 != 0, carried, transport, ip.proto)?;
        }
        let unread = ipv6::is_extension(ip.proto) && bits >> 3 == 0;
        if unread { Err(DropReason::Malformed) } else { Ok(ip) }
    }

    #[inline(always)]
    fn length<P: Packet>(packet: &P) -> Result<u32, DropReason> {
        let payload = u16::from_be_bytes(packet.load::<2>(L3 + ipv6::PAYLOAD_LENGTH)?);
        Ok(ipv6::HEADER + u32::from(payload))
    }

    #[inline(always)]
    fn load_address<P: Packet>(packet: &P, offset: u32) -> Option<Addr6> {
        packet.load::<16>(offset).ok().map(Addr6::from_wire)
    }

    #[inline(always)]
    fn store_addresses_at<P: Packet>(
        packet: &mut P,
        header: u32,
        src: &Addr6,
        dst: &Addr6,
    ) -> Result<(), DropReason> {
        packet.store(header + ipv6::SOURCE, src.to_wire())?;
        packet.store(header + ipv6::DESTINATION, dst.to_wire())
    }

    #[inline(always)]
    fn answer_header<P: Packet>(
        packet: &mut P,
        src: &Addr6,
        dst: &Addr6,
        length: u16,
        ttl: u8,
    ) -> Result<(), DropReason> {
        packet.store(L3 + ipv6::PAYLOAD_LENGTH, length.to_be_bytes())?;
        packet.store(L3 + ipv6::HOP_LIMIT, [ttl])?;
        Self::store_addresses(packet, src, dst)
    }

    #[inline(always)]
    fn quoted_transport<P: Packet>(packet: &P, header: u32) -> Option<(u8, u32)> {
        let [mut proto, _] = packet.load::<2>(header + ipv6::NEXT_HEADER).ok()?;
        let mut at = header + ipv6::HEADER;
        for _ in 0..ipv6::MAX_EXTENSIONS {
            let bytes = packet.load::<8>(at).ok()?;
            if !ipv6::is_extension(proto) {
                return Some((proto, at));
            }
            if proto == ipv6::FRAGMENT && u16::from_be_bytes([bytes[2], bytes[3]]) >> 3 != 0 {
                return None; // a later fragment has no ports
            }
            at += match proto {
                ipv6::FRAGMENT => 8,
                ipv6::AUTH => (u32::from(bytes[1]) + 2) * 4,
                _ => (u32::from(bytes[1]) + 1) * 8,
            };
            proto = bytes[0];
        }
        None
    }
}
