//! `/networks`: what `docker network` and `netd network` ask for.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    dto::{
        ConnectRequest, DisconnectRequest, EndpointResource, NetworkCreateRequest, NetworkCreated,
        NetworkResource, NetworksPruned,
    },
    extract::{self, Body, Change, Failure, Params},
    filters::Filters,
    router::Api,
};
use crate::{
    controller::{Code, CreateNetwork, Error, Handle, Phase, World},
    model::{Driver, Network, Sandbox, SandboxMode},
};

const LIST_FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// Query of a list or prune.
#[derive(Deserialize)]
pub(super) struct Selection {
    filters: Option<String>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Selection>,
) -> Result<Json<Vec<NetworkResource>>, Failure> {
    let filters = Filters::parse(query.filters.as_deref(), LIST_FILTERS)?;
    let world = api.handle.view();
    let mut networks = Vec::new();
    for network in world.networks() {
        if selected(&world, network, &filters)? {
            networks.push(NetworkResource::from(network.as_ref()));
        }
    }
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(networks))
}

fn selected(world: &World, network: &Network, filters: &Filters) -> Result<bool, Error> {
    let kind = if network.is_predefined() { "builtin" } else { "custom" };
    let unused = !network.is_predefined() && world.endpoints_on(&network.id).next().is_none();
    Ok(filters.found_in("name", network.name.as_str())
        && filters.found_in("id", network.id.as_str())
        && filters.exact("driver", super::dto::driver_name(network.driver))
        && filters.exact("scope", "local")
        && filters.exact("type", kind)
        && filters.labels(&network.labels)
        && filters.flag("dangling", unused)?)
}

pub(super) async fn inspect(
    State(api): State<Arc<Api>>,
    Path(word): Path<String>,
) -> Result<Json<NetworkResource>, Failure> {
    let world = api.handle.view();
    let network = world.network(&word)?;
    let endpoints = world.endpoints_on(&network.id).map(|(sandbox, endpoint)| (sandbox.as_ref(), endpoint));
    let mut resource = NetworkResource::new(network, endpoints);
    // Sandboxes on `host` and `none` have no endpoint, yet Docker lists them there.
    resource.containers.extend(world.sandboxes().filter(|sandbox| lives_on(sandbox, network.driver)).map(
        |sandbox| {
            let shown = EndpointResource { name: sandbox.name.to_string(), ..EndpointResource::default() };
            (sandbox.id.to_string(), shown)
        },
    ));
    Ok(Json(resource))
}

fn lives_on(sandbox: &Sandbox, driver: Driver) -> bool {
    matches!((driver, &sandbox.mode), (Driver::Host, SandboxMode::Host) | (Driver::Null, SandboxMode::None))
}

pub(super) async fn create_or_prune(
    Change(handle): Change,
    Path(verb): Path<String>,
    Params(query): Params<Selection>,
    body: Bytes,
) -> Result<Response, Failure> {
    match verb.as_str() {
        "create" => Ok((StatusCode::CREATED, create(&handle, parse(&body)?).await?).into_response()),
        "prune" => Ok(prune(&handle, query).await?.into_response()),
        _ => Err(Error::new(Code::NotFound, format!("/networks/{verb}: no such page")).into()),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    extract::parse(body)
        .map_err(|why| Error::new(Code::Usage, format!("request body: {why}")).in_phase(Phase::Request))
}

async fn create(handle: &Handle, request: NetworkCreateRequest) -> Result<Json<NetworkCreated>, Error> {
    let network = handle.create_network(CreateNetwork::try_from(request)?).await?;
    Ok(Json(NetworkCreated { id: network.id.to_string(), warning: String::new() }))
}

async fn prune(handle: &Handle, query: Selection) -> Result<Json<NetworksPruned>, Error> {
    let filters = Filters::parse(query.filters.as_deref(), PRUNE_FILTERS)?;
    let until = filters.single("until")?.map(instant).transpose()?;
    let pruned = handle
        .prune_networks(move |network| {
            filters.labels(&network.labels) && until.is_none_or(|until| made_before(network, until))
        })
        .await?;
    Ok(Json(NetworksPruned { networks_deleted: pruned.into_iter().map(String::from).collect() }))
}

fn made_before(network: &Network, until: jiff::Timestamp) -> bool {
    network.created.parse::<jiff::Timestamp>().is_ok_and(|created| created < until)
}

/// Parses a point in time as Docker takes it: RFC 3339, seconds since the epoch, or an age such as `10m` or `1h30m`.
pub(super) fn instant(text: &str) -> Result<jiff::Timestamp, Error> {
    let refused = |_| {
        Error::new(Code::Usage, format!("invalid time {text:?}"))
            .hint("2026-01-31T12:00:00Z, seconds since the epoch, or an age such as 10m")
    };
    if let Ok(seconds) = text.parse::<f64>() {
        let seconds = jiff::SignedDuration::try_from_secs_f64(seconds).map_err(refused)?;
        return jiff::Timestamp::UNIX_EPOCH.checked_add(seconds).map_err(refused);
    }
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Ok(instant);
    }
    let age: jiff::SignedDuration = text.parse().map_err(refused)?;
    jiff::Timestamp::now().checked_sub(age).map_err(refused)
}

pub(super) async fn remove(Change(handle): Change, Path(word): Path<String>) -> Result<StatusCode, Failure> {
    handle.remove_network(&word).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn connect(
    Change(handle): Change,
    Path(network): Path<String>,
    Body(request): Body<ConnectRequest>,
) -> Result<StatusCode, Failure> {
    let doing = format!("connect sandbox {} to network {network}", request.container);
    let attachment = request.endpoint_config.parse(network, &doing)?;
    handle.connect(&request.container, attachment).await?;
    Ok(StatusCode::OK)
}

pub(super) async fn disconnect(
    Change(handle): Change,
    Path(network): Path<String>,
    Body(request): Body<DisconnectRequest>,
) -> Result<StatusCode, Failure> {
    handle.disconnect(&network, &request.container, request.force).await?;
    Ok(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_are_read_as_docker_reads_them() {
        assert_eq!(instant("1700000000").expect("seconds").as_second(), 1_700_000_000);
        assert_eq!(instant("1700000000.5").expect("fraction").as_millisecond(), 1_700_000_000_500);
        assert_eq!(instant("2026-01-31T12:00:00Z").expect("RFC 3339").as_second(), 1_769_860_800);
        assert!(instant("10m").expect("age") < jiff::Timestamp::now());
        assert_eq!(instant("soon").expect_err("no time").code, Code::Usage);
    }
}
