//! The host's IPv6 policy routing, as far as the kernel's own look-up for programs does not follow it.

use ipnet::Ipv6Net;

/// How IPv6 packets of sandboxes find their way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rules {
    /// As `bpf_fib_lookup` says: no rule suppresses routes.
    #[default]
    Plain,
    /// By these, asked one after the other.
    Listed(Vec<RuleEntry>),
    /// By rules that cannot be followed, for this reason: nothing new leaves.
    Unknown(&'static str),
}

/// A rule of policy routing in the dataplane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleEntry {
    /// The sources it is for.
    pub src: Ipv6Net,
    /// The destinations it is for.
    pub dst: Ipv6Net,
    /// The mark it is for, and the bits of it that count.
    pub mark: (u32, u32),
    /// The device that packets come by; 0: any.
    pub iif: u32,
    /// First and last source port.
    pub sports: (u16, u16),
    /// First and last destination port.
    pub dports: (u16, u16),
    /// IP protocol number; 0: any.
    pub proto: u8,
    /// Traffic class without ECN; 0: any.
    pub class: u8,
    /// Whether it is for what the rest does not name.
    pub inverted: bool,
    /// The table it asks; None: there is no way.
    pub table: Option<u32>,
    /// Of a rule that suppresses routes: those of its table that count, each with its device (0: several).
    pub longer: Option<Vec<(Ipv6Net, u32)>>,
}
