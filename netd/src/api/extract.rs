//! Reads bodies and writes errors, both as JSON.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use super::{dto::ErrorBody, limits, router::Api};
use crate::{
    controller::{Code, Error, Handle, Phase},
    model::Operation,
};

/// A request's body, parsed as JSON whatever its Content-Type says.
pub(super) struct Body<T>(pub T);

/// A request's query.
pub(super) struct Params<T>(pub T);

/// The controller, for a request that changes something: what it gives back is remembered by the operation's id, if it has one.
pub(super) struct Change(pub Handle);

/// A controller's error on its way to the client.
#[derive(Debug)]
pub(super) struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl Failure {
    /// A request that makes no sense.
    pub(super) fn request(why: String) -> Self {
        Self(Error::new(Code::Usage, why).in_phase(Phase::Request))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody::from(self.0);
        let mut response = (status, Json(&body)).into_response();
        // The server adds the request's number.
        response.extensions_mut().insert(body);
        response
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let refused = |why: String| Failure::request(format!("request body: {why}"));
        let bytes = Bytes::from_request(request, state).await.map_err(|error| refused(error.to_string()))?;
        parse(&bytes).map(Self).map_err(refused)
    }
}

/// Parses a body that keeps to the limits.
///
/// # Errors
/// Says what is wrong with it, in one line.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    limits::check(&serde_json::from_slice(body).map_err(|error| error.to_string())?)?;
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

impl FromRequestParts<Arc<Api>> for Change {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Infallible> {
        let operation = parts.extensions.get::<Operation>().cloned();
        Ok(Self(
            operation.map_or_else(|| api.handle.clone(), |operation| api.handle.for_operation(operation)),
        ))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let refused = |why: String| Failure::request(format!("query: {why}"));
        query.map(|Query(params)| Self(params)).map_err(|error| refused(error.body_text()))
    }
}
