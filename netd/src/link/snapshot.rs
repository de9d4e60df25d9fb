//! The host's links, addresses and routes at one moment, and what netd concludes from them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Error, Framing, HostAddress, HostLink, HostRoute, HostRule, LOCAL, Links, RuleDoes, address::Scope,
};
use crate::model::IfName;

/// The links, addresses and routes of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSnapshot {
    /// Every link.
    pub links: Vec<HostLink>,
    /// Every address.
    pub addresses: Vec<HostAddress>,
    /// Every route of every table; those of `local` only where a rule may suppress them.
    pub routes: Vec<HostRoute>,
    /// Every rule of IPv6 policy routing.
    pub rules6: Vec<HostRule>,
}

/// An interface through which the outside is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub ifname: IfName,
    /// Source of masqueraded IPv4 flows: the first address.
    pub ipv4: Option<Ipv4Addr>,
    /// Source of masqueraded IPv6 flows: a global address before a unique local one, none that expires or changes.
    pub ipv6: Option<Ipv6Addr>,
    /// In bytes.
    pub mtu: u32,
    /// Whether its packets begin with IP, without an Ethernet header.
    pub bare: bool,
}

impl Links {
    /// Reads links, addresses, rules and routes, each list undisturbed.
    ///
    /// # Errors
    /// `is_interrupted` when one was disturbed ten times in a row: conclude nothing, try again later.
    pub async fn snapshot(&self) -> Result<HostSnapshot, Error> {
        self.snapshot_with(self.links().await?).await
    }

    /// The same with links that were read already.
    ///
    /// # Errors
    /// As [`Links::snapshot`].
    pub async fn snapshot_with(&self, links: Vec<HostLink>) -> Result<HostSnapshot, Error> {
        let addresses = self.addresses(None).await?;
        // Rules before routes: of a table that a rule is about to be made for, no route is missing then.
        let rules6 = self.rules6().await?;
        let suppressed =
            rules6.iter().any(|rule| rule.suppresses.is_some() && rule.does == RuleDoes::Ask(LOCAL));
        let routes = if suppressed { self.routes().await? } else { self.routes_elsewhere().await? };
        Ok(HostSnapshot { links, addresses, routes, rules6 })
    }
}

/// Returns the interfaces through which the outside is reached, in the order of their indexes.
///
/// With names given, those that exist. Otherwise every one that has a global address or is the way of a route, is no port of
/// another (the bridge or bond above it has the address then), whose label does not start with netd's own, and that is not
/// an adopted bridge. Left out is what [`unserved`] returns.
pub fn uplinks(
    snapshot: &HostSnapshot,
    own_label_prefix: &str,
    adopted: &[IfName],
    only: &[IfName],
) -> Vec<Uplink> {
    let ways = ways(snapshot, own_label_prefix, adopted, only).filter(|link| link.framing != Framing::Other);
    let mut uplinks: Vec<Uplink> = ways.filter_map(|link| uplink(snapshot, link)).collect();
    uplinks.sort_by_key(|uplink| uplink.ifindex);
    uplinks
}

/// Returns the names of interfaces that lead outside, but whose packets no program of netd's can read: sandboxes do not get there.
pub fn unserved(
    snapshot: &HostSnapshot,
    own_label_prefix: &str,
    adopted: &[IfName],
    only: &[IfName],
) -> Vec<String> {
    let ways = ways(snapshot, own_label_prefix, adopted, only).filter(|link| link.framing == Framing::Other);
    ways.map(|link| link.name.clone()).collect()
}

fn ways<'a>(
    snapshot: &'a HostSnapshot,
    own_label_prefix: &str,
    adopted: &[IfName],
    only: &[IfName],
) -> impl Iterator<Item = &'a HostLink> {
    snapshot.links.iter().filter(move |link| {
        let named = |names: &[IfName]| names.iter().any(|ifname| ifname.as_str() == link.name);
        if !only.is_empty() {
            return named(only);
        }
        let labelled = link.alias.as_ref().is_some_and(|alias| alias.starts_with(own_label_prefix));
        let own = labelled || named(adopted);
        let addressed = || addresses_of(snapshot, link).any(|address| address.scope == Scope::Global);
        !link.loopback && link.master.is_none() && !own && (addressed() || is_routed(snapshot, link))
    })
}

/// Whether a route leads out by the link: without an address of its own, one of another interface is the source there (an "unnumbered" link).
fn is_routed(snapshot: &HostSnapshot, link: &HostLink) -> bool {
    snapshot.routes.iter().any(|route| leads_out(route, link.ifindex))
}

fn leads_out(route: &HostRoute, ifindex: u32) -> bool {
    // Every IPv6 link has routes to its link-local and multicast addresses.
    let of_the_link = match route.dst.addr() {
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_multicast(),
        IpAddr::V4(_) => false,
    };
    route.unicast && route.ways().any(|oif| oif == ifindex) && !of_the_link
}

fn uplink(snapshot: &HostSnapshot, link: &HostLink) -> Option<Uplink> {
    Some(Uplink {
        ifindex: link.ifindex,
        ifname: link.name.parse().ok()?,
        ipv4: masquerade4(addresses_of(snapshot, link)),
        ipv6: masquerade6(addresses_of(snapshot, link)),
        mtu: link.mtu,
        bare: link.framing == Framing::Bare,
    })
}

fn addresses_of<'a>(
    snapshot: &'a HostSnapshot,
    link: &HostLink,
) -> impl Iterator<Item = &'a HostAddress> + use<'a> {
    let ifindex = link.ifindex;
    snapshot.addresses.iter().filter(move |address| address.ifindex == ifindex)
}

