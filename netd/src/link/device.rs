//! Links in general: what the kernel says about one, and the steps that every kind shares.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};

use super::{Error, Links, Mode, PortFlags, Segments, Told, error::gone_is_success, veth};
use crate::{
    model::{IfName, Mac},
    netns::Netns,
};

/// How long a link may take from being switched on to working; the kernel does it in a few milliseconds, in a worker.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the packets of a link begin with, as a program on it sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    #[default]
    Ethernet,
    /// IP itself: tun, `WireGuard`, PPP, IP in IP.
    Bare,
    /// Something else, such as the outer header of a GRE tunnel.
    Other,
}

impl Framing {
    const fn of(kind: LinkLayerType) -> Self {
        match kind {
            LinkLayerType::Ether => Self::Ethernet,
            LinkLayerType::None
            | LinkLayerType::Ppp
            | LinkLayerType::Rawip
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6 => Self::Bare,
            _ => Self::Other,
        }
    }
}

/// What the kernel says about a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of the kernel's")]
pub struct HostLink {
    /// Its index, unique in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, `vlan`, ...; None: a device of hardware, or loopback.
    pub kind: Option<String>,
    /// Its alias, which is netd's label on netd's own.
    pub alias: Option<String>,
    /// Index of the bridge, bond or VRF it is a port of.
    pub master: Option<u32>,
    /// Index of the veth peer, or of the device below.
    pub lower: Option<u32>,
    /// This namespace's number for the one that it is in, where that is another one.
    pub lower_netns: Option<i32>,
    /// The number of the group that it is in, by which links are changed together; 0 unless somebody chose one.
    pub group: u32,
    /// In bytes.
    pub mtu: u32,
    /// What it takes from the stack in one piece.
    pub segments: Segments,
    /// What it puts together of what it receives.
    pub received: Segments,
    /// Whether the kernel gives it no link-local IPv6 address by itself.
    pub no_link_local: bool,
    /// How it behaves as a port of a bridge, if it is one.
    pub port: Option<PortFlags>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it also has a carrier.
    pub running: bool,
    /// What the kernel told of its settings.
    pub told: Told,
    /// What its packets begin with.
    pub framing: Framing,
    /// Whether it is `lo`.
    pub loopback: bool,
}

impl HostLink {
    pub(super) fn parse(message: &LinkMessage) -> Self {
        let mut link = Self {
            ifindex: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            running: message.header.flags.contains(LinkFlags::Running),
            framing: Framing::of(message.header.link_layer_type),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Controller(master) => link.master = (*master != 0).then_some(*master),
                LinkAttribute::Link(lower) => link.lower = Some(*lower),
                LinkAttribute::LinkNetNsId(number) => link.lower_netns = Some(*number),
                LinkAttribute::Group(group) => link.group = *group,
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::GsoMaxSize(size) => link.segments.ipv6 = *size,
                LinkAttribute::GsoIpv4MaxSize(size) => link.segments.ipv4 = *size,
                LinkAttribute::GroMaxSize(size) => link.received.ipv6 = *size,
                LinkAttribute::GroIpv4MaxSize(size) => link.received.ipv4 = *size,
                LinkAttribute::AfSpecUnspec(families) => {
                    link.no_link_local = veth::is_without_link_local(families);
                    link.told = Told::of(families);
                }
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                    link.port = PortFlags::of(infos);
                }
                _ => {}
            }
        }
        link
    }

    /// Says whose it is, for messages: its kind and label.
    pub(super) fn owner(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("device");
        self.alias.as_ref().map_or_else(|| kind.to_owned(), |alias| format!("{kind}, alias {alias:?}"))
    }

    /// Fails unless the link is of this kind and carries this label.
    pub(super) fn check_owner(&self, kind: &InfoKind, label: &str) -> Result<(), Error> {
        if self.kind.as_deref() == Some(kind.to_string().as_str()) && self.alias.as_deref() == Some(label) {
            return Ok(());
        }
        Err(Error::Foreign { name: self.name.clone(), owner: self.owner() })
    }
}

