//! Brings the kernel in step with what is stored: at the start, and after an operation that broke off.
//!
//! Everything is read first; then what is missing is made by the same steps that made it once; and only when all of that is in
//! place, what carries netd's label and belongs to nothing is swept away (reliability 6.5, D5). What is there and right is not
//! touched.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Code, Error, World,
    apply::{Machine, Owned},
    default_bridge,
    flows::addresses,
    object::{Listen, Object},
    plan,
    plan::Step,
    pseudo_network, sources,
    task::Controller,
};
use crate::{
    dataplane::{self, OpenEntry, PublishEntry},
    model::{
        Driver, Finished, GatewayMode, HairpinSource, Id, IfName, Mac, Name, Network, Sandbox, SandboxMode,
    },
    store::Intent,
};

impl<M: Machine> Controller<M> {
    /// Loads the stored state, makes the kernel equal to it, and makes the default networks at the first start.
    ///
    /// # Errors
    /// When the state can't be read, or the default networks can't be made though nothing was lost. An object that can't be repaired is logged and
    /// shows in `status`; the others go on.
    pub async fn reconcile(&mut self) -> Result<(), Error> {
        self.renderer.refresh();
        self.unfinished.begin();
        let loaded = self.store.load()?;
        for warning in &loaded.warnings {
            tracing::warn!(warning, "stored state was damaged");
            self.degraded = Some(format!("the stored state was damaged: {warning}"));
        }
        self.incomplete = loaded.incomplete;
        if let Some(intent) = &loaded.journal {
            tracing::info!(?intent, "an operation broke off; it is undone unless it was stored");
        }
        let world = self.living(loaded.networks, loaded.sandboxes).await;
        if let Some(Intent::RemoveSandbox(sandbox)) = &loaded.journal
            && world.sandbox_by_id(&sandbox.id).is_none()
        {
            // Its namespace went before the operation broke off: it is complete by now.
            let known = |finished: &Finished| self.store.recall(&finished.operation.id).is_some();
            let unknown = loaded.answer.filter(|finished| !known(finished));
            self.remember(unknown);
        }
        let before = Arc::clone(&self.world);
        self.show(world.clone());
        for lost in before.sandboxes().filter(|sandbox| world.sandbox_by_id(&sandbox.id).is_none()) {
            self.tell_removed(lost);
        }
        if let Err(error) = self.machine.list_anew().await {
            tracing::debug!(%error, "links are listed again for each question");
        }
        self.names_back(&world).await;
        self.sync_host().await;
        let mut steps = plan::ensure(&world, &self.renderer);
        steps.extend(sources::of_broken_off(&world, loaded.journal.as_ref()));
        self.repair(&steps).await;
        self.machine.settle().await;
        if self.incomplete {
            tracing::warn!("nothing swept: it may belong to objects whose files were lost");
        } else {
            self.sweep(&world, &steps).await;
        }
        // A disk that takes nothing more keeps nobody from serving what there is.
        if let Err(error) = self.store.journal_clear() {
            self.not_written(&error);
        }
        match self.make_default_networks().await {
            // Its file may be among those that were lost, and its bridge be there: that keeps nobody from serving what there is.
            Err(error) if self.incomplete => {
                if self.unfinished.note(error.message.clone()) {
                    tracing::error!(%error, "a default network was not made");
                }
            }
            made => made?,
        }
        self.sync_host().await;
        self.unfinished.end();
        Ok(())
    }

    /// Takes every step, and those that fail once more: what the machine lacked for a moment keeps nobody waiting. Returns whether all are taken.
    pub(super) async fn repair(&mut self, steps: &[Step]) -> bool {
        let mut failed = Vec::new();
        for step in steps {
            if let Err(error) = self.machine.apply(step).await {
                tracing::debug!(%step, %error, "object not repaired at first");
                failed.push(step);
            }
        }
        let mut whole = true;
        for step in failed {
            if let Err(error) = self.machine.apply(step).await {
                whole = false;
                if self.unfinished.note(format!("{step}: {error}")) {
                    tracing::error!(%step, %error, "object not repaired");
                }
            }
        }
        whole
    }

