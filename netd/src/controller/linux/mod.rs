//! The kernel as a machine: takes each step over rtnetlink, in namespaces and in the packet path.

mod bridge;
mod check;
mod command;
mod endpoint;
mod facts;
mod files;
mod listing;
mod namespaces;
mod owned;
mod ports;
mod predecessors;
mod rules;
mod sources;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

pub use self::{
    check::{Checked, Finding, Subject},
    command::end_command,
    owned::remove_owned,
    sources::remove_source_routes,
};
use self::{
    listing::Listing,
    ports::{open_entries, publish_entries},
    predecessors::Predecessors,
};
use super::{
    Code, Error, NetnsRequest,
    apply::{Machine, Owned, PortFacts},
    error::chain,
    host::{HostView, LinkView},
    listens::Listens,
    object::{Bridge, Listen, Object},
    plan::Step,
    probe,
    reserved::Reserved,
    sandboxes::Place,
};
use crate::{
    dataplane::Dataplane,
    ipam::HostPrefix,
    link::{Changes, Haste, HostLink, Links, Proxy, Segments, Turns, label},
    model::{Announcements, IfName, Name, Netns, Sandbox},
    netns, pulse,
    sysctl::{self, ReservedPorts},
};

/// The packet path, shared with the task that collects expired flows.
pub type SharedDataplane = Arc<Mutex<Box<dyn Dataplane>>>;

/// Where an instance is.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name, in every label.
    pub instance: String,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// The interfaces to the outside; empty: chosen by netd.
    pub only_uplinks: Vec<IfName>,
}

/// One network namespace of the host, and the directories of this instance.
pub struct Linux {
    links: Links,
    instance: String,
    netns_dir: PathBuf,
    sandboxes_dir: PathBuf,
    only_uplinks: Vec<IfName>,
    dataplane: SharedDataplane,
    /// Whether expired flows are being collected.
    collecting: Arc<AtomicBool>,
    reserved: Reserved,
    /// Host ports that are reserved in the packet path.
    guarded: Listens,
    /// What is remembered of the host's links.
    listing: Listing,
    /// Indexes of bridges and host sides, which don't change while a link lives.
    indexes: HashMap<IfName, u32>,
    /// What the uplinks take from the stack in one piece.
    segments: Segments,
    /// The sandbox that the last step went into: the next one often goes there too.
    inside: Option<(PathBuf, Links)>,
    /// Sandbox sides of pairs that are new and not yet configured: their addresses are announced when the plan is through.
    fresh: HashMap<IfName, Haste>,
    /// Interfaces inside sandboxes to be announced.
    unannounced: Vec<(Links, IfName, Announcements, Haste)>,
    /// Host sides whose programs go with them, and their indexes: to take a program off by itself waits for a grace period.
    leaving: HashMap<IfName, u32>,
    /// Namespaces that have lost their names: they get them again should the plan be taken back, and end when it is through.
    nameless: HashMap<Name, netns::Netns>,
    /// Who had an address before.
    predecessors: Predecessors,
    /// Whose turn it is to repeat an announcement.
    announcing: Arc<Turns>,
}

impl Linux {
    /// Takes over the namespace that these links are in.
    ///
    /// # Errors
    /// When the packet path can't say which ports an earlier daemon reserved.
    pub fn new(
        links: Links,
        dataplane: SharedDataplane,
        reserved: Reserved,
        at: &Site,
    ) -> Result<Self, Error> {
        let inventory = dataplane.lock().unwrap_or_else(PoisonError::into_inner).inventory()?;
        Ok(Self {
            links,
            instance: at.instance.clone(),
            netns_dir: at.run_dir.join("netns"),
            sandboxes_dir: at.run_dir.join("sandboxes"),
            only_uplinks: at.only_uplinks.clone(),
            dataplane,
            collecting: Arc::default(),
            reserved,
            guarded: inventory.publishes.iter().map(Listen::from).collect(),
            listing: Listing::default(),
            indexes: HashMap::new(),
            segments: Segments::default(),
            inside: None,
            fresh: HashMap::new(),
            unannounced: Vec::new(),
            leaving: HashMap::new(),
            nameless: HashMap::new(),
            predecessors: Predecessors::default(),
            announcing: Arc::default(),
        })
    }

    /// Returns the index of a link, if it is there.
    async fn find(&mut self, ifname: &IfName) -> Result<Option<u32>, Error> {
        if let Some(index) = self.indexes.get(ifname) {
            return Ok(Some(*index));
        }
        let index = self.links.link(ifname).await?.map(|link| link.ifindex);
        if let Some(index) = index {
            self.indexes.insert(ifname.clone(), index);
        }
        Ok(index)
    }

