//! What the two worlds answered differently, and the questions that the list of intended differences asks about it.

use std::net::IpAddr;

use netd_tests::Family;

use crate::{
    canon::{Delivery, is_made_by_host},
    layout::Layout,
    packet::number,
    plan::{Edge, Mode, PUBLISHES},
    sequence::{Event, Flow, Proto, Sequence, Target, Twist, What, chunk, chunk_of, flag},
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
    /// Whether an earlier packet of the flow, or of one that shares its ports, reached its other side in both worlds.
    pub is_known: bool,
    /// Whether an earlier packet of this very flow did: the opener's, or of the event's own direction. (What the dialled side sends first may be another
    /// flow, with an address of the host.)
    pub is_open: bool,
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

    /// Whether it is an ICMP error of the host to who sent the packet, or whose address it had.
    pub fn is_told(&self, seen: &Delivery) -> bool {
        let spoofed = self.event.twist == Twist::SpoofedAddress && seen.edge.is_remote();
        (Some(seen.edge) == self.sender() || spoofed) && seen.is_error_of_host()
    }

    pub fn family(&self) -> Family {
        self.sequence.family
    }

    pub fn sender_ip(&self) -> Option<IpAddr> {
        self.sender().map(|edge| edge.ip(self.family()))
    }

    /// Whether it is a segment that an established connection or association does not carry, or one of what is not established.
    pub fn is_irregular_segment(&self) -> bool {
        const DATA: u8 = flag::ACK | flag::PSH;
        let flags = match self.event.what {
            What::Packet { flags, .. } => flags,
            What::Fragments { .. } => DATA,
            What::Error { .. } => return false,
        };
        let regular: &[u8] = match self.flow.proto {
            Proto::Tcp => &[flag::ACK, DATA, flag::FIN | flag::ACK, flag::RST, flag::RST | flag::ACK],
            Proto::Sctp => &[DATA],
            _ => return false,
        };
        !regular.contains(&flags) || !self.is_established()
    }

    /// Whether the packet may open a flow: TCP by SYN alone, SCTP by INIT, ICMP by an echo request, what has no such word by any packet.
    pub fn opens(&self) -> bool {
        match (self.event.what, self.flow.proto) {
            (What::Error { .. }, _) | (What::Fragments { .. }, Proto::Tcp | Proto::Sctp) => false,
            (What::Packet { flags, .. }, Proto::Tcp) => {
                flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
            }
            (What::Packet { flags, .. }, Proto::Sctp) => chunk_of(self.event.back, flags) == chunk::INIT,
            (_, Proto::Echo) => !self.event.back,
            (_, Proto::Udp | Proto::Lite | Proto::Other(_)) => true,
        }
    }

    /// Whether who was dialled opens a connection that the kernel lets it open, and netd answers with a reset, if its checksum is right.
    pub fn is_refused_back(&self) -> bool {
        let refused = match &self.netd[..] {
            [] => self.event.twist == Twist::BadChecksum,
            [seen] => seen.is_host_reset() && Some(seen.edge) == self.sender(),
            _ => false,
        };
        self.is_opened_back() && refused
    }

    /// Whether who was dialled opens a connection that the kernel takes for the one that was dialled, and netd for one of its own with a neighbour.
    pub fn is_direct_back(&self) -> bool {
        let own = |seen: &Delivery| Some(seen.edge) == self.receiver() && seen.source() == self.sender_ip();
        self.is_opened_back() && self.is_bridged() && matches!(&self.netd[..], [seen] if own(seen))
    }

    fn is_opened_back(&self) -> bool {
        self.flow.proto == Proto::Tcp
            && self.event.back
            && self.opens()
            && self.kernel.iter().all(|seen| Some(seen.edge) == self.receiver())
    }

    /// Whether an address of the sender's network may show outside.
    pub fn sender_shows(&self) -> bool {
        self.sender().and_then(Edge::place).is_some_and(|(network, _)| network.shows())
    }

    /// Whether it is an attempt to reach a sandbox from outside its network by its own address, where that may not be.
    pub fn is_direct(&self) -> bool {
        let Target::Direct(to, port) = self.flow.to else { return false };
        if to.is_neighbour_of(self.flow.from) {
            return false;
        }
        let Some((network, _)) = to.place() else { return false };
        let opened = matches!(self.flow.proto, Proto::Tcp | Proto::Udp | Proto::Sctp)
            && PUBLISHES.iter().any(|publish| publish.edge == to && publish.port == port);
        !match network.mode {
            Mode::Unprotected => true,
            Mode::Routed => opened || self.flow.proto == Proto::Echo,
            Mode::Nat => network.trusts && self.flow.from == Edge::R && opened,
            Mode::Isolated => false,
        }
    }

    /// Whether policy lets the sender send this way, or answer.
    pub fn may_send(&self) -> bool {
        let internal = self.sender().and_then(Edge::place).is_some_and(|(network, _)| network.internal);
        let unasked = if self.event.back {
            self.crosses() && (self.opens() || !self.is_open)
        } else {
            self.is_across()
        };
        !internal && !unasked
    }

    fn is_across(&self) -> bool {
        matches!(self.flow.path(), "direct" | "other network")
    }

    /// Whether it goes from a sandbox to one of another network.
    fn crosses(&self) -> bool {
        let network = |edge: Option<Edge>| edge.and_then(Edge::place).map(|(network, _)| network.number);
        let (from, to) = (network(self.sender()), network(self.receiver()));
        from.is_some() && to.is_some() && from != to
    }

    /// Whether sandboxes of one network talk by a published port.
    pub fn is_bridged(&self) -> bool {
        self.flow.responder().is_some_and(|to| to == self.flow.from || to.is_neighbour_of(self.flow.from))
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

    /// Whether it is of a connection or an association.
    pub fn is_segment(&self) -> bool {
        matches!(self.with(|layout, _| Some(layout.proto)), Some(number::TCP | number::SCTP))
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
