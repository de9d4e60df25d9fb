//! Sandboxes as the Docker Engine API shows containers (API 1.50, `types/container`), with netd's words beside Docker's.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    EndpointIpam, nullable,
    ports::{PortMap, PortSummary, port_map},
};
use crate::{
    controller::World,
    model::{Endpoint, Sandbox, SandboxMode},
};

/// How a sandbox's name is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameStyle {
    /// `web`.
    Plain,
    /// `/web`, as Docker's clients expect on `/containers`.
    Docker,
}

/// A sandbox: the answer of `GET /containers/{id}/json` and of `GET /netd/v1/sandboxes/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Container {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its unique name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Whether its process runs.
    pub state: ContainerState,
    /// Path of its network namespace; in host mode the daemon's own.
    #[serde(rename = "NetNS")]
    pub netns: String,
    /// The program of `netd run`.
    pub path: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// Always empty: a sandbox has no image.
    pub image: String,
    /// Its own `/etc/resolv.conf`.
    pub resolv_conf_path: String,
    /// Its own `/etc/hosts`.
    pub hosts_path: String,
    /// Output of a detached command.
    pub log_path: String,
    /// What the user chose.
    pub config: ContainerConfig,
    /// What the user chose about the host.
    pub host_config: HostConfig,
    /// What it got.
    pub network_settings: NetworkSettings,
}

/// `State` of a container.
#[expect(clippy::struct_excessive_bools, reason = "Docker's keys")]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerState {
    /// `running`, or `exited` when the command of `netd run` has ended.
    pub status: String,
    /// Whether the status is `running`.
    pub running: bool,
    /// Always false.
    pub paused: bool,
    /// Always false.
    pub restarting: bool,
    /// Always false.
    pub dead: bool,
    /// The process of `netd run`; 0: none.
    pub pid: u32,
}

/// `Config` of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// Host name inside.
    pub hostname: String,
    /// Exposed ports as `PORT/PROTO`, each with an empty object.
    pub exposed_ports: BTreeMap<String, BTreeMap<String, String>>,
    /// The command.
    pub cmd: Vec<String>,
    /// User metadata.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

/// `HostConfig` of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// Name of the first network; `host`, `none` or `sandbox:ID`.
    pub network_mode: String,
    /// Whether every exposed port is published.
    pub publish_all_ports: bool,
    /// Name servers, replacing the host's.
    pub dns: Vec<String>,
    /// Search domains, replacing the host's.
    pub dns_search: Vec<String>,
    /// Resolver options, replacing the host's.
    pub dns_options: Vec<String>,
    /// Extra lines of `/etc/hosts` as `NAME:IP`.
    pub extra_hosts: Vec<String>,
    /// Links as `ID:ALIAS`.
    pub links: Vec<String>,
}

/// `NetworkSettings` of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    /// Id of the sandbox, again.
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    /// Path of the namespace, again.
    pub sandbox_key: String,
    /// Published and exposed ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: PortMap,
    /// Endpoints, by the name of their network.
    #[serde(deserialize_with = "nullable")]
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// An endpoint: an element of `NetworkSettings.Networks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSettings {
    /// The addresses that the user chose.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpam>,
    /// Names on this network besides the sandbox's own.
    #[serde(deserialize_with = "nullable")]
    pub aliases: Vec<String>,
    /// Address of the interface inside the sandbox.
    pub mac_address: String,
    /// `driver-opt` as given.
    #[serde(deserialize_with = "nullable")]
    pub driver_opts: BTreeMap<String, String>,
    /// The highest provides the default route.
    pub gw_priority: i64,
    /// Id of the network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Id of the endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// IPv4 gateway, or empty.
    pub gateway: String,
    /// IPv4 address, or empty.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Length of the IPv4 prefix in bits; 0 without an address.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// IPv6 gateway, or empty.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    /// IPv6 address, or empty.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Length of the IPv6 prefix in bits; 0 without an address.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    /// netd's own: the interface inside the sandbox.
    pub interface: String,
    /// netd's own: the host side of the veth.
    pub host_interface: String,
}