    async fn existing(&mut self, ifname: &IfName) -> Result<u32, Error> {
        let gone = || Error::new(Code::Failure, format!("interface {ifname} has gone"));
        self.find(ifname).await?.ok_or_else(gone)
    }

    async fn put(&mut self, object: &Object) -> Result<(), Error> {
        match object {
            Object::Bridge(bridge) => self.put_bridge(bridge).await,
            Object::Slot(slot) => {
                let entry = self.network_entry(slot).await?;
                Ok(self.dataplane(|dataplane| dataplane.put_network(&entry))?)
            }
            Object::Netns(name) => match self.nameless.remove(name) {
                Some(netns) => Ok(netns.name_again(name, &self.netns_dir)?),
                None => Ok(netns::Netns::create(name, &self.netns_dir).await.map(drop)?),
            },
            Object::Files(files) => self.put_files(None, files),
            Object::Veth(veth) => self.put_veth(veth).await,
            Object::Programs(host, device) => {
                let index = self.existing(host).await?;
                self.leaving.remove(host);
                Ok(self.dataplane(|dataplane| dataplane.attach_endpoint(host, index, *device))?)
            }
            Object::Inside(inside) => self.put_inside(inside).await,
            Object::Record(record) => {
                let entry = record.entry(self.existing(&record.host).await?);
                Ok(self.dataplane(|dataplane| dataplane.put_endpoint(&entry))?)
            }
            Object::Guard(listens) => self.guard(listens).await,
            Object::Publish(publish) => {
                let entries = publish_entries(publish, self.existing(&publish.host).await?);
                Ok(self.dataplane(|dataplane| dataplane.put_publishes(&entries))?)
            }
            Object::Open(open) => {
                let entries = open_entries(&open.ports, self.existing(&open.host).await?);
                Ok(self.dataplane(|dataplane| dataplane.put_open(&entries))?)
            }
            Object::Links(links) => Ok(self.dataplane(|dataplane| dataplane.put_links(&links.ports))?),
            Object::Up(host) => self.put_up(host).await,
            Object::Gateway(gateway) => self.put_gateway(gateway).await,
            Object::SourceRoutes(wanted) => self.put_source_routes(wanted).await,
        }
    }

    async fn remove(&mut self, object: &Object) -> Result<(), Error> {
        match object {
            Object::Bridge(bridge) => self.remove_bridge(bridge).await,
            Object::Slot(slot) => {
                let entry = self.network_entry(slot).await?;
                Ok(self.dataplane(|dataplane| dataplane.remove_network(&entry))?)
            }
            Object::Netns(name) => {
                self.inside = None;
                if let Ok(netns) = netns::Netns::open_path(&self.netns_dir.join(name.as_str())) {
                    self.nameless.insert(name.clone(), netns);
                }
                Ok(netns::Netns::remove(name, &self.netns_dir)?)
            }
            Object::Files(files) => self.remove_files(&files.sandbox),
            Object::Veth(veth) => self.remove_veth(veth).await,
            Object::Programs(host, _) => {
                let index = self.find(host).await?;
                self.leaving.extend(index.map(|index| (host.clone(), index)));
                Ok(())
            }
            Object::Record(record) => {
                let Some(index) = self.find(&record.host).await? else { return Ok(()) };
                let entry = record.entry(index);
                Ok(self.dataplane(|dataplane| dataplane.remove_endpoint(&entry))?)
            }
            Object::Guard(listens) => self.release(listens).await,
            Object::Publish(publish) => {
                let index = self.find(&publish.host).await?.unwrap_or(0);
                let entries = publish_entries(publish, index);
                Ok(self.dataplane(|dataplane| dataplane.remove_publishes(&entries))?)
            }
            Object::Open(open) => {
                let entries = open_entries(&open.ports, 0);
                Ok(self.dataplane(|dataplane| dataplane.remove_open(&entries))?)
            }
            Object::Links(links) => Ok(self.dataplane(|dataplane| dataplane.remove_links(&links.ports))?),
            Object::Up(host) => self.remove_up(host).await,
            Object::SourceRoutes(unwanted) => match &self.inside {
                Some((path, links)) if *path == unwanted.netns.path => {
                    Ok(links.ensure_source_routes(&[]).await?)
                }
                _ => remove_source_routes(&unwanted.netns).await,
            },
            // They go with the interface.
            Object::Inside(_) | Object::Gateway(_) => Ok(()),
        }
    }
}

impl Machine for Linux {
    async fn apply(&mut self, step: &Step) -> Result<(), Error> {
        pulse::beat();
        match step {
            Step::Put(object) => self.put(object).await,
            Step::Replace(Object::Files(old), Object::Files(new)) => self.put_files(Some(old), new),
            Step::Replace(Object::Open(old), Object::Open(new)) => self.change_open(old, new).await,
            Step::Replace(Object::Links(old), Object::Links(new)) => self.change_links(old, new),
            Step::Replace(_, new) => self.put(new).await,
            Step::Remove(object) => self.remove(object).await,
            Step::Probe(listens) => probe::probe(listens),
        }
    }

