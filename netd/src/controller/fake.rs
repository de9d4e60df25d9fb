//! A machine in memory: a set of objects that refuses steps in an order the kernel would refuse, and fails where it is told to.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Code, Error, NetnsRequest,
    apply::{Machine, Owned, PortFacts},
    host::{HostView, LinkView},
    object::{Bridge, Listen, Object, Port},
    plan::Step,
    sandboxes::Place,
};
use crate::{
    dataplane::{Dataplane, UplinkEntry, fake::Fake},
    ipam::HostPrefix,
    link::Proxy,
    model::{IfName, Name, Netns, Sandbox},
};

/// The kernel's objects.
#[derive(Debug, Clone, Default)]
pub struct FakeMachine {
    /// All objects but ports.
    pub objects: Vec<Object>,
    /// Reserved host ports.
    pub guarded: BTreeSet<Listen>,
    /// Published ports: where each leads.
    pub published: BTreeMap<Listen, (IfName, Port)>,
    /// Ports that sockets of the host hold.
    pub busy: BTreeSet<Listen>,
    /// Settings of bridges that others have written to.
    pub disturbed: Vec<String>,
    /// Namespaces that are gone.
    pub dead: BTreeSet<std::path::PathBuf>,
    /// Whether it cannot be told which namespaces and processes are there.
    pub out_of_files: bool,
    /// Whether the kernel lacks netkit devices.
    pub no_netkit: bool,
    /// What no object can be made of, by its word.
    pub fails: Option<&'static str>,
    /// Steps to go until one fails.
    pub fail_in: Option<usize>,
    /// Steps taken.
    pub steps: usize,
    /// Whether the host cannot be looked at.
    pub blind: bool,
    /// What the host answers for on the links outside.
    pub proxies: BTreeSet<Proxy>,
    /// Settings below `/proc/sys/net`.
    pub settings: BTreeMap<String, String>,
    /// What neighbours of uplinks ask for there.
    pub on_link: BTreeSet<(u32, ipnet::IpNet)>,
    /// Interfaces to the outside.
    pub uplinks: Vec<UplinkEntry>,
    /// Times that the whole host was looked at.
    pub looks: usize,
    /// The packet path, for what is not an object.
    pub dataplane: Fake,
}

/// Returns the name of a bridge, and how it is: up, with an index of its own.
fn bridge_of(object: &Object) -> Option<(&IfName, LinkView)> {
    let Object::Bridge(bridge) = object else { return None };
    let [.., high, low] = bridge.mac.0;
    let ifindex = FakeMachine::FIRST_BRIDGE + u32::from(u16::from_be_bytes([high, low]));
    let addresses = bridge.addresses.iter().copied().collect();
    Some((&bridge.ifname, LinkView { ifindex, labelled: true, up: true, master: None, addresses }))
}

impl FakeMachine {
    /// The least index that a bridge may have.
    const FIRST_BRIDGE: u32 = 1000;
    /// The index of every other link.
    pub const INDEX: u32 = 1;

    fn has(&self, wanted: impl Fn(&Object) -> bool) -> bool {
        self.objects.iter().any(wanted)
    }

