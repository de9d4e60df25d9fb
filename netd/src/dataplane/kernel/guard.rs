//! Which uplinks are guarded, and whom their guards deny.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aya::{
    Pod,
    maps::{LpmTrie, MapData, MapError, lpm_trie::Key},
};
use ipnet::IpNet;

use super::{
    super::{Error, UplinkEntry, guard},
    Kernel,
};

/// Prefixes of one family with which a guard works: the longest one of an address decides, and each says no.
pub type Denied<A> = LpmTrie<MapData, A, u32>;

impl Kernel {
    /// Makes the maps say what the configuration says: what is new first, so that who stays on the list is never off it.
    pub(super) fn deny_sources(&mut self) -> Result<(), Error> {
        let wanted: BTreeSet<IpNet> = self.settings.guard.deny.iter().map(IpNet::trunc).collect();
        let mut found = BTreeSet::new();
        for (ip, bits) in prefixes(&self.maps.v4.denied, |addr| IpAddr::V4(Ipv4Addr::from(addr)))?
            .into_iter()
            .chain(prefixes(&self.maps.v6.denied, |addr| IpAddr::V6(Ipv6Addr::from(addr)))?)
        {
            found.extend(IpNet::new(ip, u8::try_from(bits).unwrap_or(u8::MAX)));
        }
        for prefix in wanted.difference(&found) {
            let bits = u32::from(prefix.prefix_len());
            let written = match prefix.network() {
                IpAddr::V4(ip) => self.maps.v4.denied.insert(&Key::new(bits, ip.into()), 1, 0),
                IpAddr::V6(ip) => self.maps.v6.denied.insert(&Key::new(bits, ip.into()), 1, 0),
            };
            written.map_err(|source| Error::kernel(format!("deny the source {prefix}"), source))?;
        }
        for prefix in found.difference(&wanted) {
            let bits = u32::from(prefix.prefix_len());
            let removed = match prefix.network() {
                IpAddr::V4(ip) => self.maps.v4.denied.remove(&Key::new(bits, ip.into())),
                IpAddr::V6(ip) => self.maps.v6.denied.remove(&Key::new(bits, ip.into())),
            };
            removed.map_err(|source| Error::kernel(format!("deny the source {prefix} no more"), source))?;
        }
        guard::keep_only(&self.links, &self.settings.guard)
    }

    /// Guards an uplink that is to be guarded. Where that fails, the uplink serves without, which is said once.
    pub(super) fn guard(&mut self, uplink: &UplinkEntry) -> Result<(), Error> {
        let (ifname, ifindex) = (uplink.ifname.as_str(), uplink.ifindex);
        if !self.settings.guard.includes(ifname) {
            return guard::detach(&self.links, ifindex);
        }
        let done = if uplink.bare {
            Err(Error::Unsupported(format!("guard {ifname}: its frames have no Ethernet header")))
        } else {
            guard::attach(&mut self.programs, &self.links, ifname, ifindex)
        };
        match done {
            Ok(()) => {
                if self.unguarded.remove(&ifindex) {
                    tracing::info!(ifname, "guard attached");
                }
            }
            Err(error) if self.unguarded.insert(ifindex) => {
                tracing::error!(ifname, error = &error as &dyn std::error::Error, "uplink is not guarded");
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Puts back a guard that somebody took away, or that could not be attached before. Returns the interfaces that have theirs again.
    pub(super) fn guard_again(&mut self) -> Result<Vec<String>, Error> {
        let lacks = |uplink: &&UplinkEntry| {
            self.settings.guard.includes(uplink.ifname.as_str())
                && !guard::is_attached(&self.links, uplink.ifindex)
        };
        let without: Vec<UplinkEntry> = self.uplinks.values().filter(lacks).cloned().collect();
        let mut repaired = Vec::new();
        for uplink in without {
            self.guard(&uplink)?;
            if guard::is_attached(&self.links, uplink.ifindex) {
                repaired.push(format!("guard of {}", uplink.ifname));
            }
        }
        Ok(repaired)
    }
}

fn prefixes<A: Pod>(denied: &Denied<A>, ip: impl Fn(A) -> IpAddr) -> Result<Vec<(IpAddr, u32)>, Error> {
    let read = |key: Result<Key<A>, MapError>| key.map(|key| (ip(key.data()), key.prefix_len()));
    let all: Result<Vec<_>, MapError> = denied.keys().map(read).collect();
    all.map_err(|source| Error::kernel("list the sources that are denied".to_owned(), source))
}
