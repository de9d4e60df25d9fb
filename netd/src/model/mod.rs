//! What the controller keeps: networks, sandboxes and their endpoints, as validated values.
//!
//! Everything here was parsed once at an edge (CLI, API, state file) and is valid from then on. Nothing here touches the kernel.

mod binding_ranges;
mod bridge_options;
mod names;
mod network;
mod operation;
mod policy;
mod port_text;
mod publish_spec;
mod sandbox;
mod sources;
mod target;

pub use bridge_options::{InvalidOption, parse_bool};
pub use names::{Id, IfName, IfPattern, InvalidName, Name};
pub use network::{
    Announcements, BridgeOptions, Device, Driver, GatewayMode, HairpinSource, HostAccess, Ipam, Network, Pool,
};
pub use operation::{Answer, Finished, Operation, OperationId};
pub use policy::Policy;
pub use port_text::{port_lines, ports_column, public_addresses};
pub use publish_spec::{InvalidPorts, PublishPort, parse_expose};
pub use sandbox::{
    Binding, DnsConfig, Endpoint, Link, Mac, Netns, Protocol, PublishSpec, Sandbox, SandboxMode,
};
pub use sources::{Source, Sources, parse_prefix};
pub use target::{Probe, Target};