    async fn settle(&mut self) {
        self.inside = None;
        self.listing.settle();
        self.nameless.clear();
        self.fresh.clear();
        for (host, index) in std::mem::take(&mut self.leaving) {
            if let Err(error) = self.dataplane(|dataplane| dataplane.detach_endpoint(index)) {
                tracing::error!(%host, error = chain(&error), "programs not taken off");
            }
        }
        for (links, ifname, announcements, haste) in std::mem::take(&mut self.unannounced) {
            if let Err(error) = links.wait_running(&ifname).await {
                tracing::debug!(error = chain(&error), "interface not at work");
            }
            let (new, name) = (links.clone(), ifname.clone());
            tokio::spawn(async move {
                if let Err(error) = new.end_quiet(&name).await {
                    tracing::warn!(interface = %name, error = chain(&error), "settings of a new interface not complete");
                }
            });
            let turns = Arc::clone(&self.announcing);
            tokio::spawn(async move {
                if let Err(error) = links.announce(&ifname, announcements, haste, &turns).await {
                    tracing::debug!(error = chain(&error), "addresses not announced");
                }
            });
        }
    }

    async fn remove_together(&mut self, links: &[&Object]) -> Result<(), Error> {
        let labels: HashMap<String, &IfName> = links
            .iter()
            .filter_map(|object| match object {
                Object::Veth(veth) => {
                    Some((label(&self.instance, "endpoint", veth.endpoint.as_str()), &veth.host))
                }
                Object::Bridge(bridge) => {
                    Some((label(&self.instance, "network", bridge.network.as_str()), &bridge.ifname))
                }
                _ => None,
            })
            .collect();
        let links = self.every_link().await?;
        let is_ours = |link: &&HostLink| {
            let known = link.alias.as_ref().and_then(|alias| labels.get(alias));
            known.is_some_and(|host| host.as_str() == link.name)
        };
        let ours: Vec<&HostLink> = links.iter().filter(is_ours).collect();
        for link in &ours {
            self.listing.note_changed(link.ifindex);
        }
        Ok(self.links.delete_links(&ours).await?)
    }

    async fn place(&mut self, name: &Name, request: &NetnsRequest) -> Result<Place, Error> {
        let opened = match request {
            NetnsRequest::Create => {
                let path = self.netns_dir.join(name.as_str());
                let netns = Netns { path, owned: true, inode: 0 };
                return Ok(Place { netns: Some(netns), occupied: BTreeSet::new() });
            }
            NetnsRequest::Path(path) => {
                let path = std::path::absolute(path).map_err(|error| {
                    Error::new(Code::Usage, format!("namespace {}: {error}", path.display()))
                })?;
                netns::Netns::open_path(&path)
            }
            NetnsRequest::Pid(pid) => netns::Netns::of_pid(*pid),
        };
        let opened = opened.map_err(|error| {
            let code = if error.is_not_found() { Code::NotFound } else { Code::Usage };
            Error::new(code, format!("create sandbox {name}: {}", chain(&error)))
        })?;
        let inode = opened.inode()?;
        if inode == self.links.netns().inode()? {
            let text =
                format!("create sandbox {name}: {} is the host's own namespace", opened.path().display());
            return Err(Error::new(Code::Usage, text).hint("use --network host"));
        }
        let netns = Netns { path: opened.path().to_owned(), owned: false, inode };
        let occupied = self.interfaces(&netns).await?;
        Ok(Place { netns: Some(netns), occupied })
    }

    async fn interfaces(&mut self, netns: &Netns) -> Result<BTreeSet<String>, Error> {
        Ok(self.enter(netns).await?.links().await?.into_iter().map(|link| link.name).collect())
    }

    fn inode(&mut self, netns: &Netns) -> Result<u64, Error> {
        Ok(netns::Netns::open_path(&netns.path)?.inode()?)
    }

    fn found(&mut self, netns: &Netns) -> Result<Option<u64>, Error> {
        match netns::Netns::open_path(&netns.path).and_then(|found| found.inode()) {
            Err(error) if error.is_shortage() => Err(error.into()),
            found => Ok(found.ok()),
        }
    }

    fn free(&mut self, listens: &[Listen]) -> bool {
        probe::probe(listens).is_ok()
    }

    async fn ports(&mut self) -> Result<PortFacts, Error> {
        Ok(PortFacts {
            ephemeral: self.reserved.ephemeral(),
            reserved: ReservedPorts::read(self.links.netns()).await?.ranges().to_vec(),
            ipv6: probe::has_ipv6(),
        })
    }

