//! Flows: the two entries of each, and the rings of those that nobody has confirmed.

use crate::{
    family::Address,
    net::{Addr4, Addr6, Be16, IfIndex, Mac, Zone},
};

/// One direction of a flow as seen in a zone: the key of `FLOW4` and `FLOW6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port; see [`crate::wire::Headers`] for protocols without ports.
    pub sport: Be16,
    /// Destination port.
    pub dport: Be16,
    /// Where it is seen.
    pub zone: Zone,
    /// IP protocol number.
    pub proto: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// What to do with packets of one direction of a flow. Constant after creation but for `epoch`, the way out, `seen` and `last_seen`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow<A> {
    /// The configuration epoch its route was found in; another one: ask again.
    pub epoch: u32,
    /// `flow_flags`.
    pub flags: u16,
    /// TCP flags seen in this direction, or'ed.
    pub seen: u8,
    /// Always zero.
    pub pad: u8,
    /// Source address after translation.
    pub src: A,
    /// Destination address after translation.
    pub dst: A,
    /// Source port after translation.
    pub sport: Be16,
    /// Destination port after translation.
    pub dport: Be16,
    /// The way out: host side of a veth, or an uplink; `lo` for the host itself.
    pub out: IfIndex,
    /// What checksums over addresses change by.
    pub addr_delta: u32,
    /// What checksums over ports change by.
    pub port_delta: u32,
    /// Ethernet destination towards a sandbox.
    pub dmac: Mac,
    /// Largest IP packet the way out takes, in bytes; 0: any.
    pub mtu: u16,
    /// Ethernet source towards a sandbox.
    pub smac: Mac,
    /// TCP: upper half of what this direction acknowledged in the first segment of its last tick.
    pub acked: u16,
    /// Next hop on the uplink.
    pub nexthop: A,
    /// The same random number in both directions of a flow.
    pub generation: u32,
    /// When its last packet came, in ticks; 0: none came.
    pub last_seen: u32,
    /// When it was made, in ticks.
    pub created: u32,
}

/// Bits of [`Flow::flags`].
pub mod flow_flags {
    /// This is the direction that opened the flow.
    pub const ORIGINAL: u16 = 1 << 0;
    /// Addresses or ports change.
    pub const TRANSLATE: u16 = 1 << 1;
    /// The way out is the host side of a veth; else it is an uplink.
    pub const TO_SANDBOX: u16 = 1 << 2;
    /// It crosses a router: TTL goes down by one.
    pub const ROUTED: u16 = 1 << 3;
    /// The source port was allocated by netd.
    pub const MASQUERADED: u16 = 1 << 4;
    /// A port that is open on the sandbox's own address let it in.
    pub const OPENED: u16 = 1 << 6;
    /// A link or a policy between two sandboxes let it in.
    pub const LINKED: u16 = 1 << 7;
    /// In `FLOW6`: the sandbox has IPv4 alone, and its packets are exchanged for those of their mapped addresses.
    pub const AS_IPV4: u16 = 1 << 5;
}

impl<A: Address> Tuple<A> {
    /// Returns the key of the other direction of the flow that this key leads to.
    #[inline(always)]
    pub fn counterpart(&self, flow: &Flow<A>) -> Self {
        let kept = flow.flags & flow_flags::TO_SANDBOX != 0 || flow.out == crate::net::LOOPBACK_ZONE;
        let zone = if kept { flow.out } else { crate::net::UPLINK_ZONE };
        Self {
            src: flow.dst,
            dst: flow.src,
            sport: flow.dport,
            dport: flow.sport,
            zone,
            proto: self.proto,
            pad: [0; 3],
        }
    }
}

impl Tuple<Addr4> {
    /// Returns the tuple with mapped addresses.
    #[inline(always)]
    pub const fn mapped(&self) -> Tuple<Addr6> {
        Tuple {
            src: Addr6::mapped(self.src),
            dst: Addr6::mapped(self.dst),
            sport: self.sport,
            dport: self.dport,
            zone: self.zone,
            proto: self.proto,
            pad: self.pad,
        }
    }
}

impl Tuple<Addr6> {
    /// Returns the tuple that one with mapped addresses stands for.
    #[inline(always)]
    pub fn as_mapped(&self) -> Option<Tuple<Addr4>> {
        Some(Tuple {
            src: self.src.as_mapped()?,
            dst: self.dst.as_mapped()?,
            sport: self.sport,
            dport: self.dport,
            zone: self.zone,
            proto: self.proto,
            pad: self.pad,
        })
    }
}

/// A place in an endpoint's ring of its latest flows: the key of `PENDING4` and `PENDING6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Host side of the endpoint's veth.
    pub ifindex: IfIndex,
    /// Position in the ring.
    pub number: u32,
}

/// Who holds a place: a flow, by its opener's entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending<A> {
    /// The key of the opener's entry.
    pub original: Tuple<A>,
    /// The flow's generation.
    pub generation: u32,
}

/// What goes on at an endpoint, by the index of its veth's host side: `PACE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The next place of a flow.
    pub place: u32,
    /// The tick that `resets` counts.
    pub tick: u32,
    /// Resets that netd has answered in that tick.
    pub resets: u32,
}

/// What a packet was addressed to that the host's stack was given to answer: the value of `HANDED4` and `HANDED6`, by the tuple, in
/// [`crate::net::HANDED_ZONE`], that answers it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed<A> {
    /// The address that its sender dialled.
    pub addr: A,
    /// The port.
    pub port: Be16,
    /// Always zero.
    pub pad: u16,
    /// When it was handed over, in ticks.
    pub since: u32,
}
