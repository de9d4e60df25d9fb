//! Addresses of endpoints: always the lowest free one, as Docker's local pools do (Docker semantics C7).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::number::{address, bounds, number};
use crate::{
    controller::{Code, Error},
    model::{Network, Pool, Sandbox},
};

/// How full a pool is (Docker semantics C10); counts end at `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Addresses of the subnet that are taken: gateway, reserved and auxiliary addresses, endpoints.
    pub in_use: u64,
    /// Addresses that can still be handed out without being asked for by name.
    pub dynamic_available: u64,
}

/// Returns every address in use on a network: its gateways, auxiliary addresses and those of the sandboxes' endpoints on it.
pub fn used_addresses<'a>(
    network: &Network,
    sandboxes: impl IntoIterator<Item = &'a Sandbox>,
) -> BTreeSet<IpAddr> {
    let pools = network.ipam.pools.iter();
    let own = pools.flat_map(|pool| pool.gateway.into_iter().chain(pool.aux.values().copied()));
    let endpoints = sandboxes.into_iter().filter_map(|sandbox| sandbox.endpoint_on(&network.id));
    let theirs = endpoints.flat_map(|endpoint| {
        let ipv4 = endpoint.ipv4.map(|net| IpAddr::V4(net.addr()));
        ipv4.into_iter().chain(endpoint.ipv6.map(|net| IpAddr::V6(net.addr())))
    });
    own.chain(theirs).collect()
}

/// Returns the lowest free address of a pool, from its range where it has one; None: all are in use.
pub fn allocate(pool: &Pool, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let (first, last) = dynamic_bounds(pool)?;
    let ipv6 = pool.subnet.addr().is_ipv6();
    let mut candidate = first;
    for taken in used.range(address(first, ipv6)..=address(last, ipv6)) {
        if number(*taken) != candidate {
            break;
        }
        candidate = candidate.checked_add(1)?;
    }
    (candidate <= last).then(|| address(candidate, ipv6))
}

/// Checks that a requested address is in the network's subnet and free.
///
/// # Errors
/// `Usage` outside the subnets; `Conflict` when it is in use or reserved, with Docker's words (Docker semantics D1).
pub fn claim(network: &Network, wanted: IpAddr, used: &BTreeSet<IpAddr>) -> Result<(), Error> {
    let Some(pool) = network.pool_for(wanted.is_ipv6()).filter(|pool| pool.subnet.contains(&wanted)) else {
        let message = format!("no configured subnet contains IP address {wanted}");
        let subnets: Vec<String> = network.ipam.pools.iter().map(|pool| pool.subnet.to_string()).collect();
        let hint = format!("network {} has {}", network.name, subnets.join(" and "));
        return Err(Error::new(Code::Usage, message).hint(hint));
    };
    let in_use = || {
        Error::new(Code::Conflict, format!("Address already in use: {wanted} on network {}", network.name))
    };
    if let Some(what) = reserved_as(&pool.subnet, wanted) {
        return Err(in_use().hint(format!("{wanted} is the {what} of {}", pool.subnet)));
    }
    if pool.gateway == Some(wanted) {
        return Err(in_use().hint(format!("{wanted} is the network's gateway")));
    }
    if used.contains(&wanted) { Err(in_use()) } else { Ok(()) }
}

/// Chooses the addresses of a new endpoint, taking those asked for, with the network's prefix lengths.
///
/// # Errors
/// As `claim`; also on the default network, which takes no requests (Docker semantics D1), and when a pool is full.
pub fn endpoint_addresses(
    network: &Network,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    used: &BTreeSet<IpAddr>,
) -> Result<(Option<Ipv4Net>, Option<Ipv6Net>), Error> {
    if network.is_default_bridge() && (ipv4.is_some() || ipv6.is_some()) {
        let message = "user-specified IP address is supported on user-defined networks only";
        return Err(Error::new(Code::Usage, message)
            .hint("create a network with `netd network create` and attach to that one"));
    }
    let mut chosen = (None, None);
    for (is_ipv6, wanted) in [(false, ipv4.map(IpAddr::V4)), (true, ipv6.map(IpAddr::V6))] {
        match choose(network, is_ipv6, wanted, used)? {
            Some(IpNet::V4(net)) => chosen.0 = Some(net),
            Some(IpNet::V6(net)) => chosen.1 = Some(net),
            None => {}
        }
    }
    Ok(chosen)
}

