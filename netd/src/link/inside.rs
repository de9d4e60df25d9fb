//! The sandbox's side of an endpoint: loopback, addresses, settings, default routes.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use rtnetlink::packet_route::link::{AfSpecInet, AfSpecUnspec, InetDevConf, LinkAttribute, LinkFlags};

use super::{Error, HostAddress, HostLink, Links, Scope, Segments, device};
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
    /// Whether it is new, on a bridge that gives multicast to every port: then nobody has to be told at once which groups its addresses belong to.
    /// [`Links::end_quiet`] ends that.
    pub quiet: bool,
}

/// When the kernel tells of a new group again, at random within so many milliseconds: as it is by itself ...
const USUAL: i32 = 1000;
/// ... and within a week.
const QUIET: i32 = 604_800_000;
/// For how long an interface is quiet at most, and how often is looked whether it need not be.
const LONGEST_QUIET: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Links {
    /// Sets up an endpoint's interface in this namespace, the sandbox's, and switches it on; returns its index.
    ///
    /// Other endpoints' default routes stay, unless this one provides its own.
    pub async fn configure_endpoint(&self, spec: &InsideSpec) -> Result<u32, Error> {
        let doing = format!("configure {} in {}", spec.ifname, self.netns.path().display());
        let present = self.existing(&doing, &spec.ifname).await?;
        self.raise_loopback().await?;
        sysctl::write(&self.netns, present.told.differing(settings(spec, &present))).await?;
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
        self.raise(&doing, &present).await?;
        if let Some(gateway) = spec.gateway4 {
            self.set_default_gateway(present.ifindex, gateway.into()).await?;
        }
        if let Some(gateway) = spec.gateway6 {
            self.set_default_gateway(present.ifindex, gateway.into()).await?;
        }
        Ok(present.ifindex)
    }

    /// Switches an interface on, unless it is, and lets it correct neighbours' stale entries whenever it comes up from now on. Both in one message:
    /// the setting has no path of its own then, which is dear in a new namespace.
    async fn raise(&self, doing: &str, present: &HostLink) -> Result<(), Error> {
        let mut message = device::indexed(present.ifindex);
        if !present.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        let mut settings = InetDevConf::default();
        settings.arp_notify = 1;
        if present.told.get(&path("ipv4", &present.name, "arp_notify")) != Some(settings.arp_notify) {
            let settings = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)]);
            message.attributes.push(LinkAttribute::AfSpecUnspec(vec![settings]));
        }
        if present.up && message.attributes.is_empty() {
            return Ok(());
        }
        self.change_link(doing, message).await
    }

    /// Lets a new interface speak like any other as soon as the kernel is through with its addresses, which it is some time after the interface has
    /// been put to work. One that is gone is fine.
    pub async fn end_quiet(&self, ifname: &IfName) -> Result<(), Error> {
        let deadline = Instant::now() + LONGEST_QUIET;
        loop {
            let Some(present) = self.link(ifname).await? else { return Ok(()) };
            let has_ipv6 = present.told.get(&path("ipv6", &present.name, "disable_ipv6")) == Some(0);
            if has_ipv6 && Instant::now() < deadline && !self.is_settled(present.ifindex).await? {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            if !sysctl::has_ipv6() {
                return Ok(());
            }
            return match sysctl::write(&self.netns, present.told.differing(unquiet(&present))).await {
                Err(error) if error.is_not_found() => Ok(()), // gone since
                done => Ok(done?),
            };
        }
    }

    /// Whether an interface has its link-local IPv6 address, and none that cannot be used yet.
    async fn is_settled(&self, ifindex: u32) -> Result<bool, Error> {
        let addresses = self.addresses(Some(ifindex)).await?;
        let is_of_the_link =
            |address: &HostAddress| address.net.addr().is_ipv6() && address.scope == Scope::Link;
        Ok(addresses.iter().any(is_of_the_link) && !addresses.iter().any(|address| address.unusable))
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

fn path(family: &str, ifname: &str, key: &str) -> String {
    format!("{family}/conf/{ifname}/{key}")
}

/// No router's word counts but netd's. A bridge gives what a new interface tells of itself to all of its ports, and a thousand neighbours take a while
/// to throw it away: what nobody can have waited for is left out.
fn settings(spec: &InsideSpec, present: &HostLink) -> Vec<(String, String)> {
    if !sysctl::has_ipv6() {
        return Vec::new();
    }
    let set = |key: &str, value: i32| (path("ipv6", &present.name, key), value.to_string());
    let ipv6 = spec.addresses.iter().any(|net| net.addr().is_ipv6());
    let mut settings = vec![
        set("accept_ra", 0),
        set("accept_redirects", 0),
        set("accept_dad", 0),
        set("disable_ipv6", i32::from(!ipv6)),
    ];
    if !spec.quiet {
        settings.extend(unquiet(present));
    } else if ipv6 && present.told.get(&set(REPORTS, USUAL).0) == Some(USUAL) {
        settings.push(set(REPORTS, QUIET));
    }
    settings
}

/// The setting of the two intervals above.
const REPORTS: &str = "mldv2_unsolicited_report_interval";

/// A neighbour's stale entry is corrected whenever the interface comes up, and groups are told of as usual.
fn unquiet(present: &HostLink) -> Vec<(String, String)> {
    let set = |key: &str, value: i32| (path("ipv6", &present.name, key), value.to_string());
    let reports = set(REPORTS, USUAL);
    let was_quiet = present.told.get(&reports.0) == Some(QUIET);
    std::iter::once(set("ndisc_notify", 1)).chain(was_quiet.then_some(reports)).collect()
}
