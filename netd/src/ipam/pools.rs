//! Subnets for networks that name none: Docker's default pools, and a unique local prefix for IPv6.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::number::{address, bounds, is_ipv6, overlap};
use crate::model::Id;

/// A block of addresses that is cut into subnets of one size (Docker semantics A14, C1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultPool {
    /// The block.
    pub base: IpNet,
    /// Prefix length of each subnet.
    pub size: u8,
}

/// What a prefix means to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPrefixKind {
    /// A route leads there.
    Route,
    /// An interface has an address there.
    Address,
    /// A name server of the host.
    NameServer,
}

/// A prefix that the host itself uses, and that a network must therefore not take (Docker semantics C2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPrefix {
    /// The prefix.
    pub prefix: IpNet,
    /// What it is.
    pub kind: HostPrefixKind,
    /// The interface it belongs to, where there is one.
    pub device: Option<String>,
}

impl HostPrefix {
    /// Whether a network must stay clear of it.
    ///
    /// A default route takes nothing away, whether it is one route or two halves (`0.0.0.0/1` and `128.0.0.0/1`, as VPN
    /// clients install); IPv6 link-local prefixes exist on every interface.
    pub(super) fn is_taken(&self) -> bool {
        let link_local = matches!(self.prefix, IpNet::V6(v6) if v6.addr().is_unicast_link_local());
        self.prefix.prefix_len() > 1 && !link_local
    }
}

impl fmt::Display for HostPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            HostPrefixKind::Route => write!(f, "route {}", self.prefix)?,
            HostPrefixKind::Address => write!(f, "address {}", self.prefix)?,
            HostPrefixKind::NameServer => write!(f, "name server {}", self.prefix.addr())?,
        }
        self.device.as_ref().map_or(Ok(()), |device| write!(f, " dev {device}"))
    }
}

/// Returns Docker's default pools: 31 IPv4 subnets (moby `libnetwork/ipamutils`; Docker semantics C1).
pub fn docker_default_pools() -> Vec<DefaultPool> {
    let cut = |a, b, len, size| DefaultPool {
        base: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), len)),
        size,
    };
    vec![
        cut(172, 17, 16, 16),
        cut(172, 18, 16, 16),
        cut(172, 19, 16, 16),
        cut(172, 20, 14, 16),
        cut(172, 24, 14, 16),
        cut(172, 28, 14, 16),
        cut(192, 168, 16, 20),
    ]
}

/// Returns the instance's own /48 of unique local addresses, to be cut into /64 (Docker semantics C9; RFC 4193 §3.1).
///
/// The 40 bits of the global id are the lower ones of the first 64 of SHA-256 over the instance's id, as moby's
/// `deriveULABaseNetwork` takes them.
pub fn ula_pool(instance: &Id) -> DefaultPool {
    let hash = Sha256::digest(instance.as_str().as_bytes());
    let mut octets = [0_u8; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash[3..8]);
    DefaultPool { base: IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(octets), 48)), size: 64 }
}

/// Returns the first subnet of the pools of one family that overlaps none of `taken`.
pub fn free_subnet(pools: &[DefaultPool], ipv6: bool, taken: &[IpNet]) -> Option<IpNet> {
    pools.iter().filter(|pool| is_ipv6(&pool.base) == ipv6).find_map(|pool| free_in(pool, taken))
}

/// Jumps from each taken prefix to the first subnet behind it, so that the work grows with `taken` and not with the pool.
fn free_in(pool: &DefaultPool, taken: &[IpNet]) -> Option<IpNet> {
    let ipv6 = is_ipv6(&pool.base);
    let step_bits = u32::from(pool.base.max_prefix_len().checked_sub(pool.size)?);
    let (mut start, last) = bounds(&pool.base);
    while start <= last {
        let candidate = IpNet::new(address(start, ipv6), pool.size).ok()?;
        let Some(blocker) =
            taken.iter().filter(|prefix| overlap(prefix, &candidate)).max_by_key(|p| bounds(p).1)
        else {
            return Some(candidate);
        };
        let behind = bounds(blocker).1.max(bounds(&candidate).1).checked_add(1)?;
        start = round_up(behind, step_bits)?;
    }
    None
}

