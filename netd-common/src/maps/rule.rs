//! The host's IPv6 policy routing.

use crate::net::{Addr6, IfIndex};

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
