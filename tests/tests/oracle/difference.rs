//! What the two worlds answered differently, and the questions that the list of intended differences asks about it.

use std::net::IpAddr;

use netd_tests::Family;

use crate::{
    canon::{Delivery, is_made_by_host},
    layout::Layout,
    packet::number,
    plan::Edge,
    sequence::{Event, Flow, Proto, Sequence, Target, What, flag},
};

/// One event that the two worlds answered differently.
#[derive(Debug)]
pub struct Difference<'a> {
    /// The sequence.
    pub sequence: &'a Sequence,
    /// The event's number.
    pub number: usize,
    /// The event.
    pub event: Event,
    /// Its flow.
    pub flow: Flow,
    /// Whether an earlier packet of the flow reached its other side in both worlds.
    pub is_known: bool,
    /// What the kernel alone delivered.
    pub kernel: Vec<Delivery>,
    /// What netd alone delivered.
    pub netd: Vec<Delivery>,
}

impl Difference<'_> {
    /// Who sent the event's packet.
    pub fn sender(&self) -> Option<Edge> {
        if self.event.back { self.flow.responder() } else { Some(self.flow.from) }
    }

    /// Who should receive it.
    pub fn receiver(&self) -> Option<Edge> {
        if self.event.back { Some(self.flow.from) } else { self.flow.responder() }
    }

    pub fn sandbox_sends(&self) -> bool {
        self.sender().is_some_and(|edge| !edge.is_remote())
    }

    pub fn family(&self) -> Family {
        self.sequence.family
    }

    pub fn sender_ip(&self) -> Option<IpAddr> {
        self.sender().map(|edge| edge.ip(self.family()))
    }

    /// Whether it is a segment that an established connection does not carry, or one of a connection that is not established.
    pub fn is_irregular_segment(&self) -> bool {
        let flags = match self.event.what {
            What::Packet { flags, .. } => flags,
            What::Fragments { .. } => flag::ACK | flag::PSH,
            What::Error { .. } => return false,
        };
        let regular =
            [flag::ACK, flag::ACK | flag::PSH, flag::FIN | flag::ACK, flag::RST, flag::RST | flag::ACK];
        self.flow.proto == Proto::Tcp && (!regular.contains(&flags) || !self.is_established())
    }

    /// Whether it is an attempt to reach a sandbox from outside its network by its own address.
    pub fn is_direct(&self) -> bool {
        matches!(self.flow.to, Target::Direct(to, _) if !to.is_neighbour_of(self.flow.from))
    }

    /// Whether policy lets the sender send this way, or answer.
    pub fn may_send(&self) -> bool {
        let internal = self.sender().and_then(Edge::place).is_some_and(|(network, _)| network.internal);
        !internal && (self.event.back || !matches!(self.flow.path(), "direct" | "other network"))
    }

    /// The earlier events of the flow, and of those that share its ports.
    pub fn before(&self) -> impl Iterator<Item = &Event> {
        let flows = &self.sequence.flows;
        let same = move |event: &&Event| {
            flows[self.sequence.flow_of(event)].conversation() == self.flow.conversation()
        };
        self.sequence.events[..self.number].iter().filter(same)
    }

    /// Whether the flow has opened in order, and has not begun to close.
    pub fn is_established(&self) -> bool {
        let flags = self.before().filter_map(|event| match event.what {
            What::Packet { flags, .. } => Some((event.back, flags)),
            What::Fragments { .. } => Some((event.back, flag::ACK | flag::PSH)),
            What::Error { .. } => None,
        });
        let mut rest = flags.skip_while(|segment| *segment != (false, flag::SYN)).skip(1);
        let opened =
            rest.next() == Some((true, flag::SYN | flag::ACK)) && rest.next() == Some((false, flag::ACK));
        opened
            && rest
                .all(|(_, flags)| flags & (flag::SYN | flag::FIN | flag::RST) == 0 && flags & flag::ACK != 0)
    }
}

impl Delivery {
    pub fn with<T>(&self, read: impl Fn(&Layout, &[u8]) -> Option<T>) -> Option<T> {
        read(&self.layout()?, &self.bytes)
    }

    /// Its IP source.
    pub fn source(&self) -> Option<IpAddr> {
        self.with(|layout, _| Some(layout.src))
    }

    /// Its bytes without Ethernet source, IP source and source port.
    pub fn but_source(&self) -> Option<Vec<u8>> {
        self.with(|layout, bytes| {
            let mut rest = bytes.to_vec();
            rest[6..12].fill(0);
            let (at, length) = if layout.v4 { (layout.l3 + 12, 4) } else { (layout.l3 + 8, 16) };
            rest[at..at + length].fill(0);
            rest.get_mut(layout.l4..layout.l4 + 2)?.fill(0);
            Some(rest)
        })
    }

    pub fn is_tcp(&self) -> bool {
        self.with(|layout, _| Some(layout.proto)) == Some(number::TCP)
    }

    /// Whether it is an ICMP error that says that the TTL ended.
    pub fn is_expiry(&self) -> bool {
        self.with(|layout, bytes| Some(layout.is_error(bytes) && matches!(layout.kind(bytes), Some(3 | 11))))
            == Some(true)
    }

    /// Whether it is an ICMP error that the host itself made.
    pub fn is_error_of_host(&self) -> bool {
        self.with(|layout, bytes| Some(is_made_by_host(layout) && layout.is_error(bytes))) == Some(true)
    }

    /// Whether it is a TCP reset that the host itself made.
    pub fn is_host_reset(&self) -> bool {
        self.with(|layout, bytes| Some(is_made_by_host(layout) && layout.flags(bytes)? & flag::RST != 0))
            == Some(true)
    }
}