/// An element of `GET /containers/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSummary {
    /// Its id.
    pub id: String,
    /// `/NAME`.
    pub names: Vec<String>,
    /// Always empty: a sandbox has no image.
    pub image: String,
    /// Always empty.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// The command on one line.
    pub command: String,
    /// Seconds since the epoch.
    pub created: i64,
    /// Published and exposed ports.
    pub ports: Vec<PortSummary>,
    /// User metadata.
    pub labels: BTreeMap<String, String>,
    /// `running` or `exited`.
    pub state: String,
    /// The state in words.
    pub status: String,
    /// The network mode alone.
    pub host_config: BTreeMap<String, String>,
    /// The networks alone.
    pub network_settings: BTreeMap<String, BTreeMap<String, EndpointSettings>>,
    /// Always empty.
    pub mounts: Vec<String>,
}

impl Container {
    /// Shows a sandbox; `run_dir` is where the daemon keeps the sandbox's files.
    pub fn new(world: &World, sandbox: &Sandbox, run_dir: &Path, style: NameStyle) -> Self {
        let netns = sandbox.netns.as_ref().map(|netns| netns.path.to_string_lossy().into_owned());
        let netns = netns.unwrap_or_else(|| format!("/proc/{}/ns/net", std::process::id()));
        // A sandbox that lives in another's namespace also reads its files, as Docker's `container:` mode does.
        let owner = match &sandbox.mode {
            SandboxMode::Sandbox(target) => target,
            _ => &sandbox.id,
        };
        let ports = port_map(&sandbox.exposed, &sandbox.bindings);
        let file = |id: &str, name: &str| {
            run_dir.join("sandboxes").join(id).join(name).to_string_lossy().into_owned()
        };
        Self {
            id: sandbox.id.to_string(),
            name: match style {
                NameStyle::Plain => sandbox.name.to_string(),
                NameStyle::Docker => format!("/{}", sandbox.name),
            },
            created: sandbox.created.clone(),
            state: ContainerState::of(sandbox),
            netns: netns.clone(),
            path: sandbox.command.first().cloned().unwrap_or_default(),
            args: sandbox.command.iter().skip(1).cloned().collect(),
            image: String::new(),
            resolv_conf_path: file(owner.as_str(), "resolv.conf"),
            hosts_path: file(owner.as_str(), "hosts"),
            log_path: file(sandbox.id.as_str(), "log"),
            config: ContainerConfig {
                hostname: hostname(sandbox),
                exposed_ports: ports.keys().map(|port| (port.clone(), BTreeMap::new())).collect(),
                cmd: sandbox.command.clone(),
                labels: sandbox.labels.clone(),
            },
            host_config: HostConfig::of(world, sandbox),
            network_settings: NetworkSettings {
                sandbox_id: sandbox.id.to_string(),
                sandbox_key: netns,
                ports,
                networks: networks(world, sandbox),
            },
        }
    }
}

impl ContainerState {
    fn of(sandbox: &Sandbox) -> Self {
        // A sandbox without a command is a network for somebody else's process: it runs as long as it is there.
        let running = sandbox.pid.is_some() || sandbox.command.is_empty();
        Self {
            status: if running { "running" } else { "exited" }.into(),
            running,
            pid: sandbox.pid.unwrap_or(0),
            ..Self::default()
        }
    }
}

impl HostConfig {
    fn of(world: &World, sandbox: &Sandbox) -> Self {
        let strings = |items: &[String]| items.to_vec();
        Self {
            network_mode: network_mode(world, sandbox),
            publish_all_ports: sandbox.publish_all,
            dns: sandbox.dns.servers.iter().map(ToString::to_string).collect(),
            dns_search: strings(&sandbox.dns.search),
            dns_options: strings(&sandbox.dns.options),
            extra_hosts: sandbox.dns.extra_hosts.iter().map(|(name, ip)| format!("{name}:{ip}")).collect(),
            links: sandbox.links.iter().map(|link| format!("{}:{}", link.target, link.alias)).collect(),
        }
    }
}

