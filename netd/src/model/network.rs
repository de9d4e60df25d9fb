//! A network: its driver, address pools and options.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Id, IfName, IfPattern, Name, Policy, Protocol};

/// How a network moves packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A Linux bridge with netd's programs on every port.
    Bridge,
    /// The host's own namespace.
    Host,
    /// Loopback alone (Docker's `none` network).
    Null,
}

/// A network as the controller keeps it and the state file stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id, 64 hexadecimal digits.
    pub id: Id,
    /// Its unique name.
    pub name: Name,
    /// What carries its packets.
    pub driver: Driver,
    /// When it was made, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// Whether nothing may enter or leave it.
    pub internal: bool,
    /// Whether its endpoints have IPv4 addresses.
    pub ipv4: bool,
    /// Whether its endpoints have IPv6 addresses.
    pub ipv6: bool,
    /// Its address pools.
    pub ipam: Ipam,
    /// Every `-o` key as given, for `inspect`.
    pub options: BTreeMap<String, String>,
    /// The options the bridge driver understands, parsed.
    pub bridge: BridgeOptions,
    /// User metadata.
    pub labels: BTreeMap<String, String>,
    /// Its slot in the dataplane's `NETWORK` map; bridge networks only.
    pub index: Option<u16>,
    /// Who may talk to whom where its sandboxes may not talk to each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
}

/// Address management of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipam {
    /// At most one pool per family on a bridge network.
    pub pools: Vec<Pool>,
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// Dynamic addresses come only from here, where given.
    pub ip_range: Option<IpNet>,
    /// The bridge's address, which endpoints use as default gateway. None: the network has no gateway.
    pub gateway: Option<IpAddr>,
    /// Addresses that are never handed out, by name.
    pub aux: BTreeMap<String, IpAddr>,
    /// Whether the user named the subnet (static addresses are allowed then).
    pub configured: bool,
}

/// How the outside reaches endpoints of a network (Docker's `gateway_mode_ipv4` and `_ipv6`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// SNAT out, DNAT in, direct access dropped.
    #[default]
    Nat,
    /// As `Nat`, but every port is reachable by direct routing.
    NatUnprotected,
    /// No NAT; published ports are open on the endpoint's own address.
    Routed,
    /// No bridge address; internal networks only.
    Isolated,
}

/// Docker's bridge options, parsed and with defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct BridgeOptions {
    /// The bridge's interface name.
    pub ifname: IfName,
    /// Whether endpoints may talk to each other (`enable_icc`).
    pub icc: bool,
    /// Whether egress takes the host's address (`enable_ip_masquerade`).
    pub masquerade: bool,
    /// Default host address of published ports (`host_binding_ipv4`).
    pub host_binding: Option<IpAddr>,
    /// MTU of the bridge and both ends of every veth, in bytes; None: the kernel's 1500.
    pub mtu: Option<u32>,
    /// How the outside reaches IPv4 endpoints.
    pub gateway_mode_ipv4: GatewayMode,
    /// How the outside reaches IPv6 endpoints.
    pub gateway_mode_ipv6: GatewayMode,
    /// Fixed source of masqueraded IPv4 flows (`host_ipv4`).
    pub host_ipv4: Option<Ipv4Addr>,
    /// Fixed source of masqueraded IPv6 flows (`host_ipv6`).
    pub host_ipv6: Option<Ipv6Addr>,
    /// Interfaces that may reach published ports directly.
    pub trusted_host_interfaces: Vec<IfPattern>,
    /// Prefix of interface names inside sandboxes (`container_iface_prefix`).
    pub iface_prefix: String,
    /// Whether the bridge goes without its IPv4 address (`inhibit_ipv4`); endpoints are still told the gateway.
    #[serde(default)]
    pub inhibit_ipv4: bool,
    /// Whether an internal network's published ports are served all the same (`netd.publish_internal`).
    #[serde(default)]
    pub publish_internal: bool,
    /// Whether sandboxes may use addresses that are nobody's here (`netd.anti_spoofing=false`).
    #[serde(default)]
    pub any_source: bool,
    /// Which services of the host the network reaches (`netd.host_access`).
    #[serde(default)]
    pub host_access: HostAccess,
    /// As whom servers see sandboxes that come to a published port through the host (`netd.hairpin_source`).
    #[serde(default)]
    pub hairpin_source: HairpinSource,
    /// What joins sandboxes to the bridge (`netd.device`).
    #[serde(default)]
    pub device: Device,
    /// Whether the host answers neighbours outside for its endpoints (`netd.neighbour_proxy`).
    #[serde(default)]
    pub neighbour_proxy: bool,
    /// How a new endpoint tells its neighbours of its addresses (`advertise_addr_nmsgs`, `advertise_addr_ms`).
    #[serde(default)]
    pub announcements: Announcements,
}

/// What joins a sandbox to its bridge: a pair of devices, one on the host and one in the sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A veth pair, which every kernel has.
    #[default]
    Veth,
    /// A netkit pair, which runs a program where the sandbox sends (kernel 6.8, `CONFIG_NETKIT`).
    Netkit,
}

/// How a new interface tells its neighbours of its addresses: one of them may have been another sandbox's a moment ago (Docker semantics B16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcements {
    /// How often; 0: not at all.
    pub times: u32,
    /// How far apart at least, in milliseconds.
    pub every_ms: u32,
}

impl Default for Announcements {
    /// RFC 4861 §10 (`MAX_NEIGHBOR_ADVERTISEMENT`, `RETRANS_TIMER`), as Docker has it.
    fn default() -> Self {
        Self { times: 3, every_ms: 1_000 }
    }
}

/// As whom the servers of a network see sandboxes that come to a published port of theirs through the host (truth table T37 to T40, T64). A sandbox that
/// comes to itself is seen as the gateway always, and so is one whose address would mean nothing to the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HairpinSource {
    /// Sandboxes of the same network as themselves, those of another one as the gateway where their network is masqueraded.
    #[default]
    Auto,
    /// All as the gateway, as under Docker with its proxy.
    Gateway,
    /// All as themselves.
    Client,
}

/// Which services of the host a network reaches. What netd itself needs there (ARP, neighbour discovery) and answers to the host always pass, and so
/// do published ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostAccess {
    /// All that the host's own firewall lets in, as under Docker.
    #[default]
    All,
    /// These ports alone; none: nothing, ping included.
    Only(Vec<(u16, Protocol)>),
}

impl Network {
    /// Returns the pool of the address's family, if the network has one.
    pub fn pool_for(&self, ipv6: bool) -> Option<&Pool> {
        self.ipam.pools.iter().find(|pool| pool.subnet.addr().is_ipv6() == ipv6)
    }

    /// Whether the network is one of `bridge`, `host` and `none`, which exist from the start and stay.
    pub fn is_predefined(&self) -> bool {
        matches!(self.name.as_str(), "bridge" | "host" | "none")
    }

    /// Whether this is the default network, which has no names and no aliases (Docker semantics F1, D4).
    pub fn is_default_bridge(&self) -> bool {
        self.name.as_str() == "bridge"
    }
}