/// Begins a message about the link of this name.
pub(super) fn named(ifname: &IfName) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(ifname.to_string()));
    message
}

/// Begins a message about the link of this index.
pub(super) fn indexed(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}

impl Links {
    /// Returns the link of this name, if there is one.
    pub async fn link(&self, ifname: &IfName) -> Result<Option<HostLink>, Error> {
        self.get_link(&format!("read {ifname}"), named(ifname)).await
    }

    /// Returns the link of this index, if there is one.
    pub async fn link_by_index(&self, ifindex: u32) -> Result<Option<HostLink>, Error> {
        self.get_link(&format!("read interface {ifindex}"), indexed(ifindex)).await
    }

    async fn get_link(&self, doing: &str, message: LinkMessage) -> Result<Option<HostLink>, Error> {
        match self.socket.get(doing, RouteNetlinkMessage::GetLink(message)).await {
            Ok(Some(RouteNetlinkMessage::NewLink(message))) => Ok(Some(HostLink::parse(&message))),
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn existing(&self, doing: &str, ifname: &IfName) -> Result<HostLink, Error> {
        self.link(ifname).await?.ok_or_else(|| Error::no_such_link(doing))
    }

    /// Returns this namespace's number for another one, if it has one: of the ends of a veth pair, both have.
    pub async fn number_of(&self, netns: &Netns) -> Result<Option<i32>, Error> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(netns.as_fd().as_raw_fd().cast_unsigned()));
        let doing = format!("ask for the number of {}", netns.path().display());
        let Some(RouteNetlinkMessage::NewNsId(answer)) =
            self.socket.get(&doing, RouteNetlinkMessage::GetNsId(message)).await?
        else {
            return Ok(None);
        };
        let number = |attribute: &NsidAttribute| match attribute {
            NsidAttribute::Id(number) => Some(*number).filter(|number| *number >= 0), // NETNSA_NSID_NOT_ASSIGNED
            _ => None,
        };
        Ok(answer.attributes.iter().find_map(number))
    }

    /// Reads every link, undisturbed.
    pub async fn links(&self) -> Result<Vec<HostLink>, Error> {
        self.list_links(Vec::new()).await
    }

    /// Reads every link that is no port of another one, undisturbed.
    pub async fn links_without_master(&self) -> Result<Vec<HostLink>, Error> {
        /// What says so in a list's filter (`link_master_filtered`, net/core/rtnetlink.c).
        const NONE: u32 = u32::MAX;
        self.list_links(vec![LinkAttribute::Controller(NONE)]).await
    }

