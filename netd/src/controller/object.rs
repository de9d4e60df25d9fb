//! The kernel objects that networks and sandboxes consist of, in the order in which they come into being.
//!
//! Interfaces are known by name here; whoever applies a step looks up their indexes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    access::{Links, Open},
    sources::SourceRoutes,
};
use crate::{
    dataplane::{EndpointEntry, PublishEntry},
    model::{
        Announcements, Binding, Device, GatewayMode, HairpinSource, Id, IfName, Mac, Name, Netns, Protocol,
        Sources,
    },
};

/// One thing in the kernel (or in the run directory) that netd keeps there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A bridge with its addresses, up.
    Bridge(Bridge),
    /// A network's slot in the dataplane.
    Slot(Slot),
    /// The namespace of a sandbox that netd made, named after it, with its loopback up.
    Netns(Name),
    /// `/etc/hosts` and `/etc/resolv.conf` of a sandbox.
    Files(Files),
    /// A veth pair, host side down and on its bridge, the other side in the sandbox.
    Veth(Veth),
    /// The programs on a veth's host side.
    Programs(IfName, Device),
    /// Addresses of the sandbox side, which is up.
    Inside(Inside),
    /// An endpoint's record in the dataplane.
    Record(Record),
    /// Host ports that no socket of the host may take.
    Guard(Ports<Listen>),
    /// Host ports that lead to an endpoint.
    Publish(Publish),
    /// Ports that are open on an endpoint's own address, or on a bridge's for its network.
    Open(Open),
    /// Ports that a sandbox's links open for it, or that a network's policies open.
    Links(Links),
    /// A veth's host side being up: from here on packets flow.
    Up(IfName),
    /// Default routes of a sandbox.
    Gateway(Gateway),
    /// Default routes of a sandbox on several networks, by source address.
    SourceRoutes(SourceRoutes),
}

/// A list of ports, shared because there may be tens of thousands.
pub type Ports<T> = Arc<[T]>;

/// A network's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub ifname: IfName,
    /// The network, for the label.
    pub network: Id,
    /// Its own address on the link, derived from the network's id so that it survives being re-created.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// Its addresses with the subnets' prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Whether the host forwards nothing from it.
    pub internal: bool,
    /// Whether IPv6 is switched on.
    pub ipv6: bool,
    /// Whether the user named it: then a bridge of somebody else's is used, and stays (Docker semantics B1).
    pub adoptable: bool,
}

/// A network in the dataplane.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Slot {
    /// Its index in the `NETWORK` map.
    pub index: u16,
    /// Its bridge.
    pub bridge: IfName,
    /// IPv4 subnet and the bridge's address in it.
    pub ipv4: Option<(Ipv4Net, Option<Ipv4Addr>)>,
    /// IPv6 subnet and the bridge's address in it.
    pub ipv6: Option<(Ipv6Net, Option<Ipv6Addr>)>,
    /// Whether endpoints may talk to each other.
    pub icc: bool,
    /// Whether nothing enters or leaves.
    pub internal: bool,
    /// Whether egress takes the host's address, where the gateway mode has it at all.
    pub masquerade: bool,
    /// How the outside reaches IPv4 and IPv6 endpoints.
    pub gateway_modes: (GatewayMode, GatewayMode),
    /// Whether it names interfaces that may reach open ports directly.
    pub trusts: bool,
    /// Fixed source of masqueraded IPv4 flows.
    pub host_ipv4: Option<Ipv4Addr>,
    /// Fixed source of masqueraded IPv6 flows.
    pub host_ipv6: Option<Ipv6Addr>,
    /// Whether it reaches no service of the host but those that are open on the bridge's addresses.
    pub host_closed: bool,
    /// As whom its servers see sandboxes that come through the host.
    pub hairpin_source: HairpinSource,
    /// Whether its sandboxes may use addresses that are nobody's here.
    pub any_source: bool,
    /// Whether its bridge is netd's own, and not one that somebody else made.
    pub own_bridge: bool,
}

/// The files of a sandbox, by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The sandbox.
    pub sandbox: Id,
    /// Text of `/etc/hosts`.
    pub hosts: String,
    /// Text of `/etc/resolv.conf`.
    pub resolv: String,
}

/// A veth pair, or a netkit pair in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// Which of the two.
    pub device: Device,
    /// The endpoint, for the label.
    pub endpoint: Id,
    /// Its host side.
    pub host: IfName,
    /// The bridge of the host side.
    pub bridge: IfName,
    /// Whether the bridge keeps it from other isolated ports (no ICC).
    pub isolated: bool,
    /// In bytes.
    pub mtu: u32,
    /// Addresses that the host knows behind it without asking.
    pub addresses: Vec<IpAddr>,
    /// Namespace of the sandbox side.
    pub netns: Netns,
    /// Name of the sandbox side.
    pub inside: IfName,
    /// Address of the sandbox side on the link.
    pub mac: Mac,
}

/// The sandbox side of a veth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// Its namespace.
    pub netns: Netns,
    /// Its name.
    pub ifname: IfName,
    /// Its addresses; without an IPv6 one, IPv6 is switched off on it (Docker semantics B15).
    pub addresses: Vec<IpNet>,
    /// In bytes.
    pub mtu: u32,
    /// How it tells its neighbours of its addresses when it is new.
    pub announcements: Announcements,
    /// Whether its bridge is netd's own, which gives multicast to every port.
    pub own_bridge: bool,
}