/// The first primary address of global scope, as the kernel would choose (`inet_select_addr`, net/ipv4/devinet.c).
fn masquerade4<'a>(addresses: impl Iterator<Item = &'a HostAddress>) -> Option<Ipv4Addr> {
    addresses.filter(|address| address.scope == Scope::Global && !address.secondary).find_map(|address| {
        match address.net.addr() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }
    })
}

/// The address that lasts longest and reaches farthest; the first one of equals.
fn masquerade6<'a>(addresses: impl Iterator<Item = &'a HostAddress>) -> Option<Ipv6Addr> {
    let usable = addresses.filter(|address| address.scope == Scope::Global && !address.unusable);
    let ranked = usable.filter_map(|address| match address.net.addr() {
        IpAddr::V6(ip) => Some(((address.deprecated, ip.is_unique_local(), address.secondary), ip)),
        IpAddr::V4(_) => None,
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, ip)| ip)
}

/// Whether no IPv6 packet that leaves by one of these uplinks, each with its address, has a choice of sources (RFC 6724 §5): no route prefers one, and
/// each uplink has one address for it, which rules 2, 3 and 5 set before whatever the host has elsewhere; or it has none, and no route leads there.
pub fn has_sole_sources(
    snapshot: &HostSnapshot,
    mut uplinks: impl Iterator<Item = (u32, Option<Ipv6Addr>)>,
) -> bool {
    let routes = || snapshot.routes.iter().filter(|route| route.dst.addr().is_ipv6() && route.table != LOCAL);
    if routes().any(|route| route.source.is_some()) {
        return false;
    }
    uplinks.all(|(ifindex, source)| {
        let candidates = snapshot.addresses.iter().filter(|address| {
            let lasts = !address.unusable && !address.deprecated;
            address.ifindex == ifindex
                && address.scope == Scope::Global
                && address.net.addr().is_ipv6()
                && lasts
        });
        let candidates: Vec<IpAddr> = candidates.map(|address| address.net.addr()).collect();
        match source {
            Some(source) => candidates == [IpAddr::V6(source)],
            None => !routes().any(|route| leads_out(route, ifindex)),
        }
    })
}

/// Returns the addresses on which published ports answer: all but loopback ones, each once. Link-local ones are among them: a neighbour may know
/// the host by no other (truth table T41).
pub fn local_addresses(addresses: &[HostAddress]) -> Vec<IpAddr> {
    let mut local: Vec<IpAddr> =
        addresses.iter().map(|address| address.net.addr()).filter(|ip| !ip.is_loopback()).collect();
    local.sort_unstable();
    local.dedup();
    local
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv6 address on an interface.
    fn address(ifindex: u32, net: &str) -> HostAddress {
        HostAddress {
            ifindex,
            net: net.parse().expect("a network"),
            scope: Scope::Global,
            secondary: false,
            deprecated: false,
            unusable: false,
            ours: false,
        }
    }

    /// A route by an interface.
    fn route(oif: u32, dst: &str) -> HostRoute {
        HostRoute {
            dst: dst.parse().expect("a network"),
            gateway: None,
            oif: Some(oif),
            hops: Vec::new(),
            source: None,
            mtu: None,
            table: super::super::route::MAIN,
            protocol: 3,
            priority: 0,
            unicast: true,
        }
    }

    /// Whether a host with uplinks 2, which has `fd00:a::1`, and 3, which has none, leaves no choice.
    fn is_sole(more: impl FnOnce(&mut HostSnapshot)) -> bool {
        let mut snapshot = HostSnapshot {
            addresses: vec![
                address(2, "fd00:a::1/64"),
                HostAddress { scope: Scope::Link, ..address(2, "fe80::1/64") },
                address(2, "10.0.0.1/24"),
                address(2, "10.0.0.2/24"),
                address(9, "fd00:9::1/64"),
            ],
            routes: vec![route(2, "::/0"), route(3, "10.9.0.0/16"), route(3, "fe80::/64")],
            ..HostSnapshot::default()
        };
        more(&mut snapshot);
        let source = "fd00:a::1".parse().ok();
        has_sole_sources(&snapshot, [(2, source), (3, None)].into_iter())
    }

    #[test]
    fn an_uplink_with_one_address_leaves_no_choice() {
        assert!(is_sole(|_| ()), "whatever other interfaces have");
        let old = HostAddress { deprecated: true, ..address(2, "fd00:a::2/64") };
        let tentative = HostAddress { unusable: true, ..address(2, "fd00:a::3/64") };
        assert!(is_sole(|host| host.addresses.extend([old, tentative])));
    }

    #[test]
    fn another_address_or_a_route_that_prefers_one_is_a_choice() {
        assert!(!is_sole(|host| host.addresses.push(address(2, "2001:db8::1/64"))));
        assert!(!is_sole(|host| host.addresses[0].deprecated = true), "another interface's would be better");
        assert!(
            !is_sole(|host| host.routes.push(route(3, "2001:db8::/32"))),
            "an unnumbered link's is anybody's"
        );
        let preferred = HostRoute { source: "fd00:9::1".parse().ok(), ..route(2, "2001:db8::/32") };
        assert!(!is_sole(|host| host.routes.push(preferred)));
        let of_ipv4 = HostRoute { source: "10.0.0.2".parse().ok(), ..route(2, "10.8.0.0/16") };
        assert!(is_sole(|host| host.routes.push(of_ipv4)));
    }
}
