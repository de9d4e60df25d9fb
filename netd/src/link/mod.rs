//! Bridges, veth and netkit pairs, addresses, routes and neighbours: the only user of rtnetlink.
//!
//! Everything is idempotent. Making what exists is success when it carries the same label (it is then made equal), and
//! `Error::Foreign` when it does not; deleting what is gone is success.

mod address;
mod announce;
mod bridge;
mod changes;
mod clsact;
mod connected;
mod device;
mod error;
mod filter;
mod inside;
mod label;
mod netkit;
mod port;
mod proxy;
mod route;
mod rule;
mod segments;
mod snapshot;
mod socket;
mod source_route;
mod together;
mod told;
mod veth;
mod watch;

use std::sync::Arc;

pub use address::{HostAddress, Scope};
pub use announce::{Haste, Turns};
pub use bridge::BridgeSpec;
pub use changes::{Changes, Interfaces, LinkChange};
pub use device::{Framing, HostLink};
pub use error::Error;
pub use filter::Filter;
pub use inside::InsideSpec;
pub use label::{Label, MAX_LABEL, label, parse_label};

pub use port::{Neighbour, PortFlags};
pub use proxy::Proxy;
pub use route::{HostRoute, LOCAL, MAIN};
pub use rule::{HostRule, RuleDoes};
pub use segments::Segments;
pub use snapshot::{HostSnapshot, Uplink, has_sole_sources, local_addresses, unserved, uplinks};
use socket::{Mode, Socket};
pub use source_route::SourceRoute;
pub use told::Told;
pub use veth::{MAX_IFINDEX, Veth, VethSpec};
pub use watch::Watcher;

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

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    /// Runs `ip` in the thread's namespace, and returns what it said.
    pub fn ip(args: &str) -> String {
        let out = Command::new("ip").args(args.split(' ')).output().expect("ip runs");
        assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a test on a thread with a namespace of its own, which ends with the thread.
    pub fn in_new_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
        let run = move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root");
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(test());
        };
        if let Err(panic) = std::thread::spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    }
}