    /// Gives links of this world that somebody renamed their names back: a link is known by its label, and by its name for all else.
    async fn names_back(&mut self, world: &World) {
        let Ok(owned) = self.machine.owned().await else { return }; // the sweep will say so
        let taken: BTreeSet<IfName> = owned.iter().filter_map(ifname_of).cloned().collect();
        let endpoints = world.sandboxes().flat_map(|sandbox| &sandbox.endpoints);
        let endpoints: HashMap<&Id, &IfName> =
            endpoints.map(|endpoint| (&endpoint.id, &endpoint.host_ifname)).collect();
        for object in &owned {
            let wanted = match object {
                Owned::Bridge { network, .. } => {
                    world.network_by_id(network).map(|network| network.bridge.ifname.clone())
                }
                Owned::Veth { endpoint, .. } => endpoints.get(endpoint).copied().cloned(),
                _ => None,
            };
            let (Some(from), Some(to)) = (ifname_of(object), wanted) else { continue };
            if taken.contains(&to) {
                continue;
            }
            match self.machine.rename(from, &to).await {
                Ok(()) => {
                    tracing::warn!(%from, %to, "an interface was renamed by others and has its name again");
                }
                Err(error) => tracing::error!(%from, %to, %error, "an interface was renamed by others"),
            }
        }
    }

    /// Returns the stored world without the sandboxes whose namespaces are gone, as after a reboot (reliability F24).
    async fn living(&mut self, networks: Vec<Network>, sandboxes: Vec<Sandbox>) -> World {
        let mut world = World::empty(self.settings.direct_routing);
        for network in networks {
            world.put_network(network);
        }
        let mut alive = Vec::new();
        for mut sandbox in sandboxes {
            if !self.is_there(&sandbox).await {
                self.forget(&sandbox.id);
                continue;
            }
            let runs = sandbox.pid.map_or(Ok(false), |pid| self.machine.is_running(&sandbox, pid));
            let runs = runs.unwrap_or_else(|error| self.not_told(&sandbox, &error));
            if sandbox.pid.is_some() && !runs {
                sandbox.pid = None;
                if let Err(error) = self.store.put_sandbox(&sandbox) {
                    self.not_written(&error);
                }
            }
            alive.push(sandbox);
        }
        let ids: BTreeSet<Id> = alive.iter().map(|sandbox| sandbox.id.clone()).collect();
        for sandbox in alive {
            match &sandbox.mode {
                SandboxMode::Sandbox(target) if !ids.contains(target) => {
                    self.forget(&sandbox.id);
                }
                _ => world.put_sandbox(sandbox),
            }
        }
        world
    }

    /// Whether a sandbox's namespace is there, under its name again where it had lost it.
    pub(super) async fn is_there(&mut self, sandbox: &Sandbox) -> bool {
        let Some(netns) = &sandbox.netns else { return true };
        let mut found = self.machine.found(netns);
        if netns.owned && matches!(found, Ok(None)) && self.name_again(sandbox).await {
            found = self.machine.found(netns);
        }
        let there = found.map(|found| found.is_some_and(|inode| netns.inode == 0 || netns.inode == inode));
        let there = there.unwrap_or_else(|error| self.not_told(sandbox, &error));
        if !there {
            tracing::info!(sandbox = %sandbox.name, "sandbox forgotten: its namespace is gone");
        }
        there
    }

    /// Takes what cannot be looked at for something that is there: the next look tells.
    fn not_told(&mut self, sandbox: &Sandbox, error: &Error) -> bool {
        if self.unfinished.note(format!("look at sandbox {}: {error}", sandbox.name)) {
            tracing::error!(sandbox = %sandbox.name, %error, "whether it is alive cannot be told now");
        }
        true
    }

    /// Forgets a sandbox that is gone; if that cannot be written, the next start does it again.
    pub(super) fn forget(&mut self, sandbox: &Id) {
        if let Err(error) = self.store.remove_sandbox(sandbox) {
            self.not_written(&error);
        }
    }

    fn not_written(&mut self, error: &crate::store::Error) {
        if self.unfinished.note(format!("the state cannot be written: {error}")) {
            tracing::error!(%error, "stored state not brought up to date");
        }
    }

