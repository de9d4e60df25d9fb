//! Packets to be built.

use std::vec::Vec;

use etherparse::{IpNumber, ip_number};

use super::cast::{Cast, Party, mac};
use crate::{family::Family, net::Mac};

/// A packet to be built: who sends what to whom.
#[derive(Clone, Copy, Debug)]
pub struct Wire<A> {
    /// Ethernet source.
    pub from: Mac,
    /// IP source.
    pub src: A,
    /// IP destination.
    pub dst: A,
    /// Source port, or echo id.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// What it carries.
    pub kind: Kind,
    /// TTL or hop limit.
    pub ttl: u8,
}

/// What a built packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP with these flags.
    Tcp(u8),
    /// UDP.
    Udp,
    /// An ICMP echo request, or its reply.
    Echo {
        /// Whether it answers.
        reply: bool,
    },
    /// Another protocol, by number.
    Other(u8),
}

impl<A: Copy> Wire<A> {
    /// Returns the frame, its checksums complete.
    pub fn build<F: Cast<Addr = A>>(&self) -> Vec<u8> {
        let step = F::frame(self.from, mac(Party::GatewayA), &self.src, &self.dst, self.ttl);
        let (mut frame, payload) = (Vec::new(), *b"payload!");
        let id = self.sport | self.dport;
        let written = match self.kind {
            Kind::Tcp(flags) => {
                let mut header = etherparse::TcpHeader::new(self.sport, self.dport, 1000, 64_000);
                header.fin = flags & 0x01 != 0;
                header.syn = flags & 0x02 != 0;
                header.rst = flags & 0x04 != 0;
                header.ack = flags & 0x10 != 0;
                step.tcp_header(header).write(&mut frame, &payload)
            }
            Kind::Udp => step.udp(self.sport, self.dport).write(&mut frame, &payload),
            Kind::Echo { reply } => match (F::V6, reply) {
                (false, false) => step.icmpv4_echo_request(id, 1).write(&mut frame, &payload),
                (false, true) => step.icmpv4_echo_reply(id, 1).write(&mut frame, &payload),
                (true, false) => step.icmpv6_echo_request(id, 1).write(&mut frame, &payload),
                (true, true) => step.icmpv6_echo_reply(id, 1).write(&mut frame, &payload),
            },
            Kind::Other(proto) => step.write(&mut frame, IpNumber(proto), &payload),
        };
        assert!(written.is_ok(), "a test's packet can be built");
        frame
    }

    /// Returns its protocol number.
    pub fn proto<F: Family>(&self) -> u8 {
        match self.kind {
            Kind::Tcp(_) => ip_number::TCP.0,
            Kind::Udp => ip_number::UDP.0,
            Kind::Echo { .. } => F::ICMP,
            Kind::Other(proto) => proto,
        }
    }
}
