//! I1: links, addresses, routes, neighbours and settings of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Findings, I1, Subject};
use crate::{
    controller::{
        Error, World,
        apply::Owned,
        host::HostView,
        linux::{bridge::bridge_spec, facts},
        object::{Bridge, Object, Veth},
        parts,
        plan::Step,
    },
    link::{
        BridgeSpec, HostAddress, HostLink, HostRoute, Links, Neighbour, PortFlags, Scope, label, parse_label,
    },
    model::{Device, Driver, IfName, Mac},
    sysctl::{self, ReservedPorts},
};

/// The host as the kernel tells it.
pub struct Host {
    /// Where it was asked.
    pub kernel: Links,
    /// What the packet path has to know of it.
    pub view: HostView,
    /// Every link by index.
    pub links: BTreeMap<u32, HostLink>,
    addresses: Vec<HostAddress>,
    routes: Vec<HostRoute>,
    neighbours: BTreeSet<Neighbour>,
    forwarding: BTreeSet<(u32, Mac)>,
}

impl Host {
    /// Reads it.
    ///
    /// # Errors
    /// The kernel does not tell, or not undisturbed.
    pub async fn read(subject: &Subject, world: &World) -> Result<Self, Error> {
        let kernel = Links::open().await?;
        let snapshot = kernel.snapshot().await?;
        let bridged = world.networks().filter(|network| network.driver == Driver::Bridge);
        let bridges: Vec<IfName> = bridged.map(|network| network.bridge.ifname.clone()).collect();
        Ok(Self {
            links: snapshot.links.iter().map(|link| (link.ifindex, link.clone())).collect(),
            addresses: snapshot.addresses.clone(),
            routes: snapshot.routes.clone(),
            neighbours: kernel.permanent_neighbours().await?.into_iter().collect(),
            forwarding: kernel.forwarding().await?,
            view: facts::view(snapshot, &bridges, &subject.only_uplinks),
            kernel,
        })
    }

    /// Returns a link by name, if there is one.
    pub fn link(&self, ifname: &IfName) -> Option<&HostLink> {
        self.links.get(self.view.links.get(ifname.as_str())?)
    }

    fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = &HostAddress> {
        self.addresses.iter().filter(move |address| address.ifindex == ifindex)
    }

    /// Looks at a network's bridge.
    pub fn bridge(&self, bridge: &Bridge, subject: &Subject, findings: &mut Findings) {
        let name = format!("bridge {}", bridge.ifname);
        let Some(link) = self.link(&bridge.ifname) else {
            return findings.add(I1, name, "missing");
        };
        let mut wrong = Vec::new();
        if link.kind.as_deref() != Some("bridge") {
            wrong.push(format!("it is a {}, not a bridge", link.kind.as_deref().unwrap_or("device")));
        }
        let adopted = is_adopted(bridge, link);
        if !adopted {
            let label = label(&subject.instance, "network", bridge.network.as_str());
            wrong.extend(other("its label", link.alias.as_deref().unwrap_or("none"), &label));
            wrong.extend(other("its MAC", &text(link.mac), &bridge.mac.to_string()));
            wrong.extend(other("its MTU", &link.mtu.to_string(), &bridge.mtu.to_string()));
        }
        if !link.up {
            wrong.push("it is down".to_owned());
        }
        for problem in wrong {
            findings.add(I1, &name, problem);
        }
        self.addresses(&name, link, &bridge.addresses, !adopted, findings);
        for net in bridge.addresses.iter().filter(|_| link.up) {
            let dst = net.trunc();
            let leads = |route: &HostRoute| route.dst == dst && route.ways().any(|oif| oif == link.ifindex);
            if net.prefix_len() < net.max_prefix_len() && !self.routes.iter().any(leads) {
                let hint =
                    "take the address off the bridge: the daemon puts it back, and the kernel the route";
                findings.add_with(I1, format!("route to {dst} by {}", bridge.ifname), "missing", hint);
            }
        }
    }

