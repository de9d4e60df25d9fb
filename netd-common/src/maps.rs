//! Every key and value that the programs and the daemon share, their names and sizes.
//!
//! All types are `repr(C)` without padding, checked at compile time: hash maps compare keys byte by byte.

use crate::{
    family::Address,
    net::{Addr4, Addr6, Be16, IfIndex, Mac, Zone},
    wire::fragment::Coverage,
};

/// Version of everything below, and of the meaning of each field; it is part of the pin path.
pub const LAYOUT: u32 = 1;

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

/// A rule of the host's IPv6 policy routing, as `ip -6 rule` shows it: `RULE6`, by its place among those that count.
///
/// Kept only while a rule suppresses what its table answers: `bpf_fib_lookup` knows that of IPv4's rules alone (`fib6_rule_suppress`, net/ipv6/fib6_rules.c,
/// looks at a `rt6_info`, which that helper does not make).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule6 {
    /// The source, under its mask.
    pub src: Addr6,
    /// Bits of the source that count.
    pub src_mask: Addr6,
    /// The destination, under its mask.
    pub dst: Addr6,
    /// Bits of the destination that count.
    pub dst_mask: Addr6,
    /// The packet's mark, under its mask.
    pub mark: u32,
    /// Bits of the mark that count.
    pub mark_mask: u32,
    /// The device it came by; 0: any.
    pub iif: IfIndex,
    /// The table that it asks.
    pub table: u32,
    /// First and last source port, in host order.
    pub sports: [u16; 2],
    /// First and last destination port, in host order.
    pub dports: [u16; 2],
    /// IP protocol number; 0: any.
    pub proto: u8,
    /// Traffic class without its ECN bits; 0: any.
    pub class: u8,
    /// `rule_flags`.
    pub flags: u16,
}

/// Bits of [`Rule6::flags`].
pub mod rule_flags {
    /// It is for packets of which the rest is not true.
    pub const INVERT: u16 = 1 << 0;
    /// It asks no table: there is no way.
    pub const FORBIDS: u16 = 1 << 1;
    /// Of its table's routes those alone count that `LONGER6` has.
    pub const SUPPRESSES: u16 = 1 << 2;
}

/// A route that a rule which suppresses others lets pass: the data of `LONGER6` keys, behind its length, which counts the rule's 32 bits too. The
/// value is its device; 0: several.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// The rule's place in `RULE6`.
    pub rule: u32,
    /// Where the route leads.
    pub addr: Addr6,
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

/// An interface that may reach a network's opened ports directly: the key of `TRUST`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustKey {
    /// Slot of the network.
    pub network: u32,
    /// The interface.
    pub ifindex: IfIndex,
}

/// A fragmented datagram as seen in a zone: the key of `DATAGRAM4` and `DATAGRAM6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// The datagram's identification.
    pub id: u32,
    /// Where it is seen.
    pub zone: Zone,
    /// IP protocol number; zero in IPv6, where the fragments of one datagram may differ in it (RFC 8200 §4.5).
    pub proto: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// What is known of a fragmented datagram whose first fragment has been seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagram {
    /// Source port.
    pub sport: Be16,
    /// Destination port.
    pub dport: Be16,
    /// IP protocol number of its transport.
    pub proto: u8,
    /// `datagram_flags`.
    pub flags: u8,
    /// Its length in units of eight bytes; 0: the last fragment has not been seen.
    pub units: u16,
    /// When a fragment was last seen, in ticks.
    pub last_seen: u32,
    /// What has been seen.
    pub covered: Coverage,
}

/// Bits of [`Datagram::flags`].
pub mod datagram_flags {
    /// Nothing of it is missing: what comes under its identification belongs to a new one.
    pub const COMPLETE: u8 = 1 << 0;
    /// It goes to the host's stack, whatever its ports are.
    pub const STRAY: u8 = 1 << 1;
}

/// A later fragment that waits for its first: an element of `HELD`. What it carries lies at the same index of `HELD_BYTES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `held::FREE`, `BUSY` or `READY`.
    pub state: u32,
    /// When it came, in ticks.
    pub since: u32,
    /// The device it came by.
    pub device: IfIndex,
    /// Its length from the IP header on, in bytes.
    pub length: u32,
    /// Its datagram, IPv4 addresses as mapped ones.
    pub key: FragmentKey<Addr6>,
}