    /// What has to be there before an object comes, in the words of reliability 6.5.
    fn ready_for(&self, object: &Object) -> Result<(), String> {
        let veth = |host: &IfName| self.has(|o| matches!(o, Object::Veth(v) if v.host == *host));
        let programs = |host: &IfName| self.has(|o| matches!(o, Object::Programs(p, _) if p == host));
        let up = |host: &IfName| self.has(|o| matches!(o, Object::Up(u) if u == host));
        let record = |host: &IfName| self.has(|o| matches!(o, Object::Record(r) if r.host == *host));
        let bridge = |name: &IfName| self.has(|o| matches!(o, Object::Bridge(b) if b.ifname == *name));
        let rules = match object {
            Object::Bridge(_) | Object::Netns(_) | Object::Files(_) | Object::Guard(_) | Object::Links(_) => {
                vec![]
            }
            Object::Slot(slot) => vec![(bridge(&slot.bridge), "a slot needs its bridge")],
            Object::Veth(v) => {
                let name = v.netns.path.file_name().map(|name| name.to_string_lossy().into_owned());
                let netns =
                    self.has(|o| matches!(o, Object::Netns(n) if Some(n.as_str()) == name.as_deref()));
                vec![
                    (bridge(&v.bridge), "a veth needs its bridge"),
                    (netns || !v.netns.owned, "a veth needs its namespace"),
                    (!up(&v.host), "a new veth is down"),
                ]
            }
            Object::Programs(host, _) => {
                vec![(veth(host), "programs need their veth"), (!up(host), "programs come before up")]
            }
            Object::Inside(i) => {
                let peer =
                    self.has(|o| matches!(o, Object::Veth(v) if v.netns == i.netns && v.inside == i.ifname));
                vec![(peer, "addresses need their veth")]
            }
            Object::Record(r) => {
                let slot = self.has(|o| matches!(o, Object::Slot(s) if s.index == r.network));
                vec![
                    (programs(&r.host), "an endpoint needs its programs"),
                    (slot, "an endpoint needs its slot"),
                ]
            }
            Object::Publish(p) => {
                let guarded = p.ports.iter().all(|port| self.guarded.contains(&port.listen));
                vec![(record(&p.host), "a port needs its endpoint"), (guarded, "a port needs its guard")]
            }
            Object::Open(open) => {
                vec![(
                    record(&open.host) || bridge(&open.host),
                    "an open port needs its endpoint or its bridge",
                )]
            }
            Object::Up(host) => {
                vec![
                    (record(host), "no link is up before its endpoint"),
                    (programs(host), "nor before its programs"),
                ]
            }
            Object::Gateway(g) => {
                let inside = |ifname: &IfName| {
                    self.has(|o| matches!(o, Object::Inside(i) if i.netns == g.netns && i.ifname == *ifname))
                };
                let all = g.ipv4.iter().all(|(_, i)| inside(i)) && g.ipv6.iter().all(|(_, i)| inside(i));
                vec![(all, "a default route needs its interface")]
            }
            Object::SourceRoutes(s) => {
                let inside = |ifname: &IfName| {
                    self.has(|o| matches!(o, Object::Inside(i) if i.netns == s.netns && i.ifname == *ifname))
                };
                let all = s.routes.iter().all(|route| inside(&route.ifname));
                vec![(all, "a route by source needs its interface")]
            }
        };
        rules
            .into_iter()
            .find(|(holds, _)| !holds)
            .map_or(Ok(()), |(_, rule)| Err(format!("{object}: {rule}")))
    }

    /// What must be gone before an object goes.
    fn ready_without(&self, object: &Object) -> Result<(), String> {
        let blocked = match object {
            Object::Bridge(b) => self.has(|o| {
                matches!(o, Object::Slot(s) if s.bridge == b.ifname)
                    || matches!(o, Object::Veth(v) if v.bridge == b.ifname)
            }),
            Object::Slot(s) => self.has(|o| matches!(o, Object::Record(r) if r.network == s.index)),
            Object::Netns(n) => self
                .has(|o| matches!(o, Object::Veth(v) if v.netns.owned && v.netns.path.ends_with(n.as_str()))),
            Object::Veth(v) => self.has(|o| {
                matches!(o, Object::Up(u) if *u == v.host)
                    || matches!(o, Object::Record(r) if r.host == v.host)
                    || matches!(o, Object::Programs(p, _) if *p == v.host)
            }),
            Object::Programs(host, _) => self.has(|o| {
                matches!(o, Object::Up(u) if u == host) || matches!(o, Object::Record(r) if r.host == *host)
            }),
            Object::Record(r) => {
                self.published.values().any(|(host, _)| *host == r.host)
                    || self.has(|o| matches!(o, Object::Open(open) if open.host == r.host))
            }
            Object::Guard(listens) => listens.iter().any(|listen| self.published.contains_key(listen)),
            _ => false,
        };
        if blocked { Err(format!("{object} removed before what stands on it")) } else { Ok(()) }
    }

    fn put(&mut self, object: &Object) -> Result<(), String> {
        let present = self.objects.iter().position(|other| other.same_thing(object));
        if present.is_some_and(|index| self.objects[index] == *object) {
            return Ok(());
        }
        self.ready_for(object)?;
        match (object, present) {
            (Object::Guard(listens), _) => self.guarded.extend(listens.iter().copied()),
            (Object::Publish(p), _) => {
                let ports = p.ports.iter().map(|port| (port.listen, (p.host.clone(), port.clone())));
                self.published.extend(ports);
            }
            (object, Some(index)) => self.objects[index] = object.clone(),
            (object, None) => self.objects.push(object.clone()),
        }
        Ok(())
    }

