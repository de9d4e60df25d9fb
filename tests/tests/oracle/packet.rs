//! Packets built byte by byte, so that any part of them can be odd.

use std::net::IpAddr;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Protocol numbers (IANA).
pub mod number {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const FRAGMENT: u8 = 44;
    pub const ICMP6: u8 = 58;
    pub const OPTIONS6: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const LITE: u8 = 136;
}

/// TTL of ordinary packets. Not what stacks begin with, so that what the host makes itself can be told apart.
pub const TTL: u8 = 61;

/// An IP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Ethernet destination and source.
    pub macs: [[u8; 6]; 2],
    /// IP source.
    pub src: IpAddr,
    /// IP destination.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Traffic class.
    pub class: u8,
    /// IPv4 identification, IPv6 flow label and fragment identification.
    pub tag: u16,
    /// Protocol of the payload.
    pub proto: u8,
    /// Whether the header has options.
    pub options: bool,
    /// Transport header and payload.
    pub payload: Vec<u8>,
}

/// A piece of a payload.
#[derive(Clone, Copy, Debug)]
struct Piece {
    offset: u16,
    more: bool,
}

impl Packet {
    /// Returns a packet with nothing odd about it, its Ethernet addresses and tag still to come.
    pub const fn new(src: IpAddr, dst: IpAddr, proto: u8, payload: Vec<u8>) -> Self {
        Self { macs: [[0; 6]; 2], src, dst, ttl: TTL, class: 0, tag: 0, proto, options: false, payload }
    }

    /// Returns the frame.
    pub fn frame(&self) -> Vec<u8> {
        self.piece(None, &self.payload)
    }

    /// Returns the frames of three fragments, cut at multiples of eight bytes.
    pub fn fragments(&self) -> [Vec<u8>; 3] {
        let unit = (self.payload.len() / 3) & !7;
        let cut = |from: usize, to: usize, more| {
            let offset = u16::try_from(from).expect("a short payload");
            self.piece(Some(Piece { offset, more }), &self.payload[from..to])
        };
        [cut(0, unit, true), cut(unit, 2 * unit, true), cut(2 * unit, self.payload.len(), false)]
    }

