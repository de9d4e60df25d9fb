//! What the controller keeps: networks, sandboxes and their endpoints, as validated values.
//!
//! Everything here was parsed once at an edge (CLI, API, state file) and is valid from then on. Nothing here touches the kernel.

mod bridge_options;
mod names;
mod network;
mod sandbox;

pub use bridge_options::{InvalidOption, parse_bool};
pub use names::{Id, IfName, InvalidName, Name};
pub use network::{BridgeOptions, Driver, GatewayMode, Ipam, Network, Pool};
pub use sandbox::{Binding, DnsConfig, Endpoint, Mac, Netns, Protocol, PublishSpec, Sandbox, SandboxMode};
