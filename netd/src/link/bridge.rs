//! Bridges: one per network, with its gateway addresses.

use ipnet::IpNet;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};

use super::{Error, HostLink, Links, Mode, device};
use crate::{
    model::{IfName, Mac},
    sysctl,
};

/// How a network's bridge shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Its name.
    pub ifname: IfName,
    /// Its owner's label.
    pub label: String,
    /// Its Ethernet address: chosen once, or it would follow its ports and sandboxes would lose their gateway.
    pub mac: Mac,
    /// In bytes; chosen too, or it would be the least of its ports'.
    pub mtu: u32,
    /// The gateways' addresses with their subnets' prefix lengths; none on a network without gateway.
    pub addresses: Vec<IpNet>,
    /// Whether the host forwards what comes from it: not on an internal network.
    pub forwarding: bool,
    /// Whether the network has IPv6; without it, the bridge has no link-local address either.
    pub ipv6: bool,
}

impl Links {
    /// Makes a bridge, or makes netd's own equal to the description; returns its index.
    ///
    /// # Errors
    /// `Foreign` when a link of that name is not netd's bridge for this network.
    pub async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<u32, Error> {
        let doing = format!("create bridge {}", spec.ifname);
        let present = self.link(&spec.ifname).await?;
        match &present {
            Some(present) => present.check_owner(&InfoKind::Bridge, &spec.label)?,
            None => self.create_bridge(&doing, spec).await?,
        }
        let bridge = self.existing(&doing, &spec.ifname).await?;
        self.repair_bridge(&bridge, spec).await?;
        self.finish_bridge(spec, bridge.ifindex).await?;
        if present.is_some() {
            self.ensure_connected(bridge.ifindex, &spec.addresses).await?;
        }
        Ok(bridge.ifindex)
    }

    /// Takes an existing bridge of somebody else's into use: adds the gateways' addresses, lets the host forward what comes
    /// from it, and switches it on, no more (Docker semantics B1). Returns it as it is now.
    ///
    /// # Errors
    /// `Foreign` when the link of that name is no bridge.
    pub async fn adopt_bridge(&self, ifname: &IfName, addresses: &[IpNet]) -> Result<HostLink, Error> {
        let doing = format!("adopt bridge {ifname}");
        let bridge = self.existing(&doing, ifname).await?;
        if bridge.kind.as_deref() != Some("bridge") {
            return Err(Error::Foreign { name: bridge.name.clone(), owner: bridge.owner() });
        }
        sysctl::write(&self.netns, adopted_sysctls(ifname, addresses)).await?;
        self.ensure_addresses(bridge.ifindex, addresses).await?;
        self.set_up(ifname).await?;
        self.existing(&doing, ifname).await
    }

    /// Gives an adopted bridge back: takes netd's addresses from it. Forwarding stays on, since its owner may have come to
    /// rely on it. What is gone is success.
    pub async fn release_bridge(&self, ifname: &IfName) -> Result<(), Error> {
        match self.link(ifname).await? {
            Some(bridge) => self.ensure_addresses(bridge.ifindex, &[]).await,
            None => Ok(()),
        }
    }

    async fn create_bridge(&self, doing: &str, spec: &BridgeSpec) -> Result<(), Error> {
        let mut create = device::named(&spec.ifname);
        create.attributes.push(LinkAttribute::Address(spec.mac.0.to_vec()));
        create.attributes.push(settings());
        let mut mark = device::named(&spec.ifname);
        mark.attributes.push(LinkAttribute::IfAlias(spec.label.clone()));
        // An MTU given at creation does not count as chosen, and the ports would change it (net/bridge/br_if.c).
        mark.attributes.push(LinkAttribute::Mtu(spec.mtu));
        self.create_marked(doing, &spec.ifname, create, mark).await
    }

    /// Creates a link and labels it in the same system call. The kernel ignores an alias in the message that creates
    /// (`rtnl_create_link`), so it comes in a second one; nobody sees a link without its label across a crash.
    pub(super) async fn create_marked(
        &self,
        doing: &str,
        ifname: &IfName,
        create: LinkMessage,
        mark: LinkMessage,
    ) -> Result<(), Error> {
        let result = self
            .socket
            .send_together(
                doing,
                vec![
                    (Mode::Create, RouteNetlinkMessage::NewLink(create)),
                    (Mode::Change, RouteNetlinkMessage::NewLink(mark)),
                ],
            )
            .await;
        match result {
            Err(error) if error.is_exists() => {
                // The name was free a moment ago. If it is not any more, somebody else's link now carries the label;
                // if it is, the index or the peer's name was taken.
                let Some(other) = self.link(ifname).await? else { return Err(error) };
                let mut unmark = device::indexed(other.ifindex);
                unmark.attributes.push(LinkAttribute::IfAlias(String::new()));
                self.change_link(&format!("unlabel {ifname}"), unmark).await?;
                Err(Error::Foreign { name: other.name, owner: "made meanwhile".into() })
            }
            other => other,
        }
    }