    fn piece(&self, piece: Option<Piece>, payload: &[u8]) -> Vec<u8> {
        let mut frame = self.macs.concat();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend(0x0800_u16.to_be_bytes());
                frame.extend(self.header4(piece, payload.len(), src.octets(), dst.octets()));
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend(0x86dd_u16.to_be_bytes());
                frame.extend(self.header6(piece, payload.len(), src.octets(), dst.octets()));
            }
            (src, dst) => panic!("a packet from {src} to {dst}"),
        }
        frame.extend(payload);
        frame
    }

    fn header4(&self, piece: Option<Piece>, payload: usize, src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
        const NOP: u8 = 1;
        let options: &[u8] = if self.options { &[NOP; 4] } else { &[] };
        let length = 20 + options.len();
        let total = u16::try_from(length + payload).expect("a short packet");
        let position = piece.map_or(0, |piece| (piece.offset / 8) | if piece.more { 0x2000 } else { 0 });
        let mut header = vec![0x40 | u8::try_from(length / 4).expect("a header's length"), self.class];
        header.extend([total, self.tag, position].iter().flat_map(|field| field.to_be_bytes()));
        header.extend([self.ttl, self.proto, 0, 0]);
        header.extend(src);
        header.extend(dst);
        header.extend(options);
        let sum = !fold(sum(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn header6(&self, piece: Option<Piece>, payload: usize, src: [u8; 16], dst: [u8; 16]) -> Vec<u8> {
        let mut next = self.proto;
        let mut extensions = Vec::new();
        if let Some(piece) = piece {
            extensions.extend([next, 0]);
            extensions.extend((piece.offset | u16::from(piece.more)).to_be_bytes());
            extensions.extend(u32::from(self.tag).to_be_bytes());
            next = number::FRAGMENT;
        }
        if self.options {
            let padding = [next, 0, 1, 4, 0, 0, 0, 0];
            extensions.splice(0..0, padding);
            next = number::OPTIONS6;
        }
        let word = 6 << 28 | u32::from(self.class) << 20 | u32::from(self.tag);
        let length = u16::try_from(extensions.len() + payload).expect("a short packet");
        let mut header = word.to_be_bytes().to_vec();
        header.extend(length.to_be_bytes());
        header.extend([next, self.ttl]);
        header.extend(src);
        header.extend(dst);
        header.extend(extensions);
        header
    }
}

/// A TCP segment's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub ports: (u16, u16),
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
}

/// Builds a TCP segment.
pub fn tcp(src: IpAddr, dst: IpAddr, segment: Segment, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ports(segment.ports);
    bytes.extend(segment.sequence.to_be_bytes());
    let acknowledged = if segment.flags & crate::sequence::flag::ACK == 0 { 0 } else { segment.acknowledged };
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend([5 << 4, segment.flags, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    with_checksum(bytes, 16, src, dst, number::TCP)
}

/// Builds a UDP datagram.
pub fn udp(src: IpAddr, dst: IpAddr, pair: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = ports(pair);
    bytes.extend(u16::try_from(8 + payload.len()).expect("a short datagram").to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    with_checksum(bytes, 6, src, dst, number::UDP)
}

/// Builds a UDP-Lite datagram (RFC 3828) whose checksum covers so many bytes, 0 for all of them.
pub fn lite(src: IpAddr, dst: IpAddr, pair: (u16, u16), coverage: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ports(pair);
    bytes.extend(coverage.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let sum = lite_sum(&bytes, src, dst);
    bytes[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    bytes
}

/// Returns the checksum of a UDP-Lite datagram: zero when it contains a right one.
pub fn lite_sum(bytes: &[u8], src: IpAddr, dst: IpAddr) -> u16 {
    let covered = match usize::from(u16::from_be_bytes([bytes[4], bytes[5]])) {
        0 => bytes.len(),
        some => some.min(bytes.len()),
    };
    // The pseudo header has the length of all, whatever is covered.
    let rest = u64::try_from(bytes.len() - covered).expect("a short packet");
    !fold(u64::from(!transport_sum(&bytes[..covered], src, dst, number::LITE)) + rest)
}

/// Builds an SCTP packet (RFC 9260) with one chunk: its type, flags and what follows its header.
pub fn sctp(pair: (u16, u16), vtag: u32, (kind, flags): (u8, u8), chunk: &[u8]) -> Vec<u8> {
    let mut bytes = ports(pair);
    bytes.extend(vtag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([kind, flags]);
    bytes.extend(u16::try_from(4 + chunk.len()).expect("a short chunk").to_be_bytes());
    bytes.extend(chunk);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Returns the checksum of an SCTP packet, its own field taken as zero (RFC 9260 appendix A).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in bytes.iter().enumerate() {
        crc ^= u32::from(if (8..12).contains(&at) { 0 } else { *byte });
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// Builds an ICMP message: type, code, the four bytes behind the checksum, and the rest.
pub fn icmp(src: IpAddr, dst: IpAddr, kind: (u8, u8), rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind.0, kind.1, 0, 0];
    bytes.extend(rest);
    bytes.extend(payload);
    with_checksum(bytes, 2, src, dst, icmp_number(src))
}

/// The protocol number of ICMP for packets from this address.
pub const fn icmp_number(address: IpAddr) -> u8 {
    if address.is_ipv4() { number::ICMP } else { number::ICMP6 }
}

fn ports((source, destination): (u16, u16)) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn with_checksum(mut bytes: Vec<u8>, at: usize, src: IpAddr, dst: IpAddr, proto: u8) -> Vec<u8> {
    let sum = match transport_sum(&bytes, src, dst, proto) {
        0 if proto == number::UDP => 0xffff,
        sum => sum,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Returns the checksum of a transport header and payload: zero when they contain a right one.
pub fn transport_sum(bytes: &[u8], src: IpAddr, dst: IpAddr, proto: u8) -> u16 {
    let length = u64::try_from(bytes.len()).expect("a short packet");
    let pseudo = match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) if proto == number::ICMP => 0,
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            sum(&src.octets()) + sum(&dst.octets()) + length + u64::from(proto)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            sum(&src.octets()) + sum(&dst.octets()) + length + u64::from(proto)
        }
        (src, dst) => panic!("a packet from {src} to {dst}"),
    };
    !fold(pseudo + sum(bytes))
}

/// Adds up the 16-bit words of some bytes (RFC 1071).
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u64::from(low))).sum()
}

/// Folds a sum to 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap_or_default()
}