    /// Compares global addresses; of a link that is not netd's own those of others are left out.
    fn addresses(&self, name: &str, link: &HostLink, wanted: &[IpNet], all: bool, findings: &mut Findings) {
        let present: BTreeSet<IpNet> = self.addresses_of(link.ifindex).map(|address| address.net).collect();
        for net in wanted.iter().filter(|net| !present.contains(*net)) {
            findings.add(I1, format!("address {net} of {name}"), "missing");
        }
        let global = self.addresses_of(link.ifindex).filter(|address| address.scope == Scope::Global);
        for address in global.filter(|address| all && !wanted.contains(&address.net)) {
            findings.add(I1, format!("address {} of {name}", address.net), "nothing asked for it");
        }
    }

    /// Looks at the host side of an endpoint.
    pub fn veth(&self, veth: &Veth, subject: &Subject, findings: &mut Findings) {
        let name = format!("veth {}", veth.host);
        let Some(link) = self.link(&veth.host) else {
            return findings.add(I1, name, "missing");
        };
        let kind = match veth.device {
            Device::Veth => "veth",
            Device::Netkit => "netkit",
        };
        let label = label(&subject.instance, "endpoint", veth.endpoint.as_str());
        let mut wrong = Vec::new();
        wrong.extend(other("its kind", link.kind.as_deref().unwrap_or("device"), kind));
        wrong.extend(other("its label", link.alias.as_deref().unwrap_or("none"), &label));
        wrong.extend(other("its MAC", &text(link.mac), &parts::mac_of(&veth.endpoint).to_string()));
        wrong.extend(other("its MTU", &link.mtu.to_string(), &veth.mtu.to_string()));
        let bridge = self.link(&veth.bridge).map(|bridge| bridge.ifindex);
        if link.master.is_none() || link.master != bridge {
            let on = link.master.and_then(|master| self.links.get(&master));
            let on = on.map_or_else(|| "no bridge".to_owned(), |bridge| format!("bridge {}", bridge.name));
            wrong.push(format!("it is on {on}, not on bridge {}", veth.bridge));
        } else if link.port != Some(PortFlags { isolated: veth.isolated, ..PortFlags::default() }) {
            wrong.push("its settings as a port of the bridge are others'".to_owned());
        }
        for problem in wrong {
            findings.add(I1, &name, problem);
        }
        self.addresses(&name, link, &[], true, findings);
        if !self.forwarding.contains(&(link.ifindex, veth.mac)) {
            findings.add(I1, format!("forwarding entry of {} for {}", veth.mac, veth.host), "missing");
        }
    }

    /// Looks whether an endpoint's host side is up.
    pub fn up(&self, ifname: &IfName, findings: &mut Findings) {
        if self.link(ifname).is_some_and(|link| !link.up) {
            findings.add(I1, format!("veth {ifname}"), "it is down");
        }
    }

