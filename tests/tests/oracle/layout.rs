//! Where the parts of a packet are: of a frame's, and of one that an ICMP error quotes.

use std::net::IpAddr;

use crate::packet::number;

/// The parts of an IP packet, as offsets into the bytes that contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Start of the IP header.
    pub l3: usize,
    /// Start of the transport header.
    pub l4: usize,
    /// End of the packet, or of what there is of it.
    pub end: usize,
    /// Whether bytes are missing at the end.
    pub cut: bool,
    /// Whether it is IPv4.
    pub v4: bool,
    /// Protocol of the transport header.
    pub proto: u8,
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 identification or IPv6 flow label.
    pub tag: u32,
    /// The fragment's place, if it is one.
    pub fragment: Option<Fragment>,
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// In bytes.
    pub offset: usize,
    /// Whether more come.
    pub more: bool,
    /// Start of the IPv6 fragment header.
    pub header: usize,
    /// Where the number of what follows the IPv6 fragment header belongs without it.
    pub next_at: usize,
    /// Identification.
    pub id: u32,
}

impl Layout {
    /// Reads a frame.
    pub fn of_frame(bytes: &[u8]) -> Option<Self> {
        match bytes.get(12..14)? {
            [0x08, 0x00] | [0x86, 0xdd] => Self::at(bytes, 14),
            _ => None,
        }
    }

    /// Reads the IP packet at an offset.
    pub fn at(bytes: &[u8], l3: usize) -> Option<Self> {
        match bytes.get(l3)? >> 4 {
            4 => Self::v4(bytes, l3),
            6 => Self::v6(bytes, l3),
            _ => None,
        }
    }

    fn v4(bytes: &[u8], l3: usize) -> Option<Self> {
        let h = bytes.get(l3..l3 + 20)?;
        let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
        let position = u16::from_be_bytes([h[6], h[7]]);
        let fragment = (position & 0x3fff != 0).then(|| Fragment {
            offset: usize::from(position & 0x1fff) * 8,
            more: position & 0x2000 != 0,
            header: l3,
            next_at: l3 + 9,
            id: u32::from(u16::from_be_bytes([h[4], h[5]])),
        });
        Some(Self {
            l3,
            l4: l3 + usize::from(h[0] & 15) * 4,
            end: bytes.len().min(l3 + total),
            cut: bytes.len() < l3 + total,
            v4: true,
            proto: h[9],
            src: IpAddr::from(<[u8; 4]>::try_from(&h[12..16]).ok()?),
            dst: IpAddr::from(<[u8; 4]>::try_from(&h[16..20]).ok()?),
            ttl: h[8],
            tag: u32::from(u16::from_be_bytes([h[4], h[5]])),
            fragment,
        })
    }

    fn v6(bytes: &[u8], l3: usize) -> Option<Self> {
        let h = bytes.get(l3..l3 + 40)?;
        let total = 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
        let (mut proto, mut next_at, mut l4, mut fragment) = (h[6], l3 + 6, l3 + 40, None);
        while matches!(proto, 0 | 43 | number::FRAGMENT | number::OPTIONS6) {
            let Some(x) = bytes.get(l4..l4 + 8) else { break };
            if proto == number::FRAGMENT {
                let position = u16::from_be_bytes([x[2], x[3]]);
                let offset = usize::from(position & 0xfff8);
                let id = u32::from_be_bytes([x[4], x[5], x[6], x[7]]);
                fragment = Some(Fragment { offset, more: position & 1 != 0, header: l4, next_at, id });
                (proto, l4) = (x[0], l4 + 8);
                break;
            }
            (proto, next_at, l4) = (x[0], l4, l4 + 8 + usize::from(x[1]) * 8);
        }
        Some(Self {
            l3,
            l4,
            end: bytes.len().min(l3 + total),
            cut: bytes.len() < l3 + total,
            v4: false,
            proto,
            src: IpAddr::from(<[u8; 16]>::try_from(&h[8..24]).ok()?),
            dst: IpAddr::from(<[u8; 16]>::try_from(&h[24..40]).ok()?),
            ttl: h[7],
            tag: u32::from_be_bytes([0, h[1] & 15, h[2], h[3]]),
            fragment,
        })
    }

    /// Whether it carries the transport header.
    pub fn has_transport(&self) -> bool {
        self.fragment.is_none_or(|fragment| fragment.offset == 0)
    }

    /// Returns the offsets of the source and destination port; for an echo, of its identifier in the place of the requester's.
    pub fn ports_at(&self, bytes: &[u8]) -> (Option<usize>, Option<usize>) {
        if !self.has_transport() {
            return (None, None);
        }
        let has = |at: usize| (at + 2 <= self.end).then_some(at);
        match self.proto {
            number::TCP | number::UDP | number::SCTP | number::LITE => (has(self.l4), has(self.l4 + 2)),
            number::ICMP | number::ICMP6 => match self.kind(bytes) {
                Some(8 | 128) => (has(self.l4 + 4), None),
                Some(0 | 129) => (None, has(self.l4 + 4)),
                _ => (None, None),
            },
            _ => (None, None),
        }
    }

    /// Returns source and destination port, 0 where there is none.
    pub fn ports(&self, bytes: &[u8]) -> (u16, u16) {
        let (source, destination) = self.ports_at(bytes);
        let read = |at: Option<usize>| at.map_or(0, |at| u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        (read(source), read(destination))
    }

    /// Returns the ICMP type.
    pub fn kind(&self, bytes: &[u8]) -> Option<u8> {
        let icmp = self.proto == if self.v4 { number::ICMP } else { number::ICMP6 };
        (icmp && self.has_transport() && self.l4 < self.end).then(|| bytes[self.l4])
    }

    /// Whether it is an ICMP error.
    pub fn is_error(&self, bytes: &[u8]) -> bool {
        match self.kind(bytes) {
            Some(kind) if self.v4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
            Some(kind) => kind < 128,
            None => false,
        }
    }

    /// Returns the packet that an ICMP error quotes.
    pub fn quoted(&self, bytes: &[u8]) -> Option<Self> {
        if !self.is_error(bytes) {
            return None;
        }
        Self::at(&bytes[..self.end], self.l4 + 8)
    }

    /// Returns the TCP flags.
    pub fn flags(&self, bytes: &[u8]) -> Option<u8> {
        let tcp = self.proto == number::TCP && self.has_transport();
        (tcp && self.l4 + 14 <= self.end).then(|| bytes[self.l4 + 13])
    }

    /// Returns the sequence and acknowledgement numbers of a TCP segment.
    pub fn tcp_numbers(&self, bytes: &[u8]) -> Option<(u32, u32)> {
        self.flags(bytes)?;
        let read = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        Some((read(self.l4 + 4)?, read(self.l4 + 8)?))
    }

    /// Returns the offset of SCTP's checksum, four bytes.
    pub fn crc_at(&self) -> Option<usize> {
        let at = self.l4 + 8;
        (self.proto == number::SCTP && self.has_transport() && at + 4 <= self.end).then_some(at)
    }

    /// Returns the offset of the transport checksum.
    pub fn checksum_at(&self) -> Option<usize> {
        let at = match self.proto {
            number::TCP => 16,
            number::UDP | number::LITE => 6,
            number::ICMP | number::ICMP6 => 2,
            _ => return None,
        };
        (self.has_transport() && self.l4 + at + 2 <= self.end).then_some(self.l4 + at)
    }
}
