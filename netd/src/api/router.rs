//! Which path leads where.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, Uri, uri::PathAndQuery},
    response::Response,
    routing::{delete, get, post},
};
use tokio::sync::watch;

use super::{events, explain, extract::Failure, metrics, monitor, networks, policies, sandboxes, system};
use crate::{
    audit::Log,
    controller::{Code, Error, Handle, Status},
};

/// Newest Docker API version that is spoken (docker 28.2).
pub(super) const API_VERSION: &str = "1.50";
/// Oldest Docker API version that is spoken.
pub(super) const MIN_API_VERSION: &str = "1.24";

/// What every handler works with.
pub(super) struct Api {
    /// The controller.
    pub handle: Handle,
    /// Where calls are written down.
    pub audit: Arc<Log>,
    /// Where the daemon keeps the sandboxes' files.
    pub run_dir: PathBuf,
    /// Becomes true when the daemon stops, for answers that have no end of their own.
    pub stopping: watch::Receiver<bool>,
}

impl Api {
    /// Asks the controller how it all is, and adds what it does not know.
    pub(super) async fn status(&self) -> Result<Status, Error> {
        let mut status = self.handle.status().await?;
        status.audit = self.audit.state();
        if let Some(why) = status.audit.failure.as_ref().filter(|_| status.state == "ready") {
            status.state = format!("degraded: {why}");
        }
        Ok(status)
    }
}

pub(super) fn router(api: Api) -> Router {
    Router::new()
        .merge(docker())
        .merge(netd())
        .fallback(|uri: Uri| async move { not_found(&uri) })
        .method_not_allowed_fallback(|uri: Uri| async move { not_found(&uri) })
        .layer(DefaultBodyLimit::disable()) // the server has already read the body, within its own limit
        .layer(axum::middleware::map_response(with_headers))
        .with_state(Arc::new(api))
}

/// Paths of the Docker Engine API.
fn docker() -> Router<Arc<Api>> {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(events::stream))
        .route("/networks", get(networks::list))
        // `create` and `prune` are POST only, so that networks of these names can be inspected and removed.
        .route(
            "/networks/{id}",
            get(networks::inspect).delete(networks::remove).post(networks::create_or_prune),
        )
        .route("/networks/{id}/connect", post(networks::connect))
        .route("/networks/{id}/disconnect", post(networks::disconnect))
        .route("/containers/json", get(sandboxes::docker_list))
        .route("/containers/{id}/json", get(sandboxes::docker_inspect))
}

/// What Docker has no word for.
fn netd() -> Router<Arc<Api>> {
    let v1 = Router::new()
        .route("/sandboxes", get(sandboxes::list).post(sandboxes::create))
        .route("/sandboxes/{id}", get(sandboxes::inspect).delete(sandboxes::remove))
        .route("/sandboxes/{id}/publish", post(sandboxes::publish))
        .route("/sandboxes/{id}/unpublish", post(sandboxes::unpublish))
        .route("/sandboxes/{id}/links/{alias}", delete(sandboxes::unlink))
        .route("/sandboxes/{id}/started", post(sandboxes::started))
        .route("/sandboxes/{id}/exited", post(sandboxes::exited))
        .route("/policies", get(policies::list).post(policies::create))
        .route("/policies/{id}", get(policies::inspect).delete(policies::remove))
        .route("/flows", get(system::flows).delete(system::flush_flows))
        .route("/drops", get(system::drops))
        .route("/explain", get(explain::explain))
        .route("/monitor", get(monitor::stream))
        .route("/status", get(system::status))
        .route("/metrics", get(metrics::metrics))
        .route("/down", post(system::down));
    Router::new().nest("/netd/v1", v1)
}

fn not_found(uri: &Uri) -> Failure {
    Failure::from(Error::new(Code::NotFound, format!("{}: no such page", uri.path())))
}

/// Adds the headers by which docker's clients choose the API version.
async fn with_headers(mut response: Response) -> Response {
    for (name, value) in [
        ("api-version", API_VERSION),
        ("ostype", "linux"),
        ("docker-experimental", "false"),
        ("server", concat!("netd/", env!("CARGO_PKG_VERSION"), " (linux)")),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Takes a leading `/v1.NN` away.
pub(super) fn strip_version(uri: &mut Uri) {
    let Some(text) = uri.path_and_query().map(PathAndQuery::as_str) else { return };
    let Some((version, rest)) = text.strip_prefix("/v").and_then(|text| text.split_once('/')) else { return };
    let is_version = version.split_once('.').is_some_and(|(major, minor)| {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits(major) && digits(minor)
    });
    if is_version && let Ok(stripped) = format!("/{rest}").parse() {
        *uri = stripped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_prefix_is_stripped_and_nothing_else() {
        for (given, wanted) in [
            ("/v1.41/networks?filters=%7B%7D", "/networks?filters=%7B%7D"),
            ("/v1.50/_ping", "/_ping"),
            ("/version", "/version"),
            ("/v1/networks", "/v1/networks"),
            ("/vx.y/networks", "/vx.y/networks"),
            ("/netd/v1/flows", "/netd/v1/flows"),
            ("/v1.41", "/v1.41"),
        ] {
            let mut uri: Uri = given.parse().expect("valid");
            strip_version(&mut uri);
            assert_eq!(uri.to_string(), wanted);
        }
    }
}
