//! Makes those of netd's interfaces again that others removed or moved, by the steps that made them once, and looks at nothing else: a reconcile of
//! thousands of sandboxes takes longer than anybody should wait for one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    World,
    apply::Machine,
    host,
    object::{Object, Record},
    plan::{self, Step},
    rounds::bridged,
    task::Controller,
};
use crate::model::{Id, IfName, Network, Sandbox, SandboxMode};

impl<M: Machine> Controller<M> {
    /// Makes these interfaces again, and forgets those of their sandboxes whose namespaces are gone. Returns whether everything is there again.
    pub(super) async fn make_again(&mut self, wrong: &BTreeSet<IfName>) -> bool {
        tracing::warn!(interfaces = ?wrong, "interfaces were removed or changed by others and are made again");
        self.rounds.tampering.netd_writes();
        let (before, indexes) = (Arc::clone(&self.world), self.host.links.clone());
        let networks: Vec<&Arc<Network>> =
            bridged(&before).filter(|network| wrong.contains(&network.bridge.ifname)).collect();
        let sandboxes = self.of_interfaces(&before, wrong, &networks).await;
        let after = self.without_dead(&before, &sandboxes).await;
        let alive = sandboxes.into_iter().filter(|sandbox| after.sandbox_by_id(&sandbox.id).is_some());
        let mut steps = plan::ensure_these(&after, networks.iter().copied(), alive, &self.renderer);
        steps.extend(plan::diff(&before, &after, &self.renderer));
        let taken = self.repair(&steps).await;
        self.machine.settle().await;
        self.show(after);
        for lost in before.sandboxes().filter(|sandbox| self.world.sandbox_by_id(&sandbox.id).is_none()) {
            self.tell_removed(lost);
        }
        let there = self.note_made(&networks, &steps).await;
        let told = self.tell_indexes(&steps, &indexes);
        taken && there && told
    }

    /// Returns the sandboxes that have one of these interfaces, or an endpoint on one of these networks if its bridge is gone, or another one: ports do
    /// not come back with a bridge.
    async fn of_interfaces<'a>(
        &mut self,
        world: &'a World,
        interfaces: &BTreeSet<IfName>,
        networks: &[&Arc<Network>],
    ) -> Vec<&'a Arc<Sandbox>> {
        let mut left = BTreeSet::new();
        for network in networks {
            let present = self.machine.look(&network.bridge.ifname).await;
            let known = self.host.links.get(network.bridge.ifname.as_str());
            if present.ok().flatten().is_none_or(|link| Some(&link.ifindex) != known) {
                left.insert(&network.id);
            }
        }
        let touched = |sandbox: &&Arc<Sandbox>| {
            let mut endpoints = sandbox.endpoints.iter();
            endpoints.any(|it| interfaces.contains(&it.host_ifname) || left.contains(&it.network))
        };
        world.sandboxes().filter(touched).collect()
    }

    /// Returns the world without those of these sandboxes whose namespaces are gone, and without those that share them.
    async fn without_dead(&mut self, world: &World, sandboxes: &[&Arc<Sandbox>]) -> World {
        let mut next = world.clone();
        let mut dead: BTreeSet<Id> = BTreeSet::new();
        for sandbox in sandboxes {
            if !self.is_there(sandbox).await {
                dead.insert(sandbox.id.clone());
            }
        }
        if dead.is_empty() {
            return next;
        }
        for sandbox in world.sandboxes() {
            let shares = matches!(&sandbox.mode, SandboxMode::Sandbox(target) if dead.contains(target));
            if shares || dead.contains(&sandbox.id) {
                self.forget(&sandbox.id);
                next.remove_sandbox(&sandbox.id);
            }
        }
        next
    }

    /// Notes what there is again. Returns whether all of it is.
    async fn note_made(&mut self, networks: &[&Arc<Network>], steps: &[Step]) -> bool {
        let mut all = true;
        let bridges = networks.iter().map(|network| (&network.bridge.ifname, None));
        let veths = steps.iter().filter_map(|step| match step {
            Step::Put(Object::Veth(veth)) => Some((&veth.host, Some(&veth.bridge))),
            _ => None,
        });
        for (ifname, bridge) in bridges.chain(veths) {
            match self.machine.look(ifname).await {
                Ok(Some(link)) => self.host.note(ifname, &link, bridge),
                _ => all = false,
            }
        }
        for step in steps {
            if let Step::Remove(Object::Veth(veth)) = step {
                self.host.forget(veth.host.as_str());
            }
        }
        all
    }

    /// Tells the packet path of new indexes, and ends there what earlier links of these endpoints had: it goes by them. Returns whether that is done.
    fn tell_indexes(&mut self, steps: &[Step], indexes: &BTreeMap<String, u32>) -> bool {
        let earlier = steps.iter().filter_map(|step| match step {
            Step::Put(Object::Record(record)) => Some((record, *indexes.get(record.host.as_str())?)),
            _ => None,
        });
        let earlier: Vec<(&Record, u32)> = earlier
            .filter(|(record, index)| self.host.links.get(record.host.as_str()) != Some(index))
            .collect();
        let trusted = host::trusted(&self.world, &self.host.links);
        let ended = self.machine.dataplane(|dataplane| {
            dataplane.set_links(&self.host.links)?;
            dataplane.set_trusted(&trusted)?;
            for (record, index) in earlier {
                dataplane.remove_endpoint(&record.entry(index))?;
                dataplane.detach_endpoint(index)?;
            }
            Ok::<_, crate::dataplane::Error>(())
        });
        if let Err(error) = &ended {
            tracing::error!(%error, "the packet path still knows links that are gone");
        }
        ended.is_ok()
    }
}
