//! Looks for what others did to what is netd's, and puts it right: programs, interfaces, settings, names of namespaces (reliability F7, F10, F22, F23).
//!
//! Most of it is heard of at once. What nobody tells is looked at every second, a part of it each time, so that a few networks and sandboxes are looked
//! at every second and thousands in turns. Each finding is told once.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    World,
    apply::Machine,
    news::News,
    object::{Bridge, Object},
    parts,
    tampering::Tampering,
    task::Controller,
};
use crate::{
    dataplane::Unhooked,
    link::{Changes, Interfaces},
    model::{Driver, Id, IfName, Netns, Network, Sandbox},
};

/// Networks whose settings are read in one go: a dozen small files each.
const NETWORKS_AT_ONCE: usize = 32;
/// How often the same interfaces are made again.
const TRIES: u8 = 3;
/// Namespaces whose names are opened in one go.
const NAMESPACES_AT_ONCE: usize = 256;

/// How far the rounds have come, and what could not be put right: that is told once, and tried again with less zeal.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Interfaces that were not as they should be at the last look, and how often the same ones were made again: others may change them again
    /// meanwhile.
    wrong: BTreeSet<IfName>,
    tries: u8,
    /// Sandboxes whose namespaces have no name, and no process by which they could be found.
    nameless: BTreeSet<Id>,
    /// Whether programs could not be put back.
    hooks_failing: bool,
    /// Whether settings could not be put back.
    settings_failing: bool,
    /// Whether what the host answers for outside could not be brought in step.
    pub(super) proxies_failing: bool,
    /// Networks, and namespaces, that have been looked at in this turn.
    networks: usize,
    namespaces: usize,
    /// What the maps held at the last look.
    pub(super) tampering: Tampering,
}

/// Takes the next few of many, from the beginning again after the end.
fn next<T>(all: Vec<T>, seen: &mut usize, at_once: usize) -> Vec<T> {
    let begin = if *seen < all.len() { *seen } else { 0 };
    *seen = begin + at_once;
    all.into_iter().skip(begin).take(at_once).collect()
}

impl<M: Machine> Controller<M> {
    /// Looks at what nobody tells of; to be called every second.
    pub(super) async fn look_around(&mut self) {
        let all = bridged(&self.world).map(AsRef::as_ref).collect();
        let turn: Vec<&Network> = next(all, &mut self.rounds.networks, NETWORKS_AT_ONCE);
        let bridges = turn.into_iter().filter_map(bridge_of).collect();
        self.repair_settings(bridges).await;
        self.follow_proxies(true).await;
        self.find_names().await;
        self.look_for_tampering().await;
    }

    /// Looks at the host after it has changed: the packet path follows, and what somebody did to netd's interfaces is put right.
    pub(super) async fn host_changed(&mut self, changes: &Changes) {
        self.machine.heard(changes);
        let disturbed = self.bridges_among(&changes.settings, changes.lost);
        if !disturbed.is_empty() {
            self.repair_settings(disturbed).await;
        }
        match self.news(changes).await {
            News::Nothing => {}
            News::Wrong(wrong) if self.make_again(&wrong).await => {}
            News::Wrong(_) | News::Host => self.follow_news(changes).await,
        }
        let disturbed = self.bridges_among(&changes.routes, changes.lost);
        if !disturbed.is_empty() {
            self.repair_routes(&disturbed).await;
        }
    }

    /// Returns the bridges that are among these interfaces, or whose index is not known; all of them where notifications were lost.
    fn bridges_among(&self, interfaces: &Interfaces, lost: bool) -> Vec<Bridge> {
        if !lost && interfaces.is_empty() {
            return Vec::new();
        }
        let any = lost || interfaces.any;
        let touched = |network: &&Arc<Network>| {
            let index = self.host.links.get(network.bridge.ifname.as_str());
            any || index.is_none_or(|index| interfaces.these.contains(index))
        };
        bridged(&self.world).filter(touched).filter_map(|network| bridge_of(network)).collect()
    }

    /// Brings the packet path in step with a host that is not as it was, and makes again what is no longer there.
    async fn follow_news(&mut self, changes: &Changes) {
        self.rounds.tampering.netd_writes();
        self.sync_host().await;
        if changes.ways || changes.lost {
            self.tell_flows_of_routes();
        }
        let wrong = self.wrong_interfaces();
        if wrong != self.rounds.wrong {
            self.rounds.tries = 0;
        }
        // What cannot be put right is not tried at every change for ever.
        if !wrong.is_empty() && self.rounds.tries < TRIES {
            tracing::warn!(interfaces = ?wrong, "interfaces were removed or changed by others and are made again");
            if let Err(error) = self.reconcile().await {
                tracing::error!(%error, "interfaces not made again");
                self.unfinished.note(error.message);
            }
            self.rounds.tries += 1;
        }
        self.rounds.wrong = wrong;
    }