    /// Removes what carries this instance's label and belongs to nothing in the world.
    async fn sweep(&mut self, world: &World, steps: &[Step]) {
        let owned = match self.machine.owned().await {
            Ok(owned) => owned,
            Err(error) => {
                // Acting on half a list would delete the wrong ones.
                if self.unfinished.note(format!("sweep: {error}")) {
                    tracing::warn!(%error, "nothing swept: the kernel's objects could not be listed");
                }
                return;
            }
        };
        let belongings = Belongings::of(world);
        for orphan in owned.into_iter().filter(|owned| !belongings.hold(owned)) {
            tracing::info!(?orphan, "orphan removed");
            if let Err(error) = self.machine.remove_orphan(&orphan).await
                && self.unfinished.note(format!("remove {orphan:?}: {error}"))
            {
                tracing::error!(?orphan, %error, "orphan not removed");
            }
        }
        if let Err(error) = self.sweep_dataplane(world, steps).await
            && self.unfinished.note(format!("sweep the packet path: {error}"))
        {
            tracing::error!(%error, "packet path not swept");
        }
    }

    /// Removes from the packet path what no object of the world put there: first what lets traffic in.
    async fn sweep_dataplane(&mut self, world: &World, steps: &[Step]) -> Result<(), Error> {
        let mut hosts = Vec::new();
        let mut listens = BTreeSet::new();
        let (mut open, mut links) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Put(Object::Record(record)) => hosts.push(&record.host),
                Step::Put(Object::Guard(guard)) => listens.extend(guard.iter().copied()),
                Step::Put(Object::Open(object)) => {
                    open.extend(object.ports.iter().map(|port| (port.ip, port.port, port.protocol)));
                }
                Step::Put(Object::Links(object)) => links.extend(object.ports.iter().copied()),
                _ => {}
            }
        }
        let mut indexes = BTreeSet::new();
        for host in hosts {
            indexes.extend(self.machine.index(host).await?);
        }
        let slots: BTreeSet<u16> = world.networks().filter_map(|network| network.index).collect();
        let uplinks: BTreeSet<u32> = self.host.uplinks.iter().map(|uplink| uplink.ifindex).collect();
        let inventory = self.machine.dataplane(|dataplane| dataplane.inventory())?;
        let stale: Vec<PublishEntry> =
            inventory.publishes.into_iter().filter(|entry| !listens.contains(&entry.into())).collect();
        if !stale.is_empty() {
            self.machine.dataplane(|dataplane| dataplane.remove_publishes(&stale))?;
            let guard = stale.iter().map(Listen::from).collect();
            self.machine.apply(&Step::Remove(Object::Guard(guard))).await?;
        }
        self.machine.dataplane(|dataplane| {
            let is_open = |entry: &OpenEntry| open.contains(&(entry.ip, entry.port, entry.protocol));
            let closed: Vec<_> = inventory.open.into_iter().filter(|entry| !is_open(entry)).collect();
            dataplane.remove_open(&closed)?;
            let unlinked: Vec<_> =
                inventory.links.into_iter().filter(|entry| !links.contains(entry)).collect();
            dataplane.remove_links(&unlinked)?;
            for endpoint in inventory.endpoints.iter().filter(|endpoint| !indexes.contains(&endpoint.ifindex))
            {
                dataplane.remove_endpoint(endpoint)?;
                dataplane.detach_endpoint(endpoint.ifindex)?;
            }
            for ifindex in inventory.attached.into_iter().filter(|ifindex| !indexes.contains(ifindex)) {
                dataplane.detach_endpoint(ifindex)?;
            }
            for index in inventory.networks.into_iter().filter(|index| !slots.contains(index)) {
                dataplane.remove_network(&empty_network(index))?;
            }
            for ifindex in inventory.uplinks.into_iter().filter(|ifindex| !uplinks.contains(ifindex)) {
                dataplane.remove_uplink(&gone_uplink(ifindex)?)?;
            }
            Ok::<_, dataplane::Error>(())
        })?;
        Ok(())
    }

    async fn make_default_networks(&mut self) -> Result<(), Error> {
        let there = |world: &World, name: &str| world.networks().any(|network| network.name.as_str() == name);
        for (driver, name) in [(Driver::Host, "host"), (Driver::Null, "none")] {
            if !there(&self.world, name) {
                let id = Id::random()
                    .map_err(|error| Error::new(Code::Failure, format!("choose an id: {error}")))?;
                self.add_network(pseudo_network(driver, id, super::now())?).await?;
            }
        }
        if !there(&self.world, "bridge") {
            let host = self.machine.prefixes().await?;
            let request = self.settings.default_bridge.clone();
            let network = self.plan_network(&host, |facts| default_bridge(&request, facts))?;
            self.add_network(network).await?;
        }
        Ok(())
    }

    /// Ends the commands that `netd run` started and takes everything out of the kernel that this instance put there, endpoints first, whatever
    /// fails on the way.
    ///
    /// # Errors
    /// The first failure, when all the rest has been tried; the stored state stays then, for another attempt.
    pub(super) async fn down(&mut self) -> Result<(), Error> {
        let steps = plan::diff(&self.world, &World::default(), &self.renderer);
        let mut failures = Vec::new();
        for sandbox in self.world.sandboxes() {
            if let Some(pid) = sandbox.pid {
                let ended = self
                    .machine
                    .is_running(sandbox, pid)
                    .and_then(|runs| if runs { self.machine.kill(pid) } else { Ok(()) });
                failures.extend(ended.err());
            }
        }
        self.remove_links(&steps).await;
        failures.extend(self.answer_for_nobody().await.err());
        for step in &steps {
            if let Err(error) = self.machine.apply(step).await {
                tracing::error!(%step, %error, "object not removed");
                failures.push(error);
            }
        }
        self.machine.settle().await;
        match self.machine.owned().await {
            Ok(orphans) => {
                for orphan in orphans {
                    failures.extend(self.machine.remove_orphan(&orphan).await.err());
                }
            }
            Err(error) => failures.push(error),
        }
        failures.extend(self.machine.dataplane(|dataplane| dataplane.down()).err().map(Error::from));
        failures.extend(self.machine.restore().await.err());
        if let Some(first) = failures.into_iter().next() {
            return Err(Error { message: format!("not everything was removed: {}", first.message), ..first });
        }
        self.show(World::default());
        tracing::info!("everything removed");
        Ok(())
    }
}

