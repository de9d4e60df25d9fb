//! Published and opened ports, and who may come to them.

use crate::net::{Be16, IfIndex};

/// A published port: the key of `PUBLISH4` and `PUBLISH6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublishKey<A> {
    /// A host address; unspecified: every local one.
    pub addr: A,
    /// Port on the host.
    pub port: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// Always zero.
    pub pad: u8,
}

/// Where a published port leads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publish<A> {
    /// The endpoint's address; unspecified while the port is only reserved. In IPv6 a mapped one for an IPv4-only sandbox.
    pub backend: A,
    /// Host side of the endpoint's veth.
    pub ifindex: IfIndex,
    /// Port there.
    pub port: Be16,
    /// Slot of its network.
    pub network: u16,
    /// Who may come: a list in `ALLOW4` and `ALLOW6`; 0: everybody.
    pub allow: u32,
    /// By which interfaces of the host the outside comes: a list in `VIA`; 0: by all.
    pub via: u32,
}

/// A port that is open on a sandbox's own address: the value of `OPEN4` and `OPEN6`, by that address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Host side of the endpoint's veth.
    pub ifindex: IfIndex,
    /// Who may come: a list in `ALLOW4` and `ALLOW6`; 0: everybody.
    pub allow: u32,
    /// By which interfaces of the host the outside comes: a list in `VIA`; 0: by all.
    pub via: u32,
}

/// An interface that a list names: the key of `VIA`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViaKey {
    /// The list.
    pub list: u32,
    /// The interface.
    pub ifindex: IfIndex,
}

/// A source that a list allows: the data of `ALLOW4` and `ALLOW6` keys, behind its length, which counts the list's 32 bits too.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllowKey<A> {
    /// The list.
    pub list: u32,
    /// The address.
    pub addr: A,
}

/// What the host's own input rules say of a packet from outside to a published port: the value of `INPUT4` and `INPUT6`, by its tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hearing {
    /// `hearing::ASKED` or `ACCEPTED`.
    pub state: u32,
    /// When a packet was last given to the rules, in ticks.
    pub since: u32,
    /// How many were in that tick.
    pub asked: u32,
}

/// States of a [`Hearing`].
pub mod hearing {
    /// The rules have been given a packet.
    pub const ASKED: u32 = 1;
    /// They have let one through.
    pub const ACCEPTED: u32 = 2;
}

/// A set of ports, one bit each.
pub type PortSet = [u32; 2048];

/// Indexes of `PORTS`: a set of ports per protocol and purpose.
pub mod port_set {
    use crate::wire::l4;

    /// Published on an IPv4 address: guarded against host sockets and never given to a masqueraded flow.
    pub const PUBLISHED4: u32 = 0;
    /// The same for IPv6 addresses.
    pub const PUBLISHED6: u32 = 1;
    /// A packet to this port may belong to a flow: published, or in a range of masqueraded ports.
    pub const INTEREST: u32 = 2;
    /// Never given to a masqueraded flow: ports of reflectable services and of tunnels.
    pub const EXCLUDED: u32 = 3;
    /// Ports below 1024 that masqueraded flows have kept. The programs alone write it; it only grows.
    pub const KEPT: u32 = 4;
    /// Number of sets of a protocol.
    pub const PURPOSES: u32 = 5;
    /// Number of sets.
    pub const COUNT: u32 = 4 * PURPOSES;

    /// Returns the index of a protocol's set; None: the protocol has no ports.
    pub const fn index(purpose: u32, proto: u8) -> Option<u32> {
        match proto {
            l4::TCP => Some(purpose),
            l4::UDP => Some(PURPOSES + purpose),
            1 | 58 => Some(2 * PURPOSES + purpose),
            l4::SCTP => Some(3 * PURPOSES + purpose),
            _ => None,
        }
    }
}
