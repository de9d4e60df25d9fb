//! Veth pairs, and netkit pairs in their place: an endpoint's two interfaces, one on the host and one in the sandbox.

use std::{
    collections::HashSet,
    os::fd::{AsFd, AsRawFd},
};

use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo,
    LinkMessage,
};

use super::{Error, HostLink, Links, Segments, device, netkit};
use crate::{
    model::{Device, IfName, Mac},
    netns::Netns,
    sysctl,
};

/// Indexes of host sides stay below this: the dataplane keeps an array by index.
pub const MAX_IFINDEX: u32 = 65_536;
/// How often an index that was free is found taken before giving up.
const INDEX_TRIES: usize = 8;

/// How an endpoint's pair shall be.
#[derive(Debug, Clone)]
pub struct VethSpec {
    /// What it is a pair of.
    pub device: Device,
    /// Name of the host side.
    pub host_ifname: IfName,
    /// Its owner's label.
    pub label: String,
    /// Ethernet address of the host side.
    pub host_mac: Mac,
    /// Name inside the sandbox.
    pub peer_ifname: IfName,
    /// Ethernet address inside the sandbox.
    pub peer_mac: Mac,
    /// The sandbox's namespace.
    pub peer_netns: Netns,
    /// Of both sides, in bytes.
    pub mtu: u32,
}

/// A pair as it was found or made.
#[derive(Debug)]
pub struct Veth {
    /// Its host side, before what was wrong with it was put right.
    pub host: HostLink,
    /// Whether it is new.
    pub fresh: bool,
}

impl Links {
    /// Makes a pair, both sides down, or makes netd's own equal to the description; returns the host side's index,
    /// which is below `MAX_IFINDEX`.
    ///
    /// # Errors
    /// `Foreign` when a link with the host side's name is not netd's for this endpoint, or when the name inside the
    /// sandbox is taken.
    pub async fn create_veth(&self, spec: &VethSpec) -> Result<u32, Error> {
        let inside = Self::open_in(&spec.peer_netns).await?;
        let present = self.link(&spec.host_ifname).await?;
        Ok(self.ensure_veth(spec, present, &inside, MAX_IFINDEX).await?.host.ifindex)
    }

    /// The same where the host side's name is this link's, with the sandbox's namespace already open, and with host sides' indexes below a limit.
    ///
    /// # Errors
    /// As [`Links::create_veth`].
    pub async fn ensure_veth(
        &self,
        spec: &VethSpec,
        mut present: Option<HostLink>,
        inside: &Self,
        limit: u32,
    ) -> Result<Veth, Error> {
        let doing = format!("create {} {}", kind(spec.device), spec.host_ifname);
        if let Some(host) = &present {
            host.check_owner(&kind(spec.device), &spec.label)?;
            if host.ifindex >= limit || !inside.has_peer(host, spec).await? {
                self.delete_link(&spec.host_ifname).await?;
                present = None;
            }
        }
        let fresh = present.is_none();
        let mut host = match present {
            Some(present) => present,
            None => self.create_pair(&doing, spec, 0).await?,
        };
        let mut tries = 0;
        while host.ifindex >= limit {
            self.delete_link(&spec.host_ifname).await?;
            let used = self.links().await?.into_iter().map(|link| link.ifindex).collect();
            let index = free_index(&used, spec.host_mac, limit).ok_or_else(|| {
                Error::Limit(format!("{doing}: every interface index below {limit} is taken"))
            })?;
            host = match self.create_pair(&doing, spec, index).await {
                Err(error) if error.is_exists() && tries < INDEX_TRIES => host,
                other => other?,
            };
            tries += 1;
        }
        self.tune(&host, spec).await?;
        Ok(Veth { host, fresh })
    }

    async fn create_pair(&self, doing: &str, spec: &VethSpec, ifindex: u32) -> Result<HostLink, Error> {
        let mut create = device::named(&spec.host_ifname);
        create.header.index = ifindex;
        create.attributes.extend([
            LinkAttribute::Address(spec.host_mac.0.to_vec()),
            LinkAttribute::Mtu(spec.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(kind(spec.device)),
                LinkInfo::Data(match spec.device {
                    Device::Veth => InfoData::Veth(InfoVeth::Peer(peer(spec))),
                    Device::Netkit => netkit::pair(peer(spec)),
                }),
            ]),
        ]);
        let mut mark = device::named(&spec.host_ifname);
        mark.attributes.push(LinkAttribute::IfAlias(spec.label.clone()));
        self.create_marked(doing, &spec.host_ifname, create, mark).await?;
        self.existing(doing, &spec.host_ifname).await
    }

    /// Whether the peer of a host side is here, under its name.
    async fn has_peer(&self, host: &HostLink, spec: &VethSpec) -> Result<bool, Error> {
        let peer = self.link(&spec.peer_ifname).await?;
        Ok(peer.is_some_and(|peer| {
            peer.kind == Some(kind(spec.device).to_string())
                && peer.lower == Some(host.ifindex)
                && host.lower == Some(peer.ifindex)
                && peer.mac == Some(spec.peer_mac)
        }))
    }

    /// Sets what can only be set on an existing link, and what an existing one may have wrong.
    async fn tune(&self, host: &HostLink, spec: &VethSpec) -> Result<(), Error> {
        let mut set = device::indexed(host.ifindex);
        if host.mac != Some(spec.host_mac) {
            set.attributes.push(LinkAttribute::Address(spec.host_mac.0.to_vec()));
        }
        if host.mtu != spec.mtu {
            set.attributes.push(LinkAttribute::Mtu(spec.mtu));
        }
        if !host.no_link_local && sysctl::has_ipv6() {
            // A port of a bridge has no addresses of its own.
            set.attributes.push(no_link_local());
        }
        if !set.attributes.is_empty() {
            self.change_link(&format!("configure {}", spec.host_ifname), set).await?;
        }
        sysctl::write(&self.netns, host.told.differing(host_sysctls(&spec.host_ifname))).await?;
        self.set_segments(host, Segments::LARGEST).await;
        Ok(())
    }
}

