//! Both sides of a veth: on the bridge and in the sandbox.

use std::net::IpAddr;

use super::Linux;
use crate::{
    controller::{
        Code, Error,
        apply::Machine as _,
        object::{Gateway, Inside, Veth},
        parts,
    },
    link::{InsideSpec, Links, MAX_IFINDEX, PortFlags, VethSpec, label},
    model::{IfName, Netns},
    netns,
};

impl Linux {
    pub(super) async fn put_veth(&mut self, veth: &Veth) -> Result<(), Error> {
        let inside = self.enter(&veth.netns).await?;
        let spec = VethSpec {
            device: veth.device,
            host_ifname: veth.host.clone(),
            label: label(&self.instance, "endpoint", veth.endpoint.as_str()),
            host_mac: parts::mac_of(&veth.endpoint),
            peer_ifname: veth.inside.clone(),
            peer_mac: veth.mac,
            peer_netns: inside.netns().clone(),
            mtu: veth.mtu,
        };
        let bridge = self.existing(&veth.bridge).await?;
        let present = match self.listing.fresh(&veth.host) {
            Some(listed) => Some(listed.clone()),
            None => self.links.link(&veth.host).await?,
        };
        let made = self.links.ensure_veth(&spec, present, &inside, MAX_IFINDEX).await?;
        if made.fresh {
            let haste = self.predecessors.haste(&veth.bridge, &veth.addresses);
            self.fresh.insert(veth.inside.clone(), haste);
        }
        let host = made.host;
        self.indexes.insert(veth.host.clone(), host.ifindex);
        let flags = PortFlags { isolated: veth.isolated, ..PortFlags::default() };
        if (host.master, host.port) != (Some(bridge), Some(flags)) {
            self.listing.note_changed(host.ifindex);
            self.links.enslave(&veth.host, bridge, flags).await?;
        }
        Ok(self.links.add_endpoint(host.ifindex, bridge, veth.mac, &veth.addresses).await?)
    }

    pub(super) async fn remove_veth(&mut self, veth: &Veth) -> Result<(), Error> {
        self.indexes.remove(&veth.host);
        self.predecessors.remember(&veth.bridge, &veth.addresses);
        let ours = label(&self.instance, "endpoint", veth.endpoint.as_str());
        self.remove_labelled(&veth.host, &ours).await?;
        if let Some(index) = self.leaving.remove(&veth.host) {
            self.dataplane(|dataplane| dataplane.detach_endpoint(index))?;
        }
        if let Some(bridge) = self.find(&veth.bridge).await? {
            for ip in &veth.addresses {
                self.links.remove_neighbour(bridge, *ip).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn put_up(&mut self, host: &IfName) -> Result<(), Error> {
        if self.listing.fresh(host).is_some_and(|link| link.up) {
            return Ok(());
        }
        if let Some(index) = self.indexes.get(host) {
            self.listing.note_changed(*index);
        }
        Ok(self.links.set_running(host).await?)
    }

    pub(super) async fn remove_up(&mut self, host: &IfName) -> Result<(), Error> {
        if let Some(index) = self.indexes.get(host) {
            self.listing.note_changed(*index);
        }
        match self.links.set_down(host).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }

    pub(super) async fn put_inside(&mut self, inside: &Inside) -> Result<(), Error> {
        let spec = InsideSpec {
            ifname: inside.ifname.clone(),
            addresses: inside.addresses.clone(),
            mtu: inside.mtu,
            gateway4: None,
            gateway6: None,
            quiet: inside.own_bridge && self.fresh.contains_key(&inside.ifname),
        };
        let links = self.enter(&inside.netns).await?;
        links.configure_endpoint(&spec).await?;
        if let Some(haste) = self.fresh.remove(&inside.ifname) {
            self.unannounced.push((links, inside.ifname.clone(), inside.announcements, haste));
        }
        Ok(())
    }

    pub(super) async fn put_gateway(&mut self, gateway: &Gateway) -> Result<(), Error> {
        let links = self.enter(&gateway.netns).await?;
        let routes = [
            gateway.ipv4.as_ref().map(|(ip, ifname)| (IpAddr::V4(*ip), ifname)),
            gateway.ipv6.as_ref().map(|(ip, ifname)| (IpAddr::V6(*ip), ifname)),
        ];
        for (ip, ifname) in routes.into_iter().flatten() {
            let gone = || Error::new(Code::Failure, format!("interface {ifname} has gone from its sandbox"));
            let link = links.link(ifname).await?.ok_or_else(gone)?;
            links.set_segments(&link, self.segments).await;
            links.set_default_gateway(link.ifindex, ip).await?;
        }
        Ok(())
    }

    /// Opens a sandbox's namespace, or the one that is open already.
    pub(super) async fn enter(&mut self, netns: &Netns) -> Result<Links, Error> {
        if let Some((path, links)) = &self.inside
            && *path == netns.path
        {
            return Ok(links.clone());
        }
        let links = Links::open_in(&open(netns)?).await?;
        self.inside = Some((netns.path.clone(), links.clone()));
        Ok(links)
    }
}

/// Opens a namespace and makes sure that it is still the one that was meant (reliability F32).
pub(super) fn open(netns: &Netns) -> Result<netns::Netns, Error> {
    let opened = netns::Netns::open_path(&netns.path)?;
    if netns.inode != 0 && opened.inode()? != netns.inode {
        let text = format!("namespace {}: another one is there now", netns.path.display());
        return Err(Error::new(Code::NotFound, text));
    }
    Ok(opened)
}
