//! Tells apart what was heard of the host: what netd itself did to its own links, what others did to them, and all else.
//!
//! To look at the whole host takes long with thousands of sandboxes: each link of the kernel's list costs it a look through all namespaces.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    World,
    apply::Machine,
    rounds::{bridge_of, bridged},
    task::Controller,
};
use crate::{
    link::{Changes, LinkChange, parse_label},
    model::IfName,
};

/// What was heard of the host.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing that is not known: what netd itself did.
    Nothing,
    /// These interfaces of netd's are gone, on no bridge or on another one, or without their addresses; all else is known.
    Wrong(BTreeSet<IfName>),
    /// Anything else: the whole host is to be looked at.
    Host,
}

impl<M: Machine> Controller<M> {
    /// Returns what these changes are.
    pub(super) async fn news(&mut self, changes: &Changes) -> News {
        let Some(mut wrong) = self.wrong_links(&changes.links).await else { return News::Host };
        let own_index = |index: &u32| {
            let name = self.host.links.iter().find(|(_, known)| *known == index).map(|(name, _)| name);
            name.is_some_and(|name| self.host.own.contains(name))
                || changes.links.get(index).is_some_and(|change| change.gone)
        };
        let own_routes = !changes.routes.any && changes.routes.these.iter().all(own_index);
        if !own_routes || changes.addresses.any || changes.ways || changes.lost {
            return News::Host;
        }
        let Some(bridges) = self.wrong_bridges(changes).await else { return News::Host };
        wrong.extend(bridges);
        if wrong.is_empty() { News::Nothing } else { News::Wrong(wrong) }
    }

    /// Returns the bridges of netd's own that something was heard of and that lack an address; none where all else about them is as it was when the
    /// host was read, such as after the making of a bridge. None: there is more, or addresses changed on another link.
    async fn wrong_bridges(&mut self, changes: &Changes) -> Option<BTreeSet<IfName>> {
        let world = Arc::clone(&self.world);
        let there = |index: &&u32| !changes.links.get(index).is_some_and(|change| change.gone);
        let heard: BTreeSet<u32> =
            changes.links.keys().chain(&changes.addresses.these).filter(there).copied().collect();
        let (mut met, mut wrong) = (BTreeSet::new(), BTreeSet::new());
        for wanted in bridged(&world).filter_map(|network| bridge_of(network)) {
            let Some(index) =
                self.host.links.get(wanted.ifname.as_str()).filter(|index| heard.contains(index))
            else {
                continue;
            };
            met.insert(*index);
            let mut present = self.machine.look(&wanted.ifname).await.ok()??;
            let missing: Vec<IpNet> =
                wanted.addresses.iter().copied().filter(|net| !present.addresses.contains(net)).collect();
            // The kernel takes IPv6 addresses off a bridge that is down, where nobody told it to keep them.
            if !missing.is_empty() && present.up {
                present.addresses.extend(missing);
                wrong.insert(wanted.ifname.clone());
            }
            if !self.host.knows(&wanted.ifname, &present) {
                return None;
            }
        }
        changes.addresses.these.iter().filter(there).all(|index| met.contains(index)).then_some(wrong)
    }

    /// Returns those of these links that are netd's and gone, or on no bridge or another one. Notes those that are as they should be, and forgets those
    /// that are gone and no longer wanted. None: there are others among them, or somebody changed more of them than that.
    async fn wrong_links(&mut self, links: &BTreeMap<u32, LinkChange>) -> Option<BTreeSet<IfName>> {
        let world = Arc::clone(&self.world);
        let wanted: HashMap<&str, (&IfName, Option<&IfName>)> = if links.is_empty() {
            HashMap::new()
        } else {
            expected(&world).map(|(ifname, bridge)| (ifname.as_str(), (ifname, bridge))).collect()
        };
        let mut wrong = BTreeSet::new();
        for (&index, LinkChange { name, alias, master, gone }) in links {
            match wanted.get(name.as_str()) {
                // Its addresses are looked at by `wrong_bridges`.
                Some((_, None)) if !gone && self.host.links.get(name) == Some(&index) => {}
                Some((ifname, _)) if *gone => match self.machine.look(ifname).await.ok()? {
                    None => drop(wrong.insert((*ifname).clone())),
                    // It was an earlier one.
                    Some(present) if present.labelled => {}
                    Some(_) => return None,
                },
                Some((ifname, Some(bridge))) => {
                    let labelled = alias.as_ref().is_none_or(|alias| parse_label(alias).is_some());
                    let is_it = self.machine.index(ifname).await.is_ok_and(|known| known == Some(index));
                    if !labelled || !is_it {
                        return None;
                    }
                    let home = self.host.links.get(bridge.as_str()).copied();
                    // It may have come there after this was heard.
                    if home.is_some() && master.is_some_and(|master| Some(master) != home) {
                        let present = self.machine.look(ifname).await.ok()?;
                        if present.is_none_or(|link| link.master != home) {
                            wrong.insert((*ifname).clone());
                        }
                    }
                    self.host.own.insert(name.clone());
                    self.host.links.insert(name.clone(), index);
                }
                None if *gone && (self.host.own.contains(name) || !self.host.links.contains_key(name)) => {
                    self.host.forget(name);
                }
                _ => return None,
            }
        }
        Some(wrong)
    }
}

/// Returns the host's interfaces that the world consists of, and the bridge that each is on.
fn expected(world: &World) -> impl Iterator<Item = (&IfName, Option<&IfName>)> {
    let networks = bridged(world).map(|network| (&network.bridge.ifname, None));
    let endpoints = world.sandboxes().flat_map(|sandbox| &sandbox.endpoints).map(|endpoint| {
        let network = world.network_by_id(&endpoint.network);
        (&endpoint.host_ifname, network.map(|network| &network.bridge.ifname))
    });
    networks.chain(endpoints)
}