fn ifname_of(owned: &Owned) -> Option<&IfName> {
    match owned {
        Owned::Bridge { ifname, .. } | Owned::Veth { ifname, .. } => Some(ifname),
        _ => None,
    }
}

/// What belongs to a world, to be asked for each of thousands of objects.
pub(super) struct Belongings<'a> {
    world: &'a World,
    endpoints: HashSet<&'a Id>,
    namespaces: HashSet<&'a Name>,
    neighbours: HashSet<(&'a IfName, IpAddr)>,
}

impl<'a> Belongings<'a> {
    pub(super) fn of(world: &'a World) -> Self {
        let mut all =
            Self { world, endpoints: HashSet::new(), namespaces: HashSet::new(), neighbours: HashSet::new() };
        for sandbox in world.sandboxes() {
            if sandbox.netns.as_ref().is_some_and(|netns| netns.owned) {
                all.namespaces.insert(&sandbox.name);
            }
            for endpoint in &sandbox.endpoints {
                all.endpoints.insert(&endpoint.id);
                if let Some(network) = world.network_by_id(&endpoint.network) {
                    let bridge = &network.bridge.ifname;
                    all.neighbours.extend(addresses(endpoint).map(|address| (bridge, address)));
                }
            }
        }
        all
    }

    /// Whether an object with this instance's label has its place in the world.
    pub(super) fn hold(&self, owned: &Owned) -> bool {
        match owned {
            Owned::Bridge { network, .. } => self.world.network_by_id(network).is_some(),
            Owned::Veth { endpoint, .. } => self.endpoints.contains(endpoint),
            Owned::Netns(name) => self.namespaces.contains(name),
            Owned::Files(sandbox) => self.world.sandbox_by_id(sandbox).is_some(),
            Owned::Neighbour { bridge, ip, .. } => self.neighbours.contains(&(bridge, *ip)),
        }
    }
}

fn empty_network(index: u16) -> dataplane::NetworkEntry {
    dataplane::NetworkEntry {
        index,
        bridge: 0,
        bridge_mac: Mac([0; 6]),
        ipv4: None,
        ipv6: None,
        icc: false,
        internal: true,
        masquerade: false,
        gateway_mode_ipv4: GatewayMode::Nat,
        gateway_mode_ipv6: GatewayMode::Nat,
        trusts: false,
        host_ipv4: None,
        host_ipv6: None,
        host_closed: false,
        hairpin_source: HairpinSource::Auto,
        any_source: false,
        own_bridge: false,
    }
}

fn gone_uplink(ifindex: u32) -> Result<dataplane::UplinkEntry, dataplane::Error> {
    let ifname = format!("if{ifindex}")
        .parse()
        .map_err(|error| dataplane::Error::Limit(format!("uplink {ifindex}: {error}")))?;
    Ok(dataplane::UplinkEntry { ifindex, ifname, ipv4: None, ipv6: None, mtu: 0, bare: false })
}
