//! Keeps the packet path in step with the host: its own addresses, its uplinks, its routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Error, FlowShare, Status, World, apply::Machine, task::Controller};
use crate::{
    audit,
    dataplane::{self, Dataplane, Occupancy, Rules, UplinkEntry},
    link::HostRoute,
    model::{Driver, IfName},
};

/// Endpoints that `status` names for their entries in the flow tables.
const FULLEST: usize = 16;

/// What the packet path has to know of the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostView {
    /// Interfaces through which the outside is reached.
    pub uplinks: Vec<UplinkEntry>,
    /// Interfaces that lead outside, but not for sandboxes: no program can read their packets.
    pub unserved: Vec<String>,
    /// Addresses on which published ports answer.
    pub local: Vec<IpAddr>,
    /// Routes that are not by netd's own interfaces.
    pub routes: Vec<HostRoute>,
    /// Rules by which sandboxes' IPv6 packets find their way; None: nobody has looked yet.
    pub rules: Option<Rules>,
    /// Whether what leaves by IPv6 has no choice of sources: see [`crate::link::has_sole_sources`].
    pub sole_source6: bool,
    /// Links that carry this instance's label, and adopted bridges.
    pub own: BTreeSet<String>,
    /// Those of them that are switched on.
    pub up: BTreeSet<String>,
    /// Those of them that are ports of a bridge, with its name.
    pub ports: BTreeMap<String, String>,
    /// Their addresses.
    pub addresses: BTreeSet<(String, IpNet)>,
    /// What neighbours of uplinks ask for there instead of a router: interface and network, where it has link addresses at all.
    pub on_link: BTreeSet<(u32, IpNet)>,
    /// Every link by name, with its index: networks may trust some of them, and ports be open to some of them.
    pub links: BTreeMap<String, u32>,
}

/// One link of the host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkView {
    /// Its index.
    pub ifindex: u32,
    /// Whether it carries a label of netd's.
    pub labelled: bool,
    /// Whether it is switched on.
    pub up: bool,
    /// Index of what it is a port of.
    pub master: Option<u32>,
    /// Its addresses.
    pub addresses: BTreeSet<IpNet>,
}

impl HostView {
    /// Whether a bridge of netd's own is as it was when the host was read.
    pub fn knows(&self, ifname: &IfName, bridge: &LinkView) -> bool {
        let name = ifname.as_str();
        let known = self.addresses.iter().filter(|(on, _)| on == name).map(|(_, net)| net);
        bridge.labelled
            && bridge.master.is_none()
            && self.own.contains(name)
            && self.links.get(name) == Some(&bridge.ifindex)
            && self.up.contains(name) == bridge.up
            && known.eq(&bridge.addresses)
    }

    /// Notes how one of netd's own links is now, and the bridge that it is on.
    pub fn note(&mut self, ifname: &IfName, link: &LinkView, bridge: Option<&IfName>) {
        self.forget(ifname.as_str());
        let name = ifname.to_string();
        self.links.insert(name.clone(), link.ifindex);
        self.own.insert(name.clone());
        if link.up {
            self.up.insert(name.clone());
        }
        self.ports.extend(bridge.map(|bridge| (name.clone(), bridge.to_string())));
        self.addresses.extend(link.addresses.iter().map(|net| (name.clone(), *net)));
    }

    /// Forgets one of netd's own links.
    pub fn forget(&mut self, name: &str) {
        self.links.remove(name);
        self.own.remove(name);
        self.up.remove(name);
        self.ports.remove(name);
        self.addresses.retain(|(on, _)| on != name);
    }
}

impl<M: Machine> Controller<M> {
    /// Brings the packet path in step. What fails now is tried again at the next change, and after a pause.
    pub(super) async fn sync_host(&mut self) {
        let networks = self.world.networks().filter(|network| network.driver == Driver::Bridge);
        let bridges: Vec<IfName> = networks.map(|network| network.bridge.ifname.clone()).collect();
        let result = match self.machine.host(&bridges).await {
            Ok(view) => self.follow(view),
            Err(error) => Err(error),
        };
        if result.is_ok() {
            self.sync_proxies(false).await;
        }
        if let Err(error) = result
            && self.unfinished.note(format!("follow the host's addresses and routes: {error}"))
        {
            tracing::warn!(%error, "the packet path is not in step with the host's addresses and routes");
        }
    }

    pub(super) fn tell_flows_of_routes(&mut self) {
        if let Err(error) = self.machine.dataplane(|dataplane| dataplane.routes_changed()) {
            tracing::warn!(%error, "flows were not told of new routes");
        }
    }

    fn follow(&mut self, view: HostView) -> Result<(), Error> {
        let old = std::mem::take(&mut self.host);
        for ifname in view.unserved.iter().filter(|ifname| !old.unserved.contains(ifname)) {
            tracing::warn!(
                ifname,
                "sandboxes cannot leave by this interface: its packets begin with neither Ethernet nor IP"
            );
        }
        if let Some(Rules::Unknown(why)) = view.rules
            && view.rules != old.rules
        {
            tracing::warn!(
                why,
                "one IPv6 rule suppresses routes and another is not followed: nothing new leaves"
            );
        }
        let trusted = trusted(&self.world, &view.links);
        let result = self.machine.dataplane(|dataplane| {
            step(dataplane, &old, &view)?;
            dataplane.set_links(&view.links)?;
            dataplane.set_trusted(&trusted)
        });
        // After a failure, all that was new is tried again.
        self.host = if result.is_ok() { view } else { old };
        Ok(result?)
    }

