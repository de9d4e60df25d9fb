//! The host's links, the ports among them from memory: the kernel's list of thousands takes it a second and more, because of each pair it looks through
//! the numbers of all namespaces.

use std::collections::{BTreeSet, HashMap};

use super::Linux;
use crate::{
    controller::Error,
    link::{Changes, HostLink, Told},
    model::IfName,
};

/// Where more than this part of the ports is to be read again, all of them are: one by one takes longer.
const PART: usize = 8;

/// What is remembered of links that are ports; all others are read each time.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By name. None: not listed yet, or the kernel lost notifications.
    ports: Option<HashMap<String, HostLink>>,
    /// Indexes of links that have changed since they were read, whoever changed them.
    stale: BTreeSet<u32>,
    /// Whether all of it was read just now.
    fresh: bool,
}

impl Listing {
    /// Notes that a link is not what it was.
    pub fn note_changed(&mut self, ifindex: u32) {
        self.stale.insert(ifindex);
    }

    /// Notes what was heard of links.
    pub fn note_heard(&mut self, changes: &Changes) {
        self.stale.extend(changes.links.keys());
        if changes.lost {
            self.ports = None;
        }
    }

    /// Returns a port as it was listed a moment ago.
    pub fn fresh(&self, ifname: &IfName) -> Option<&HostLink> {
        let port = self.ports.as_ref().filter(|_| self.fresh)?.get(ifname.as_str())?;
        Some(port).filter(|port| !self.stale.contains(&port.ifindex))
    }

    /// Ends the moment, and lets go of what nobody asks for later.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.fresh) {
            for port in self.ports.iter_mut().flat_map(HashMap::values_mut) {
                port.told = Told::default();
            }
        }
    }

    /// Whether most of it still holds.
    fn holds(&self) -> bool {
        self.ports.as_ref().is_some_and(|ports| self.stale.len() <= ports.len() / PART)
    }
}

impl Linux {
    /// Lists every link, and remembers the ports among them.
    pub(super) async fn list_links(&mut self) -> Result<Vec<HostLink>, Error> {
        self.listing = Listing::default();
        let all = self.links.links().await?;
        let ports = all.iter().filter(|link| link.master.is_some());
        self.listing.ports = Some(ports.map(|link| (link.name.clone(), link.clone())).collect());
        self.listing.fresh = true;
        Ok(all)
    }

    /// Returns every link; ports of which nothing was heard as they were listed.
    pub(super) async fn every_link(&mut self) -> Result<Vec<HostLink>, Error> {
        if !self.listing.holds() {
            let all = self.list_links().await?;
            self.listing.settle();
            return Ok(all);
        }
        let mut all = self.links.links_without_master().await?;
        let mut changed = Vec::new();
        for ifindex in &self.listing.stale {
            changed.extend(self.links.link_by_index(*ifindex).await?.filter(|link| link.master.is_some()));
        }
        let stale = std::mem::take(&mut self.listing.stale);
        let elsewhere: BTreeSet<u32> = all.iter().map(|link| link.ifindex).chain(stale).collect();
        let ports = self.listing.ports.get_or_insert_default();
        ports.retain(|_, port| !elsewhere.contains(&port.ifindex));
        ports.extend(changed.into_iter().map(|link| (link.name.clone(), link)));
        all.extend(ports.values().cloned());
        Ok(all)
    }
}
