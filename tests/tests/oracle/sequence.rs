//! A sequence of packets as the generator makes it and a reader understands it: flows, and what happens on them.

use std::fmt;

use netd_tests::Family;

use crate::plan::{Edge, HostAddress, PUBLISHES};

/// Some flows of one family, and what is sent on them in order.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Who talks to whom.
    pub flows: Vec<Flow>,
    /// What is sent, in order.
    pub events: Vec<Event>,
}

/// One conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opens it.
    pub from: Edge,
    /// Whom it dials.
    pub to: Target,
    /// Its protocol.
    pub proto: Proto,
    /// Which of the sequence's source ports (or echo identifiers) it has: flows that share one compete for it.
    pub slot: u8,
}

/// What a flow dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A machine beyond the uplink that ends at `R` or `R2`.
    Remote(Edge),
    /// A port of one of the host's addresses.
    Host(HostAddress, u16),
    /// A sandbox by its own address.
    Direct(Edge, u16),
}

/// What a flow speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proto {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
    /// UDP-Lite.
    Lite,
    /// ICMP echo.
    Echo,
    /// A protocol without ports, by number.
    Other(u8),
}

/// One packet, or one datagram in fragments.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Which flow, modulo their number.
    pub flow: u8,
    /// Whether the dialled side sends it.
    pub back: bool,
    /// What it is.
    pub what: What,
    /// What is odd about it.
    pub twist: Twist,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// The flow's ordinary packet; the flags are those of a TCP segment, the length is its payload's in bytes.
    Packet { flags: u8, length: u8 },
    /// An ICMP error about the last packet that this side received on the flow, or about one that never was.
    Error { kind: ErrorKind, quote: Quote, by_router: bool },
    /// The flow's packet in three fragments, sent in this order; `lost` is not sent at all.
    Fragments { order: [u8; 3], lost: Option<u8> },
}

/// Kinds of ICMP errors, in the words of both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Port unreachable.
    Port,
    /// Host unreachable, or no route to destination.
    Host,
    /// Fragmentation needed, or packet too big.
    TooBig,
    /// Time to live exceeded in transit.
    Expired,
    /// Parameter problem.
    Parameter,
}

/// How much an error quotes beyond the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// Eight bytes, as RFC 792 has it.
    Short,
    /// The whole packet.
    Full,
    /// Four bytes: less than any stack sends.
    Cut,
}

/// What is odd about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    /// Nothing.
    None,
    /// It has this TTL or hop limit.
    Ttl(u8),
    /// Its transport checksum is wrong.
    BadChecksum,
    /// It has no UDP checksum.
    NoChecksum,
    /// Its IPv4 header has options, or its IPv6 header is followed by destination options.
    Options,
    /// Its traffic class is not zero.
    Class(u8),
    /// Its source address is somebody else's.
    SpoofedAddress,
    /// Its Ethernet source is somebody else's.
    SpoofedMac,
}

/// TCP flags.
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
}

impl Sequence {
    /// Returns the flow that an event is about.
    pub fn flow_of(&self, event: &Event) -> usize {
        usize::from(event.flow) % self.flows.len()
    }
}

impl Flow {
    /// A conversation from the first source port.
    pub const fn new(proto: Proto, from: Edge, to: Target) -> Self {
        Self { from, to, proto, slot: 0 }
    }

    /// Returns who receives what the opener sends, if that is not the host itself.
    pub fn responder(self) -> Option<Edge> {
        match self.to {
            Target::Remote(edge) | Target::Direct(edge, _) => Some(edge),
            Target::Host(_, port) => {
                PUBLISHES.iter().find(|p| p.is_on_host() && p.host_port == port).map(|p| p.edge)
            }
        }
    }

    /// What flows have in common that share their ports.
    pub const fn conversation(self) -> (Proto, u8) {
        (self.proto, self.slot)
    }

    /// Names the way that the flow takes.
    pub fn path(self) -> &'static str {
        match (self.from.is_remote(), self.to, self.responder()) {
            (true, Target::Remote(_), _) => "transit",
            (true, Target::Host(..), _) => "published",
            (true, Target::Direct(Edge::U1, _), _) => "direct to unprotected",
            (true, Target::Direct(Edge::T1, _), _) => "direct to routed",
            (true, Target::Direct(Edge::X1, _), _) => "direct by a trusted uplink",
            (true, Target::Direct(..), _) => "direct",
            (false, Target::Remote(_), _)
                if self.from.place().is_some_and(|(network, _)| network.masquerade) =>
            {
                "egress"
            }
            (false, Target::Remote(_), _) => "egress as itself",
            (false, Target::Direct(to, _), _) if to.is_neighbour_of(self.from) => "neighbour",
            (false, Target::Direct(Edge::U1, _), _) => "other network, unprotected",
            (false, Target::Direct(Edge::T1, _), _) => "other network, routed",
            (false, Target::Direct(..), _) => "other network",
            (false, Target::Host(..), Some(to)) if to == self.from => "hairpin",
            (false, Target::Host(..), Some(to)) if to.is_neighbour_of(self.from) => {
                "neighbour's published port"
            }
            (false, Target::Host(..), _) => "other network's published port",
        }
    }

    /// Whether it dials the host's loopback address.
    pub fn to_loopback(self) -> bool {
        matches!(self.to, Target::Host(HostAddress::Loopback, _))
    }

    /// Returns the port dialled.
    pub const fn port(self) -> u16 {
        match self.to {
            Target::Remote(_) => 443,
            Target::Host(_, port) | Target::Direct(_, port) => port,
        }
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, flow) in self.flows.iter().enumerate() {
            writeln!(f, "  flow {index}: {flow} ({:?})", self.family)?;
        }
        for (index, event) in self.events.iter().enumerate() {
            let flow = self.flow_of(event);
            let (from, to) = match self.flows[flow].responder() {
                Some(responder) if event.back => (responder.to_string(), "opener".to_owned()),
                _ => (self.flows[flow].from.to_string(), "dialled".to_owned()),
            };
            writeln!(
                f,
                "  {index}: flow {flow}, {from} -> {to}: {}",
                event.describe(self.flows[flow].proto)
            )?;
        }
        Ok(())
    }
}

