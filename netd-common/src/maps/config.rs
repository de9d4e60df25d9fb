//! What all programs read, and what the guard counts by.

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
    /// No IPv6 destination outside has a choice of sources: each uplink has one address that could be it, and no route prefers another.
    pub const SOLE_SOURCE6: u32 = 1 << 5;
    /// Programs are about to be exchanged for those of another layout: no flow is opened that the others would not know. Its place is the same in
    /// every layout.
    pub const CHANGING: u32 = 1 << 7;
}

/// [`Config::rules6`]: nobody here knows by which rules IPv6 is routed, so that nothing new leaves.
pub const UNKNOWN_RULES: u32 = u32::MAX;

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

/// What a source may still open: `OPENINGS4`, `OPENINGS6` (see `guard`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// When it was last filled up.
    pub tick: u32,
    /// What is in it.
    pub tokens: u32,
}