    /// Puts back programs and pins that somebody else took away.
    pub(super) fn put_back_hooks(&mut self, unhooked: &Unhooked) {
        match self.machine.dataplane(|dataplane| dataplane.put_back_hooks(unhooked)) {
            Ok(repaired) if repaired.is_empty() => self.rounds.hooks_failing = false,
            Ok(repaired) => {
                tracing::warn!(?repaired, "programs or pins were taken away by others and are put back");
            }
            // Tried again every second, told once.
            Err(error) if !std::mem::replace(&mut self.rounds.hooks_failing, true) => {
                tracing::error!(%error, "programs or pins were taken away by others and could not be put back");
            }
            Err(_) => {}
        }
    }

    /// Gives back settings that others have written to: `net.ipv4.ip_forward=0` clears forwarding on every link, and no route is found from a bridge
    /// that doesn't forward.
    async fn repair_settings(&mut self, bridges: Vec<Bridge>) {
        let repaired = match self.machine.repair_settings(&bridges).await {
            Ok(repaired) => repaired,
            Err(error) => {
                if !std::mem::replace(&mut self.rounds.settings_failing, true) {
                    tracing::error!(%error, "settings were changed by others and could not be put back");
                }
                return;
            }
        };
        self.rounds.settings_failing = false;
        if repaired.is_empty() {
            return;
        }
        tracing::warn!(settings = ?repaired, "settings were changed by others and are put back");
        // Flows that found no way meanwhile ask again.
        self.tell_flows_of_routes();
    }

    /// Gives bridges back the routes to their subnets: without them the host does not find its sandboxes.
    async fn repair_routes(&mut self, bridges: &[Bridge]) {
        match self.machine.repair_routes(bridges).await {
            Ok(repaired) if repaired.is_empty() => {}
            Ok(repaired) => {
                tracing::warn!(routes = ?repaired, "routes were removed by others and are put back");
                self.tell_flows_of_routes();
            }
            Err(error) => {
                if self.unfinished.note(error.message.clone()) {
                    tracing::warn!(%error, "routes were removed by others and are not put back");
                }
            }
        }
    }

    /// Returns what of netd's interfaces is gone, on no bridge or on another one, or without its addresses.
    fn wrong_interfaces(&self) -> BTreeSet<IfName> {
        let host = &self.host;
        let gone = |ifname: &IfName| !host.own.contains(ifname.as_str());
        let mut wrong = BTreeSet::new();
        for bridge in bridged(&self.world).filter_map(|network| bridge_of(network)) {
            let has = |net| host.addresses.contains(&(bridge.ifname.to_string(), net));
            // The kernel takes IPv6 addresses off a bridge that is down, where nobody told it to keep them.
            let lacks =
                host.up.contains(bridge.ifname.as_str()) && !bridge.addresses.iter().all(|net| has(*net));
            if gone(&bridge.ifname) || lacks {
                wrong.insert(bridge.ifname);
            }
        }
        for endpoint in self.world.sandboxes().flat_map(|sandbox| &sandbox.endpoints) {
            let Some(network) = self.world.network_by_id(&endpoint.network) else { continue };
            let bridge = host.ports.get(endpoint.host_ifname.as_str()).map(String::as_str);
            if gone(&endpoint.host_ifname) || bridge != Some(network.bridge.ifname.as_str()) {
                wrong.insert(endpoint.host_ifname.clone());
            }
        }
        wrong
    }

    /// Gives namespaces their names again that somebody unmounted while processes live in them.
    async fn find_names(&mut self) {
        let world = Arc::clone(&self.world);
        let named =
            world.sandboxes().filter(|sandbox| sandbox.netns.as_ref().is_some_and(|netns| netns.owned));
        for sandbox in next(named.collect(), &mut self.rounds.namespaces, NAMESPACES_AT_ONCE) {
            // What cannot be told now is asked for in the next turn.
            let lacks = |netns: &Netns| matches!(self.machine.found(netns), Ok(None));
            let there = !sandbox.netns.as_ref().is_some_and(lacks);
            if there {
                self.rounds.nameless.remove(&sandbox.id);
                continue;
            }
            // To look through every process takes long.
            if self.rounds.nameless.contains(&sandbox.id) || self.name_again(sandbox).await {
                continue;
            }
            tracing::warn!(sandbox = %sandbox.name, "its namespace's name was removed by others, and no process in it is found");
            self.rounds.nameless.insert(sandbox.id.clone());
        }
    }

    /// Gives a namespace its name again. Returns whether it has one now.
    pub(super) async fn name_again(&mut self, sandbox: &Sandbox) -> bool {
        match self.machine.name_again(sandbox).await {
            Ok(true) => {
                tracing::warn!(sandbox = %sandbox.name, "its namespace's name was removed by others and is there again");
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::error!(sandbox = %sandbox.name, %error, "its namespace's name was removed by others");
                false
            }
        }
    }
}

pub(super) fn bridged(world: &World) -> impl Iterator<Item = &Arc<Network>> {
    world.networks().filter(|network| network.driver == Driver::Bridge)
}

pub(super) fn bridge_of(network: &Network) -> Option<Bridge> {
    let mut objects = parts::of_network(network).into_iter();
    objects.find_map(|object| if let Object::Bridge(bridge) = object { Some(bridge) } else { None })
}
