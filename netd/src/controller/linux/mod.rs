//! The kernel as a machine: takes each step over rtnetlink, in namespaces and in the packet path.

mod facts;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Code, Error, NetnsRequest,
    apply::{Machine, Owned, PortFacts},
    error::chain,
    host::HostView,
    object::{self, Bridge, Files, Gateway, Inside, Listen, Object, Publish, Record, Slot, Veth},
    plan::Step,
    probe,
    reserved::Reserved,
    sandboxes::Place,
    task::Controller,
};
use crate::{
    dataplane::{Dataplane, EndpointEntry, NetworkEntry, PublishEntry},
    ipam::HostPrefix,
    link::{self, BridgeSpec, InsideSpec, Links, PortFlags, VethSpec, label},
    model::{Id, IfName, Name, Netns, Sandbox},
    netns,
    sysctl::ReservedPorts,
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
    guarded: HashSet<Listen>,
    /// Indexes of bridges and host sides, which don't change while a link lives.
    indexes: HashMap<IfName, u32>,
    /// The sandbox that the last step went into: the next one often goes there too.
    inside: Option<(PathBuf, Links)>,
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
            indexes: HashMap::new(),
            inside: None,
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
            Object::Netns(name) => Ok(netns::Netns::create(name, &self.netns_dir).await.map(drop)?),
            Object::Files(files) => self.put_files(None, files),
            Object::Veth(veth) => self.put_veth(veth).await,
            Object::Programs(host) => {
                let index = self.existing(host).await?;
                Ok(self.dataplane(|dataplane| dataplane.attach_endpoint(host, index))?)
            }
            Object::Inside(inside) => self.put_inside(inside).await,
            Object::Record(record) => {
                let entry = endpoint_entry(record, self.existing(&record.host).await?);
                Ok(self.dataplane(|dataplane| dataplane.put_endpoint(&entry))?)
            }
            Object::Guard(listens) => self.guard(listens).await,
            Object::Publish(publish) => {
                let entries = publish_entries(publish, self.existing(&publish.host).await?);
                Ok(self.dataplane(|dataplane| dataplane.put_publishes(&entries))?)
            }
            Object::Up(host) => Ok(self.links.set_up(host).await?),
            Object::Gateway(gateway) => self.put_gateway(gateway).await,
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
                Ok(netns::Netns::remove(name, &self.netns_dir)?)
            }
            Object::Files(files) => self.remove_files(&files.sandbox),
            Object::Veth(veth) => self.remove_veth(veth).await,
            Object::Programs(host) => {
                let Some(index) = self.find(host).await? else { return Ok(()) };
                Ok(self.dataplane(|dataplane| dataplane.detach_endpoint(index))?)
            }
            Object::Record(record) => {
                let Some(index) = self.find(&record.host).await? else { return Ok(()) };
                let entry = endpoint_entry(record, index);
                Ok(self.dataplane(|dataplane| dataplane.remove_endpoint(&entry))?)
            }
            Object::Guard(listens) => self.release(listens).await,
            Object::Publish(publish) => {
                let index = self.find(&publish.host).await?.unwrap_or(0);
                let entries = publish_entries(publish, index);
                Ok(self.dataplane(|dataplane| dataplane.remove_publishes(&entries))?)
            }
            Object::Up(host) => match self.links.set_down(host).await {
                Err(error) if error.is_not_found() => Ok(()),
                other => Ok(other?),
            },
            // They go with the interface.
            Object::Inside(_) | Object::Gateway(_) => Ok(()),
        }
    }

    async fn put_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        let spec = BridgeSpec {
            ifname: bridge.ifname.clone(),
            label: label(&self.instance, "network", bridge.network.as_str()),
            mac: bridge.mac,
            mtu: bridge.mtu,
            addresses: bridge.addresses.clone(),
            forwarding: !bridge.internal,
            ipv6: bridge.ipv6,
        };
        let index = match self.links.ensure_bridge(&spec).await {
            Err(link::Error::Foreign { .. })
                if bridge.adoptable && !self.is_labelled(&bridge.ifname).await? =>
            {
                self.links.adopt_bridge(&bridge.ifname, &bridge.addresses).await?.ifindex
            }
            other => other?,
        };
        self.indexes.insert(bridge.ifname.clone(), index);
        Ok(())
    }

    async fn is_labelled(&self, ifname: &IfName) -> Result<bool, Error> {
        let link = self.links.link(ifname).await?;
        Ok(link.and_then(|link| link.alias).is_some_and(|alias| link::parse_label(&alias).is_some()))
    }

    async fn remove_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        self.indexes.remove(&bridge.ifname);
        let ours = label(&self.instance, "network", bridge.network.as_str());
        match self.links.link(&bridge.ifname).await?.map(|link| link.alias) {
            Some(alias) if alias.as_deref() == Some(&ours) => {
                Ok(self.links.delete_link(&bridge.ifname).await?)
            }
            Some(_) if bridge.adoptable && !self.is_labelled(&bridge.ifname).await? => {
                Ok(self.links.release_bridge(&bridge.ifname).await?)
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn network_entry(&mut self, slot: &Slot) -> Result<NetworkEntry, Error> {
        let bridge = self.links.link(&slot.bridge).await?;
        Ok(NetworkEntry {
            index: slot.index,
            bridge: bridge.as_ref().map_or(0, |link| link.ifindex),
            bridge_mac: bridge.and_then(|link| link.mac).unwrap_or(crate::model::Mac([0; 6])),
            ipv4: slot.ipv4,
            ipv6: slot.ipv6,
            icc: slot.icc,
            internal: slot.internal,
            masquerade: slot.masquerade,
            host_ipv4: slot.host_ipv4,
            host_ipv6: slot.host_ipv6,
        })
    }

    async fn put_veth(&mut self, veth: &Veth) -> Result<(), Error> {
        let spec = VethSpec {
            host_ifname: veth.host.clone(),
            label: label(&self.instance, "endpoint", veth.endpoint.as_str()),
            host_mac: object::mac_of(&veth.endpoint),
            peer_ifname: veth.inside.clone(),
            peer_mac: veth.mac,
            peer_netns: open(&veth.netns)?,
            mtu: veth.mtu,
        };
        let bridge = self.existing(&veth.bridge).await?;
        let index = self.links.create_veth(&spec).await?;
        self.indexes.insert(veth.host.clone(), index);
        let flags = PortFlags { isolated: veth.isolated, ..PortFlags::default() };
        self.links.enslave(&veth.host, bridge, flags).await?;
        self.links.add_fdb(index, veth.mac).await?;
        for ip in &veth.addresses {
            self.links.add_neighbour(bridge, *ip, veth.mac).await?;
        }
        Ok(())
    }

    async fn remove_veth(&mut self, veth: &Veth) -> Result<(), Error> {
        self.indexes.remove(&veth.host);
        let ours = label(&self.instance, "endpoint", veth.endpoint.as_str());
        let present = self.links.link(&veth.host).await?;
        if present.is_some_and(|link| link.alias.as_deref() == Some(&ours)) {
            self.links.delete_link(&veth.host).await?;
        }
        if let Some(bridge) = self.find(&veth.bridge).await? {
            for ip in &veth.addresses {
                self.links.remove_neighbour(bridge, *ip).await?;
            }
        }
        Ok(())
    }

    /// Reserves ports. Those that an earlier daemon reserved stay as they are: guarding again would interrupt them.
    async fn guard(&mut self, listens: &[Listen]) -> Result<(), Error> {
        let fresh: Vec<Listen> =
            listens.iter().filter(|listen| !self.guarded.contains(listen)).copied().collect();
        if !fresh.is_empty() {
            let entries = guard_entries(&fresh);
            self.dataplane(|dataplane| dataplane.guard_ports(&entries))?;
            self.guarded.extend(fresh);
        }
        self.reserved.add(listens).await
    }

    async fn release(&mut self, listens: &[Listen]) -> Result<(), Error> {
        let held: Vec<Listen> =
            listens.iter().filter(|listen| self.guarded.contains(listen)).copied().collect();
        if !held.is_empty() {
            let entries = guard_entries(&held);
            self.dataplane(|dataplane| dataplane.release_ports(&entries))?;
            for listen in &held {
                self.guarded.remove(listen);
            }
        }
        self.reserved.remove(listens).await
    }

    async fn put_inside(&mut self, inside: &Inside) -> Result<(), Error> {
        let spec = InsideSpec {
            ifname: inside.ifname.clone(),
            addresses: inside.addresses.clone(),
            mtu: inside.mtu,
            gateway4: None,
            gateway6: None,
        };
        self.enter(&inside.netns).await?.configure_endpoint(&spec).await?;
        Ok(())
    }

    async fn put_gateway(&mut self, gateway: &Gateway) -> Result<(), Error> {
        let links = self.enter(&gateway.netns).await?;
        let routes = [
            gateway.ipv4.as_ref().map(|(ip, ifname)| (IpAddr::V4(*ip), ifname)),
            gateway.ipv6.as_ref().map(|(ip, ifname)| (IpAddr::V6(*ip), ifname)),
        ];
        for (ip, ifname) in routes.into_iter().flatten() {
            let gone = || Error::new(Code::Failure, format!("interface {ifname} has gone from its sandbox"));
            let index = links.link(ifname).await?.ok_or_else(gone)?.ifindex;
            links.set_default_gateway(index, ip).await?;
        }
        Ok(())
    }

    /// Opens a sandbox's namespace, or the one that is open already.
    async fn enter(&mut self, netns: &Netns) -> Result<Links, Error> {
        if let Some((path, links)) = &self.inside
            && *path == netns.path
        {
            return Ok(links.clone());
        }
        let links = Links::open_in(&open(netns)?).await?;
        self.inside = Some((netns.path.clone(), links.clone()));
        Ok(links)
    }

    /// Writes the files in place: processes have them mounted. A `resolv.conf` that somebody edited stays (Docker semantics
    /// F12).
    fn put_files(&self, old: Option<&Files>, files: &Files) -> Result<(), Error> {
        let dir = self.sandboxes_dir.join(files.sandbox.as_str());
        let failed = |error: io::Error| {
            Error::new(Code::Failure, format!("write files of sandbox below {}: {error}", dir.display()))
        };
        std::fs::create_dir_all(&dir).map_err(failed)?;
        write(&dir.join("hosts"), &files.hosts).map_err(failed)?;
        let resolv = dir.join("resolv.conf");
        let present = std::fs::read_to_string(&resolv).ok();
        let untouched = |present: &String| old.is_some_and(|old| *present == old.resolv);
        if present.as_ref().is_none_or(untouched) {
            write(&resolv, &files.resolv).map_err(failed)?;
        }
        Ok(())
    }

    fn remove_files(&self, sandbox: &Id) -> Result<(), Error> {
        remove_dir(&self.sandboxes_dir.join(sandbox.as_str()))
    }
}

impl Machine for Linux {
    async fn apply(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Put(object) => self.put(object).await,
            Step::Replace(Object::Files(old), Object::Files(new)) => self.put_files(Some(old), new),
            Step::Replace(_, new) => self.put(new).await,
            Step::Remove(object) => self.remove(object).await,
            Step::Probe(listens) => probe::probe(listens),
        }
    }

    fn settle(&mut self) {
        self.inside = None;
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
        Ok(facts::prefixes(&self.links.snapshot().await?, &format!("netd:{}:", self.instance)))
    }

    async fn host(&mut self, bridges: &[IfName]) -> Result<HostView, Error> {
        Ok(facts::view(self.links.snapshot().await?, bridges, &self.only_uplinks))
    }

    async fn index(&mut self, ifname: &IfName) -> Result<Option<u32>, Error> {
        self.find(ifname).await
    }

    async fn owned(&mut self) -> Result<Vec<Owned>, Error> {
        let mut owned = facts::owned_links(&self.links.links().await?, &self.instance);
        let files =
            facts::owned_files(&self.netns_dir, &self.sandboxes_dir).map_err(|error| listing(&error))?;
        owned.extend(files);
        Ok(owned)
    }

    async fn remove_orphan(&mut self, orphan: &Owned) -> Result<(), Error> {
        match orphan {
            Owned::Bridge { ifname, .. } => Ok(self.links.delete_link(ifname).await?),
            Owned::Veth { ifname, .. } => {
                if let Some(index) = self.find(ifname).await? {
                    self.dataplane(|dataplane| dataplane.detach_endpoint(index))?;
                }
                self.indexes.remove(ifname);
                Ok(self.links.delete_link(ifname).await?)
            }
            Owned::Netns(name) => Ok(netns::Netns::remove(name, &self.netns_dir)?),
            Owned::Files(sandbox) => self.remove_files(sandbox),
        }
    }

    async fn restore(&mut self) -> Result<(), Error> {
        self.reserved.restore().await
    }

    fn is_running(&self, sandbox: &Sandbox, pid: u32) -> bool {
        let own = || self.links.netns().inode().ok();
        let theirs = || {
            sandbox.netns.as_ref().map_or_else(own, |netns| {
                netns::Netns::open_path(&netns.path).and_then(|netns| netns.inode()).ok()
            })
        };
        let its = netns::Netns::of_pid(pid).and_then(|netns| netns.inode()).ok();
        its.is_some() && its == theirs()
    }

    fn kill(&mut self, pid: u32) -> Result<(), Error> {
        let failed = |why: String| Error::new(Code::Failure, format!("end process {pid}: {why}"));
        let pid = i32::try_from(pid).map_err(|error| failed(error.to_string()))?;
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(failed(errno.to_string())),
        }
    }

    fn collect(&mut self) {
        if self.collecting.swap(true, Ordering::AcqRel) {
            return;
        }
        let (dataplane, collecting) = (Arc::clone(&self.dataplane), Arc::clone(&self.collecting));
        tokio::task::spawn_blocking(move || {
            let result = dataplane.lock().unwrap_or_else(PoisonError::into_inner).collect_garbage();
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

impl Controller<Linux> {
    /// Returns the host's links.
    pub fn links(&self) -> &Links {
        &self.machine.links
    }
}

/// Removes every link, namespace and file of an instance by its label, without any state: endpoints before bridges.
///
/// # Errors
/// The first failure, when all the rest has been tried.
pub async fn remove_owned(links: &Links, instance: &str, run_dir: &Path) -> Result<(), Error> {
    let (netns_dir, sandboxes_dir) = (run_dir.join("netns"), run_dir.join("sandboxes"));
    let mut owned = facts::owned_links(&links.links().await?, instance);
    owned.sort_by_key(|owned| matches!(owned, Owned::Bridge { .. }));
    owned.extend(facts::owned_files(&netns_dir, &sandboxes_dir).map_err(|error| listing(&error))?);
    let mut failures = Vec::new();
    for object in owned {
        let result = match &object {
            Owned::Bridge { ifname, .. } | Owned::Veth { ifname, .. } => {
                links.delete_link(ifname).await.map_err(Error::from)
            }
            Owned::Netns(name) => netns::Netns::remove(name, &netns_dir).map_err(Error::from),
            Owned::Files(sandbox) => remove_dir(&sandboxes_dir.join(sandbox.as_str())),
        };
        failures.extend(result.err());
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}

fn listing(error: &io::Error) -> Error {
    Error::new(Code::Failure, format!("list the run directory: {error}"))
}

fn remove_dir(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::new(Code::Failure, format!("remove {}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// Opens a namespace and makes sure that it is still the one that was meant (reliability F32).
fn open(netns: &Netns) -> Result<netns::Netns, Error> {
    let opened = netns::Netns::open_path(&netns.path)?;
    if netns.inode != 0 && opened.inode()? != netns.inode {
        let text = format!("namespace {}: another one is there now", netns.path.display());
        return Err(Error::new(Code::NotFound, text));
    }
    Ok(opened)
}

/// Writes a file unless it holds the text already.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    std::fs::write(path, text)
}

fn endpoint_entry(record: &Record, ifindex: u32) -> EndpointEntry {
    EndpointEntry { ifindex, network: record.network, mac: record.mac, ipv4: record.ipv4, ipv6: record.ipv6 }
}

fn publish_entries(publish: &Publish, ifindex: u32) -> Vec<PublishEntry> {
    let entry = |port: &object::Port| PublishEntry {
        host_ip: port.listen.ip,
        host_port: port.listen.port,
        protocol: port.listen.protocol,
        backend: port.backend,
        backend_port: port.backend_port,
        ifindex,
    };
    publish.ports.iter().map(entry).collect()
}

/// Reserving asks for nothing but the host's side.
fn guard_entries(listens: &[Listen]) -> Vec<PublishEntry> {
    let entry = |listen: &Listen| PublishEntry {
        host_ip: listen.ip,
        host_port: listen.port,
        protocol: listen.protocol,
        backend: listen.ip,
        backend_port: 0,
        ifindex: 0,
    };
    listens.iter().map(entry).collect()
}
