//! Bodies of `/netd/v1/sandboxes`: what Docker has no word for.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::EndpointConfig;
use crate::{
    controller::{Code, CreateSandbox, Error, NetnsRequest},
    model::{DnsConfig, PublishSpec, parse_expose},
};

/// Docker's word for the addresses by which a sandbox reaches the host.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Every port of the three protocols.
const MOST_EXPOSED: usize = 3 * 65_535;

/// The body of `POST /netd/v1/sandboxes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct SandboxCreateRequest {
    /// None: a generated name.
    pub name: Option<String>,
    /// Path of an existing namespace.
    #[serde(rename = "NetNS")]
    pub netns: Option<PathBuf>,
    /// A process whose namespace shall be used.
    pub pid: Option<u32>,
    /// In the order of attachment; empty: the network `bridge`.
    pub networks: Vec<AttachmentSpec>,
    /// `-p`, as typed.
    pub publish: Vec<String>,
    /// `-P`.
    pub publish_all: bool,
    /// `--expose` as `PORT[-PORT][/PROTO]`.
    pub expose: Vec<String>,
    /// `--link` as `NAME[:ALIAS]`.
    pub links: Vec<String>,
    /// Host name inside.
    pub hostname: Option<String>,
    /// Name resolution inside.
    pub dns: DnsSpec,
    /// User metadata.
    pub labels: BTreeMap<String, String>,
    /// The command of `netd run`.
    pub command: Vec<String>,
}

/// One network of a new sandbox.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct AttachmentSpec {
    /// Name, id or id prefix; also `host`, `none` and `sandbox:NAME`.
    pub network: String,
    /// What the endpoint shall be like.
    pub endpoint: EndpointConfig,
}

/// Name resolution in a new sandbox.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct DnsSpec {
    /// Name servers, replacing the host's.
    pub servers: Vec<IpAddr>,
    /// Search domains, replacing the host's.
    pub search: Vec<String>,
    /// Resolver options, replacing the host's.
    pub options: Vec<String>,
    /// Extra lines of `/etc/hosts` as (name, address); `host-gateway` stands for the host's own addresses (F13).
    pub extra_hosts: Vec<(String, String)>,
}

/// The answer of `POST /netd/v1/sandboxes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SandboxCreated {
    /// Id of the new sandbox.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What was ignored, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The body of `POST /netd/v1/sandboxes/{id}/started`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct StartedRequest {
    /// The process, in the daemon's PID namespace.
    pub pid: u32,
}

/// The body of `POST /netd/v1/sandboxes/{id}/exited`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ExitedRequest {
    /// Exit code of the process, or 128 + signal.
    pub exit_code: u8,
}

/// The body of `POST /netd/v1/sandboxes/{id}/publish`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct PublishRequest {
    /// `-p`, as typed.
    pub specs: Vec<String>,
}

/// The body of `POST /netd/v1/sandboxes/{id}/unpublish`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct UnpublishRequest {
    /// `-p`, as typed.
    pub specs: Vec<String>,
    /// Ends established connections too.
    #[serde(default)]
    pub kill: bool,
}

impl SandboxCreateRequest {
    /// Parses the request; `host_gateway` is what `--add-host NAME:host-gateway` means.
    ///
    /// # Errors
    /// What is malformed, in one line that names the sandbox.
    pub fn parse(self, host_gateway: &[IpAddr]) -> Result<CreateSandbox, Error> {
        let request = self;
        let doing = match &request.name {
            Some(name) => format!("create sandbox {name}"),
            None => "create sandbox".to_owned(),
        };
        let usage = |why: String| Error::new(Code::Usage, format!("{doing}: {why}"));
        let netns = match (request.netns, request.pid) {
            (None, None) => NetnsRequest::Create,
            (Some(path), None) => NetnsRequest::Path(path),
            (None, Some(pid)) => NetnsRequest::Pid(pid),
            (Some(_), Some(_)) => return Err(usage("a path and a pid both name its namespace".into())),
        };
        let networks = request.networks.into_iter().map(|spec| spec.endpoint.parse(spec.network, &doing));
        let mut exposed = Vec::new();
        for text in &request.expose {
            exposed.extend(parse_expose(text).map_err(|why| usage(why.to_string()))?);
            if exposed.len() > MOST_EXPOSED {
                return Err(usage(format!("more than {MOST_EXPOSED} ports are exposed")));
            }
        }
        Ok(CreateSandbox {
            name: request.name,
            netns,
            networks: networks.collect::<Result<_, _>>()?,
            publish: publish(&request.publish).map_err(usage)?,
            publish_all: request.publish_all,
            exposed,
            links: request.links.iter().map(|text| link(text)).collect(),
            hostname: request.hostname,
            dns: DnsConfig {
                servers: request.dns.servers,
                search: request.dns.search,
                options: request.dns.options,
                extra_hosts: extra_hosts(&request.dns.extra_hosts, host_gateway).map_err(usage)?,
            },
            labels: request.labels,
            command: request.command,
        })
    }
}

/// Parses `-p` texts; the first malformed one is the error.
pub(in crate::api) fn publish(texts: &[String]) -> Result<Vec<PublishSpec>, String> {
    texts.iter().map(|text| text.parse::<PublishSpec>().map_err(|why| why.to_string())).collect()
}

fn extra_hosts(given: &[(String, String)], host_gateway: &[IpAddr]) -> Result<Vec<(String, IpAddr)>, String> {
    let mut hosts = Vec::new();
    for (name, address) in given {
        if address == HOST_GATEWAY {
            hosts.extend(host_gateway.iter().map(|ip| (name.clone(), *ip)));
        } else {
            let ip = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
            hosts.push((name.clone(), ip));
        }
    }
    Ok(hosts)
}

/// Splits `NAME[:ALIAS]`; without an alias the name is the alias.
fn link(text: &str) -> (String, String) {
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    (name.to_owned(), alias.to_owned())
}