    async fn repair_bridge(&self, present: &HostLink, spec: &BridgeSpec) -> Result<(), Error> {
        let mut message = device::indexed(present.ifindex);
        message.attributes.push(settings());
        if present.mac != Some(spec.mac) {
            message.attributes.push(LinkAttribute::Address(spec.mac.0.to_vec()));
        }
        if present.mtu != spec.mtu {
            message.attributes.push(LinkAttribute::Mtu(spec.mtu));
        }
        self.change_link(&format!("configure bridge {}", spec.ifname), message).await
    }

    /// Returns of each bridge the settings that are there and are not what they should be, with the values that they should have.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    pub async fn differing_bridge_settings(
        &self,
        specs: &[BridgeSpec],
    ) -> Result<Vec<Vec<(String, String)>>, Error> {
        Ok(sysctl::differing(&self.netns, specs.iter().map(bridge_sysctls).collect()).await?)
    }

    /// Puts back the settings of netd's own ones of these bridges that somebody has written to; returns which. A bridge that
    /// is gone or somebody else's is passed over.
    pub async fn repair_bridge_settings(&self, specs: &[BridgeSpec]) -> Result<Vec<(String, String)>, Error> {
        let differing = self.differing_bridge_settings(specs).await?;
        let mut repaired = Vec::new();
        for (spec, settings) in specs.iter().zip(differing).filter(|(_, settings)| !settings.is_empty()) {
            let present = self.link(&spec.ifname).await?;
            if present.is_some_and(|link| link.check_owner(&InfoKind::Bridge, &spec.label).is_ok()) {
                sysctl::write(&self.netns, settings.clone()).await?;
                repaired.extend(settings);
            }
        }
        Ok(repaired)
    }

    /// Puts back what netd needs of the settings of an adopted bridge; returns what somebody had written to.
    pub async fn repair_adopted_settings(
        &self,
        ifname: &IfName,
        addresses: &[IpNet],
    ) -> Result<Vec<(String, String)>, Error> {
        let wanted = vec![adopted_sysctls(ifname, addresses)];
        let differing: Vec<_> = sysctl::differing(&self.netns, wanted).await?.into_iter().flatten().collect();
        sysctl::write(&self.netns, differing.clone()).await?;
        Ok(differing)
    }

    async fn finish_bridge(&self, spec: &BridgeSpec, ifindex: u32) -> Result<(), Error> {
        sysctl::write(&self.netns, bridge_sysctls(spec)).await?;
        self.ensure_addresses(ifindex, &spec.addresses).await?;
        self.set_up(&spec.ifname).await
    }
}

/// No spanning tree, so that a port forwards at once; multicast to every port, since nobody sends queries.
fn settings() -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(false),
        ])),
    ])
}

/// Routes are looked up as for a packet from the bridge, which only a forwarding interface may send on.
fn adopted_sysctls(ifname: &IfName, addresses: &[IpNet]) -> Vec<(String, String)> {
    let mut settings = vec![(format!("ipv4/conf/{ifname}/forwarding"), "1".into())];
    if addresses.iter().any(|net| net.addr().is_ipv6()) {
        settings.push((format!("ipv6/conf/{ifname}/disable_ipv6"), "0".into()));
        settings.push((format!("ipv6/conf/{ifname}/forwarding"), "1".into()));
    }
    settings
}

/// Forwarding for this bridge alone, and no word of a sandbox's changes the host's routes (Docker semantics B23).
fn bridge_sysctls(spec: &BridgeSpec) -> Vec<(String, String)> {
    let set = |family: &str, key: &str, value: u8| {
        (format!("{family}/conf/{}/{key}", spec.ifname), value.to_string())
    };
    let mut settings = vec![
        set("ipv4", "forwarding", u8::from(spec.forwarding)),
        set("ipv4", "accept_redirects", 0),
        set("ipv4", "send_redirects", 0),
        set("ipv4", "accept_source_route", 0),
        // The host speaks for itself alone.
        set("ipv4", "proxy_arp", 0),
    ];
    if sysctl::has_ipv6() {
        settings.extend([
            set("ipv6", "accept_ra", 0),
            set("ipv6", "autoconf", 0),
            set("ipv6", "accept_redirects", 0),
            set("ipv6", "accept_source_route", 0),
            set("ipv6", "accept_dad", 0),
            set("ipv6", "proxy_ndp", 0),
            // Who switches the bridge off and on again (dataplane case 98) does not take the gateway away.
            set("ipv6", "keep_addr_on_down", 1),
            set("ipv6", "forwarding", u8::from(spec.forwarding)),
            set("ipv6", "disable_ipv6", u8::from(!spec.ipv6)),
        ]);
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::in_new_netns;

    #[test]
    fn a_link_made_by_others_in_the_last_moment_loses_the_label_again() {
        in_new_netns(async || {
            let links = Links::open().await.expect("socket");
            let ifname: IfName = "br0".parse().expect("valid");
            let make = || {
                let mut create = device::named(&ifname);
                create.attributes.push(settings());
                let mut mark = device::named(&ifname);
                mark.attributes.push(LinkAttribute::IfAlias("netd:test:network:0".into()));
                links.create_marked("create bridge br0", &ifname, create, mark)
            };
            make().await.expect("created");
            assert!(links.link(&ifname).await.expect("answer").expect("present").alias.is_some());
            let error = make().await.expect_err("there already");
            assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
            assert_eq!(links.link(&ifname).await.expect("answer").expect("present").alias, None);
        });
    }
}
