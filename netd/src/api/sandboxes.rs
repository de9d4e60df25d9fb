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
    extract::{Body, Failure, Params},
    filters::Filters,
    router::Api,
};
use crate::{
    controller::{Code, Error, World},
    model::{Binding, Sandbox, SandboxMode},
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
    State(api): State<Arc<Api>>,
    Body(request): Body<SandboxCreateRequest>,
) -> Result<(StatusCode, Json<SandboxCreated>), Failure> {
    let wanted_ports = !request.publish.is_empty() || request.publish_all;
    let request = request.parse(&host_gateway(&api.handle.view()))?;
    let sandbox = api.handle.create_sandbox(request).await?;
    let discarded = wanted_ports && sandbox.mode == SandboxMode::Host;
    let warnings = discarded.then(|| "Published ports are discarded when using host network mode".to_owned());
    let created = SandboxCreated {
        id: sandbox.id.to_string(),
        name: sandbox.name.to_string(),
        warnings: warnings.into_iter().collect(),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Returns the default network's gateways, by which every sandbox reaches the host.
fn host_gateway(world: &World) -> Vec<IpAddr> {
    let pools = world.network("bridge").map(|network| network.ipam.pools.as_slice()).unwrap_or_default();
    pools.iter().filter_map(|pool| pool.gateway).collect()
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path(word): Path<String>,
    Params(removal): Params<Removal>,
) -> Result<StatusCode, Failure> {
    api.handle.remove_sandbox(&word, removal.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn unlink(
    State(api): State<Arc<Api>>,
    Path((word, alias)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    api.handle.unlink(&word, &alias).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn publish(
    State(api): State<Arc<Api>>,
    Path(word): Path<String>,
    Body(request): Body<PublishRequest>,
) -> Result<Json<PortMap>, Failure> {
    let specs = parse(&request.specs, &format!("publish for sandbox {word}"))?;
    Ok(Json(shown(&api.handle.publish(&word, specs).await?)))
}

pub(super) async fn unpublish(
    State(api): State<Arc<Api>>,
    Path(word): Path<String>,
    Body(request): Body<UnpublishRequest>,
) -> Result<Json<PortMap>, Failure> {
    let specs = parse(&request.specs, &format!("unpublish for sandbox {word}"))?;
    Ok(Json(shown(&api.handle.unpublish(&word, specs, request.kill).await?)))
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
    State(api): State<Arc<Api>>,
    Path(word): Path<String>,
    Body(request): Body<StartedRequest>,
) -> Result<StatusCode, Failure> {
    api.handle.started(&word, request.pid).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn exited(
    State(api): State<Arc<Api>>,
    Path(word): Path<String>,
    Body(request): Body<ExitedRequest>,
) -> Result<StatusCode, Failure> {
    tracing::debug!(sandbox = word, exit_code = request.exit_code, "command ended");
    api.handle.exited(&word).await?;
    Ok(StatusCode::NO_CONTENT)
}