    /// Compares what the host knows for good of addresses behind netd's bridges.
    pub fn neighbours(&self, steps: &[Step], findings: &mut Findings) {
        let mut wanted: BTreeSet<Neighbour> = BTreeSet::new();
        let mut bridges: BTreeSet<u32> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Put(Object::Bridge(bridge)) => {
                    let own = self.link(&bridge.ifname).filter(|link| !is_adopted(bridge, link));
                    bridges.extend(own.map(|link| link.ifindex));
                }
                Step::Put(Object::Veth(veth)) => {
                    let Some(bridge) = self.link(&veth.bridge) else { continue };
                    let (ifindex, mac) = (bridge.ifindex, Some(veth.mac));
                    wanted.extend(veth.addresses.iter().map(|ip| Neighbour { ifindex, ip: *ip, mac }));
                }
                _ => {}
            }
        }
        let name = |ifindex: u32| self.links.get(&ifindex).map_or("?", |link| link.name.as_str());
        for missing in wanted.difference(&self.neighbours) {
            let object = format!("neighbour {} on {}", missing.ip, name(missing.ifindex));
            let there =
                self.neighbours.iter().find(|it| (it.ifindex, it.ip) == (missing.ifindex, missing.ip));
            let problem = there.map_or_else(
                || "missing".to_owned(),
                |found| format!("its MAC is {}, not {}", text(found.mac), text(missing.mac)),
            );
            findings.add(I1, object, problem);
        }
        let known: BTreeSet<(u32, IpAddr)> = wanted.iter().map(|it| (it.ifindex, it.ip)).collect();
        let ours = self.neighbours.iter().filter(|it| bridges.contains(&it.ifindex));
        for other in ours.filter(|it| !known.contains(&(it.ifindex, it.ip))) {
            let object = format!("neighbour {} on {}", other.ip, name(other.ifindex));
            findings.add(I1, object, "nothing asked for it");
        }
    }

    /// Compares the settings of netd's own bridges.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn settings(
        &self,
        steps: &[Step],
        subject: &Subject,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let own = |bridge: &&Bridge| self.link(&bridge.ifname).is_some_and(|link| !is_adopted(bridge, link));
        let bridges = steps.iter().filter_map(|step| match step {
            Step::Put(Object::Bridge(bridge)) => Some(bridge),
            _ => None,
        });
        let specs: Vec<BridgeSpec> =
            bridges.filter(own).map(|bridge| bridge_spec(&subject.instance, bridge)).collect();
        for (key, value) in self.kernel.differing_bridge_settings(&specs).await?.into_iter().flatten() {
            let problem = format!("it is not {value}");
            findings.add(I1, format!("setting net/{key}"), problem);
        }
        Ok(())
    }

    /// Looks whether the kernel keeps the ports that netd uses from others' automatic choice.
    ///
    /// # Errors
    /// The setting cannot be read.
    pub async fn reserved_ports(
        &self,
        steps: &[Step],
        subject: &Subject,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let ephemeral = sysctl::local_port_range(self.kernel.netns()).await?;
        let published = steps.iter().filter_map(|step| match step {
            Step::Put(Object::Guard(listens)) => Some(listens),
            _ => None,
        });
        let published = published.flat_map(|listens| listens.iter()).map(|listen| listen.port);
        let mut wanted: Vec<(u16, u16)> =
            published.filter(|port| ephemeral.contains(port)).map(|port| (port, port)).collect();
        wanted.extend(&subject.dataplane.nat_port_ranges);
        let present = ReservedPorts::read(self.kernel.netns()).await?;
        if present.with(&wanted) != present {
            let problem = "ports that netd uses are not on the list";
            findings.add(I1, "setting net/ipv4/ip_local_reserved_ports", problem);
        }
        Ok(())
    }
}

/// Whether a bridge is somebody else's that netd uses.
fn is_adopted(bridge: &Bridge, link: &HostLink) -> bool {
    bridge.adoptable && link.alias.as_deref().and_then(parse_label).is_none()
}

/// Says what something is where it should be something else.
fn other(what: &str, present: &str, wanted: &str) -> Option<String> {
    (present != wanted).then(|| format!("{what} is {present}, not {wanted}"))
}

fn text(mac: Option<Mac>) -> String {
    mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string())
}

/// Names something that carries netd's label.
pub fn in_words(owned: &Owned) -> String {
    match owned {
        Owned::Bridge { ifname, .. } => format!("bridge {ifname}"),
        Owned::Veth { ifname, .. } => format!("veth {ifname}"),
        Owned::Netns(name) => format!("namespace {name} in the run directory"),
        Owned::Files(sandbox) => format!("files of sandbox {} in the run directory", sandbox.short()),
        Owned::Neighbour { bridge, ip, .. } => format!("neighbour {ip} on {bridge}"),
    }
}
