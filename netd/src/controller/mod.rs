//! The one writer: a task that owns all state and applies every change, one at a time.

mod create_network;
mod error;
mod request;

pub use create_network::{Facts, create_network, default_bridge, free_index, pseudo_network};
pub use error::{Code, Error};
pub use request::{
    Attachment, CreateNetwork, CreateSandbox, Event, NetnsRequest, PoolRequest, SandboxRemoved, Status,
};