    fn remove(&mut self, object: &Object) -> Result<(), String> {
        self.ready_without(object)?;
        match object {
            Object::Guard(listens) => listens.iter().for_each(|listen| {
                self.guarded.remove(listen);
            }),
            Object::Publish(p) => p.ports.iter().for_each(|port| {
                self.published.remove(&port.listen);
            }),
            object => self.objects.retain(|other| !other.same_thing(object)),
        }
        Ok(())
    }

    /// Returns everything as text, for comparing before and after.
    pub fn dump(&self) -> Vec<String> {
        let mut dump: Vec<String> = self.objects.iter().map(|object| format!("{object:?}")).collect();
        dump.extend(self.guarded.iter().map(|listen| format!("guard {listen:?}")));
        dump.extend(self.published.iter().map(|published| format!("publish {published:?}")));
        dump.sort();
        dump
    }
}

fn wrong(text: String) -> Error {
    Error::new(Code::Failure, text)
}

impl Machine for FakeMachine {
    async fn apply(&mut self, step: &Step) -> Result<(), Error> {
        self.steps += 1;
        if let Some(left) = self.fail_in {
            self.fail_in = left.checked_sub(1);
            if left == 0 {
                return Err(wrong(format!("told to fail at: {step}")));
            }
        }
        if let Step::Put(object) = step
            && self.fails == Some(object.word())
        {
            return Err(wrong(format!("told to fail at: {step}")));
        }
        match step {
            Step::Put(object) | Step::Replace(_, object) => self.put(object).map_err(wrong),
            Step::Remove(object) => self.remove(object).map_err(wrong),
            Step::Probe(listens) => match listens.iter().find(|listen| self.busy.contains(listen)) {
                Some(listen) => Err(Error::new(Code::Conflict, format!("busy: {}", listen.port))),
                None => Ok(()),
            },
        }
    }

    async fn settle(&mut self) {}

    async fn remove_together(&mut self, links: &[&Object]) -> Result<(), Error> {
        self.objects.retain(|object| !links.iter().any(|link| object.same_thing(link)));
        Ok(())
    }

    async fn place(&mut self, name: &Name, request: &NetnsRequest) -> Result<Place, Error> {
        let netns = match request {
            NetnsRequest::Create => {
                Netns { path: format!("/run/netd/netns/{name}").into(), owned: true, inode: 0 }
            }
            NetnsRequest::Path(path) => Netns { path: path.clone(), owned: false, inode: 4 },
            NetnsRequest::Pid(pid) => {
                Netns { path: format!("/proc/{pid}/ns/net").into(), owned: false, inode: u64::from(*pid) }
            }
        };
        Ok(Place { netns: Some(netns), occupied: BTreeSet::new() })
    }

    async fn interfaces(&mut self, _netns: &Netns) -> Result<BTreeSet<String>, Error> {
        Ok(BTreeSet::new())
    }

    fn inode(&mut self, netns: &Netns) -> Result<u64, Error> {
        if self.dead.contains(&netns.path) {
            return Err(Error::new(Code::NotFound, "gone"));
        }
        Ok(if netns.inode == 0 { 7 } else { netns.inode })
    }

    fn found(&mut self, netns: &Netns) -> Result<Option<u64>, Error> {
        if self.out_of_files {
            return Err(Error::new(Code::Failure, "too many open files"));
        }
        Ok(self.inode(netns).ok())
    }

    fn free(&mut self, listens: &[Listen]) -> bool {
        !listens.iter().any(|listen| self.busy.contains(listen))
    }

    fn is_running(&self, _sandbox: &Sandbox, pid: u32) -> Result<bool, Error> {
        if self.out_of_files {
            return Err(Error::new(Code::Failure, "too many open files"));
        }
        Ok(pid == 1)
    }

    fn kill(&mut self, _pid: u32) -> Result<(), Error> {
        Ok(())
    }

    async fn has_netkit(&mut self) -> Result<bool, Error> {
        Ok(!self.no_netkit)
    }

    async fn index(&mut self, ifname: &IfName) -> Result<Option<u32>, Error> {
        let there = self.has(|o| matches!(o, Object::Veth(v) if v.host == *ifname));
        Ok(there.then_some(Self::INDEX))
    }

    async fn ports(&mut self) -> Result<PortFacts, Error> {
        Ok(PortFacts { ephemeral: (32_768, 32_775), reserved: vec![(32_769, 32_769)], ipv6: true })
    }

    async fn prefixes(&mut self) -> Result<Vec<HostPrefix>, Error> {
        Ok(Vec::new())
    }