    async fn prefixes(&mut self) -> Result<Vec<HostPrefix>, Error> {
        let links = self.every_link().await?;
        Ok(facts::prefixes(&self.links.snapshot_with(links).await?, &format!("netd:{}:", self.instance)))
    }

    async fn host(&mut self, bridges: &[IfName]) -> Result<HostView, Error> {
        let links = self.every_link().await?;
        let snapshot = self.links.snapshot_with(links).await?;
        let sizes: HashMap<u32, Segments> =
            snapshot.links.iter().map(|link| (link.ifindex, link.segments)).collect();
        let view = facts::view(snapshot, bridges, &self.only_uplinks);
        let of_uplinks = view.uplinks.iter().filter_map(|uplink| sizes.get(&uplink.ifindex).copied());
        self.segments = Segments::common(of_uplinks);
        Ok(view)
    }

    async fn look(&mut self, ifname: &IfName) -> Result<Option<LinkView>, Error> {
        let Some(link) = self.links.link(ifname).await? else { return Ok(None) };
        let addresses = self.links.addresses(Some(link.ifindex)).await?;
        Ok(Some(facts::link_view(&link, &addresses)))
    }

    fn heard(&mut self, changes: &Changes) {
        self.listing.note_heard(changes);
    }

    async fn list_anew(&mut self) -> Result<(), Error> {
        self.list_links().await.map(drop)
    }

    async fn has_netkit(&mut self) -> Result<bool, Error> {
        Ok(self.links.has_netkit().await?)
    }

    async fn index(&mut self, ifname: &IfName) -> Result<Option<u32>, Error> {
        self.find(ifname).await
    }

    async fn name_again(&mut self, sandbox: &Sandbox) -> Result<bool, Error> {
        namespaces::name_again(&self.links, &self.netns_dir, sandbox).await
    }

    async fn repair_settings(&mut self, bridges: &[Bridge]) -> Result<Vec<String>, Error> {
        let mut repaired = self.repair_bridge_settings(bridges).await?;
        repaired.extend(self.reserved.repair().await?);
        Ok(repaired)
    }

    async fn repair_routes(&mut self, bridges: &[Bridge]) -> Result<Vec<String>, Error> {
        self.repair_bridge_routes(bridges).await
    }

    async fn owned(&mut self) -> Result<Vec<Owned>, Error> {
        self.list_owned().await
    }

    async fn remove_orphan(&mut self, orphan: &Owned) -> Result<(), Error> {
        self.remove_stray(orphan).await
    }

    async fn rename(&mut self, from: &IfName, to: &IfName) -> Result<(), Error> {
        if let Some(link) = self.links.link(from).await? {
            self.listing.note_changed(link.ifindex);
        }
        self.indexes.remove(from);
        self.indexes.remove(to);
        Ok(self.links.rename(from, to).await?)
    }

    async fn answer_for(&mut self, wanted: &BTreeSet<Proxy>) -> Result<(), Error> {
        Ok(self.links.ensure_proxies(wanted, &self.instance).await?)
    }

    async fn setting(&mut self, key: &str) -> Result<Option<String>, Error> {
        match sysctl::read(self.links.netns(), key).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    async fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        Ok(sysctl::write(self.links.netns(), vec![(key.to_owned(), value.to_owned())]).await?)
    }

    async fn restore(&mut self) -> Result<(), Error> {
        self.links.remove_idle_clsacts().await?;
        self.reserved.restore().await
    }

    fn is_running(&self, sandbox: &Sandbox, pid: u32) -> Result<bool, Error> {
        command::is_running(self.links.netns(), sandbox, pid)
    }

    fn kill(&mut self, pid: u32) -> Result<(), Error> {
        command::end(pid)
    }

    fn collect(&mut self) {
        if self.collecting.swap(true, Ordering::AcqRel) {
            return;
        }
        let (dataplane, collecting) = (Arc::clone(&self.dataplane), Arc::clone(&self.collecting));
        tokio::task::spawn_blocking(move || {
            let result = collect(&dataplane);
            collecting.store(false, Ordering::Release);
            if let Err(error) = result {
                tracing::warn!(error = chain(&error), "expired flows not collected");
            }
        });
    }

    fn dataplane<T>(&mut self, act: impl FnOnce(&mut dyn Dataplane) -> T) -> T {
        // A panic elsewhere has not torn the maps: each call is atomic.
        act(self.dataplane.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }
}

/// Collects expired flows; whoever needs the packet path meanwhile waits for a part of it at most.
fn collect(dataplane: &SharedDataplane) -> Result<(), crate::dataplane::Error> {
    let lock = || dataplane.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(look) = lock().look_for_garbage()? else { return Ok(()) };
    let mut found = look.take()?;
    while lock().collect_garbage(&mut found)? {
        std::thread::yield_now(); // whoever waits for the lock is not woken in turn
    }
    Ok(())
}
