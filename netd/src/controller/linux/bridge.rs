//! Bridges and their slots in the packet path.

use super::Linux;
use crate::{
    controller::{
        Error,
        object::{Bridge, Slot},
    },
    dataplane::NetworkEntry,
    link::{self, BridgeSpec, HostLink, label},
    model::{IfName, Mac},
};

impl Linux {
    pub(super) async fn put_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        let spec = bridge_spec(&self.instance, bridge);
        let new = self.links.link(&bridge.ifname).await?.is_none();
        let (index, own) = match self.links.ensure_bridge(&spec).await {
            Err(link::Error::Foreign { .. })
                if bridge.adoptable && !self.is_labelled(&bridge.ifname).await? =>
            {
                (self.links.adopt_bridge(&bridge.ifname, &bridge.addresses).await?.ifindex, false)
            }
            other => (other?, true),
        };
        self.predecessors.begin(&bridge.ifname, new, own);
        self.indexes.insert(bridge.ifname.clone(), index);
        Ok(())
    }

    pub(super) async fn repair_bridge_settings(&mut self, bridges: &[Bridge]) -> Result<Vec<String>, Error> {
        let specs: Vec<BridgeSpec> =
            bridges.iter().map(|bridge| bridge_spec(&self.instance, bridge)).collect();
        let mut repaired = self.links.repair_bridge_settings(&specs).await?;
        for bridge in bridges.iter().filter(|bridge| bridge.adoptable) {
            if !self.is_labelled(&bridge.ifname).await? {
                repaired.extend(self.links.repair_adopted_settings(&bridge.ifname, &bridge.addresses).await?);
            }
        }
        Ok(repaired.into_iter().map(|(key, value)| format!("{key} = {value}")).collect())
    }

    pub(super) async fn repair_bridge_routes(&mut self, bridges: &[Bridge]) -> Result<Vec<String>, Error> {
        let mut repaired = Vec::new();
        for spec in bridges.iter().map(|bridge| bridge_spec(&self.instance, bridge)) {
            let present = self.links.link(&spec.ifname).await?;
            let Some(own) = present.filter(|link| link.alias.as_ref() == Some(&spec.label)) else { continue };
            let missing = self.links.ensure_connected(own.ifindex, &spec.addresses).await?;
            repaired.extend(missing.into_iter().map(|subnet| format!("{subnet} dev {}", spec.ifname)));
        }
        Ok(repaired)
    }

    pub(super) async fn is_labelled(&self, ifname: &IfName) -> Result<bool, Error> {
        let link = self.links.link(ifname).await?;
        Ok(link.and_then(|link| link.alias).is_some_and(|alias| link::parse_label(&alias).is_some()))
    }

    pub(super) async fn remove_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        self.indexes.remove(&bridge.ifname);
        self.predecessors.end(&bridge.ifname);
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

    pub(super) async fn network_entry(&mut self, slot: &Slot) -> Result<NetworkEntry, Error> {
        Ok(network_entry(slot, self.links.link(&slot.bridge).await?.as_ref()))
    }
}

/// Returns how a bridge shall be.
pub(super) fn bridge_spec(instance: &str, bridge: &Bridge) -> BridgeSpec {
    BridgeSpec {
        ifname: bridge.ifname.clone(),
        label: label(instance, "network", bridge.network.as_str()),
        mac: bridge.mac,
        mtu: bridge.mtu,
        addresses: bridge.addresses.clone(),
        forwarding: !bridge.internal,
        ipv6: bridge.ipv6,
    }
}

/// Returns a network with its bridge as it is.
pub(super) fn network_entry(slot: &Slot, bridge: Option<&HostLink>) -> NetworkEntry {
    NetworkEntry {
        index: slot.index,
        bridge: bridge.map_or(0, |link| link.ifindex),
        bridge_mac: bridge.and_then(|link| link.mac).unwrap_or(Mac([0; 6])),
        ipv4: slot.ipv4,
        ipv6: slot.ipv6,
        icc: slot.icc,
        internal: slot.internal,
        masquerade: slot.masquerade,
        gateway_mode_ipv4: slot.gateway_modes.0,
        gateway_mode_ipv6: slot.gateway_modes.1,
        trusts: slot.trusts,
        host_ipv4: slot.host_ipv4,
        host_ipv6: slot.host_ipv6,
        host_closed: slot.host_closed,
        hairpin_source: slot.hairpin_source,
        any_source: slot.any_source,
        own_bridge: slot.own_bridge,
    }
}
