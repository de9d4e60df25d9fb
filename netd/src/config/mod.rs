//! What one daemon works with: built-in values, then the configuration file, then the command line; the later wins.

mod cgroup;
mod default_bridge;
mod error;
mod file;
mod fwmark;
mod ports;
mod timeouts;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    net::IpAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    str::FromStr,
};

pub use error::Error;

use crate::{
    api::UserLimits,
    audit,
    controller::CreateNetwork,
    dataplane::{self, AttachMode, DirectAccess, Guard, TcxOrder, Timeouts},
    ipam::{DefaultPool, docker_default_pools},
    model::{DnsConfig, IfName, Name},
};
use file::File;

/// Read when there is no `--config`, if it exists.
pub const DEFAULT_FILE: &str = "/etc/netd/netd.toml";

/// Longest configuration file in bytes.
const LONGEST: u64 = 1 << 20;
/// Entries of the flow table at least, and at most where nobody says otherwise: 131,072 and two million flows (spec: dataplane.md 7.2).
const FLOW_ENTRIES: (u32, u32) = (1 << 18, 1 << 22);
/// Memory of the host for each of them, in bytes: the table takes half of a percent.
const MEMORY_PER_ENTRY: u64 = 1 << 16;
/// Share of the flow table that one endpoint may fill (spec: reliability.md S17).
const ENDPOINT_SHARE: u32 = 2;
/// Host ports of masqueraded flows (spec: dataplane.md 7.6): beside the kernel's ephemeral range 32768 to 60999.
const NAT_PORT_RANGES: [(u16, u16); 2] = [(10_000, 32_767), (61_000, 65_535)];