/// Rounds up to a multiple of 2^bits; None where that overflows.
fn round_up(number: u128, bits: u32) -> Option<u128> {
    let Some(step) = 1_u128.checked_shl(bits) else { return (number == 0).then_some(0) };
    number.checked_add(step - 1).map(|sum| sum & !(step - 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    #[test]
    fn default_pools_give_31_subnets_in_dockers_order() {
        let pools = docker_default_pools();
        let mut taken = Vec::new();
        while let Some(subnet) = free_subnet(&pools, false, &taken) {
            taken.push(subnet);
        }
        let texts: Vec<String> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(taken.len(), 31);
        assert_eq!(texts[0], "172.17.0.0/16");
        assert_eq!(texts[1], "172.18.0.0/16");
        assert_eq!(texts[14], "172.31.0.0/16");
        assert_eq!(texts[15], "192.168.0.0/20");
        assert_eq!(texts[30], "192.168.240.0/20");
    }

    #[test]
    fn a_taken_prefix_of_any_size_is_avoided() {
        let pools = docker_default_pools();
        for (taken, first) in [
            (&["172.17.0.0/16"][..], "172.18.0.0/16"),
            (&["172.16.0.0/12"], "192.168.0.0/20"),
            (&["172.17.9.9/32"], "172.18.0.0/16"),
            (&["172.16.0.0/12", "192.168.1.0/24", "192.168.17.0/24"], "192.168.32.0/20"),
        ] {
            let taken: Vec<IpNet> = taken.iter().map(|text| net(text)).collect();
            assert_eq!(free_subnet(&pools, false, &taken), Some(net(first)), "{taken:?}");
        }
        assert_eq!(free_subnet(&pools, false, &[net("0.0.0.0/0")]), None);
        assert_eq!(free_subnet(&pools, true, &[]), None);
    }

    #[test]
    fn an_instance_always_has_the_same_ula_prefix() {
        let id = Id::from_bytes(&[7; 32]);
        let pool = ula_pool(&id);
        assert_eq!(pool, ula_pool(&id));
        assert_ne!(pool, ula_pool(&Id::from_bytes(&[8; 32])));
        assert!(net("fd00::/8").contains(&pool.base) && pool.base.prefix_len() == 48);
        let first = free_subnet(&[pool], true, &[]).expect("free");
        let second = free_subnet(&[pool], true, &[first]).expect("free");
        assert_eq!(first.network(), pool.base.network());
        assert!(first != second && pool.base.contains(&second) && second.prefix_len() == 64);
    }

    #[test]
    fn a_pool_at_the_end_of_the_address_space_ends() {
        let pool = DefaultPool { base: net("255.255.255.252/30"), size: 31 };
        let taken = [net("255.255.255.254/31")];
        assert_eq!(free_subnet(&[pool], false, &taken), Some(net("255.255.255.252/31")));
        assert_eq!(free_subnet(&[pool], false, &[net("255.255.255.252/30")]), None);
        let all = DefaultPool { base: net("::/0"), size: 64 };
        assert_eq!(free_subnet(&[all], true, &[net("::/0")]), None);
    }

    #[test]
    fn a_million_subnets_are_searched_by_jumps() {
        let pool = DefaultPool { base: net("10.0.0.0/8"), size: 28 };
        assert_eq!(free_subnet(&[pool], false, &[net("10.0.0.0/9")]), Some(net("10.128.0.0/28")));
    }

    proptest! {
        #[test]
        fn a_free_subnet_overlaps_nothing_and_is_the_first(
            blocks in prop::collection::vec((0_u8..=255, 18_u8..=26), 0..12)
        ) {
            let taken: Vec<IpNet> = blocks.iter()
                .map(|(octet, len)| net(&format!("10.1.{octet}.0/{len}")).trunc()).collect();
            let pool = DefaultPool { base: net("10.1.0.0/16"), size: 24 };
            let clear = |subnet: &IpNet| taken.iter().all(|prefix| !overlap(prefix, subnet));
            let expected = pool.base.subnets(24).expect("longer").find(clear);
            prop_assert_eq!(free_subnet(&[pool], false, &taken), expected);
        }
    }
}