/// How waiting fragments are kept: on shelves of so many places each. A shelf is a ring: its newest fragment takes the place of its oldest.
pub mod held {
    /// Nothing is there.
    pub const FREE: u32 = 0;
    /// A program is about to fill or to clear it.
    pub const BUSY: u32 = 1;
    /// A fragment waits.
    pub const READY: u32 = 2;

    /// Shelves: half of them for what comes from outside, by sender, half for sandboxes. A flood empties one shelf.
    pub const SHELVES: u32 = 8;
    /// Places of a shelf: a reversed datagram of 64 KiB in fragments for Ethernet takes 44.
    pub const PLACES: u32 = 64;
    /// Most bytes of a fragment from the IP header on: the largest frames in use (9,000 bytes), and room.
    pub const BYTES: usize = 9_216;
    const _: () = assert!(SHELVES.is_power_of_two() && PLACES.is_power_of_two());
}

/// Ticks (two seconds) after which a datagram is forgotten that nothing is added to. The kernel waits for 30 s (`ipfrag_time`), on slow links too;
/// nothing puts fragments out of order by more than a fraction of a second, and identifications come back (RFC 4963).
pub const DATAGRAM_IDLE: u32 = 30;

/// A prefix: the data of `SUBNET4` and `SUBNET6` keys lie behind its length.
pub type Slot = u32;

/// What the dialled address of a host socket was: the key of `DIALLED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DialledKey {
    /// The socket's cookie, as two words.
    pub cookie: [u32; 2],
    /// The backend's address, IPv4 as a mapped one.
    pub addr: Addr6,
    /// The backend's port.
    pub port: Be16,
    /// IP protocol number.
    pub proto: u16,
}

/// The address and port that a host process dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialled {
    /// The dialled address, IPv4 as a mapped one.
    pub addr: Addr6,
    /// The dialled port.
    pub port: Be16,
    /// One of [`names`].
    pub names: u16,
}

/// By how many names a socket knows a backend.
pub mod names {
    /// By what is kept.
    pub const ONE: u16 = 0;
    /// Unconnected, by what is kept first, then by others.
    pub const SEVERAL: u16 = 1;
    /// By its own address, perhaps after others.
    pub const ITS_OWN: u16 = 2;
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

/// What a source may still open: `OPENINGS4`, `OPENINGS6` (see `guard`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// When it was last filled up.
    pub tick: u32,
    /// What is in it.
    pub tokens: u32,
}

/// Ticks: 2^26 ns (67.1 ms) of the coarse monotonic clock since boot. 32 bits last nine years.
pub const TICK_SHIFT: u32 = 26;

/// Timeouts of flows, in ticks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, SYN seen.
    pub tcp_syn_sent: u32,
    /// TCP, SYN and SYN+ACK seen.
    pub tcp_syn_recv: u32,
    /// TCP, open.
    pub tcp_established: u32,
    /// TCP, one side closed.
    pub tcp_closing: u32,
    /// TCP, both sides closed.
    pub tcp_closed: u32,
    /// TCP, reset.
    pub tcp_reset: u32,
    /// UDP without an answer yet.
    pub udp: u32,
    /// UDP, answered.
    pub udp_replied: u32,
    /// UDP, answered by a name server.
    pub udp_dns: u32,
    /// ICMP echo.
    pub icmp: u32,
    /// Other protocols.
    pub other: u32,
}

/// An inclusive range of host ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRange {
    /// First port, in host order.
    pub first: u16,
    /// Number of ports; 0: unused.
    pub count: u16,
}

/// Ranges of ports for masqueraded flows.
pub const PORT_RANGES: usize = 4;

/// What all programs read: `CONFIG`, one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Goes up with each change of routes or links.
    pub epoch: u32,
    /// `features`.
    pub features: u32,
    /// Cookie of the namespace netd works in, as two words.
    pub netns_cookie: [u32; 2],
    /// Key of the port choice.
    pub secret: u32,
    /// Sum of the counts of `ports`.
    pub port_count: u32,
    /// Where masqueraded flows take their ports.
    pub ports: [PortRange; PORT_RANGES],
    /// Timeouts of flows.
    pub timeouts: Timeouts,
    /// Bit `Address::filter_bit` is set when an IPv4 subnet of netd may have the address.
    pub filter4: [u32; 8],
    /// The same for IPv6.
    pub filter6: [u32; 8],
    /// IPv4 flows that one endpoint may pay for.
    pub quota4: u32,
    /// The same for IPv6, whose table is smaller.
    pub quota6: u32,
    /// Places of one endpoint's latest IPv4 flows, less one: a mask.
    pub places4: u32,
    /// The same for IPv6.
    pub places6: u32,
    /// A packet whose mark is this under the mask may reach a sandbox that is addressed directly (`bridge-accept-fwmark`).
    pub accept_mark: u32,
    /// Bits of the mark that count; 0: no mark does.
    pub accept_mask: u32,
    /// Rules in `RULE6`; 0: what `bpf_fib_lookup` answers counts; `UNKNOWN_RULES`.
    pub rules6: u32,
    /// Connections a second that one source may open through the guard of an uplink; 0: any number.
    pub opening_rate: u32,
}

