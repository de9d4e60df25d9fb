//! Addresses of both families as numbers, so that one body of code serves both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Returns the address as a number.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Returns the address of the family that has this number; IPv4 numbers beyond 32 bits lose their upper part.
#[expect(clippy::cast_possible_truncation, reason = "callers stay inside a prefix of the same family")]
pub(super) fn address(number: u128, ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::from_bits(number).into() } else { Ipv4Addr::from_bits(number as u32).into() }
}

/// Returns the first and the last address of a prefix.
pub(super) fn bounds(prefix: &IpNet) -> (u128, u128) {
    (number(prefix.network()), number(prefix.broadcast()))
}

/// Whether two prefixes share an address.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Whether a prefix is of IPv6.
pub(super) fn is_ipv6(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(_))
}
