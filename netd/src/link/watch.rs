//! Notices that links, addresses, routes or settings of links changed, whoever changed them.
//!
//! Says only *that* something changed, and where: what it is now is read by a snapshot. Many changes of one interface between two looks are one,
//! so that a storm costs little memory; and a notification lost by the kernel is no worse than one among many.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkMessage,
    proto,
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::{sync::Notify, task::AbortHandle};

use super::{
    Changes, Error,
    changes::{self, Notification},
};
use crate::netns::Netns;

const GROUPS: [MulticastGroup; 10] = [
    MulticastGroup::Tc,
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];
/// Between attempts to subscribe again.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of notifications that may wait in the kernel, as far as `net.core.rmem_max` allows.
const BUFFER: libc::c_int = 1 << 20;

/// A subscription to changes in one namespace.
pub struct Watcher {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Default)]
struct Shared {
    changes: Mutex<Changes>,
    notify: Notify,
}

impl Watcher {
    /// Subscribes; what changes from now on is reported.
    pub async fn open(netns: &Netns) -> Result<Self, Error> {
        Self::with_buffer(netns, BUFFER).await
    }

    pub(super) async fn with_buffer(netns: &Netns, buffer: libc::c_int) -> Result<Self, Error> {
        let mut subscription = subscribe(netns, buffer).await?;
        let shared = Arc::new(Shared::default());
        let (noting, netns) = (Arc::clone(&shared), netns.clone());
        let task = tokio::spawn(async move {
            loop {
                noting.collect(subscription).await;
                // The socket failed, so that what happens meanwhile is lost.
                subscription = loop {
                    match subscribe(&netns, buffer).await {
                        Ok(subscription) => break subscription,
                        Err(error) => tracing::warn!(%error, "changes of links are not noticed"),
                    }
                    tokio::time::sleep(RETRY).await;
                };
                noting.note(Changes { lost: true, ..Changes::default() });
            }
        });
        Ok(Self { shared, task: task.abort_handle() })
    }

    /// Waits until something has changed since the last call, and returns what; never returns nothing.
    pub async fn changed(&mut self) -> Changes {
        loop {
            let noticed = self.shared.notify.notified();
            let changes = self.noticed();
            if !changes.is_empty() {
                return changes;
            }
            noticed.await;
        }
    }

    /// Returns what has changed since the last call, which may be nothing.
    pub fn noticed(&self) -> Changes {
        std::mem::take(&mut *self.shared.lock())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Connection = proto::Connection<Notification, TokioSocket>;
type Message = (NetlinkMessage<Notification>, SocketAddr);

async fn subscribe(
    netns: &Netns,
    buffer: libc::c_int,
) -> Result<(Connection, impl Stream<Item = Message> + Send + Unpin + use<>), Error> {
    let runtime = tokio::runtime::Handle::current();
    let opened = netns.run_in(move || {
        let _guard = runtime.enter();
        let (mut connection, _, messages) = proto::new_connection::<Notification>(NETLINK_ROUTE)?;
        let socket = AsyncSocket::socket_mut(connection.socket_mut());
        socket.set_rx_buf_sz(buffer)?;
        let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (*group as u32 - 1));
        socket.bind(&SocketAddr::new(0, groups))?;
        Ok((connection, messages))
    });
    opened.await?.map_err(|source| Error::kernel("subscribe to route netlink", source))
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Changes> {
        // Notes are valid whoever panicked in between.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, news: Changes) {
        self.lock().add(news);
        self.notify.notify_one();
    }

    /// Takes notes until the socket fails.
    async fn collect(&self, (connection, mut messages): (Connection, impl Stream<Item = Message> + Unpin)) {
        let taking_notes = async {
            while let Some((message, _)) = messages.next().await {
                let news = changes::of_message(message.payload);
                if !news.is_empty() {
                    self.note(news);
                }
            }
        };
        tokio::select! {
            () = connection => {}
            () = taking_notes => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link::{BridgeSpec, Links, label, tests::in_new_netns},
        sysctl,
    };

    fn bridge(number: u16) -> BridgeSpec {
        BridgeSpec {
            ifname: format!("br{number}").parse().expect("valid"),
            label: label("test", "network", "0"),
            mac: crate::model::Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: vec!["10.0.0.1/24".parse().expect("valid")],
            forwarding: false,
            ipv6: false,
        }
    }

    #[test]
    fn each_kind_of_change_is_reported() {
        in_new_netns(async || {
            let links = Links::open().await.expect("socket");
            let mut watcher = Watcher::open(links.netns()).await.expect("watcher");
            let ifindex = links.ensure_bridge(&bridge(0)).await.expect("bridge");
            let mut seen = Changes::default();
            while !(seen.links.contains_key(&ifindex)
                && seen.addresses.these.contains(&ifindex)
                && seen.routes.these.contains(&ifindex))
            {
                assert!(!seen.ways, "a bridge's own routes are the kernel's");
                let changes = watcher.changed().await;
                assert!(!changes.lost, "{changes:?}");
                seen.add(changes);
            }
            links.remove_address(ifindex, "10.0.0.1/24".parse().expect("valid")).await.expect("removed");
            while !watcher.changed().await.addresses.these.contains(&ifindex) {}
            for family in ["-4", "-6"] {
                let added = std::process::Command::new("ip")
                    .args([family, "rule", "add", "pref", "1000", "lookup", "main"])
                    .status();
                assert!(added.expect("ip runs").success());
                while !watcher.changed().await.ways {}
            }
            for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
                sysctl::write(links.netns(), vec![(key.into(), value.into())]).await.expect("written");
                while !watcher.changed().await.settings.any {}
            }
        });
    }

    #[test]
    fn a_storm_that_the_kernel_could_not_keep_is_reported_as_lost() {
        in_new_netns(async || {
            let own = Netns::current().expect("own");
            let mut watcher = Watcher::with_buffer(&own, 1).await.expect("watcher");
            // On another runtime, so that nothing is received meanwhile.
            let storm = async || {
                let links = Links::open().await.expect("socket");
                for number in 0..20 {
                    links.ensure_bridge(&bridge(number)).await.expect("bridge");
                }
            };
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
                runtime.block_on(storm());
            })
            .join()
            .expect("storm");
            while !watcher.changed().await.lost {}
        });
    }
}
