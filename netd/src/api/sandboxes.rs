//! `/netd/v1/sandboxes`, and the same sandboxes as Docker's `/containers`.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;

use super::{
    dto::{
        self, Container, ContainerSummary, ExitedRequest, NameStyle, PortMap, PublishRequest,
        SandboxCreateRequest, SandboxCreated, StartedRequest, UnpublishRequest,
    },
    extract::{Body, Change, Failure, Params},
    filters::Filters,
    router::Api,
};
use crate::{
    controller::{Code, Error, World},
    model::{Binding, Id, Name, Sandbox, SandboxMode},
};

const FILTERS: &[&str] = &["id", "label", "name", "network", "status"];

/// Query of a list.
#[derive(Deserialize)]
pub(super) struct Selection {
    all: Option<String>,
    filters: Option<String>,
}

/// Query of a removal.
#[derive(Deserialize)]
pub(super) struct Removal {
    #[serde(default)]
    force: bool,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Selection>,
) -> Result<Json<Vec<Container>>, Failure> {
    let filters = Filters::parse(query.filters.as_deref(), FILTERS)?;
    let world = api.handle.view();
    let shown = |sandbox: &Sandbox| Container::new(&world, sandbox, &api.run_dir, NameStyle::Plain);
    let mut containers: Vec<Container> = world.sandboxes().map(|sandbox| shown(sandbox)).collect();
    containers.retain(|container| selected(&world, container, &filters));
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(containers))
}

fn selected(world: &World, container: &Container, filters: &Filters) -> bool {
    let networks = &container.network_settings.networks;
    filters.found_in("name", &container.name)
        && filters.found_in("id", &container.id)
        && filters.exact("status", &container.state.status)
        && filters.labels(&container.config.labels)
        && filters.any("network", |word| {
            let id = world.network(word).map_or(word, |network| network.id.as_str());
            networks.values().any(|endpoint| endpoint.network_id == id)
        })
}

pub(super) async fn inspect(
    State(api): State<Arc<Api>>,
    Path(word): Path<String>,
) -> Result<Json<Container>, Failure> {
    show(&api, &word, NameStyle::Plain)
}

pub(super) async fn docker_inspect(
    State(api): State<Arc<Api>>,
    Path(word): Path<String>,
) -> Result<Json<Container>, Failure> {
    show(&api, &word, NameStyle::Docker)
}

fn show(api: &Api, word: &str, style: NameStyle) -> Result<Json<Container>, Failure> {
    let world = api.handle.view();
    Ok(Json(Container::new(&world, world.sandbox(word)?, &api.run_dir, style)))
}

pub(super) async fn docker_list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Selection>,
) -> Result<Json<Vec<ContainerSummary>>, Failure> {
    let filters = Filters::parse(query.filters.as_deref(), FILTERS)?;
    let all = query.all.is_some_and(|all| matches!(all.to_ascii_lowercase().as_str(), "1" | "true"));
    let world = api.handle.view();
    let mut sandboxes: Vec<&Arc<Sandbox>> = world.sandboxes().collect();
    sandboxes.sort_by(|a, b| b.created.cmp(&a.created)); // newest first, as Docker
    let summaries = sandboxes
        .into_iter()
        .filter(|sandbox| {
            let container = Container::new(&world, sandbox, &api.run_dir, NameStyle::Plain);
            (all || container.state.running) && selected(&world, &container, &filters)
        })
        .map(|sandbox| ContainerSummary::new(&world, sandbox));
    Ok(Json(summaries.collect()))
}

pub(super) async fn create(
    Change(handle): Change,
    Body(request): Body<SandboxCreateRequest>,
) -> Result<(StatusCode, Json<SandboxCreated>), Failure> {
    let request = request.parse(&host_gateway(&handle.view()))?;
    let wants_ports = request.wants_ports();
    let sandbox = handle.create_sandbox(request).await?;
    let discards_ports = wants_ports && sandbox.mode == SandboxMode::Host;
    Ok((StatusCode::CREATED, Json(created(&sandbox.id, &sandbox.name, discards_ports))))
}

/// Returns what the caller is told of a new sandbox.
pub(super) fn created(id: &Id, name: &Name, discards_ports: bool) -> SandboxCreated {
    let warning = "Published ports are discarded when using host network mode";
    let warnings = discards_ports.then(|| warning.to_owned()).into_iter().collect();
    SandboxCreated { id: id.to_string(), name: name.to_string(), warnings }
}

/// Returns the default network's gateways, by which every sandbox reaches the host.
fn host_gateway(world: &World) -> Vec<IpAddr> {
    let pools = world.network("bridge").map(|network| network.ipam.pools.as_slice()).unwrap_or_default();
    pools.iter().filter_map(|pool| pool.gateway).collect()
}

pub(super) async fn remove(
    Change(handle): Change,
    Path(word): Path<String>,
    Params(removal): Params<Removal>,
) -> Result<StatusCode, Failure> {
    handle.remove_sandbox(&word, removal.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn unlink(
    Change(handle): Change,
    Path((word, alias)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    handle.unlink(&word, &alias).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn publish(
    Change(handle): Change,
    Path(word): Path<String>,
    Body(request): Body<PublishRequest>,
) -> Result<Json<PortMap>, Failure> {
    let specs = parse(&request.specs, &format!("publish for sandbox {word}"))?;
    Ok(Json(shown(&handle.publish(&word, specs).await?)))
}

pub(super) async fn unpublish(
    Change(handle): Change,
    Path(word): Path<String>,
    Body(request): Body<UnpublishRequest>,
) -> Result<Json<PortMap>, Failure> {
    let specs = parse(&request.specs, &format!("unpublish for sandbox {word}"))?;
    Ok(Json(shown(&handle.unpublish(&word, specs, request.kill).await?)))
}

fn parse(texts: &[String], doing: &str) -> Result<Vec<crate::model::PublishSpec>, Error> {
    if texts.is_empty() {
        return Err(Error::new(Code::Usage, format!("{doing}: no port is given")));
    }
    dto::publish(texts).map_err(|why| Error::new(Code::Usage, format!("{doing}: {why}")))
}

fn shown(bindings: &[Binding]) -> PortMap {
    dto::port_map(&[], bindings)
}

pub(super) async fn started(
    Change(handle): Change,
    Path(word): Path<String>,
    Body(request): Body<StartedRequest>,
) -> Result<StatusCode, Failure> {
    handle.started(&word, request.pid).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn exited(
    Change(handle): Change,
    Path(word): Path<String>,
    Body(request): Body<ExitedRequest>,
) -> Result<StatusCode, Failure> {
    tracing::debug!(sandbox = word, exit_code = request.exit_code, "command ended");
    handle.exited(&word).await?;
    Ok(StatusCode::NO_CONTENT)
}