impl What {
    /// An empty packet; the flags are a TCP segment's.
    pub const fn packet(flags: u8) -> Self {
        Self::Packet { flags, length: 0 }
    }
}

impl Event {
    /// What the opener of the first flow sends.
    pub const fn there(what: What) -> Self {
        Self { flow: 0, back: false, what, twist: Twist::None }
    }

    /// What the dialled side of the first flow sends.
    pub const fn back(what: What) -> Self {
        Self { back: true, ..Self::there(what) }
    }

    /// The same with something odd about it.
    pub const fn but(self, twist: Twist) -> Self {
        Self { twist, ..self }
    }

    /// The same on another flow.
    pub const fn of(self, flow: u8) -> Self {
        Self { flow, ..self }
    }

    /// Names what is sent.
    pub const fn kind(&self, proto: Proto) -> &'static str {
        match (self.what, proto) {
            (What::Error { .. }, _) => "error",
            (What::Fragments { .. }, _) => "fragments",
            (What::Packet { .. }, Proto::Tcp) => "tcp",
            (What::Packet { .. }, Proto::Udp) => "udp",
            (What::Packet { .. }, Proto::Sctp) => "sctp",
            (What::Packet { .. }, Proto::Lite) => "lite",
            (What::Packet { .. }, Proto::Echo) => "echo",
            (What::Packet { .. }, Proto::Other(_)) => "other",
        }
    }

    fn describe(&self, proto: Proto) -> String {
        let what = match self.what {
            What::Packet { flags, length } if proto == Proto::Tcp => {
                format!("{} + {length} bytes", flags_text(flags))
            }
            What::Packet { flags, length } if proto == Proto::Sctp => {
                format!("chunk {} + {length} bytes", chunk_of(self.back, flags))
            }
            What::Packet { length, .. } => format!("packet of {length} bytes"),
            other => format!("{other:?}"),
        };
        if self.twist == Twist::None { what } else { format!("{what}, {:?}", self.twist) }
    }
}

/// Types of SCTP's chunks (RFC 9260 §3.2).
pub mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const HEARTBEAT: u8 = 4;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// The chunk that stands for TCP flags: what an association does where a connection would send these.
pub const fn chunk_of(back: bool, flags: u8) -> u8 {
    const SYN_ACK: u8 = flag::SYN | flag::ACK;
    const FIN_ACK: u8 = flag::FIN | flag::ACK;
    match (flags, back) {
        (flag::SYN, _) => chunk::INIT,
        (SYN_ACK, _) => chunk::INIT_ACK,
        (flag::ACK, false) => chunk::COOKIE_ECHO,
        (flag::ACK, true) => chunk::COOKIE_ACK,
        (FIN_ACK, false) => chunk::SHUTDOWN,
        (FIN_ACK, true) => chunk::SHUTDOWN_ACK,
        (flag::RST, _) => chunk::ABORT,
        (flags, _) if flags & (flag::RST | flag::FIN) == flag::RST | flag::FIN => chunk::SHUTDOWN_COMPLETE,
        (flags, _) if flags & flag::URG != 0 => chunk::HEARTBEAT,
        _ => chunk::DATA,
    }
}

/// Names TCP flags.
pub fn flags_text(flags: u8) -> String {
    let names = [
        (flag::SYN, "SYN"),
        (flag::FIN, "FIN"),
        (flag::RST, "RST"),
        (flag::PSH, "PSH"),
        (flag::ACK, "ACK"),
        (flag::URG, "URG"),
    ];
    let set: Vec<_> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "no flags".into() } else { set.join("|") }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from {} (source port #{}) to ", self.proto, self.from, self.slot)?;
        match self.to {
            Target::Remote(edge) => write!(f, "a machine beyond {edge}"),
            Target::Host(address, port) => write!(f, "the host's {address:?} port {port}"),
            Target::Direct(edge, port) => write!(f, "{edge}'s own address, port {port}"),
        }
    }
}
