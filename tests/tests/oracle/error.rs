//! The ICMP errors of sequences.

use std::net::IpAddr;

use crate::{
    layout::Layout,
    packet::icmp,
    sequence::{ErrorKind, Quote},
};

/// An error to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    /// What went wrong.
    pub kind: ErrorKind,
    /// How much of the packet it quotes.
    pub quote: Quote,
    /// Whether a router on the way says so, and not the receiver.
    pub by_router: bool,
}

impl Error {
    /// Returns the ICMP message about a packet.
    pub fn message(self, src: IpAddr, dst: IpAddr, packet: &[u8]) -> Vec<u8> {
        let header = Layout::at(packet, 0).map_or(packet.len(), |layout| layout.l4);
        let length = match self.quote {
            Quote::Short => header + 8,
            Quote::Full => packet.len(),
            Quote::Cut => header + 4,
        };
        let (kind, rest) = header_of(src.is_ipv4(), self.kind);
        icmp(src, dst, kind, rest, &packet[..length.min(packet.len())])
    }
}

/// Type, code and the rest of an ICMP error's header.
const fn header_of(v4: bool, kind: ErrorKind) -> ((u8, u8), [u8; 4]) {
    const MTU: [u8; 4] = [0, 0, 0x05, 0x14]; // 1300
    match (v4, kind) {
        (true, ErrorKind::Port) => ((3, 3), [0; 4]),
        (true, ErrorKind::Host) => ((3, 1), [0; 4]),
        (true, ErrorKind::TooBig) => ((3, 4), MTU),
        (true, ErrorKind::Expired) => ((11, 0), [0; 4]),
        (true, ErrorKind::Parameter) => ((12, 0), [20, 0, 0, 0]),
        (false, ErrorKind::Port) => ((1, 4), [0; 4]),
        (false, ErrorKind::Host) => ((1, 0), [0; 4]),
        (false, ErrorKind::TooBig) => ((2, 0), MTU),
        (false, ErrorKind::Expired) => ((3, 0), [0; 4]),
        (false, ErrorKind::Parameter) => ((4, 1), [0, 0, 0, 6]),
    }
}
