//! The one writer: a task that owns all state and applies every change, one at a time.

mod error;
mod request;

pub use error::{Code, Error};
pub use request::{
    Attachment, CreateNetwork, CreateSandbox, Event, NetnsRequest, PoolRequest, SandboxRemoved, Status,
};
