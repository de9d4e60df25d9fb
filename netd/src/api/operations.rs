//! Operations by their callers' ids: `Netd-Operation-Id` on a request that changes something. The same request again is answered with what it gave back,
//! for a day; while it is at work, the answer waits for it (reliability P3, F1).

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use axum::{
    Json,
    body::Body,
    http::{HeaderMap, Method, Response, StatusCode, Uri},
    response::IntoResponse,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use super::{
    dto::{self, NetworkCreated, NetworksPruned, PolicyCreated},
    extract::Failure,
    sandboxes,
};
use crate::model::{Answer, Finished, Operation, OperationId};

/// The header with the caller's id.
pub(super) const HEADER: &str = "netd-operation-id";
/// The header of an answer that was given before.
const REPEATED: &str = "netd-operation-repeated";

/// Returns the operation that a request is; None: its caller has no name for it.
///
/// # Errors
/// The name is none.
pub(super) fn operation(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<Operation>, String> {
    let Some(id) = headers.get(HEADER) else { return Ok(None) };
    let id = id.to_str().map_err(|_| "invalid operation id: it is no text".to_owned())?;
    let id: OperationId = id.parse().map_err(|error| format!("{error}"))?;
    let mut hash = Sha256::new();
    // A line cannot be part of a method or path.
    hash.update(format!("{method}\n{uri}\n"));
    hash.update(body);
    let request = hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
        hex
    });
    Ok(Some(Operation { id, request }))
}

/// Lets one request of an operation in at a time.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<OperationId, Weak<Turn<()>>>>);

impl Turns {
    /// Waits until no other request of this operation is at work.
    pub(super) async fn wait(&self, id: &OperationId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::new(Turn::new(()));
                turns.insert(id.clone(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

/// Answers a request whose id is known already: with what it gave back, or that it is another one.
pub(super) fn repeated(operation: &Operation, finished: &Finished, path: &str) -> Response<Body> {
    if finished.operation.request != operation.request {
        let why = format!("operation {}: another request had this id", operation.id);
        let mut response = Failure::request(why).into_response();
        *response.status_mut() = StatusCode::CONFLICT;
        return response;
    }
    let mut response = answer(&finished.answer, path);
    response.headers_mut().insert(REPEATED, axum::http::HeaderValue::from_static("true"));
    response
}

fn answer(answer: &Answer, path: &str) -> Response<Body> {
    match answer {
        // As in docker's API.
        Answer::Done if path.ends_with("/connect") || path.ends_with("/disconnect") => {
            StatusCode::OK.into_response()
        }
        Answer::Done => StatusCode::NO_CONTENT.into_response(),
        Answer::Network(id) => {
            let created = NetworkCreated { id: id.to_string(), warning: String::new() };
            (StatusCode::CREATED, Json(created)).into_response()
        }
        Answer::Networks(names) => {
            let names = names.iter().cloned().map(String::from).collect();
            Json(NetworksPruned { networks_deleted: names }).into_response()
        }
        Answer::Sandbox { id, name, discards_ports } => {
            let created = sandboxes::created(id, name, *discards_ports);
            (StatusCode::CREATED, Json(created)).into_response()
        }
        Answer::Policy(id) => {
            (StatusCode::CREATED, Json(PolicyCreated { id: id.to_string() })).into_response()
        }
        Answer::Ports(bindings) => Json(dto::port_map(&[], bindings)).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, path: &str, body: &str) -> Operation {
        let headers = HeaderMap::from_iter([(
            axum::http::HeaderName::from_static(HEADER),
            axum::http::HeaderValue::from_static("a"),
        )]);
        let uri = path.parse().expect("a path");
        operation(method, &uri, &headers, body.as_bytes()).expect("valid").expect("an operation")
    }

    #[test]
    fn every_part_of_a_request_tells_it_from_others() {
        let one = of(&Method::POST, "/networks/create", "{}");
        assert_eq!(one, of(&Method::POST, "/networks/create", "{}"));
        for other in [
            of(&Method::DELETE, "/networks/create", "{}"),
            of(&Method::POST, "/networks/create?x=1", "{}"),
            of(&Method::POST, "/networks/create", "{ }"),
        ] {
            assert_ne!(one.request, other.request);
        }
    }

    #[test]
    fn the_same_id_with_another_request_is_refused() {
        let (one, other) = (of(&Method::DELETE, "/networks/a", ""), of(&Method::DELETE, "/networks/b", ""));
        let finished = Finished::now(one.clone(), Answer::Done);
        assert_eq!(repeated(&one, &finished, "/networks/a").status(), StatusCode::NO_CONTENT);
        assert_eq!(repeated(&other, &finished, "/networks/b").status(), StatusCode::CONFLICT);
    }

    #[tokio::test]
    async fn a_second_request_of_an_operation_waits_for_the_first() {
        let turns = Turns::default();
        let (a, b): (OperationId, OperationId) = ("a".parse().expect("an id"), "b".parse().expect("an id"));
        let first = turns.wait(&a).await;
        drop(turns.wait(&b).await);
        let mut second = Box::pin(turns.wait(&a));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
    }
}
