//! The keys of the configuration file. Docker's keep Docker's names and meanings (Docker semantics A); nothing else is accepted.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    LogFormat,
    fwmark::Fwmark,
    ports::{PortList, PortRanges},
};
use crate::{
    dataplane::{AttachMode, TcxOrder, Timeouts},
    ipam::DefaultPool,
    model::{IfName, parse_prefix},
};

/// Smallest and largest file of the audit log, in bytes.
const AUDIT_FILE_SIZES: (u64, u64) = (4 << 10, 64 << 20);
/// Most files of the audit log.
const MOST_AUDIT_FILES: usize = 1000;
/// Most connections a second that a guard counts.
const MOST_CONNECTIONS: u32 = 1_000_000;

/// The file's content.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    pub(super) instance: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) bpffs: Option<PathBuf>,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) uplinks: Vec<IfName>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) socket_group: Option<String>,
    pub(super) flows: Flows,
    pub(super) nat: Nat,
    pub(super) publish: Publish,
    pub(super) audit: Audit,
    pub(super) api: Api,
    pub(super) guard: Guard,
    pub(super) dataplane: Dataplane,
    #[serde(with = "super::timeouts::Table")]
    pub(super) timeouts: Timeouts,
    pub(super) attach: AttachMode,
    #[serde(deserialize_with = "pools")]
    pub(super) default_address_pools: Option<Vec<DefaultPool>>,
    pub(super) default_network_opts: NetworkOptions,
    pub(super) dns: Vec<IpAddr>,
    pub(super) dns_search: Vec<String>,
    pub(super) dns_opts: Vec<String>,
    pub(super) host_gateway_ips: Vec<IpAddr>,
    // The keys of the network `bridge` stand at the top level, as in Docker's file.
    pub(super) bip: Option<IpNet>,
    pub(super) bip6: Option<IpNet>,
    pub(super) fixed_cidr: Option<IpNet>,
    pub(super) fixed_cidr_v6: Option<IpNet>,
    pub(super) default_gateway: Option<Ipv4Addr>,
    pub(super) default_gateway_v6: Option<Ipv6Addr>,
    pub(super) icc: Option<bool>,
    pub(super) ip: Option<IpAddr>,
    pub(super) ip_masq: Option<bool>,
    pub(super) ipv6: Option<bool>,
    #[serde(deserialize_with = "mtu")]
    pub(super) mtu: Option<u32>,
    pub(super) allow_direct_routing: bool,
    pub(super) bridge_accept_fwmark: Option<Fwmark>,
}

/// `[flows]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Flows {
    #[serde(deserialize_with = "entries")]
    pub(super) entries: Option<u32>,
    #[serde(deserialize_with = "entries")]
    pub(super) per_endpoint: Option<u32>,
}

/// `[nat]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Nat {
    pub(super) port_range: Option<PortRanges>,
    pub(super) exclude_ports: Option<PortList>,
}

/// `[dataplane]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Dataplane {
    pub(super) tcx_order: TcxOrder,
}

/// `[publish]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Publish {
    pub(super) respect_host_firewall: bool,
}

/// `[api]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Api {
    pub(super) connections_per_user: Option<NonZeroUsize>,
    pub(super) changes_per_minute: Option<NonZeroU32>,
}

/// `[audit]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Audit {
    #[serde(deserialize_with = "file_size")]
    pub(super) file_size: Option<u64>,
    #[serde(deserialize_with = "files")]
    pub(super) files: Option<usize>,
}

/// `[guard]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Guard {
    pub(super) interfaces: Vec<IfName>,
    #[serde(deserialize_with = "prefixes")]
    pub(super) deny: Vec<IpNet>,
    #[serde(deserialize_with = "rate")]
    pub(super) connections_per_second: u32,
}

/// `[default-network-opts.DRIVER]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NetworkOptions {
    pub(super) bridge: BTreeMap<String, String>,
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) why: String,
}

impl File {
    /// Parses a file, in one line naming the first key that is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        toml::from_str(text).map_err(|error| Fault {
            line: error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count()),
            why: describe(&error, text),
        })
    }
}

/// Returns the parser's message in one line, with the name of the key where the message itself does not have it.
fn describe(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', "; ");
    if let Some(unknown) = message.strip_prefix("unknown field ") {
        return format!("unknown key {unknown}");
    }
    let line = error.span().and_then(|span| text[span.start..].lines().next().map(|_| span.start));
    let key = line.and_then(|start| {
        let begin = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        text[begin..].lines().next()?.split_once('=').map(|(key, _)| key.trim())
    });
    key.map_or_else(|| message.clone(), |key| format!("{key}: {message}"))
}

/// Reads addresses and prefixes without host bits.
fn prefixes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| parse_prefix(text).map_err(D::Error::custom)).collect()
}

/// Reads a number of connections a second.
fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let rate = u32::deserialize(deserializer)?;
    if !(1..=MOST_CONNECTIONS).contains(&rate) {
        return Err(D::Error::custom(format!("invalid rate {rate}: it is 1 to {MOST_CONNECTIONS}")));
    }
    Ok(rate)
}

/// Reads the size of a file of the audit log: room for some lines at least.
fn file_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let (least, most) = AUDIT_FILE_SIZES;
    let size = u64::deserialize(deserializer)?;
    if !(least..=most).contains(&size) {
        return Err(D::Error::custom(format!("invalid size {size}: it is {least} to {most} bytes")));
    }
    Ok(Some(size))
}

/// Reads how many files the audit log has.
fn files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let files = usize::deserialize(deserializer)?;
    if !(1..=MOST_AUDIT_FILES).contains(&files) {
        return Err(D::Error::custom(format!("invalid number {files}: it is 1 to {MOST_AUDIT_FILES}")));
    }
    Ok(Some(files))
}

/// Reads pools that can be cut up.
fn pools<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<DefaultPool>>, D::Error> {
    let pools = Vec::<DefaultPool>::deserialize(deserializer)?;
    for pool in &pools {
        let DefaultPool { base, size } = pool;
        if *base != base.trunc() {
            return Err(D::Error::custom(format!("invalid base {base}: it should be {}", base.trunc())));
        }
        if !(base.prefix_len()..=base.max_prefix_len()).contains(size) {
            let (low, high) = (base.prefix_len(), base.max_prefix_len());
            return Err(D::Error::custom(format!("invalid size {size} for {base}: it is {low} to {high}")));
        }
    }
    Ok(Some(pools))
}

fn mtu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let mtu = u32::deserialize(deserializer)?;
    if (68..=65_535).contains(&mtu) {
        Ok(Some(mtu))
    } else {
        Err(D::Error::custom(format!("invalid MTU number: {mtu} (it is 68 to 65535 bytes)")))
    }
}

/// Reads a table size; the upper bound keeps a typo from taking all memory (4 million entries: 256 MiB).
fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if (2..=4 << 20).contains(&number) {
        Ok(Some(number))
    } else {
        Err(D::Error::custom(format!("{number} entries: it is 2 to {}", 4 << 20)))
    }
}