/// Returns the host name inside: in host mode the host's, unless the user chose one (Docker semantics HO4).
fn hostname(sandbox: &Sandbox) -> String {
    let chosen = sandbox.hostname != sandbox.id.short();
    match nix::unistd::gethostname() {
        Ok(name) if sandbox.mode == SandboxMode::Host && !chosen => name.to_string_lossy().into_owned(),
        _ => sandbox.hostname.clone(),
    }
}

fn network_mode(world: &World, sandbox: &Sandbox) -> String {
    match &sandbox.mode {
        SandboxMode::Host => "host".into(),
        SandboxMode::None => "none".into(),
        SandboxMode::Sandbox(id) => format!("sandbox:{id}"),
        SandboxMode::Endpoints => {
            sandbox.endpoints.first().map(|endpoint| network_name(world, endpoint)).unwrap_or_default()
        }
    }
}

fn network_name(world: &World, endpoint: &Endpoint) -> String {
    world
        .network_by_id(&endpoint.network)
        .map_or_else(|| endpoint.network.to_string(), |network| network.name.to_string())
}

/// Returns the endpoints by network; host and none modes show their predefined network, as Docker does (HO3).
fn networks(world: &World, sandbox: &Sandbox) -> BTreeMap<String, EndpointSettings> {
    let predefined = match &sandbox.mode {
        SandboxMode::Host => Some("host"),
        SandboxMode::None => Some("none"),
        SandboxMode::Endpoints | SandboxMode::Sandbox(_) => None,
    };
    if let Some(name) = predefined {
        let network_id = world.network(name).map(|network| network.id.to_string()).unwrap_or_default();
        return [(name.to_owned(), EndpointSettings { network_id, ..EndpointSettings::default() })].into();
    }
    sandbox
        .endpoints
        .iter()
        .map(|endpoint| (network_name(world, endpoint), EndpointSettings::from(endpoint)))
        .collect()
}

impl From<&Endpoint> for EndpointSettings {
    fn from(endpoint: &Endpoint) -> Self {
        fn text<T: ToString>(value: Option<T>) -> String {
            value.map(|value| value.to_string()).unwrap_or_default()
        }
        let (chose4, chose6, _) = endpoint.requested;
        let chosen = EndpointIpam {
            ipv4_address: text(endpoint.ipv4.filter(|_| chose4).map(|net| net.addr())),
            ipv6_address: text(endpoint.ipv6.filter(|_| chose6).map(|net| net.addr())),
        };
        Self {
            ipam_config: (chosen != EndpointIpam::default()).then_some(chosen),
            aliases: endpoint.aliases.clone(),
            mac_address: endpoint.mac.to_string(),
            driver_opts: endpoint.driver_opts.clone(),
            gw_priority: endpoint.gw_priority,
            network_id: endpoint.network.to_string(),
            endpoint_id: endpoint.id.to_string(),
            gateway: text(endpoint.gateway4),
            ip_address: text(endpoint.ipv4.map(|net| net.addr())),
            ip_prefix_len: endpoint.ipv4.map_or(0, |net| net.prefix_len()),
            ipv6_gateway: text(endpoint.gateway6),
            global_ipv6_address: text(endpoint.ipv6.map(|net| net.addr())),
            global_ipv6_prefix_len: endpoint.ipv6.map_or(0, |net| net.prefix_len()),
            interface: endpoint.ifname.to_string(),
            host_interface: endpoint.host_ifname.to_string(),
        }
    }
}

impl ContainerSummary {
    /// Shows a sandbox as an element of a list.
    pub fn new(world: &World, sandbox: &Sandbox) -> Self {
        let state = ContainerState::of(sandbox);
        Self {
            id: sandbox.id.to_string(),
            names: vec![format!("/{}", sandbox.name)],
            command: sandbox.command.join(" "),
            created: sandbox.created.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second),
            ports: PortSummary::list(sandbox),
            labels: sandbox.labels.clone(),
            status: if state.running { "Up" } else { "Exited" }.into(),
            state: state.status,
            host_config: [("NetworkMode".to_owned(), network_mode(world, sandbox))].into(),
            network_settings: [("Networks".to_owned(), networks(world, sandbox))].into(),
            ..Self::default()
        }
    }
}
