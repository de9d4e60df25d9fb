//! Keeps the kernel from handing out ports that netd uses: `net.ipv4.ip_local_reserved_ports`.
//!
//! That steers automatic choice alone; explicit binds are the guard program's business.

use super::{Error, listens::Listens, object::Listen};
use crate::{
    netns::Netns,
    sysctl::{self, ReservedPorts},
};

/// The part of the list that is netd's.
pub struct Reserved {
    netns: Netns,
    /// The list before netd.
    original: ReservedPorts,
    /// Ports of masqueraded flows.
    nat: Vec<(u16, u16)>,
    /// Where the kernel chooses from by itself.
    ephemeral: (u16, u16),
    /// Publications of ports in there.
    published: Listens,
    /// All of these as ranges, as they were written last.
    kept: Vec<(u16, u16)>,
}

impl Reserved {
    /// Reserves the ports of masqueraded flows. `original` is the list before netd first touched it.
    pub async fn start(netns: &Netns, original: &ReservedPorts, nat: &[(u16, u16)]) -> Result<Self, Error> {
        let range = sysctl::local_port_range(netns).await?;
        let reserved = Self {
            netns: netns.clone(),
            original: original.clone(),
            nat: nat.to_vec(),
            ephemeral: (*range.start(), *range.end()),
            published: Listens::default(),
            kept: ReservedPorts::default().with(nat).ranges().to_vec(),
        };
        ReservedPorts::read(netns).await?.with(nat).write(netns).await?;
        Ok(reserved)
    }

    /// Returns `ip_local_port_range`.
    pub fn ephemeral(&self) -> (u16, u16) {
        self.ephemeral
    }

    /// Adds published ports.
    pub async fn add(&mut self, listens: &[Listen]) -> Result<(), Error> {
        let before = self.ours();
        self.take(listens);
        self.write(&before).await
    }

    fn take(&mut self, listens: &[Listen]) {
        let (first, last) = self.ephemeral;
        self.published.extend(listens.iter().filter(|listen| (first..=last).contains(&listen.port)).copied());
    }

    /// Takes published ports away, also those that a daemon reserved which was killed before it was through.
    pub async fn remove(&mut self, listens: &[Listen]) -> Result<(), Error> {
        self.take(listens);
        let before = self.ours();
        for listen in listens {
            self.published.remove(listen);
        }
        self.write(&before).await
    }

    /// Gives the host its own list back, with what others added meanwhile.
    pub async fn restore(&self) -> Result<(), Error> {
        let present = ReservedPorts::read(&self.netns).await?;
        Ok(present.without(&self.ours(), &self.original).write(&self.netns).await?)
    }

    /// Reserves again what somebody took off the list. Returns the setting's name, if so.
    pub async fn repair(&self) -> Result<Option<String>, Error> {
        let present = ReservedPorts::read(&self.netns).await?;
        let wanted = present.with(&self.kept);
        if wanted == present {
            return Ok(None);
        }
        wanted.write(&self.netns).await?;
        Ok(Some("ipv4/ip_local_reserved_ports".to_owned()))
    }

    fn ours(&self) -> Vec<(u16, u16)> {
        ReservedPorts::default().with(&self.nat).with(&self.published.ranges()).ranges().to_vec()
    }

    async fn write(&mut self, before: &[(u16, u16)]) -> Result<(), Error> {
        let after = self.ours();
        if after == before {
            return Ok(());
        }
        let present = ReservedPorts::read(&self.netns).await?;
        present.without(before, &self.original).with(&after).write(&self.netns).await?;
        self.kept = after;
        Ok(())
    }
}
