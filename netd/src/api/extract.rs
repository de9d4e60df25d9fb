//! Reads bodies and writes errors, both as JSON.

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use super::{dto::ErrorBody, limits};
use crate::controller::{Code, Error};

/// A request's body, parsed as JSON whatever its Content-Type says.
pub(super) struct Body<T>(pub T);

/// A request's query.
pub(super) struct Params<T>(pub T);

/// A controller's error on its way to the client.
#[derive(Debug)]
pub(super) struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody::from(self.0))).into_response()
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let refused = |why: String| Failure(Error::new(Code::Usage, format!("request body: {why}")));
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

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let refused = |why: String| Failure(Error::new(Code::Usage, format!("query: {why}")));
        query.map(|Query(params)| Self(params)).map_err(|error| refused(error.body_text()))
    }
}