/// [`Config::rules6`]: nobody here knows by which rules IPv6 is routed, so that nothing new leaves.
pub const UNKNOWN_RULES: u32 = u32::MAX;

/// Bits of [`Config::features`].
pub mod features {
    /// `bpf_redirect_peer` makes the packet the host's own (kernel c43272299488); else netd has to.
    pub const PEER_SCRUBS: u32 = 1 << 0;
    /// `bpf_l4_csum_replace` knows `BPF_F_IPV6` (kernel ead7f9b8de65).
    pub const CSUM_IPV6: u32 = 1 << 1;
    /// Opened ports are reached directly on every network (`allow-direct-routing`).
    pub const DIRECT_ROUTING: u32 = 1 << 2;
    /// A published port is open to the outside where the host's own input rules let its packets in (`respect_host_firewall`).
    pub const ASKS_HOST: u32 = 1 << 3;
    /// Of the daemon alone: its programs are before those of others on uplinks (`tcx_order`).
    pub const UPLINKS_FIRST: u32 = 1 << 4;
    /// Programs are about to be exchanged for those of another layout: no flow is opened that the others would not know. Its place is the same in
    /// every layout.
    pub const CHANGING: u32 = 1 << 7;
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

/// Default sizes; the daemon's configuration changes those of flows and publishes.
pub mod capacity {
    /// `FLOW4`: two entries a flow.
    pub const FLOW4: u32 = 262_144;
    /// `FLOW6`.
    pub const FLOW6: u32 = 65_536;
    /// `PENDING4`: as many as flows.
    pub const PENDING4: u32 = FLOW4 / 2;
    /// `PENDING6`.
    pub const PENDING6: u32 = FLOW6 / 2;
    /// `ENDPOINT`, `USAGE`, `PACE`: interface indexes below this.
    pub const ENDPOINT: u32 = 65_536;
    /// `ADDRESS4`, `ADDRESS6`.
    pub const ADDRESS: u32 = 16_384;
    /// `NETWORK`.
    pub const NETWORK: u32 = 4_096;
    /// `SUBNET4`, `SUBNET6`.
    pub const SUBNET: u32 = 8_192;
    /// `LOCAL4`, `LOCAL6`.
    pub const LOCAL: u32 = 8_192;
    /// `PUBLISH4`, `PUBLISH6`: every port of both protocols once.
    pub const PUBLISH: u32 = 131_072;
    /// `OPEN4`, `OPEN6`.
    pub const OPEN: u32 = 131_072;
    /// `ALLOW4`, `ALLOW6`.
    pub const ALLOW: u32 = 65_536;
    /// `ASKED4`, `ASKED6`.
    pub const ASKED: u32 = 8_192;
    /// `HANDED4`, `HANDED6`: entries live for the moment that the stack takes.
    pub const HANDED: u32 = 1_024;
    /// `INPUT4`, `INPUT6`: entries have to outlive the packets between a program and the host's sockets, of which a processor has some
    /// thousand at most (`netdev_max_backlog`).
    pub const INPUT: u32 = 8_192;
    /// `DENY4`, `DENY6`.
    pub const DENY: u32 = 65_536;
    /// `OPENINGS4`, `OPENINGS6`: sources that open connections at the same time.
    pub const OPENINGS: u32 = 8_192;
    /// `LINK4`, `LINK6`.
    pub const LINK: u32 = 65_536;
    /// `TRUST`.
    pub const TRUST: u32 = 4_096;
    /// `VIA`.
    pub const VIA: u32 = 16_384;
    /// `UPLINK`.
    pub const UPLINK: u32 = 256;
    /// `RULE6`: the verifier walks them all.
    pub const RULE6: u32 = 32;
    /// `LONGER6`: the routes of a host, not of a router of the Internet.
    pub const LONGER6: u32 = 16_384;
    /// `DIALLED`.
    pub const DIALLED: u32 = 65_536;
    /// `DATAGRAM4`, `DATAGRAM6`.
    pub const DATAGRAM: u32 = 16_384;
    /// `HELD`, `HELD_BYTES`.
    pub const HELD: u32 = super::held::SHELVES * super::held::PLACES;
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

/// Asserts that a type's size is the sum of its fields: no hidden padding.
macro_rules! no_padding {
    ($($type:ty = $($size:expr),+;)*) => { $( const _: () = assert!(size_of::<$type>() == 0 $(+ $size)+); )* };
}
no_padding! {
    Tuple<Addr4> = 4, 4, 2, 2, 4, 1, 3;
    Tuple<Addr6> = 16, 16, 2, 2, 4, 1, 3;
    Flow<Addr4> = 8, 4, 4, 4, 4, 8, 8, 8, 4, 12;
    Flow<Addr6> = 8, 16, 16, 4, 4, 8, 8, 8, 16, 12;
    Endpoint = 4, 2, 6, 4, 4, 4, 8, 16, 16, 16;
    Owner = 4, 2, 6, 4;
    Network = 4, 4, 6, 2, 4, 4, 16, 16;
    Uplink = 4, 16, 4;
    PublishKey<Addr4> = 4, 2, 1, 1;
    PublishKey<Addr6> = 16, 2, 1, 1;
    Publish<Addr4> = 4, 4, 2, 2, 4, 4;
    Publish<Addr6> = 16, 4, 2, 2, 4, 4;
    Open = 4, 4, 4;
    ViaKey = 4, 4;
    AllowKey<Addr4> = 4, 4;
    AllowKey<Addr6> = 4, 16;
    LinkKey<Addr4> = 4, 4, 2, 1, 1;
    LinkKey<Addr6> = 16, 16, 2, 1, 1;
    TrustKey = 4, 4;
    Rule6 = 64, 16, 8, 4;
    RouteKey = 4, 16;
    FragmentKey<Addr4> = 4, 4, 4, 4, 1, 3;
    FragmentKey<Addr6> = 16, 16, 4, 4, 1, 3;
    Datagram = 2, 2, 1, 1, 2, 4, 16;
    Held = 16, 44;
    DialledKey = 8, 16, 2, 2;
    Dialled = 16, 2, 2;
    Handed<Addr4> = 4, 2, 2, 4;
    Handed<Addr6> = 16, 2, 2, 4;
    Hearing = 4, 4, 4;
    Config = 4, 4, 8, 4, 4, 16, 44, 32, 32, 16, 4, 4, 4, 4;
    Place = 4, 4;
    Pending<Addr4> = 20, 4;
    Pending<Addr6> = 44, 4;
    Pace = 4, 4, 4;
    Allowance = 4, 4;
}
// One cache line: an established IPv4 packet touches one entry.
const _: () = assert!(size_of::<Flow<Addr4>>() == 64);

/// Plain data for the daemon's map handles.
#[cfg(feature = "user")]
mod user {
    use super::*;
    macro_rules! pod {
        ($($type:ty),*) => { $(
            // SAFETY: repr(C), `Copy`, no padding (asserted above), every bit pattern is a value of every field.
            unsafe impl aya::Pod for $type {}
        )* };
    }
    pod!(
        Tuple<Addr4>,
        Tuple<Addr6>,
        Flow<Addr4>,
        Flow<Addr6>,
        Endpoint,
        Owner,
        Network,
        Uplink,
        PublishKey<Addr4>,
        PublishKey<Addr6>,
        Publish<Addr4>,
        Publish<Addr6>,
        Open,
        ViaKey,
        AllowKey<Addr4>,
        AllowKey<Addr6>,
        LinkKey<Addr4>,
        LinkKey<Addr6>,
        TrustKey,
        Rule6,
        RouteKey,
        DialledKey,
        Dialled,
        Held,
        Config,
        Allowance,
        Place,
        Pending<Addr4>,
        Pending<Addr6>,
        Pace,
        Handed<Addr4>,
        Handed<Addr6>,
        Hearing,
        crate::monitor::Sighting,
        Addr4,
        Addr6
    );
}
