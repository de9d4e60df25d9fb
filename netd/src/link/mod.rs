//! Bridges, veth pairs, addresses, routes and neighbours: the only user of rtnetlink.
//!
//! Everything is idempotent. Making what exists is success when it carries the same label (it is then made equal), and
//! `Error::Foreign` when it does not; deleting what is gone is success.

mod address;
mod bridge;
mod device;
mod error;
mod inside;
mod label;
mod port;
mod route;
mod snapshot;
mod socket;
mod veth;

use std::sync::Arc;

pub use address::{HostAddress, Scope};
pub use bridge::BridgeSpec;
pub use device::HostLink;
pub use error::Error;
pub use inside::InsideSpec;
pub use label::{Label, MAX_LABEL, label, parse_label};

pub use port::PortFlags;
pub use route::{HostRoute, MAIN};
pub use snapshot::{HostSnapshot, Uplink, local_addresses, uplinks};
use socket::{Mode, Socket};
pub use veth::{MAX_IFINDEX, VethSpec};

use crate::netns::Netns;

/// Marks addresses and routes as netd's (`IFA_PROTO`, `rtm_protocol`); not in `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 110;

/// The kernel objects of one network namespace.
#[derive(Clone)]
pub struct Links {
    socket: Arc<Socket>,
    netns: Netns,
}

impl Links {
    /// Opens the calling thread's namespace.
    pub async fn open() -> Result<Self, Error> {
        Self::open_in(&Netns::current()?).await
    }

    /// Opens another namespace, such as a sandbox's.
    pub async fn open_in(netns: &Netns) -> Result<Self, Error> {
        let socket = Socket::open(netns).await?;
        Ok(Self { socket: Arc::new(socket), netns: netns.clone() })
    }

    /// Returns the namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}
