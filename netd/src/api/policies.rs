//! `/netd/v1/policies`: who may talk to whom on networks whose sandboxes may not talk to each other.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;

use super::{
    dto::{PolicyCreateRequest, PolicyCreated, PolicyResource},
    extract::{Body, Change, Failure, Params},
    filters::Filters,
    router::Api,
};
use crate::controller::{Code, Error, Phase};

const FILTERS: &[&str] = &["id", "network", "sandbox"];

/// Query of a list.
#[derive(Deserialize)]
pub(super) struct Selection {
    filters: Option<String>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<Selection>,
) -> Result<Json<Vec<PolicyResource>>, Failure> {
    let filters = Filters::parse(query.filters.as_deref(), FILTERS)?;
    let world = api.handle.view();
    let mut shown = Vec::new();
    for network in world.networks() {
        let all = network.policies.iter().map(|policy| PolicyResource::new(&world, network, policy));
        shown.extend(all.filter(|policy| selected(policy, &filters)));
    }
    shown.sort_by(|a, b| (&a.network, &a.created).cmp(&(&b.network, &b.created)));
    Ok(Json(shown))
}

fn selected(policy: &PolicyResource, filters: &Filters) -> bool {
    filters.any("id", |word| policy.id.starts_with(word))
        && filters.any("network", |word| policy.network == word || policy.network_id.starts_with(word))
        && filters.any("sandbox", |word| policy.from == word || policy.to == word)
}

pub(super) async fn inspect(
    State(api): State<Arc<Api>>,
    Path(word): Path<String>,
) -> Result<Json<PolicyResource>, Failure> {
    let world = api.handle.view();
    let (network, policy) = world.policy(&word)?;
    Ok(Json(PolicyResource::new(&world, network, policy)))
}

pub(super) async fn create(
    Change(handle): Change,
    Body(request): Body<PolicyCreateRequest>,
) -> Result<(StatusCode, Json<PolicyCreated>), Failure> {
    let request = request
        .parse()
        .map_err(|why| Error::new(Code::Usage, format!("add policy: {why}")).in_phase(Phase::Request))?;
    let policy = handle.add_policy(request).await?;
    Ok((StatusCode::CREATED, Json(PolicyCreated { id: policy.id.to_string() })))
}

pub(super) async fn remove(Change(handle): Change, Path(word): Path<String>) -> Result<StatusCode, Failure> {
    handle.remove_policy(&word).await?;
    Ok(StatusCode::NO_CONTENT)
}
