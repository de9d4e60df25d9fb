//! The one writer: a task that owns all state and applies every change, one at a time.

mod access;
mod apply;
mod create_network;
mod endpoint;
mod error;
#[cfg(test)]
mod fake;
mod files;
mod flows;
mod gateway;
mod handle;
mod host;
mod linux;
mod listens;
mod made_again;
mod news;
pub mod object;
mod operations;
mod parts;
pub mod plan;
mod policies;
mod probe;
mod promotions;
mod proxies;
mod prune;
mod publish;
mod reconcile;
mod request;
mod reserved;
mod rounds;
mod sandboxes;
mod sources;
mod tampering;
mod task;
#[cfg(test)]
mod tests;
mod unfinished;
mod words;
mod world;

pub use access::policy_holds;
pub use create_network::{Facts, create_network, default_bridge, free_index, pseudo_network};
pub use error::{Code, Error, Phase};
pub use files::Renderer;
pub use handle::{Commands, Handle, NetworkSelector};
pub use linux::{
    Checked, Finding, Linux, SharedDataplane, Site, Subject, end_command, remove_owned, remove_source_routes,
};
pub use proxies::PROXY_NDP;
pub use request::{
    Attachment, CreateNetwork, CreatePolicy, CreateSandbox, Event, FlowSelector, FlowShare, NetnsRequest,
    PoolRequest, SandboxRemoved, Status,
};
pub use reserved::Reserved;
pub use sources::foreign_netns;
pub use task::{Controller, End, HostChanges, Settings};
pub use world::World;

/// Returns the present time as Docker prints it: RFC 3339 with nanoseconds, UTC.
pub(crate) fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
