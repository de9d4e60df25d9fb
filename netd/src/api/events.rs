//! `/events`: a line of JSON for everything that happens, until the client goes.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, future};
use serde::Deserialize;
use tokio_stream::wrappers::BroadcastStream;

use super::{
    dto::EventMessage,
    extract::{Failure, Params},
    filters::Filters,
    networks::instant,
    router::Api,
};

const FILTERS: &[&str] = &["container", "event", "network", "scope", "type"];

/// Query of the stream. `since` is taken and ignored: the past is not kept.
#[derive(Deserialize)]
pub(super) struct Selection {
    until: Option<String>,
    filters: Option<String>,
}

pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Params(query): Params<Selection>,
) -> Result<Response, Failure> {
    let filters = Filters::parse(query.filters.as_deref(), FILTERS)?;
    let until = query.until.as_deref().filter(|until| !until.is_empty()).map(instant).transpose()?;
    let lines = BroadcastStream::new(api.handle.events()).filter_map(move |event| {
        let line = match event {
            Ok(event) => Some(EventMessage::from(event)).filter(|event| selected(event, &filters)),
            Err(lagged) => {
                tracing::warn!(%lagged, "events lost by a slow reader");
                None
            }
        };
        future::ready(line.and_then(|event| serde_json::to_vec(&event).ok()).map(|mut line| {
            line.push(b'\n');
            Ok::<_, std::convert::Infallible>(Bytes::from(line))
        }))
    });
    let mut stopping = api.stopping.clone();
    let lines = lines.take_until(Box::pin(async move { stopping.wait_for(|stop| *stop).await.map(drop) }));
    let body = match until {
        None => Body::from_stream(lines),
        Some(until) => {
            let left = until.duration_since(jiff::Timestamp::now());
            let left = Duration::try_from(left).unwrap_or_default(); // a time in the past: at once
            Body::from_stream(lines.take_until(Box::pin(tokio::time::sleep(left))))
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn selected(event: &EventMessage, filters: &Filters) -> bool {
    let object = |kind: &str| {
        filters.any(kind, |word| {
            let is_it = event.kind == kind
                && (event.actor.id.starts_with(word)
                    || event.actor.attributes.get("name").is_some_and(|n| n == word));
            is_it || event.actor.attributes.get(kind).is_some_and(|id| id.starts_with(word))
        })
    };
    filters.exact("type", &event.kind)
        && filters.exact("event", &event.action)
        && filters.exact("scope", &event.scope)
        && object("network")
        && object("container")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::Event;

    #[test]
    fn events_are_selected_by_type_action_and_object() {
        let event = EventMessage::from(Event {
            kind: "network".into(),
            action: "connect".into(),
            id: "abc".into(),
            attributes: [("name", "app"), ("container", "def")].map(|(k, v)| (k.into(), v.into())).into(),
            time_nano: 1_500_000_000,
        });
        assert_eq!((event.time, event.time_nano), (1, 1_500_000_000));
        for (option, wanted) in [
            ("type=network", true),
            ("type=container", false),
            ("event=connect", true),
            ("network=app", true),
            ("network=ab", true),
            ("network=other", false),
            ("container=def", true),
            ("container=x", false),
        ] {
            let filters = Filters::from_options(&[option.to_owned()], FILTERS).expect("valid");
            assert_eq!(selected(&event, &filters), wanted, "{option}");
        }
    }
}
