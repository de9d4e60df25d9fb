//! Who is where: endpoints, their networks, the uplinks, and who may talk to whom.

use crate::net::{Addr4, Addr6, Be16, IfIndex, Mac};

/// An endpoint, by the index of its veth's host side: `ENDPOINT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// `endpoint_flags`.
    pub flags: u32,
    /// Slot of its network.
    pub network: u16,
    /// The only Ethernet source it may use.
    pub mac: Mac,
    /// The only IPv4 source it may use; zero: none.
    pub addr4: Addr4,
    /// IPv4 netmask of its network.
    pub mask4: Addr4,
    /// The bridge's IPv4 address.
    pub gateway4: Addr4,
    /// Bit `port & 63` is set for each of its published ports: only then can a reply need un-DNAT.
    pub published: [u32; 2],
    /// The only global IPv6 source it may use; zero: none.
    pub addr6: Addr6,
    /// IPv6 netmask of its network.
    pub mask6: Addr6,
    /// The bridge's IPv6 address.
    pub gateway6: Addr6,
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flags {
    /// It exists.
    pub const ACTIVE: u32 = 1 << 0;
    /// Sandboxes of its network may talk to each other.
    pub const ICC: u32 = 1 << 1;
    /// Nothing enters or leaves its network.
    pub const INTERNAL: u32 = 1 << 2;
    /// Its network's IPv4 egress takes the host's address.
    pub const MASQUERADE4: u32 = 1 << 3;
    /// The same for IPv6.
    pub const MASQUERADE6: u32 = 1 << 4;
    /// Both families' egress takes the host's address.
    pub const MASQUERADE: u32 = MASQUERADE4 | MASQUERADE6;
    /// Gateway mode `routed` in IPv4: its opened ports are reached by its own address.
    pub const ROUTED4: u32 = 1 << 5;
    /// The same for IPv6.
    pub const ROUTED6: u32 = 1 << 6;
    /// Gateway mode `nat-unprotected` in IPv4: everything is reached by its own address.
    pub const UNPROTECTED4: u32 = 1 << 7;
    /// The same for IPv6.
    pub const UNPROTECTED6: u32 = 1 << 8;
    /// `TRUST` names interfaces that may reach opened ports of its network directly.
    pub const TRUSTS: u32 = 1 << 9;
    /// Its network reaches no service of the host but those that `OPEN4` and `OPEN6` name by the bridge's address.
    pub const HOST_CLOSED: u32 = 1 << 11;
    /// Sandboxes of its network may be linked, and policies say who talks to whom: `LINK4` and `LINK6` know.
    pub const LINKS: u32 = 1 << 10;
    /// Its network's published ports show every sandbox that comes through the host as the gateway (`netd.hairpin_source=gateway`).
    pub const SEEN_AS_GATEWAY: u32 = 1 << 12;
    /// The same ports show sandboxes of other networks too as themselves (`netd.hairpin_source=client`).
    pub const SEEN_AS_CLIENT: u32 = 1 << 13;
    /// Sandboxes of its network may use addresses that are nobody's here (`netd.anti_spoofing=false`).
    pub const ANY_SOURCE: u32 = 1 << 14;
    /// Its `from_endpoint` becomes a link and is a filter still: what passes the one does not meet the other.
    pub const PROMOTION: u32 = 1 << 15;
    /// Its bridge is netd's own, which gives multicast to every port.
    pub const OWN_BRIDGE: u32 = 1 << 16;
}

/// Who has an address: `ADDRESS4` and `ADDRESS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Host side of the endpoint's veth.
    pub ifindex: IfIndex,
    /// Slot of its network.
    pub network: u16,
    /// The endpoint's address on the link.
    pub mac: Mac,
    /// `endpoint_flags`.
    pub flags: u32,
}

/// Where a network stands in `NETWORK`: the value of `SUBNET4` and `SUBNET6`, by the prefix.
pub type Slot = u32;

/// A bridge network: `NETWORK`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The bridge's index.
    pub bridge: IfIndex,
    /// `endpoint_flags` that its endpoints inherit.
    pub flags: u32,
    /// The bridge's address on the link.
    pub mac: Mac,
    /// Always zero.
    pub pad: u16,
    /// The bridge's IPv4 address.
    pub gateway4: Addr4,
    /// Fixed source of masqueraded IPv4 flows; zero: the uplink's.
    pub source4: Addr4,
    /// The bridge's IPv6 address.
    pub gateway6: Addr6,
    /// Fixed source of masqueraded IPv6 flows; zero: the uplink's.
    pub source6: Addr6,
}

/// A device through which the outside is reached: `UPLINK`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Source of masqueraded IPv4 flows; zero: none.
    pub addr4: Addr4,
    /// Source of masqueraded IPv6 flows; zero: none.
    pub addr6: Addr6,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// An interface that may reach a network's opened ports directly: the key of `TRUST`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustKey {
    /// Slot of the network.
    pub network: u32,
    /// The interface.
    pub ifindex: IfIndex,
}

/// What a link or a policy opens between two sandboxes of one network: the key of `LINK4` and `LINK6`. The value is `link_by`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkKey<A> {
    /// Address of the sandbox that may open connections; unspecified: every one on its network.
    pub src: A,
    /// Address of the sandbox it is linked to.
    pub dst: A,
    /// Port there; 0: every one.
    pub port: Be16,
    /// IP protocol number; 0: every one, and every port.
    pub proto: u8,
    /// Always zero.
    pub pad: u8,
}

/// Bits of the values of `LINK4` and `LINK6`: who opened it. It is open while one bit is set.
pub mod link_by {
    /// A sandbox's link.
    pub const LINK: u32 = 1 << 0;
    /// A policy of the network.
    pub const POLICY: u32 = 1 << 1;
}