/// The options of `netd daemon`, as given.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--instance`.
    pub instance: Option<String>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--run-dir`.
    pub run_dir: Option<PathBuf>,
    /// `--bpffs`.
    pub bpffs: Option<PathBuf>,
    /// `--cgroup`.
    pub cgroup: Option<PathBuf>,
    /// Every `--uplink`.
    pub uplinks: Vec<IfName>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("invalid log format {text:?}: text or json")),
        }
    }
}

/// Everything a daemon is told before it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the instance, in the labels of its kernel objects.
    pub instance: Name,
    /// Where the state is kept.
    pub state_dir: PathBuf,
    /// Where the socket and the namespaces are.
    pub run_dir: PathBuf,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
    /// Root of the cgroup2 hierarchy whose sockets are the host's.
    pub cgroup: PathBuf,
    /// Interfaces to the outside; empty: every Ethernet interface with a global address that is not netd's own.
    pub uplinks: Vec<IfName>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The group whose members may use the API, which makes them root's equals; None: root alone.
    pub socket_group: Option<String>,
    /// Entries of each flow table (two per flow).
    pub flow_entries: u32,
    /// Entries that one endpoint may fill.
    pub flow_entries_per_endpoint: u32,
    /// Host ports that masqueraded flows may take, first and last.
    pub nat_port_ranges: Vec<(u16, u16)>,
    /// Host ports that they may not take.
    pub nat_excluded_ports: Vec<(u16, u16)>,
    /// How long flows live without a packet.
    pub timeouts: Timeouts,
    /// How packet programs are attached.
    pub attach: AttachMode,
    /// Where the programs of uplinks stand among others.
    pub tcx_order: TcxOrder,
    /// Who may address sandboxes directly on every network (`allow-direct-routing`, `bridge-accept-fwmark`).
    pub direct: DirectAccess,
    /// Whether published ports are open to the outside only where the host's own input rules let packets in.
    pub respect_host_firewall: bool,
    /// Which uplinks are guarded, and against whom.
    pub guard: Guard,
    /// What one user may take of the API.
    pub user_limits: UserLimits,
    /// How much of the audit log is kept.
    pub audit: audit::Limits,
    /// Subnets for networks that name none. Without an IPv6 one, `ipam::ula_pool` of the instance is to be added.
    pub default_pools: Vec<DefaultPool>,
    /// The network `bridge`: pools and options from the keys `bip`, `mtu`, `icc`, ...; for `controller::default_bridge`.
    pub default_bridge: CreateNetwork,
    /// `-o` for every new bridge network that does not give the key itself (`default-network-opts`).
    pub network_options: BTreeMap<String, String>,
    /// Name resolution of sandboxes that don't choose their own.
    pub dns: DnsConfig,
    /// What `host-gateway` means in `--add-host`; empty: the default network's gateways.
    pub host_gateway: Vec<IpAddr>,
}

impl Settings {
    /// Reads the configuration file and `/proc/self/mountinfo`, and merges them with the command line.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a value out of range, or no cgroup2 hierarchy.
    pub fn load(flags: &Flags) -> Result<Self, Error> {
        let file = match &flags.config {
            Some(path) => read_file(path)?,
            None => match read_file(Path::new(DEFAULT_FILE)) {
                Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    File::default()
                }
                other => other?,
            },
        };
        let mountinfo = fs::read_to_string(cgroup::MOUNTINFO)
            .map_err(|source| Error::Read { path: cgroup::MOUNTINFO.into(), source })?;
        Self::merge(flags, file, &mountinfo)
    }

    /// Returns what the dataplane needs of this.
    pub fn dataplane(&self) -> dataplane::Settings {
        dataplane::Settings {
            bpffs: self.bpffs.clone(),
            cgroup: self.cgroup.clone(),
            flow_entries: self.flow_entries,
            flow_entries_per_endpoint: self.flow_entries_per_endpoint,
            nat_port_ranges: self.nat_port_ranges.clone(),
            nat_excluded_ports: self.nat_excluded_ports.clone(),
            timeouts: self.timeouts,
            attach: self.attach,
            tcx_order: self.tcx_order,
            direct: self.direct,
            respect_host_firewall: self.respect_host_firewall,
            guard: self.guard.clone(),
        }
    }

    /// Merges without reading anything.
    fn merge(flags: &Flags, file: File, mountinfo: &str) -> Result<Self, Error> {
        let default_bridge = default_bridge::request(&file)?;
        let instance = flags.instance.clone().or(file.instance).unwrap_or_else(|| "default".to_owned());
        let path = |flag: &Option<PathBuf>, key: Option<PathBuf>, default: &str| {
            flag.clone().or(key).unwrap_or_else(|| default.into())
        };
        let cgroup = flags.cgroup.clone().or(file.cgroup).or_else(|| cgroup::cgroup2_root(mountinfo));
        let usual = UserLimits::default();
        let flow_entries = file.flows.entries.unwrap_or_else(|| flow_entries(memory()));
        Ok(Self {
            instance: parse_instance(&instance)?,
            state_dir: path(&flags.state_dir, file.state_dir, "/var/lib/netd"),
            run_dir: path(&flags.run_dir, file.run_dir, "/run/netd"),
            bpffs: path(&flags.bpffs, file.bpffs, "/sys/fs/bpf/netd"),
            cgroup: cgroup.ok_or(Error::NoCgroup)?,
            uplinks: if flags.uplinks.is_empty() { file.uplinks } else { flags.uplinks.clone() },
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
            socket_group: file.socket_group,
            flow_entries,
            flow_entries_per_endpoint: file
                .flows
                .per_endpoint
                .unwrap_or((flow_entries / ENDPOINT_SHARE).max(1)),
            nat_port_ranges: file.nat.port_range.map_or_else(|| NAT_PORT_RANGES.to_vec(), |ranges| ranges.0),
            nat_excluded_ports: file.nat.exclude_ports.map(|list| list.0).unwrap_or_default(),
            timeouts: file.timeouts,
            attach: file.attach,
            tcx_order: file.dataplane.tcx_order,
            direct: DirectAccess {
                routing: file.allow_direct_routing,
                mark: file.bridge_accept_fwmark.map(|fwmark| (fwmark.mark, fwmark.mask)),
            },
            respect_host_firewall: file.publish.respect_host_firewall,
            guard: Guard {
                interfaces: file.guard.interfaces,
                deny: file.guard.deny,
                connections_per_second: file.guard.connections_per_second,
            },
            user_limits: UserLimits {
                connections: file.api.connections_per_user.map_or(usual.connections, NonZeroUsize::get),
                changes_per_minute: file
                    .api
                    .changes_per_minute
                    .map_or(usual.changes_per_minute, NonZeroU32::get),
            },
            audit: audit::Limits {
                file_size: file.audit.file_size.unwrap_or(audit::Limits::default().file_size),
                files: file.audit.files.unwrap_or(audit::Limits::default().files),
            },
            default_pools: file.default_address_pools.unwrap_or_else(docker_default_pools),
            default_bridge,
            network_options: file.default_network_opts.bridge,
            dns: DnsConfig {
                servers: file.dns,
                search: file.dns_search,
                options: file.dns_opts,
                extra_hosts: Vec::new(),
            },
            host_gateway: file.host_gateway_ips,
        })
    }
}

/// Returns the memory of the host, in bytes; 0: unknown.
fn memory() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}

/// Returns how many entries the flow table of a host with this much memory has: a power of two, so that a few megabytes more or less keep its shape.
fn flow_entries(memory: u64) -> u32 {
    let (least, most) = FLOW_ENTRIES;
    let fitting = u32::try_from(memory / MEMORY_PER_ENTRY).unwrap_or(u32::MAX);
    fitting.checked_ilog2().map_or(least, |bits| (1 << bits).clamp(least, most))
}

/// Returns the keys of a configuration file as they stand there; none: there is no file of the default name.
///
/// # Errors
/// It cannot be read, or is no TOML.
pub fn raw(path: Option<&Path>) -> Result<toml::Table, Error> {
    let file = path.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match read_text(file) {
        Err(Error::Read { source, .. }) if path.is_none() && source.kind() == io::ErrorKind::NotFound => {
            String::new()
        }
        other => other?,
    };
    let why = |error: toml::de::Error| error.message().replace('\n', "; ");
    text.parse().map_err(|error| Error::Invalid { path: file.to_owned(), line: 1, why: why(error) })
}

fn read_text(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    // One byte more than allowed, so that a longer file is told from one of exactly that length.
    fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text)).map_err(failed)?;
    if text.len() as u64 > LONGEST {
        return Err(failed(io::Error::other(format!("it is longer than {LONGEST} bytes"))));
    }
    Ok(text)
}

/// Reads and checks one file.
fn read_file(path: &Path) -> Result<File, Error> {
    let text = read_text(path)?;
    File::parse(&text).map_err(|fault| Error::Invalid {
        path: path.to_owned(),
        line: fault.line,
        why: fault.why,
    })
}

/// An instance's name is a part of paths and of interface labels, so it is short.
fn parse_instance(text: &str) -> Result<Name, Error> {
    let name: Name = text.parse().map_err(|error| Error::Value(format!("instance: {error}")))?;
    if name.as_str().len() > 64 {
        return Err(Error::Value(format!("instance: invalid name {text:?}: it has at most 64 characters")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
