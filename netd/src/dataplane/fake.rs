//! A packet path in memory, for tests of everything above it. It refuses calls that come in an order the real one forbids.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Dataplane, EndpointEntry, Error, FlowFilter, FlowInfo, Inventory, LinkEntry, NetworkEntry, OpenEntry,
    PublishEntry, Rules, UplinkEntry,
};
use crate::model::{Device, IfName, Protocol};

type PortKey = (IpAddr, u16, Protocol);

/// What the maps would hold.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    /// Networks by slot.
    pub networks: BTreeMap<u16, NetworkEntry>,
    /// Endpoints by interface index.
    pub endpoints: BTreeMap<u32, EndpointEntry>,
    /// Interfaces with programs.
    pub attached: BTreeSet<u32>,
    /// Uplinks by interface index.
    pub uplinks: BTreeMap<u32, UplinkEntry>,
    /// The host's own addresses.
    pub local: Vec<IpAddr>,
    /// Rules by which IPv6 packets find their way.
    pub rules: Rules,
    /// Reserved host ports.
    pub guarded: BTreeSet<PortKey>,
    /// Published ports.
    pub publishes: BTreeMap<PortKey, PublishEntry>,
    /// Ports open on endpoints' own addresses.
    pub open: BTreeSet<OpenEntry>,
    /// Ports that links open.
    pub links: BTreeSet<LinkEntry>,
    /// Interfaces that may reach open ports directly, by network slot.
    pub trusted: BTreeSet<(u16, u32)>,
    /// The host's interfaces.
    pub interfaces: BTreeMap<String, u32>,
    /// How often flows were told to ask for their route again.
    pub route_changes: usize,
    /// What [`Dataplane::set_sole_source6`] said last.
    pub sole_source6: bool,
    /// Filters of flushes.
    pub flushed: Vec<FlowFilter>,
    /// Withdrawn ports whose connections were ended.
    pub killed: Vec<PublishEntry>,
}

fn key(entry: &PublishEntry) -> PortKey {
    (entry.host_ip, entry.host_port, entry.protocol)
}

fn order(broken: bool, what: &str) -> Result<(), Error> {
    if broken { Err(Error::Limit(format!("out of order: {what}"))) } else { Ok(()) }
}

impl Dataplane for Fake {
    fn put_network(&mut self, network: &NetworkEntry) -> Result<(), Error> {
        self.networks.insert(network.index, network.clone());
        Ok(())
    }

    fn remove_network(&mut self, network: &NetworkEntry) -> Result<(), Error> {
        let used = self.endpoints.values().any(|endpoint| endpoint.network == network.index);
        order(used, "network removed before its endpoints")?;
        self.networks.remove(&network.index);
        Ok(())
    }

    fn put_endpoint(&mut self, endpoint: &EndpointEntry) -> Result<(), Error> {
        order(!self.attached.contains(&endpoint.ifindex), "endpoint before its programs")?;
        order(!self.networks.contains_key(&endpoint.network), "endpoint before its network")?;
        self.endpoints.insert(endpoint.ifindex, endpoint.clone());
        Ok(())
    }

    fn remove_endpoint(&mut self, endpoint: &EndpointEntry) -> Result<(), Error> {
        self.endpoints.remove(&endpoint.ifindex);
        Ok(())
    }

    fn attach_endpoint(&mut self, _host_side: &IfName, ifindex: u32, _device: Device) -> Result<(), Error> {
        self.attached.insert(ifindex);
        Ok(())
    }

    fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attached.remove(&ifindex);
        Ok(())
    }

    fn put_uplink(&mut self, uplink: &UplinkEntry) -> Result<(), Error> {
        self.uplinks.insert(uplink.ifindex, uplink.clone());
        Ok(())
    }

    fn remove_uplink(&mut self, uplink: &UplinkEntry) -> Result<(), Error> {
        self.uplinks.remove(&uplink.ifindex);
        Ok(())
    }

    fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        self.local = addresses.to_vec();
        Ok(())
    }

    fn guard_ports(&mut self, entries: &[PublishEntry]) -> Result<(), Error> {
        self.guarded.extend(entries.iter().map(key));
        Ok(())
    }

    fn release_ports(&mut self, entries: &[PublishEntry]) -> Result<(), Error> {
        let served = entries.iter().any(|entry| self.publishes.contains_key(&key(entry)));
        order(served, "port released before it was withdrawn")?;
        for entry in entries {
            self.guarded.remove(&key(entry));
        }
        Ok(())
    }

    fn put_publishes(&mut self, entries: &[PublishEntry]) -> Result<(), Error> {
        for entry in entries {
            order(!self.guarded.contains(&key(entry)), "port published before it was guarded")?;
            order(!self.endpoints.contains_key(&entry.ifindex), "port published before its endpoint")?;
            self.publishes.insert(key(entry), entry.clone());
        }
        Ok(())
    }

    fn remove_publishes(&mut self, entries: &[PublishEntry]) -> Result<(), Error> {
        for entry in entries {
            self.publishes.remove(&key(entry));
        }
        Ok(())
    }

    fn kill_publishes(&mut self, entries: &[PublishEntry]) -> Result<usize, Error> {
        self.killed.extend_from_slice(entries);
        Ok(0)
    }

    fn put_open(&mut self, entries: &[OpenEntry]) -> Result<(), Error> {
        for entry in entries {
            let bridge = self.networks.values().any(|network| network.bridge == entry.ifindex);
            let known = bridge || self.endpoints.contains_key(&entry.ifindex);
            order(!known, "port opened before its endpoint or its network")?;
            self.open.insert(entry.clone());
        }
        Ok(())
    }

    fn remove_open(&mut self, entries: &[OpenEntry]) -> Result<(), Error> {
        self.open.retain(|open| {
            !entries.iter().any(|e| (e.ip, e.port, e.protocol) == (open.ip, open.port, open.protocol))
        });
        Ok(())
    }

    fn put_links(&mut self, entries: &[LinkEntry]) -> Result<(), Error> {
        self.links.extend(entries);
        Ok(())
    }

    fn remove_links(&mut self, entries: &[LinkEntry]) -> Result<(), Error> {
        self.links.retain(|link| !entries.contains(link));
        Ok(())
    }

    fn set_trusted(&mut self, trusted: &[(u16, u32)]) -> Result<(), Error> {
        self.trusted = trusted.iter().copied().collect();
        Ok(())
    }

    fn set_links(&mut self, links: &BTreeMap<String, u32>) -> Result<(), Error> {
        self.interfaces.clone_from(links);
        Ok(())
    }

    fn set_rules(&mut self, rules: &Rules) -> Result<(), Error> {
        self.rules = rules.clone();
        Ok(())
    }

    fn routes_changed(&mut self) -> Result<(), Error> {
        self.route_changes += 1;
        Ok(())
    }

    fn set_sole_source6(&mut self, sole: bool) -> Result<(), Error> {
        self.sole_source6 = sole;
        Ok(())
    }

    fn flows(&mut self, _filter: &FlowFilter) -> Result<Vec<FlowInfo>, Error> {
        Ok(Vec::new())
    }

    fn flush_flows(&mut self, filter: &FlowFilter) -> Result<usize, Error> {
        self.flushed.push(filter.clone());
        Ok(0)
    }

    fn drops(&mut self) -> Result<Vec<(&'static str, u64)>, Error> {
        Ok(Vec::new())
    }

    fn inventory(&mut self) -> Result<Inventory, Error> {
        Ok(Inventory {
            endpoints: self.endpoints.values().cloned().collect(),
            attached: Vec::new(),
            publishes: self.publishes.values().cloned().collect(),
            open: self.open.iter().cloned().collect(),
            links: self.links.iter().copied().collect(),
            networks: self.networks.keys().copied().collect(),
            uplinks: self.uplinks.keys().copied().collect(),
        })
    }

    fn features(&self) -> Vec<(String, String)> {
        vec![("attach".into(), "memory".into())]
    }

    fn down(&mut self) -> Result<(), Error> {
        *self = Self::default();
        Ok(())
    }
}
