//! Checks requested pools with Docker's words and fills in what was left open (Docker semantics C3 to C8).

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{
    DefaultPool, HostPrefix,
    addresses::{first_free, reserved_as},
    free_subnet,
    number::{is_ipv6, overlap},
};
use crate::{
    controller::{Code, Error, PoolRequest},
    model::{Ipam, Network, Pool},
};

/// What a new pool must keep clear of, and where pools come from that nobody named.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// Every network there is.
    pub networks: &'a [&'a Network],
    /// Routes, addresses and name servers of the host; netd's own bridges left out.
    pub host: &'a [HostPrefix],
    /// Pools of both families, tried in order.
    pub default_pools: &'a [DefaultPool],
}

/// The families a network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// Families in which the bridge has no address, so that none is set aside (gateway mode `isolated`; B9, B11).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WithoutGateway {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// Turns the requested pools into a network's: one for each family it has.
///
/// Requests for a family that is switched off are dropped, as Docker drops them.
///
/// # Errors
/// `Usage` for contradictions in the request, `Forbidden` (Docker's 403) for an overlap with another network, `Conflict` for
/// one with the host, `Conflict` when every default pool is taken.
pub fn plan_pools(
    requests: &[PoolRequest],
    families: Families,
    without_gateway: WithoutGateway,
    world: &World<'_>,
) -> Result<Ipam, Error> {
    let mut pools = Vec::new();
    for (ipv6, wanted, skip) in
        [(false, families.ipv4, without_gateway.ipv4), (true, families.ipv6, without_gateway.ipv6)]
    {
        if wanted {
            pools.push(plan_family(requests, ipv6, skip, world)?);
        }
    }
    Ok(Ipam { pools })
}

fn plan_family(requests: &[PoolRequest], ipv6: bool, skip: bool, world: &World<'_>) -> Result<Pool, Error> {
    if let Some(request) = requests.iter().find(|request| request.subnet.is_none() && !is_empty(request)) {
        let what =
            request.gateway.map(|ip| ip.to_string()).or(request.ip_range.map(|range| range.to_string()));
        let hint = format!("add --subnet with the subnet of {}", what.as_deref().unwrap_or("the address"));
        let message = "every ip-range, gateway or aux-address must have a corresponding subnet";
        return Err(Error::new(Code::Usage, message).hint(hint));
    }
    let mut of_family = requests.iter().filter_map(|request| {
        request.subnet.filter(|subnet| is_ipv6(subnet) == ipv6).map(|subnet| (subnet, request))
    });
    let Some((subnet, request)) = of_family.next() else { return automatic(ipv6, skip, world) };
    if of_family.next().is_some() {
        let message = "bridge driver doesn't support multiple subnets";
        return Err(Error::new(Code::Usage, message).hint("give at most one IPv4 and one IPv6 subnet"));
    }
    check(&subnet, request)?;
    check_free(&subnet, world)?;
    requested(&subnet, request, skip)
}

fn is_empty(request: &PoolRequest) -> bool {
    request.gateway.is_none() && request.ip_range.is_none() && request.aux.is_empty()
}

/// Takes the first default pool that nobody uses.
fn automatic(ipv6: bool, skip: bool, world: &World<'_>) -> Result<Pool, Error> {
    let networks =
        world.networks.iter().flat_map(|network| network.ipam.pools.iter().map(|pool| pool.subnet));
    let host = world.host.iter().filter(|prefix| prefix.is_taken()).map(|prefix| prefix.prefix);
    let taken: Vec<IpNet> = networks.chain(host).collect();
    let subnet = free_subnet(world.default_pools, ipv6, &taken).ok_or_else(|| {
        Error::new(Code::Conflict, "all predefined address pools have been fully subnetted").hint(
            "remove unused networks with `netd network prune`, name a --subnet, or set default-address-pools",
        )
    })?;
    let gateway = if skip { None } else { first_free(&subnet, &BTreeSet::new()) };
    Ok(Pool { subnet, ip_range: None, gateway, aux: std::collections::BTreeMap::new(), configured: false })
}

/// Builds the pool of a checked request and reserves its gateway.
fn requested(subnet: &IpNet, request: &PoolRequest, skip: bool) -> Result<Pool, Error> {
    let aux: BTreeSet<IpAddr> = request.aux.values().copied().collect();
    let gateway = match request.gateway {
        Some(gateway) => Some(gateway),
        None if skip => None,
        None => Some(first_free(subnet, &aux).ok_or_else(|| {
            Error::new(Code::Usage, format!("subnet {subnet} has no address left for the gateway"))
        })?),
    };
    Ok(Pool {
        subnet: *subnet,
        ip_range: request.ip_range,
        gateway,
        aux: request.aux.clone(),
        configured: true,
    })
}

