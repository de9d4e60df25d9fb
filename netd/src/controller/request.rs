//! What the API, the CLI and the integrations may ask of the controller.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    audit,
    dataplane::Occupancy,
    model::{DnsConfig, Id, Mac, Name, Protocol, PublishSpec},
};

/// `network create`.
#[derive(Debug, Clone, Default)]
pub struct CreateNetwork {
    /// Its name; validated by the controller, so that every surface gives one message.
    pub name: String,
    /// `bridge` (also when empty); `host` and `null` exist once.
    pub driver: String,
    /// Whether nothing may enter or leave.
    pub internal: bool,
    /// `--ipv4=false` switches IPv4 off; None: on.
    pub ipv4: Option<bool>,
    /// `--ipv6` switches IPv6 on; None: on when an IPv6 subnet is given.
    pub ipv6: Option<bool>,
    /// One for each `--subnet`, with the range, gateway and reserved addresses that lie in it.
    pub pools: Vec<PoolRequest>,
    /// `-o` as given.
    pub options: BTreeMap<String, String>,
    /// `--label` as given.
    pub labels: BTreeMap<String, String>,
}

/// A requested address pool.
#[derive(Debug, Clone, Default)]
pub struct PoolRequest {
    /// None: a default pool.
    pub subnet: Option<IpNet>,
    /// Dynamic addresses come only from here.
    pub ip_range: Option<IpNet>,
    /// None: the first free address.
    pub gateway: Option<IpAddr>,
    /// Never handed out, by name.
    pub aux: BTreeMap<String, IpAddr>,
}

/// Where a new sandbox's namespace comes from.
#[derive(Debug, Clone, Default)]
pub enum NetnsRequest {
    /// netd makes it.
    #[default]
    Create,
    /// An existing one, by path.
    Path(PathBuf),
    /// An existing one, of this process.
    Pid(u32),
}

/// One `--network`, or the body of `network connect`.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// Name, id or id prefix; also `host`, `none` and `sandbox:NAME`. Empty: `bridge`.
    pub network: String,
    /// Static IPv4 address.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// Static IPv6 address.
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// Static MAC address.
    pub mac: Option<Mac>,
    /// Extra names on the network.
    pub aliases: Vec<String>,
    /// The highest provides the default route.
    pub gw_priority: i64,
    /// `driver-opt` as given.
    pub driver_opts: BTreeMap<String, String>,
}

/// `sandbox create`, and the first half of `run`.
#[derive(Debug, Clone, Default)]
pub struct CreateSandbox {
    /// None: a generated name.
    pub name: Option<String>,
    /// Its namespace.
    pub netns: NetnsRequest,
    /// In the order of attachment; empty: the network `bridge`.
    pub networks: Vec<Attachment>,
    /// `-p`.
    pub publish: Vec<PublishSpec>,
    /// `-P`.
    pub publish_all: bool,
    /// `--expose`.
    pub exposed: Vec<(u16, Protocol)>,
    /// `--link` as (target, alias).
    pub links: Vec<(String, String)>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--dns`, `--dns-search`, `--dns-option`, `--add-host`.
    pub dns: DnsConfig,
    /// `--label` as given.
    pub labels: BTreeMap<String, String>,
    /// The command of `run`.
    pub command: Vec<String>,
}

impl CreateSandbox {
    /// Whether ports of it are to be published.
    pub fn wants_ports(&self) -> bool {
        !self.publish.is_empty() || self.publish_all
    }
}

/// `policy add`.
#[derive(Debug, Clone, Default)]
pub struct CreatePolicy {
    /// Name, id or id prefix of the network.
    pub network: String,
    /// Who may open connections: a sandbox by name, id or id prefix, or the name of one that may come; None: every one on the network.
    pub from: Option<String>,
    /// To whom, in the same way.
    pub to: String,
    /// The ports there; none: everything.
    pub ports: Vec<(u16, Protocol)>,
}

/// What `sandbox rm` did.
#[derive(Debug, Clone)]
pub struct SandboxRemoved {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
}

/// Which flows `flow ls` and `flow flush` mean; an empty selector means all.
#[derive(Debug, Clone, Default)]
pub struct FlowSelector {
    /// Flows of this sandbox: name, id or id prefix.
    pub sandbox: Option<String>,
    /// Flows of endpoints on this network: name, id or id prefix.
    pub network: Option<String>,
    /// The protocol's number.
    pub protocol: Option<u8>,
    /// Any of the flow's ports.
    pub port: Option<u16>,
}

/// Something that happened, as `/events` reports it (Docker semantics J5).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Event {
    /// `network`, `container` or `policy`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `create`, `connect`, `disconnect`, `destroy`, `start`, `die`.
    pub action: String,
    /// Id of the object.
    pub id: String,
    /// `name`, `type`, `container`, ...
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    pub time_nano: i64,
}

/// What `netd status` shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// The instance's name.
    pub instance: String,
    /// `ready`, or `degraded: why`.
    pub state: String,
    /// Bridge networks.
    pub networks: usize,
    /// Sandboxes.
    pub sandboxes: usize,
    /// Published ports.
    pub published_ports: usize,
    /// Uplinks as `name (addresses)`.
    pub uplinks: Vec<String>,
    /// The host's own addresses.
    pub local_addresses: Vec<IpAddr>,
    /// Features of the dataplane.
    pub features: BTreeMap<String, String>,
    /// How full the flow tables are.
    #[serde(default)]
    pub flows: Occupancy,
    /// Endpoints with the most entries in them, the fullest first.
    #[serde(default)]
    pub fullest: Vec<FlowShare>,
    /// How the audit log is; the API knows.
    #[serde(default)]
    pub audit: audit::State,
    /// Looks at the maps that netd alone writes that could be compared with the one before.
    #[serde(default)]
    pub map_looks: u64,
}

/// What one endpoint takes of the flow tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FlowShare {
    /// The sandbox.
    pub sandbox: String,
    /// The network.
    pub network: String,
    /// Entries in both tables, two for each flow.
    pub entries: u64,
}