    pub(super) fn status(&mut self) -> Status {
        let uplinks = self.host.uplinks.iter().map(|uplink| {
            let addresses: Vec<String> =
                sources(std::slice::from_ref(uplink)).iter().map(IpAddr::to_string).collect();
            format!("{} ({})", uplink.ifname, addresses.join(", "))
        });
        let unserved = self.host.unserved.iter().map(|ifname| format!("{ifname} (not served)"));
        let uplinks = uplinks.chain(unserved).collect();
        let (features, flows) =
            self.machine.dataplane(|dataplane| (dataplane.features(), dataplane.occupancy()));
        let flows = flows.unwrap_or_else(|error| {
            tracing::warn!(%error, "the flow tables could not be measured");
            Occupancy::default()
        });
        Status {
            map_looks: self.rounds.tampering.looks(),
            audit: audit::State::default(),
            fullest: fullest(&self.world, &self.host.links, &flows),
            flows,
            instance: self.settings.instance.clone(),
            state: self
                .degraded
                .as_deref()
                .or(self.unfinished.why())
                .map_or_else(|| "ready".to_owned(), |why| format!("degraded: {why}")),
            networks: self.world.networks().filter(|network| network.driver == Driver::Bridge).count(),
            sandboxes: self.world.sandboxes().len(),
            published_ports: self.world.sandboxes().map(|sandbox| sandbox.bindings.len()).sum(),
            uplinks,
            local_addresses: self.host.local.iter().copied().filter(|ip| !is_link_local(*ip)).collect(),
            features: features.into_iter().chain(self.host.rules.as_ref().and_then(in_words)).collect(),
        }
    }
}

/// Returns who takes most of the flow tables.
fn fullest(world: &World, links: &BTreeMap<String, u32>, flows: &Occupancy) -> Vec<FlowShare> {
    let endpoints = world
        .sandboxes()
        .flat_map(|sandbox| sandbox.endpoints.iter().map(move |endpoint| (sandbox, endpoint)));
    let shares = endpoints.filter_map(|(sandbox, endpoint)| {
        let entries = *flows.by_endpoint.get(links.get(endpoint.host_ifname.as_str())?)?;
        let network = world.network_by_id(&endpoint.network)?.name.to_string();
        (entries > 0).then(|| FlowShare { sandbox: sandbox.name.to_string(), network, entries })
    });
    let mut shares: Vec<FlowShare> = shares.collect();
    shares.sort_by(|a, b| b.entries.cmp(&a.entries).then_with(|| a.sandbox.cmp(&b.sandbox)));
    shares.truncate(FULLEST);
    shares
}

/// Says how IPv6 packets find their way, where that is not by the kernel's look-up.
fn in_words(rules: &Rules) -> Option<(String, String)> {
    let words = match rules {
        Rules::Plain => return None,
        Rules::Listed(rules) => format!("{}, one of which suppresses routes", rules.len()),
        Rules::Unknown(why) => format!("not followed, nothing new leaves: {why}"),
    };
    Some(("ipv6_rules".to_owned(), words))
}

/// Whether an address says nothing without its link.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Returns the interfaces that networks trust, by slot, as they are now: a name may belong to an interface that comes later (Docker semantics B10).
pub(super) fn trusted(world: &World, links: &BTreeMap<String, u32>) -> Vec<(u16, u32)> {
    let networks = world.networks().filter_map(|network| Some((network.index?, network)));
    let pairs = networks.flat_map(|(index, network)| {
        let patterns = &network.bridge.trusted_host_interfaces;
        let named = links.iter().filter(|(name, _)| patterns.iter().any(|pattern| pattern.matches(name)));
        named.map(move |(_, ifindex)| (index, *ifindex))
    });
    pairs.collect()
}

/// Takes every step that can be taken; an interface that refuses its programs does not keep the others from theirs. The first error is returned.
fn step(dataplane: &mut dyn Dataplane, old: &HostView, new: &HostView) -> Result<(), dataplane::Error> {
    let mut result = Ok(());
    let mut take = |step: Result<(), dataplane::Error>| {
        if result.is_ok() {
            result = step;
        }
    };
    if old.sole_source6 && !new.sole_source6 {
        take(dataplane.set_sole_source6(false));
    }
    // New programs and addresses come first, so that no packet meets an uplink without them.
    for uplink in new.uplinks.iter().filter(|uplink| !old.uplinks.contains(uplink)) {
        take(dataplane.put_uplink(uplink));
    }
    if new.local != old.local {
        take(dataplane.set_local_addresses(&new.local));
    }
    let stays = |uplink: &UplinkEntry| new.uplinks.iter().any(|other| other.ifindex == uplink.ifindex);
    for uplink in old.uplinks.iter().filter(|uplink| !stays(uplink)) {
        take(dataplane.remove_uplink(uplink));
    }
    if let Some(rules) = new.rules.as_ref().filter(|rules| old.rules.as_ref() != Some(rules)) {
        take(dataplane.set_rules(rules));
    }
    if new.routes != old.routes || new.rules != old.rules || new.uplinks != old.uplinks {
        take(dataplane.routes_changed());
    }
    if new.sole_source6 && !old.sole_source6 {
        take(dataplane.set_sole_source6(true));
    }
    result
}

fn sources(uplinks: &[UplinkEntry]) -> Vec<IpAddr> {
    uplinks
        .iter()
        .flat_map(|uplink| uplink.ipv4.map(IpAddr::V4).into_iter().chain(uplink.ipv6.map(IpAddr::V6)))
        .collect()
}