    async fn host(&mut self, _bridges: &[IfName]) -> Result<HostView, Error> {
        self.looks += 1;
        if self.blind {
            return Err(wrong("blind".into()));
        }
        let own = self.objects.iter().filter_map(|object| match object {
            Object::Bridge(bridge) => Some(bridge.ifname.to_string()),
            Object::Veth(veth) => Some(veth.host.to_string()),
            _ => None,
        });
        let ports = self.objects.iter().filter_map(|object| match object {
            Object::Veth(veth) => Some((veth.host.to_string(), veth.bridge.to_string())),
            _ => None,
        });
        let bridges = || self.objects.iter().filter_map(bridge_of);
        let addresses = bridges()
            .flat_map(|(name, bridge)| bridge.addresses.into_iter().map(move |net| (name.to_string(), net)));
        let (uplinks, on_link) = (self.uplinks.clone(), self.on_link.clone());
        Ok(HostView {
            own: own.collect(),
            ports: ports.collect(),
            up: bridges().map(|(name, _)| name.to_string()).collect(),
            addresses: addresses.collect(),
            links: bridges().map(|(name, bridge)| (name.to_string(), bridge.ifindex)).collect(),
            uplinks,
            on_link,
            ..HostView::default()
        })
    }

    async fn look(&mut self, ifname: &IfName) -> Result<Option<LinkView>, Error> {
        let bridge = |name: &IfName| {
            let mut bridges = self.objects.iter().filter_map(bridge_of);
            bridges.find(|(other, _)| *other == name).map(|(_, bridge)| bridge)
        };
        let port = |object: &Object| match object {
            Object::Veth(veth) if veth.host == *ifname => {
                let master = bridge(&veth.bridge).map(|bridge| bridge.ifindex);
                Some(LinkView { ifindex: Self::INDEX, labelled: true, master, ..LinkView::default() })
            }
            _ => None,
        };
        Ok(bridge(ifname).or_else(|| self.objects.iter().find_map(port)))
    }

    async fn name_again(&mut self, _sandbox: &Sandbox) -> Result<bool, Error> {
        Ok(false)
    }

    async fn repair_settings(&mut self, _bridges: &[Bridge]) -> Result<Vec<String>, Error> {
        Ok(std::mem::take(&mut self.disturbed))
    }

    async fn repair_routes(&mut self, _bridges: &[Bridge]) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    async fn owned(&mut self) -> Result<Vec<Owned>, Error> {
        let owned = self.objects.iter().filter_map(|object| match object {
            Object::Bridge(b) => Some(Owned::Bridge { ifname: b.ifname.clone(), network: b.network.clone() }),
            Object::Veth(v) => Some(Owned::Veth { ifname: v.host.clone(), endpoint: v.endpoint.clone() }),
            Object::Netns(name) => Some(Owned::Netns(name.clone())),
            Object::Files(files) => Some(Owned::Files(files.sandbox.clone())),
            _ => None,
        });
        Ok(owned.collect())
    }

    async fn remove_orphan(&mut self, orphan: &Owned) -> Result<(), Error> {
        self.objects.retain(|object| match (orphan, object) {
            (Owned::Bridge { ifname, .. }, Object::Bridge(b)) => b.ifname != *ifname,
            (Owned::Bridge { ifname, .. }, Object::Slot(s)) => s.bridge != *ifname,
            (Owned::Veth { ifname, .. }, Object::Veth(v)) => v.host != *ifname,
            (Owned::Veth { ifname, .. }, Object::Record(r)) => r.host != *ifname,
            (Owned::Veth { ifname, .. }, Object::Open(open)) => open.host != *ifname,
            (Owned::Veth { ifname, .. }, Object::Programs(host, _) | Object::Up(host)) => host != ifname,
            (Owned::Netns(name), Object::Netns(other)) => other != name,
            (Owned::Files(id), Object::Files(files)) => files.sandbox != *id,
            _ => true,
        });
        Ok(())
    }

    async fn answer_for(&mut self, wanted: &BTreeSet<Proxy>) -> Result<(), Error> {
        self.proxies.clone_from(wanted);
        Ok(())
    }

    async fn setting(&mut self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.settings.get(key).cloned())
    }

    async fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        self.settings.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    async fn restore(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn rename(&mut self, _from: &IfName, _to: &IfName) -> Result<(), Error> {
        Ok(())
    }

    fn collect(&mut self) {}

    fn dataplane<T>(&mut self, act: impl FnOnce(&mut dyn Dataplane) -> T) -> T {
        act(&mut self.dataplane)
    }
}
