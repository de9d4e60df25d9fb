//! The daemon itself, the flow table and the drop counters.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Deserialize;

use super::{
    dto::{Drop, FlowsFlushed, Info, Version, VersionComponent},
    extract::{Failure, Params},
    router::{API_VERSION, Api, MIN_API_VERSION},
};
use crate::{
    controller::{Code, Error, FlowSelector, Status},
    dataplane::{FlowFilter, FlowInfo},
    kernel_release,
};

pub(super) async fn ping() -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"), (header::PRAGMA, "no-cache")], "OK")
}

pub(super) async fn version() -> Json<Version> {
    let object = super::OBJECT_SHA256.to_owned();
    let kernel_version = kernel_release::text();
    let details = [
        ("ApiVersion", API_VERSION),
        ("MinAPIVersion", MIN_API_VERSION),
        ("Os", "linux"),
        ("Arch", docker_arch()),
        ("KernelVersion", &kernel_version),
        ("ObjectSHA256", &object),
    ];
    Json(Version {
        platform: [("Name".to_owned(), "netd".to_owned())].into(),
        components: vec![VersionComponent {
            name: "Engine".into(), // docker shows the component of this name as the daemon itself
            version: env!("CARGO_PKG_VERSION").into(),
            details: details.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }],
        version: env!("CARGO_PKG_VERSION").into(),
        api_version: API_VERSION.into(),
        min_api_version: MIN_API_VERSION.into(),
        os: "linux".into(),
        arch: docker_arch().into(),
        kernel_version: kernel_version.clone(),
        object_sha256: object,
    })
}

pub(super) async fn info(State(api): State<Arc<Api>>) -> Result<Json<Info>, Failure> {
    let status = api.status().await?;
    let world = api.handle.view();
    let stopped = world.sandboxes().filter(|s| s.pid.is_none() && !s.command.is_empty()).count();
    let total = world.sandboxes().len();
    Ok(Json(Info {
        id: status.instance,
        name: hostname(),
        containers: total,
        containers_running: total - stopped,
        containers_stopped: stopped,
        driver: "netd".into(),
        warnings: if status.state == "ready" { Vec::new() } else { vec![status.state] },
        kernel_version: kernel_release::text(),
        os_type: "linux".into(),
        architecture: std::env::consts::ARCH.into(),
        server_version: env!("CARGO_PKG_VERSION").into(),
        plugins: BTreeMap::from([(
            "Network".to_owned(),
            ["bridge", "host", "null"].map(str::to_owned).into(),
        )]),
    }))
}

fn docker_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Query of flow calls; the keys of `netd flow ls --filter`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowQuery {
    sandbox: Option<String>,
    network: Option<String>,
    proto: Option<String>,
    port: Option<String>,
}

impl TryFrom<FlowQuery> for FlowSelector {
    type Error = Error;
    fn try_from(query: FlowQuery) -> Result<Self, Error> {
        Ok(Self {
            sandbox: query.sandbox,
            network: query.network,
            protocol: query.proto.as_deref().map(protocol).transpose()?,
            port: query.port.as_deref().map(port).transpose()?,
        })
    }
}

fn port(text: &str) -> Result<u16, Error> {
    text.parse().map_err(|_| {
        Error::new(Code::Usage, format!("invalid filter port={text}")).hint("a number from 0 to 65535")
    })
}

/// Parses a protocol's name or number (IANA).
fn protocol(text: &str) -> Result<u8, Error> {
    match text.to_ascii_lowercase().as_str() {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "sctp" => Ok(132),
        "icmpv6" | "icmp6" => Ok(58),
        number => number.parse().map_err(|_| {
            Error::new(Code::Usage, format!("invalid filter proto={text}"))
                .hint("tcp, udp, icmp, icmpv6, or a number from 0 to 255")
        }),
    }
}

/// Returns what selects flows without a daemon, which alone knows the addresses of sandboxes and networks.
///
/// # Errors
/// A filter is malformed, or asks for a sandbox or a network.
pub fn flow_filter(query: &[(&str, &str)]) -> Result<FlowFilter, Error> {
    let value = |key: &str| query.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    if let Some(key) = ["sandbox", "network"].into_iter().find(|key| value(key).is_some()) {
        let text = format!("invalid filter {key}: without a daemon there are proto and port alone");
        return Err(Error::new(Code::Usage, text));
    }
    Ok(FlowFilter {
        addresses: Vec::new(),
        protocol: value("proto").map(protocol).transpose()?,
        port: value("port").map(port).transpose()?,
    })
}

pub(super) async fn flows(
    State(api): State<Arc<Api>>,
    Params(query): Params<FlowQuery>,
) -> Result<Json<Vec<FlowInfo>>, Failure> {
    Ok(Json(api.handle.flows(query.try_into()?).await?))
}

pub(super) async fn flush_flows(
    State(api): State<Arc<Api>>,
    Params(query): Params<FlowQuery>,
) -> Result<Json<FlowsFlushed>, Failure> {
    Ok(Json(FlowsFlushed { flushed: api.handle.flush_flows(query.try_into()?).await? }))
}

pub(super) async fn drops(State(api): State<Arc<Api>>) -> Result<Json<Vec<Drop>>, Failure> {
    let drops = api.handle.drops().await?.into_iter();
    Ok(Json(drops.map(|(reason, packets)| Drop { reason: reason.to_owned(), packets }).collect()))
}

pub(super) async fn status(State(api): State<Arc<Api>>) -> Result<Json<Status>, Failure> {
    Ok(Json(api.status().await?))
}

pub(super) async fn down(State(api): State<Arc<Api>>) -> Result<StatusCode, Failure> {
    api.handle.down().await?;
    Ok(StatusCode::NO_CONTENT)
}