/// An endpoint in the dataplane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Host side of its veth.
    pub host: IfName,
    /// Slot of its network.
    pub network: u16,
    /// The only Ethernet source it may use.
    pub mac: Mac,
    /// The only IPv4 source it may use.
    pub ipv4: Option<Ipv4Addr>,
    /// The only global IPv6 source it may use.
    pub ipv6: Option<Ipv6Addr>,
}

impl Record {
    /// Returns its entry, where the host side has this index.
    pub fn entry(&self, ifindex: u32) -> EndpointEntry {
        EndpointEntry { ifindex, network: self.network, mac: self.mac, ipv4: self.ipv4, ipv6: self.ipv6 }
    }
}

/// A host address, port and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    /// The protocol.
    pub protocol: Protocol,
    /// Port on the host.
    pub port: u16,
    /// Host address; unspecified: every local address of that family.
    pub ip: IpAddr,
}

/// A published port without its endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Port {
    /// What it answers on.
    pub listen: Listen,
    /// Where it leads.
    pub backend: IpAddr,
    /// Port there.
    pub backend_port: u16,
    /// Who may come.
    pub allow: Sources,
}

/// Published ports that lead to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Host side of the endpoint's veth.
    pub host: IfName,
    /// The ports.
    pub ports: Ports<Port>,
}

/// Default routes of a sandbox: gateway and interface for each family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// The sandbox's namespace.
    pub netns: Netns,
    /// IPv4 gateway and the interface it is behind.
    pub ipv4: Option<(Ipv4Addr, IfName)>,
    /// IPv6 gateway and the interface it is behind.
    pub ipv6: Option<(Ipv6Addr, IfName)>,
}

impl Object {
    /// Whether it is a network's bridge.
    pub const fn is_bridge(&self) -> bool {
        matches!(self, Self::Bridge(_))
    }

    /// Whether it is a pair of links.
    pub const fn is_veth(&self) -> bool {
        matches!(self, Self::Veth(_))
    }

    /// Returns the word for its kind in the names of failpoints.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Bridge(_) => "bridge",
            Self::Slot(_) => "slot",
            Self::Netns(_) => "netns",
            Self::Files(_) => "files",
            Self::Veth(_) => "veth",
            Self::Programs(..) => "programs",
            Self::Inside(_) => "inside",
            Self::Record(_) => "record",
            Self::Guard(_) => "guard",
            Self::Publish(_) => "publish",
            Self::Open(_) => "open",
            Self::Links(_) => "links",
            Self::Up(_) => "up",
            Self::Gateway(_) => "gateway",
            Self::SourceRoutes(_) => "sources",
        }
    }

    /// Whether two objects are versions of one thing: put replaces the older by the newer.
    pub fn same_thing(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bridge(a), Self::Bridge(b)) => a.ifname == b.ifname,
            (Self::Slot(a), Self::Slot(b)) => a.index == b.index,
            (Self::Netns(a), Self::Netns(b)) => a == b,
            (Self::Files(a), Self::Files(b)) => a.sandbox == b.sandbox,
            (Self::Veth(a), Self::Veth(b)) => a.host == b.host,
            (Self::Programs(a, _), Self::Programs(b, _)) | (Self::Up(a), Self::Up(b)) => a == b,
            (Self::Inside(a), Self::Inside(b)) => a.netns == b.netns && a.ifname == b.ifname,
            (Self::Record(a), Self::Record(b)) => a.host == b.host,
            (Self::Open(a), Self::Open(b)) => a.host == b.host,
            (Self::Links(a), Self::Links(b)) => a.owner == b.owner,
            (Self::Gateway(a), Self::Gateway(b)) => a.netns == b.netns,
            (Self::SourceRoutes(a), Self::SourceRoutes(b)) => a.netns == b.netns,
            // Ports are compared one by one, see `plan::diff`.
            _ => false,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge(bridge) => write!(f, "bridge {}", bridge.ifname),
            Self::Slot(slot) => write!(f, "network slot {} of {}", slot.index, slot.bridge),
            Self::Netns(name) => write!(f, "namespace {name}"),
            Self::Files(files) => write!(f, "files of {}", files.sandbox.short()),
            Self::Veth(veth) => write!(f, "veth {}", veth.host),
            Self::Programs(host, _) => write!(f, "programs on {host}"),
            Self::Inside(inside) => {
                write!(f, "addresses of {} in {}", inside.ifname, inside.netns.path.display())
            }
            Self::Record(record) => write!(f, "endpoint behind {}", record.host),
            Self::Guard(listens) => write!(f, "reservation of {} host ports", listens.len()),
            Self::Publish(publish) => {
                write!(f, "{} published ports of {}", publish.ports.len(), publish.host)
            }
            Self::Open(open) => write!(f, "{} open ports of {}", open.ports.len(), open.host),
            Self::Links(links) => {
                write!(f, "{} linked ports of {}", links.ports.len(), links.owner.short())
            }
            Self::Up(host) => write!(f, "{host} being up"),
            Self::Gateway(gateway) => write!(f, "default routes in {}", gateway.netns.path.display()),
            Self::SourceRoutes(routes) => {
                write!(f, "default routes by source in {}", routes.netns.path.display())
            }
        }
    }
}

impl From<&Binding> for Listen {
    fn from(binding: &Binding) -> Self {
        Self { ip: binding.host_ip, port: binding.host_port, protocol: binding.protocol }
    }
}

impl From<&PublishEntry> for Listen {
    fn from(entry: &PublishEntry) -> Self {
        Self { protocol: entry.protocol, port: entry.host_port, ip: entry.host_ip }
    }
}
