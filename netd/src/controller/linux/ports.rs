//! Host ports: reserved in the packet path and kept from automatic choice.

use super::Linux;
use crate::{
    controller::{
        Error,
        apply::Machine,
        object::{self, Listen, Publish},
    },
    dataplane::PublishEntry,
};

impl Linux {
    /// Reserves ports. Those that an earlier daemon reserved stay as they are: guarding again would interrupt them.
    pub(super) async fn guard(&mut self, listens: &[Listen]) -> Result<(), Error> {
        let fresh: Vec<Listen> =
            listens.iter().filter(|listen| !self.guarded.contains(listen)).copied().collect();
        if !fresh.is_empty() {
            let entries = guard_entries(&fresh);
            self.dataplane(|dataplane| dataplane.guard_ports(&entries))?;
            self.guarded.extend(fresh);
        }
        self.reserved.add(listens).await
    }

    pub(super) async fn release(&mut self, listens: &[Listen]) -> Result<(), Error> {
        let held: Vec<Listen> =
            listens.iter().filter(|listen| self.guarded.contains(listen)).copied().collect();
        if !held.is_empty() {
            let entries = guard_entries(&held);
            self.dataplane(|dataplane| dataplane.release_ports(&entries))?;
            for listen in &held {
                self.guarded.remove(listen);
            }
        }
        self.reserved.remove(listens).await
    }
}

pub(super) fn publish_entries(publish: &Publish, ifindex: u32) -> Vec<PublishEntry> {
    let entry = |port: &object::Port| PublishEntry {
        host_ip: port.listen.ip,
        host_port: port.listen.port,
        protocol: port.listen.protocol,
        backend: port.backend,
        backend_port: port.backend_port,
        ifindex,
    };
    publish.ports.iter().map(entry).collect()
}

/// Reserving asks for nothing but the host's side.
pub(super) fn guard_entries(listens: &[Listen]) -> Vec<PublishEntry> {
    let entry = |listen: &Listen| PublishEntry {
        host_ip: listen.ip,
        host_port: listen.port,
        protocol: listen.protocol,
        backend: listen.ip,
        backend_port: 0,
        ifindex: 0,
    };
    listens.iter().map(entry).collect()
}
