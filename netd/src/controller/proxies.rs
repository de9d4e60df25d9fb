//! Answers for sandboxes on the links outside, where their addresses lie in an uplink's own network: neighbours there ask for them and need no route
//! (`netd.neighbour_proxy`, dataplane 7.5 walk 13).
//!
//! The kernel answers, so that it goes on while no daemon runs: IPv4 by proxy ARP for single addresses, IPv6 by proxied neighbour advertisements,
//! which a setting of the interface has to allow.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Code, CreateNetwork, Error, World, apply::Machine, host::HostView, task::Controller};
use crate::{
    ipam::{HostPrefix, HostPrefixKind},
    link::Proxy,
    model::{BridgeOptions, GatewayMode, Network, parse_bool},
};

/// What lets the host answer for others in IPv6, where there are entries. The setting of a single interface is not enough: who asks the very address
/// whether it is still there is answered by this one alone (`ip6_forward`, `net/ipv6/ip6_output.c`).
pub const PROXY_NDP: &str = "ipv6/conf/all/proxy_ndp";

impl<M: Machine> Controller<M> {
    /// Follows the world, once somebody has looked at the host: of one that nobody knows yet every entry would seem to be left over.
    pub(super) async fn follow_proxies(&mut self, anew: bool) {
        if self.proxies.is_some() || self.rounds.proxies_failing {
            self.sync_proxies(anew).await;
        }
    }

    /// Brings what the host answers for in step with the world; `anew` also when nothing is known to have changed. What fails is tried again.
    pub(super) async fn sync_proxies(&mut self, anew: bool) {
        let wanted = wanted(&self.world, &self.host);
        if self.proxies.as_ref() == Some(&wanted) && (!anew || wanted.is_empty()) {
            return;
        }
        let result = self.answer_for(&wanted).await;
        self.proxies = result.is_ok().then_some(wanted);
        let failing = std::mem::replace(&mut self.rounds.proxies_failing, result.is_err());
        if let Err(error) = result
            && !failing
        {
            tracing::warn!(%error, "neighbours outside are not answered for sandboxes");
        }
    }

    /// Answers for nobody any more.
    pub(super) async fn answer_for_nobody(&mut self) -> Result<(), Error> {
        self.proxies = None;
        self.answer_for(&BTreeSet::new()).await
    }

    async fn answer_for(&mut self, wanted: &BTreeSet<Proxy>) -> Result<(), Error> {
        let of_ipv6 = wanted.iter().any(|(_, ip)| ip.is_ipv6());
        if of_ipv6 && self.machine.setting(PROXY_NDP).await?.as_deref() == Some("0") {
            self.store.remember_sysctl(PROXY_NDP, "0")?;
            self.machine.set(PROXY_NDP, "1").await?;
        }
        self.machine.answer_for(wanted).await?;
        if let Some(before) = self.store.meta().sysctls.get(PROXY_NDP).filter(|_| !of_ipv6).cloned()
            && self.machine.setting(PROXY_NDP).await?.is_some_and(|present| present != before)
        {
            self.machine.set(PROXY_NDP, &before).await?;
        }
        Ok(())
    }

    /// Whether the host can answer for a new network's sandboxes at all.
    ///
    /// # Errors
    /// `Usage` where nobody would ask, or the kernel would not answer.
    pub(super) async fn check_proxies(&mut self, network: &Network) -> Result<(), Error> {
        if !network.bridge.neighbour_proxy {
            return Ok(());
        }
        let subnets: Vec<IpNet> = network
            .ipam
            .pools
            .iter()
            .map(|pool| pool.subnet)
            .filter(|subnet| is_direct(network, subnet.addr().is_ipv6()))
            .collect();
        let by: BTreeSet<(u32, bool)> = subnets
            .iter()
            .flat_map(|subnet| {
                let around = self.host.on_link.iter().filter(move |(_, net)| net.contains(subnet));
                around.map(move |(ifindex, net)| (*ifindex, net.addr().is_ipv6()))
            })
            .collect();
        if by.is_empty() {
            let text = format!(
                "netd.neighbour_proxy: no uplink's own network contains {}, so that nobody asks there for its addresses",
                subnets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" or ")
            );
            return Err(Error::new(Code::Usage, text)
                .hint("choose a --subnet within one, or route the subnet to this host"));
        }
        if let Some(own) =
            self.host.local.iter().find(|own| subnets.iter().any(|subnet| subnet.contains(*own)))
        {
            let text = format!("netd.neighbour_proxy: the host's own address {own} lies in the subnet");
            return Err(
                Error::new(Code::Conflict, text).hint("choose a --subnet of addresses that nobody has")
            );
        }
        for (ifindex, ipv6) in by {
            let Some(uplink) = self.host.uplinks.iter().find(|uplink| uplink.ifindex == ifindex) else {
                continue;
            };
            let key = format!("ipv{}/conf/{}/forwarding", if ipv6 { 6 } else { 4 }, uplink.ifname);
            if self.machine.setting(&key).await?.as_deref() == Some("0") {
                let text = format!(
                    "netd.neighbour_proxy: {} does not forward, and so the kernel answers for nobody there",
                    uplink.ifname
                );
                let name = key.replace('/', ".");
                return Err(Error::new(Code::Usage, text).hint(format!(
                    "sysctl net.{name}=1{}",
                    if ipv6 {
                        ", with accept_ra=2 where its routes come by router advertisements"
                    } else {
                        ""
                    }
                )));
            }
        }
        Ok(())
    }
}

/// Leaves out of what the host uses itself the networks of uplinks that a new one is meant to lie in.
pub(super) fn allow_within(host: &mut Vec<HostPrefix>, request: &CreateNetwork, view: &HostView) {
    let asked =
        request.options.get(BridgeOptions::NEIGHBOUR_PROXY).is_some_and(|it| parse_bool(it) == Ok(true));
    if !asked {
        return;
    }
    let subnets: Vec<IpNet> = request.pools.iter().filter_map(|pool| pool.subnet).collect();
    host.retain(|used| {
        let around = |subnet: &IpNet| used.prefix.contains(subnet) && used.prefix != *subnet;
        let of_an_uplink = view.on_link.iter().any(|(_, net)| *net == used.prefix);
        used.kind == HostPrefixKind::NameServer || !of_an_uplink || !subnets.iter().any(around)
    });
}

/// Whether a network's sandboxes are addressed directly from outside, in this family.
pub(super) fn is_direct(network: &Network, ipv6: bool) -> bool {
    let bridge = &network.bridge;
    let (mode, has) = if ipv6 {
        (bridge.gateway_mode_ipv6, network.ipv6)
    } else {
        (bridge.gateway_mode_ipv4, network.ipv4)
    };
    has && !network.internal && matches!(mode, GatewayMode::Routed | GatewayMode::NatUnprotected)
}

/// Returns what the host has to answer for: addresses of sandboxes within an uplink's own network.
fn wanted(world: &World, host: &HostView) -> BTreeSet<Proxy> {
    let asked = world.networks().filter(|network| network.bridge.neighbour_proxy);
    let endpoints = asked.flat_map(|network| {
        world.endpoints_on(&network.id).flat_map(move |(_, endpoint)| {
            super::flows::addresses(endpoint).filter(move |ip| is_direct(network, ip.is_ipv6()))
        })
    });
    endpoints
        .flat_map(|ip| {
            let around = host.on_link.iter().filter(move |(_, net)| net.contains(&ip));
            around.map(move |(ifindex, _)| (*ifindex, ip))
        })
        .collect()
}
