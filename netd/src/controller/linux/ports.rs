//! Host ports: reserved in the packet path and kept from automatic choice.

use super::Linux;
use crate::{
    controller::{
        Error,
        access::{Links, Open, OpenPort},
        apply::Machine,
        object::{self, Listen, Publish},
    },
    dataplane::{OpenEntry, PublishEntry},
    model::Sources,
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
            // First: what fails half-way is reserved anew when the operation is undone.
            for listen in &held {
                self.guarded.remove(listen);
            }
            self.dataplane(|dataplane| dataplane.release_ports(&entries))?;
        }
        self.reserved.remove(listens).await
    }

    /// Opens what is new on an endpoint's own address, then closes what is open no more.
    pub(super) async fn change_open(&mut self, old: &Open, new: &Open) -> Result<(), Error> {
        let index = self.existing(&new.host).await?;
        let fresh = open_entries(&without(&new.ports, &old.ports), index);
        let gone = open_entries(&without(&old.ports, &new.ports), index);
        self.dataplane(|dataplane| dataplane.put_open(&fresh).and_then(|()| dataplane.remove_open(&gone)))?;
        Ok(())
    }

    /// Opens what a sandbox's links newly open, then closes what they open no more.
    pub(super) fn change_links(&mut self, old: &Links, new: &Links) -> Result<(), Error> {
        let (fresh, gone) = (without(&new.ports, &old.ports), without(&old.ports, &new.ports));
        self.dataplane(|dataplane| dataplane.put_links(&fresh).and_then(|()| dataplane.remove_links(&gone)))?;
        Ok(())
    }
}

/// Returns what of an ascending list another one does not have.
fn without<T: Ord + Clone>(ports: &[T], others: &[T]) -> Vec<T> {
    ports.iter().filter(|port| others.binary_search(port).is_err()).cloned().collect()
}

pub(super) fn open_entries(ports: &[OpenPort], ifindex: u32) -> Vec<OpenEntry> {
    let entry = |open: &OpenPort| OpenEntry {
        ip: open.ip,
        port: open.port,
        protocol: open.protocol,
        ifindex,
        allow: open.allow.clone(),
    };
    ports.iter().map(entry).collect()
}

pub(super) fn publish_entries(publish: &Publish, ifindex: u32) -> Vec<PublishEntry> {
    let entry = |port: &object::Port| PublishEntry {
        host_ip: port.listen.ip,
        host_port: port.listen.port,
        protocol: port.listen.protocol,
        backend: port.backend,
        backend_port: port.backend_port,
        allow: port.allow.clone(),
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
        allow: Sources::default(),
        ifindex: 0,
    };
    listens.iter().map(entry).collect()
}
