//! The sandbox's side of an endpoint: loopback, addresses, settings, default routes.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};

use super::{Error, Links, Segments, device};
use crate::{model::IfName, sysctl};

/// How an endpoint's interface inside the sandbox shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsideSpec {
    /// Its name.
    pub ifname: IfName,
    /// Its addresses with their subnets' prefix lengths. Without an IPv6 address among them, IPv6 is switched off on it:
    /// no link-local address either (Docker semantics B15).
    pub addresses: Vec<IpNet>,
    /// In bytes.
    pub mtu: u32,
    /// Where IPv4 leads by default, when this endpoint provides the default route.
    pub gateway4: Option<Ipv4Addr>,
    /// Where IPv6 leads by default, when this endpoint provides the default route.
    pub gateway6: Option<Ipv6Addr>,
}

impl Links {
    /// Sets up an endpoint's interface in this namespace, the sandbox's, and switches it on; returns its index.
    ///
    /// Other endpoints' default routes stay, unless this one provides its own.
    pub async fn configure_endpoint(&self, spec: &InsideSpec) -> Result<u32, Error> {
        let doing = format!("configure {} in {}", spec.ifname, self.netns.path().display());
        let present = self.existing(&doing, &spec.ifname).await?;
        self.raise_loopback().await?;
        sysctl::write(&self.netns, settings(spec)).await?;
        if present.mtu != spec.mtu {
            let mut set = device::indexed(present.ifindex);
            set.attributes.push(LinkAttribute::Mtu(spec.mtu));
            self.change_link(&doing, set).await?;
        }
        if !present.up {
            // One that is on has what its sandbox's default routes want of it.
            self.set_segments(&present, Segments::LARGEST).await;
        }
        self.ensure_addresses(present.ifindex, &spec.addresses).await?;
        self.set_up(&spec.ifname).await?;
        if let Some(gateway) = spec.gateway4 {
            self.set_default_gateway(present.ifindex, gateway.into()).await?;
        }
        if let Some(gateway) = spec.gateway6 {
            self.set_default_gateway(present.ifindex, gateway.into()).await?;
        }
        Ok(present.ifindex)
    }

    /// Switches loopback on, with 127.0.0.1 and `::1`.
    pub async fn raise_loopback(&self) -> Result<(), Error> {
        const LOOPBACK: u32 = 1; // in every namespace (net/core/net_namespace.c)
        let mut set = device::indexed(LOOPBACK);
        set.header.flags = LinkFlags::Up;
        set.header.change_mask = set.header.flags;
        self.change_link("set lo up", set).await
    }
}

/// No router's word counts but netd's; a neighbour's stale entry is corrected whenever the interface comes up.
fn settings(spec: &InsideSpec) -> Vec<(String, String)> {
    let set = |family: &str, key: &str, value: u8| {
        (format!("{family}/conf/{}/{key}", spec.ifname), value.to_string())
    };
    let mut settings = vec![set("ipv4", "arp_notify", 1)];
    if sysctl::has_ipv6() {
        let ipv6 = spec.addresses.iter().any(|net| net.addr().is_ipv6());
        settings.extend([
            set("ipv6", "accept_ra", 0),
            set("ipv6", "accept_redirects", 0),
            set("ipv6", "accept_dad", 0),
            set("ipv6", "ndisc_notify", 1),
            set("ipv6", "disable_ipv6", u8::from(!ipv6)),
        ]);
    }
    settings
}