/// Chooses one address of a family; None: the network does not have that family.
fn choose(
    network: &Network,
    ipv6: bool,
    wanted: Option<IpAddr>,
    used: &BTreeSet<IpAddr>,
) -> Result<Option<IpNet>, Error> {
    if let Some(wanted) = wanted {
        claim(network, wanted, used)?;
    }
    let Some(pool) = network.pool_for(ipv6) else { return Ok(None) };
    let full = || {
        let (family, name, id) = (if ipv6 { "IPv6" } else { "IPv4" }, &network.name, network.id.short());
        let text = format!("no available {family} addresses on this network's address pools: {name} ({id})");
        Error::new(Code::Conflict, text)
    };
    let address = wanted.or_else(|| allocate(pool, used)).ok_or_else(full)?;
    Ok(IpNet::new(address, pool.subnet.prefix_len()).ok())
}

/// Returns the default gateway that endpoints use: the auxiliary address `DefaultGatewayIPv4` or `DefaultGatewayIPv6` where
/// there is one, else the bridge's own (Docker semantics A4, C6).
pub fn default_gateway(pool: &Pool) -> Option<IpAddr> {
    let name = if pool.subnet.addr().is_ipv6() { "DefaultGatewayIPv6" } else { "DefaultGatewayIPv4" };
    pool.aux.get(name).copied().or(pool.gateway)
}

/// Counts the addresses in use and those left.
pub fn pool_status(pool: &Pool, used: &BTreeSet<IpAddr>) -> PoolStatus {
    let reserved = (Bounds::of(&pool.subnet), usable_bounds(&pool.subnet));
    let held_back = reserved.0.len() - reserved.1.map_or(0, Bounds::len);
    let taken = |bounds: Option<Bounds>| bounds.map_or(0, |bounds| bounds.count(used, pool));
    let dynamic = dynamic_bounds(pool).map(|(first, last)| Bounds { first, last });
    let saturated = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
    PoolStatus {
        in_use: saturated(held_back + taken(reserved.1)),
        dynamic_available: saturated(dynamic.map_or(0, Bounds::len) - taken(dynamic)),
    }
}

/// Returns why an address of a subnet is never handed out (Docker semantics C8): an IPv4 subnet's first and last address
/// unless it is a /31 or /32 (RFC 3021), and every IPv6 subnet's first, its anycast address (RFC 4291 §2.6.1).
pub(super) fn reserved_as(subnet: &IpNet, address: IpAddr) -> Option<&'static str> {
    match subnet {
        IpNet::V4(v4) if v4.prefix_len() >= 31 => None,
        IpNet::V4(_) if address == subnet.network() => Some("network address"),
        IpNet::V4(_) if address == subnet.broadcast() => Some("broadcast address"),
        IpNet::V6(_) if address == subnet.network() => Some("anycast address"),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

/// Returns the lowest address of a subnet that is neither reserved nor in `used`.
pub(super) fn first_free(subnet: &IpNet, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let pool = Pool {
        subnet: *subnet,
        ip_range: None,
        gateway: None,
        aux: std::collections::BTreeMap::new(),
        configured: false,
    };
    allocate(&pool, used)
}

/// First and last address of a block, both included.
#[derive(Clone, Copy)]
struct Bounds {
    first: u128,
    last: u128,
}

impl Bounds {
    fn of(prefix: &IpNet) -> Self {
        let (first, last) = bounds(prefix);
        Self { first, last }
    }

    /// Saturates: the whole IPv6 address space has one address more than fits.
    fn len(self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    fn count(self, used: &BTreeSet<IpAddr>, pool: &Pool) -> u128 {
        let ipv6 = pool.subnet.addr().is_ipv6();
        used.range(address(self.first, ipv6)..=address(self.last, ipv6)).count() as u128
    }
}

/// Returns what of a subnet can be handed out at all; None: nothing.
fn usable_bounds(subnet: &IpNet) -> Option<Bounds> {
    let Bounds { mut first, mut last } = Bounds::of(subnet);
    if reserved_as(subnet, subnet.network()).is_some() {
        first = first.checked_add(1)?;
    }
    if reserved_as(subnet, subnet.broadcast()).is_some() {
        last = last.checked_sub(1)?;
    }
    (first <= last).then_some(Bounds { first, last })
}

/// Returns what of a pool is handed out without being asked for by name; None: nothing.
fn dynamic_bounds(pool: &Pool) -> Option<(u128, u128)> {
    let usable = usable_bounds(&pool.subnet)?;
    let range = Bounds::of(pool.ip_range.as_ref().unwrap_or(&pool.subnet));
    let (first, last) = (usable.first.max(range.first), usable.last.min(range.last));
    (first <= last).then_some((first, last))
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