/// What a sandbox sends is the bridge's, unless somebody takes the host side off it: then no router's word counts there either (reliability S7).
fn host_sysctls(ifname: &IfName) -> Vec<(String, String)> {
    let keys = ["accept_ra", "autoconf", "accept_redirects"];
    let off = keys.map(|key| (format!("ipv6/conf/{ifname}/{key}"), "0".to_owned()));
    if sysctl::has_ipv6() { off.into() } else { Vec::new() }
}

const fn kind(device: Device) -> InfoKind {
    match device {
        Device::Veth => InfoKind::Veth,
        Device::Netkit => InfoKind::Netkit,
    }
}

fn peer(spec: &VethSpec) -> LinkMessage {
    let mut peer = device::named(&spec.peer_ifname);
    peer.attributes.extend([
        LinkAttribute::Address(spec.peer_mac.0.to_vec()),
        LinkAttribute::Mtu(spec.mtu),
        LinkAttribute::NetNsFd(spec.peer_netns.as_fd().as_raw_fd()),
    ]);
    peer
}

fn no_link_local() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
        In6AddrGenMode::None,
    )])])
}

pub(super) fn is_without_link_local(families: &[AfSpecUnspec]) -> bool {
    let settings = families.iter().filter_map(|family| match family {
        AfSpecUnspec::Inet6(settings) => Some(settings),
        _ => None,
    });
    settings.flatten().any(|setting| *setting == AfSpecInet6::AddrGenMode(In6AddrGenMode::None))
}

/// Returns a free index: the search starts at a point that differs from link to link, so that the index of one just
/// deleted is not the next one's.
fn free_index(used: &HashSet<u32>, mac: Mac, limit: u32) -> Option<u32> {
    let seed = u32::from_be_bytes([mac.0[2], mac.0[3], mac.0[4], mac.0[5]]);
    let span = limit.checked_sub(2).filter(|span| *span > 0)?; // 0 means none, 1 is lo
    (0..span).map(|step| 2 + (seed % span + step) % span).find(|index| !used.contains(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{label, tests::in_new_netns};

    #[test]
    fn an_index_beyond_the_array_is_exchanged_for_a_free_one() {
        in_new_netns(async || {
            let links = Links::open().await.expect("socket");
            let mut spec = VethSpec {
                device: Device::Veth,
                host_ifname: "veth0".parse().expect("valid"),
                label: label("test", "endpoint", "0"),
                host_mac: Mac([2, 0, 0, 0, 0, 1]),
                peer_ifname: "peer0".parse().expect("valid"),
                peer_mac: Mac([2, 0, 0, 0, 1, 1]),
                peer_netns: Netns::current().expect("own"),
                mtu: 1500,
            };
            // The kernel counts upwards: four pairs take the indexes up to 9.
            for number in 0..4 {
                spec.host_ifname = format!("veth{number}").parse().expect("valid");
                spec.peer_ifname = format!("peer{number}").parse().expect("valid");
                links.create_veth(&spec).await.expect("veth");
            }
            links.delete_link(&"veth0".parse().expect("valid")).await.expect("deleted");
            spec.host_ifname = "veth9".parse().expect("valid");
            spec.peer_ifname = "peer9".parse().expect("valid");
            let inside = Links::open_in(&spec.peer_netns).await.expect("own");
            let below = async |limit| {
                let present = links.link(&spec.host_ifname).await?;
                Ok::<_, Error>(links.ensure_veth(&spec, present, &inside, limit).await?.host.ifindex)
            };
            let index = below(6).await.expect("veth");
            assert!(index < 6, "{index}");
            let link = links.link(&spec.host_ifname).await.expect("answer").expect("present");
            assert_eq!((link.ifindex, link.alias), (index, Some(spec.label.clone())));
            assert_eq!(below(6).await.expect("again"), index);
            let error = below(2).await.expect_err("full");
            assert!(matches!(error, Error::Limit(_)), "{error:?}");
            assert!(links.link(&spec.host_ifname).await.expect("answer").is_none(), "nothing left");
        });
    }

    #[test]
    fn a_free_index_is_found_wherever_it_is() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let mut used: HashSet<u32> = (1..16).collect();
        assert_eq!(free_index(&used, mac, 16), None);
        for free in 2..16 {
            used.remove(&free);
            assert_eq!(free_index(&used, mac, 16), Some(free));
            used.insert(free);
        }
    }
}