/// Checks a request in itself and reports everything that is wrong with it in one line.
fn check(subnet: &IpNet, request: &PoolRequest) -> Result<(), Error> {
    let mut wrong = Vec::new();
    if *subnet != subnet.trunc() {
        wrong.push(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
    }
    wrong.extend(unusable(subnet).map(|why| format!("invalid subnet {subnet}: {why}")));
    if let Some(range) = &request.ip_range {
        wrong.extend(
            check_range(range, subnet).into_iter().map(|why| format!("invalid ip-range {range}: {why}")),
        );
    }
    if let Some(gateway) = request.gateway {
        wrong.extend(check_address(gateway, subnet).map(|why| format!("invalid gateway {gateway}: {why}")));
    }
    let mut seen: BTreeSet<IpAddr> = request.gateway.into_iter().collect();
    for (name, address) in &request.aux {
        if let Some(why) = check_address(*address, subnet) {
            wrong.push(format!("invalid auxiliary address {name}: {why}"));
        } else if !seen.insert(*address) {
            wrong.push(format!(
                "failed to allocate secondary ip address ({name}:{address}): Address already in use"
            ));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::new(Code::Usage, wrong.join("; "))) }
}

/// Returns why no network can have this subnet at all.
fn unusable(subnet: &IpNet) -> Option<&'static str> {
    let (first, last) = (subnet.network(), subnet.broadcast());
    let link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if subnet.prefix_len() == 0 {
        Some("it covers every address there is")
    } else if first.is_multicast() || last.is_multicast() {
        Some("multicast addresses cannot be assigned to an interface")
    } else if first.is_loopback() || last.is_loopback() || first.is_unspecified() {
        Some("loopback and unspecified addresses never leave a host")
    } else if link_local(first) || link_local(last) {
        Some("it clashes with the link-local prefix fe80::/64, which every interface has")
    } else {
        None
    }
}

fn check_range(range: &IpNet, subnet: &IpNet) -> Vec<String> {
    if is_ipv6(range) != is_ipv6(subnet) {
        return vec![wrong_family(subnet)];
    }
    let mut wrong = Vec::new();
    if range.prefix_len() < subnet.prefix_len() {
        wrong.push(format!("CIDR block is bigger than its parent subnet {subnet}"));
    }
    if *range != range.trunc() {
        wrong.push(format!("it should be {}", range.trunc()));
    }
    if !overlap(range, subnet) {
        wrong.push(format!("parent subnet {subnet} doesn't contain ip-range"));
    }
    wrong
}

fn check_address(address: IpAddr, subnet: &IpNet) -> Option<String> {
    if address.is_ipv6() != is_ipv6(subnet) {
        Some(wrong_family(subnet))
    } else if !subnet.contains(&address) {
        Some(format!("parent subnet {subnet} doesn't contain this address"))
    } else {
        reserved_as(subnet, address).map(|what| format!("it is the {what} of subnet {subnet}"))
    }
}

fn wrong_family(subnet: &IpNet) -> String {
    format!("parent subnet is an {} block", if is_ipv6(subnet) { "IPv6" } else { "IPv4" })
}

/// Checks that neither another network nor the host uses a part of the subnet.
fn check_free(subnet: &IpNet, world: &World<'_>) -> Result<(), Error> {
    for network in world.networks {
        if let Some(pool) = network.ipam.pools.iter().find(|pool| overlap(&pool.subnet, subnet)) {
            let message = format!(
                "Pool overlaps with other one on this address space: {subnet} overlaps {} of network {}",
                pool.subnet, network.name
            );
            return Err(Error::new(Code::Forbidden, message).hint("`netd network ls` lists the networks"));
        }
    }
    // The most specific one says best what the user would lose.
    let blockers = world.host.iter().filter(|host| host.is_taken() && overlap(&host.prefix, subnet));
    match blockers.max_by_key(|host| host.prefix.prefix_len()) {
        Some(host) => {
            let message = format!("subnet {subnet} overlaps {host} of the host");
            Err(Error::new(Code::Conflict, message)
                .hint("choose another --subnet, or none for a free default one"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
