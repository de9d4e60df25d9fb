//! What travels over the socket: Docker's JSON shapes where Docker has the object, netd's own elsewhere.
//!
//! Docker-shaped bodies ignore unknown keys, as Docker does, and take `null` for empty: Go clients send it for nil maps.
//! Bodies under `/netd/v1` refuse unknown keys, so that a misspelt option is an error and not a surprise.

mod container;
mod event;
mod network;
mod network_request;
mod policy;
mod ports;
mod sandbox;
mod sighting;
mod system;

pub use container::{
    Container, ContainerConfig, ContainerState, ContainerSummary, EndpointSettings, HostConfig, NameStyle,
    NetworkSettings,
};
pub use event::{Actor, EventMessage};
pub use network::{
    ConfigReference, EndpointResource, IpamConfig, IpamPool, NetworkCreated, NetworkResource, NetworksPruned,
};
pub use network_request::{
    ConnectRequest, DisconnectRequest, EndpointConfig, EndpointIpam, NetworkCreateRequest,
};
pub use policy::{PolicyCreateRequest, PolicyCreated, PolicyResource};
pub use ports::{PortBinding, PortMap, PortSummary, bindings_of};
pub use sandbox::{
    AttachmentSpec, DnsSpec, ExitedRequest, HOST_GATEWAY, PublishRequest, SandboxCreateRequest,
    SandboxCreated, StartedRequest, UnpublishRequest,
};
pub use sighting::Sighting;
pub use system::{Drop, ErrorBody, FlowsFlushed, Info, Version, VersionComponent};

pub(in crate::api) use network::driver_name;
pub(in crate::api) use ports::port_map;
pub(in crate::api) use sandbox::publish;

use serde::{Deserialize, Deserializer};

/// Reads `null` as the empty value.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