    async fn list_links(&self, filter: Vec<LinkAttribute>) -> Result<Vec<HostLink>, Error> {
        let mut all = LinkMessage::default();
        all.attributes = filter;
        all.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let link = |message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(HostLink::parse(&link)),
            _ => None,
        };
        self.socket.dump("list links", RouteNetlinkMessage::GetLink(all), link).await
    }

    pub(super) async fn change_link(&self, doing: &str, message: LinkMessage) -> Result<(), Error> {
        // NEWLINK without CREATE, as `ip link set`: SETLINK would ignore the settings of a bridge or its port.
        self.socket.send(doing, Mode::Change, RouteNetlinkMessage::NewLink(message)).await
    }

    /// Deletes a link and, of a veth pair, its peer. What is gone is success.
    pub async fn delete_link(&self, ifname: &IfName) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelLink(named(ifname));
        gone_is_success(self.socket.send(&format!("delete {ifname}"), Mode::Change, message).await)
    }

    /// Switches a link on.
    pub async fn set_up(&self, ifname: &IfName) -> Result<(), Error> {
        let mut message = named(ifname);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change_link(&format!("set {ifname} up"), message).await
    }

    /// Switches a bridge's port on and waits until the kernel has put it and its bridge to work: until then what either sends
    /// is lost, the bridge's answers to ARP among it.
    ///
    /// A link that is on already is not waited for, nor is one whose peer stays down, beyond [`PATIENCE`].
    pub async fn set_running(&self, ifname: &IfName) -> Result<(), Error> {
        let doing = format!("set {ifname} up");
        let before = self.existing(&doing, ifname).await?;
        self.set_up(ifname).await?;
        if before.up {
            return Ok(());
        }
        self.wait_running(ifname).await?;
        let Some(bridge) = before.master else { return Ok(()) };
        self.until_running(indexed(bridge)).await
    }

    /// Waits until the kernel has put a link to work, which it does some time after its peer and it are up; not beyond
    /// [`PATIENCE`], nor for a link that is gone.
    pub async fn wait_running(&self, ifname: &IfName) -> Result<(), Error> {
        self.until_running(named(ifname)).await
    }

    async fn until_running(&self, which: LinkMessage) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let present = self.get_link("read an interface's state", which.clone()).await?;
            if present.is_none_or(|link| link.running) || Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Gives a link another name; where the kernel takes it for a link that is on (since Linux 6.2 it does), it stays on.
    pub async fn rename(&self, ifname: &IfName, to: &IfName) -> Result<(), Error> {
        let doing = format!("rename {ifname} to {to}");
        let link = self.existing(&doing, ifname).await?;
        let mut message = LinkMessage::default();
        message.header.index = link.ifindex;
        message.attributes.push(LinkAttribute::IfName(to.to_string()));
        match self.change_link(&doing, message.clone()).await {
            Err(error) if error.errno() == Some(libc::EBUSY) => {
                self.set_down(ifname).await?;
                self.change_link(&doing, message).await?;
                self.set_running(to).await
            }
            done => done,
        }
    }

    /// Switches a link off.
    pub async fn set_down(&self, ifname: &IfName) -> Result<(), Error> {
        let mut message = named(ifname);
        message.header.change_mask = LinkFlags::Up;
        self.change_link(&format!("set {ifname} down"), message).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::{in_new_netns, ip};

    #[test]
    fn links_without_a_master_are_listed_alone() {
        in_new_netns(async || {
            ip("link add br0 type bridge");
            ip("link add port0 master br0 type veth peer name free0");
            let links = Links::open().await.expect("socket");
            let names = |all: Vec<HostLink>| all.into_iter().map(|link| link.name).collect::<Vec<_>>();
            let all = names(links.links().await.expect("all"));
            assert!(all.contains(&"port0".to_owned()), "{all:?}");
            let free = names(links.links_without_master().await.expect("some"));
            assert_eq!(free, all.into_iter().filter(|name| name != "port0").collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_links_framing_follows_its_hardware_type() {
        // Numbers of `linux/if_arp.h`, as the kernel's message has them.
        for (arphrd, device, framing) in [
            (libc::ARPHRD_ETHER, "Ethernet, VLAN, bond, bridge, macvlan, tap", Framing::Ethernet),
            (libc::ARPHRD_NONE, "tun, WireGuard", Framing::Bare),
            (libc::ARPHRD_PPP, "PPP", Framing::Bare),
            (519, "a modem's raw IP", Framing::Bare),
            (libc::ARPHRD_TUNNEL, "IP in IP", Framing::Bare),
            (libc::ARPHRD_TUNNEL6, "IP in IPv6", Framing::Bare),
            (libc::ARPHRD_SIT, "IPv6 in IP", Framing::Other),
            (libc::ARPHRD_IPGRE, "GRE", Framing::Other),
            (libc::ARPHRD_INFINIBAND, "IP over InfiniBand", Framing::Other),
            (libc::ARPHRD_LOOPBACK, "loopback", Framing::Other),
        ] {
            let mut message = LinkMessage::default();
            message.header.link_layer_type = LinkLayerType::from(arphrd);
            assert_eq!(HostLink::parse(&message).framing, framing, "{device}");
        }
    }
}
