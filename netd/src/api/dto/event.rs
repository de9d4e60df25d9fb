//! Events as the Docker Engine API streams them (API 1.50, `types/events`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::controller::Event;

/// One line of `GET /events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventMessage {
    /// `network` or `container`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `create`, `connect`, `disconnect`, `destroy`, `start`, `die`.
    #[serde(rename = "Action")]
    pub action: String,
    /// The object.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// Always `local`.
    pub scope: String,
    /// Seconds since the epoch.
    pub time: i64,
    /// Nanoseconds since the epoch.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// `name`, `type`, `container`, ...
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

impl From<Event> for EventMessage {
    fn from(event: Event) -> Self {
        Self {
            kind: event.kind,
            action: event.action,
            actor: Actor { id: event.id, attributes: event.attributes },
            scope: "local".into(),
            time: event.time_nano.div_euclid(1_000_000_000),
            time_nano: event.time_nano,
        }
    }
}
