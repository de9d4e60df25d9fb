//! The HTTP API on the Unix socket: Docker's paths and shapes where Docker has the object, `/netd/v1` beside them.
//!
//! `server` bounds what a client may cost, `router` names the paths, a file per noun answers them; `client` is the CLI's end.

mod audit;
mod client;
mod connections;
pub mod dto;
mod events;
mod explain;
mod extract;
mod filters;
mod limits;
mod metrics;
mod monitor;
mod networks;
mod operations;
mod policies;
mod repeats;
mod router;
mod sandboxes;
mod server;
mod system;
mod users;

pub use client::{Client, ClientError};
pub use filters::Filters;
pub(crate) use monitor::FILTERS as MONITOR_FILTERS;
pub use repeats::Repeats;
pub use server::{Service, serve_until};
pub use system::flow_filter;
pub use users::UserLimits;

pub use crate::dataplane::OBJECT_SHA256;
