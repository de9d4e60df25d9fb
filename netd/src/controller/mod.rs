//! The one writer: a task that owns all state and applies every change, one at a time.

mod create_network;
mod error;
mod handle;
mod request;
mod world;

pub use create_network::{Facts, create_network, default_bridge, free_index, pseudo_network};
pub use error::{Code, Error};
pub use handle::{Handle, NetworkSelector};
pub use request::{
    Attachment, CreateNetwork, CreateSandbox, Event, FlowSelector, NetnsRequest, PoolRequest, SandboxRemoved,
    Status,
};
pub use world::World;
