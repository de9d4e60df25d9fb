//! Keeps the packet path in step with the host: its own addresses, its uplinks, its routes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Error, Status, World,
    apply::Machine,
    object::{self, Bridge, Object},
    task::Controller,
};
use crate::{
    dataplane::{self, Dataplane, Rules, UplinkEntry},
    link::{Changes, HostRoute, LinkChange, parse_label},
    model::{Driver, IfName},
};

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
    /// Links that carry this instance's label, and adopted bridges.
    pub own: BTreeSet<String>,
    /// Every link by name, with its index: networks may trust some of them.
    pub links: BTreeMap<String, u32>,
}

impl<M: Machine> Controller<M> {
    /// Brings the packet path in step. What fails now is tried again at the next change.
    pub(super) async fn sync_host(&mut self) {
        let networks = self.world.networks().filter(|network| network.driver == Driver::Bridge);
        let bridges: Vec<IfName> = networks.map(|network| network.bridge.ifname.clone()).collect();
        let result = match self.machine.host(&bridges).await {
            Ok(view) => self.follow(view),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the packet path is not in step with the host's addresses and routes");
        }
    }

    /// Looks at the host after it has changed: the packet path follows, and what somebody deleted is made again.
    pub(super) async fn host_changed(&mut self, changes: &Changes) {
        if changes.lost || !changes.settings.is_empty() {
            self.repair_settings(changes).await;
        }
        if !self.is_news(changes).await {
            return;
        }
        self.sync_host().await;
        if changes.ways || changes.lost {
            self.tell_flows_of_routes();
        }
        let missing: BTreeSet<IfName> = expected(&self.world)
            .filter(|ifname| !self.host.own.contains(ifname.as_str()))
            .cloned()
            .collect();
        // What could not be made again is not tried at every change.
        if !missing.is_empty() && missing != self.given_up {
            tracing::warn!(?missing, "interfaces are gone and are made again");
            if let Err(error) = self.reconcile().await {
                tracing::error!(%error, "interfaces not made again");
            }
            self.given_up = missing;
            self.given_up.retain(|ifname| !self.host.own.contains(ifname.as_str()));
        }
    }

    /// Whether more has changed than what netd itself did to its own links, which takes no look at the whole host: with a thousand sandboxes that is
    /// what most of the time would go into.
    async fn is_news(&mut self, changes: &Changes) -> bool {
        let own_links = self.are_own(&changes.links).await;
        let own_index = |index: &u32| {
            let name = self.host.links.iter().find(|(_, known)| *known == index).map(|(name, _)| name);
            name.is_some_and(|name| self.host.own.contains(name))
                || changes.links.get(index).is_some_and(|change| change.gone)
        };
        let own_routes = !changes.routes.any && changes.routes.these.iter().all(own_index);
        !own_links || !own_routes || changes.addresses || changes.ways || changes.lost
    }

    /// Whether each of these links is netd's own and where and what it should be, or was netd's and is no longer wanted. Notes what is there.
    async fn are_own(&mut self, links: &BTreeMap<u32, LinkChange>) -> bool {
        let world = Arc::clone(&self.world);
        let wanted: HashMap<&str, &IfName> = if links.is_empty() {
            HashMap::new()
        } else {
            expected(&world).map(|ifname| (ifname.as_str(), ifname)).collect()
        };
        for (&index, LinkChange { name, alias, gone }) in links {
            match wanted.get(name.as_str()) {
                Some(ifname) if !gone => {
                    let labelled = alias.as_ref().is_none_or(|alias| parse_label(alias).is_some());
                    let is_it = self.machine.index(ifname).await.is_ok_and(|known| known == Some(index));
                    if !labelled || !is_it {
                        return false;
                    }
                    self.host.own.insert(name.clone());
                    self.host.links.insert(name.clone(), index);
                }
                None if *gone && (self.host.own.contains(name) || !self.host.links.contains_key(name)) => {
                    self.host.own.remove(name);
                    self.host.links.remove(name);
                }
                _ => return false,
            }
        }
        true
    }

    /// Puts back programs and pins that somebody else took away, on these interfaces for certain.
    pub(super) fn put_back_hooks(&mut self, unhooked: &BTreeSet<u32>) {
        match self.machine.dataplane(|dataplane| dataplane.put_back_hooks(unhooked)) {
            Ok(repaired) if repaired.is_empty() => self.hooks_failing = false,
            Ok(repaired) => {
                tracing::warn!(?repaired, "programs or pins were taken away by others and are put back");
            }
            // Tried again every second, told once.
            Err(error) if !std::mem::replace(&mut self.hooks_failing, true) => {
                tracing::error!(%error, "programs or pins were taken away by others and could not be put back");
            }
            Err(_) => {}
        }
    }

    /// Gives netd's bridges back the settings that others have written to: `net.ipv4.ip_forward=0` clears forwarding on
    /// every link, and no route is found from a bridge that doesn't forward.
    async fn repair_settings(&mut self, changes: &Changes) {
        let any = changes.lost || changes.settings.any;
        let touched = |name: &str| {
            any || self.host.links.get(name).is_none_or(|index| changes.settings.these.contains(index))
        };
        let networks = self.world.networks().filter(|network| touched(network.bridge.ifname.as_str()));
        let objects = networks.flat_map(|network| object::of_network(network));
        let bridges: Vec<Bridge> = objects
            .filter_map(|object| if let Object::Bridge(bridge) = object { Some(bridge) } else { None })
            .collect();
        if bridges.is_empty() {
            return;
        }
        let repaired = match self.machine.repair_settings(&bridges).await {
            Ok(repaired) if repaired.is_empty() => return,
            Ok(repaired) => repaired,
            Err(error) => {
                tracing::warn!(%error, "settings of bridges not put back");
                return;
            }
        };
        tracing::warn!(settings = ?repaired, "settings of bridges were changed by others and are put back");
        // Flows that found no way meanwhile ask again.
        self.tell_flows_of_routes();
    }

    fn tell_flows_of_routes(&mut self) {
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
        let features = self.machine.dataplane(|dataplane| dataplane.features());
        Status {
            instance: self.settings.instance.clone(),
            state: self
                .degraded
                .as_ref()
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

/// Returns the host's interfaces that the world consists of.
fn expected(world: &World) -> impl Iterator<Item = &IfName> {
    let networks = world.networks().filter(|network| network.driver == Driver::Bridge);
    let endpoints = world.sandboxes().flat_map(|sandbox| &sandbox.endpoints);
    networks.map(|network| &network.bridge.ifname).chain(endpoints.map(|endpoint| &endpoint.host_ifname))
}

/// Returns the interfaces that networks trust, by slot, as they are now: a name may belong to an interface that comes later (Docker semantics B10).
fn trusted(world: &World, links: &BTreeMap<String, u32>) -> Vec<(u16, u32)> {
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
    result
}

fn sources(uplinks: &[UplinkEntry]) -> Vec<IpAddr> {
    uplinks
        .iter()
        .flat_map(|uplink| uplink.ipv4.map(IpAddr::V4).into_iter().chain(uplink.ipv6.map(IpAddr::V6)))
        .collect()
}
