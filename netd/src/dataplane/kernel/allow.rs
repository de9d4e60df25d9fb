//! Lists of sources that may come to a port, in the maps. Ports with the same sources share a list; its number means nothing beyond the maps.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netd_common::{
    maps::AllowKey,
    net::{Addr4, Addr6},
};

use super::{super::Error, Kernel};

/// Bits of a key in front of the address.
const LIST_BITS: u32 = 32;

/// Numbers of the lists in the maps, by content.
pub(super) type Lists = HashMap<Arc<[IpNet]>, u32>;

impl Kernel {
    /// Returns the number of the list with these sources, which is in the maps from here on; 0: everybody.
    pub(super) fn list_of(&mut self, sources: &Arc<[IpNet]>) -> Result<u32, Error> {
        if sources.is_empty() {
            return Ok(0);
        }
        if let Some(list) = self.lists.get(sources) {
            return Ok(*list);
        }
        let taken: HashSet<u32> = self.lists.values().copied().collect();
        let list = (1..=u32::MAX).find(|list| !taken.contains(list)).unwrap_or(u32::MAX);
        // Known before it is written: what fails half-way is forgotten whole.
        self.lists.insert(Arc::clone(sources), list);
        for prefix in sources.iter() {
            if let Err(error) = self.write_source(list, *prefix) {
                self.forget_lists()?;
                return Err(error);
            }
        }
        Ok(list)
    }

    fn write_source(&mut self, list: u32, prefix: IpNet) -> Result<(), Error> {
        let bits = LIST_BITS + u32::from(prefix.prefix_len());
        let written = match prefix.network() {
            IpAddr::V4(ip) => {
                self.maps.v4.allow.insert(&Key::new(bits, AllowKey { list, addr: ip.into() }), 1, 0)
            }
            IpAddr::V6(ip) => {
                self.maps.v6.allow.insert(&Key::new(bits, AllowKey { list, addr: ip.into() }), 1, 0)
            }
        };
        written.map_err(|source| Error::kernel(format!("allow the source {prefix}"), source))
    }

    /// Removes the lists that no port has.
    pub(super) fn forget_lists(&mut self) -> Result<(), Error> {
        let mut used = HashSet::new();
        self.maps.v4.publish.for_each(|_, publish| used.extend([publish.allow]))?;
        self.maps.v6.publish.for_each(|_, publish| used.extend([publish.allow]))?;
        self.maps.v4.open.for_each(|_, open| used.extend([open.allow]))?;
        self.maps.v6.open.for_each(|_, open| used.extend([open.allow]))?;
        let unused: Vec<Arc<[IpNet]>> = self
            .lists
            .iter()
            .filter(|(_, list)| !used.contains(list))
            .map(|(sources, _)| Arc::clone(sources))
            .collect();
        for sources in unused {
            let Some(list) = self.lists.remove(&sources) else { continue };
            for prefix in sources.iter() {
                let bits = LIST_BITS + u32::from(prefix.prefix_len());
                let _gone_already = match prefix.network() {
                    IpAddr::V4(ip) => {
                        self.maps.v4.allow.remove(&Key::new(bits, AllowKey { list, addr: ip.into() }))
                    }
                    IpAddr::V6(ip) => {
                        self.maps.v6.allow.remove(&Key::new(bits, AllowKey { list, addr: ip.into() }))
                    }
                };
            }
        }
        Ok(())
    }

    /// Reads back the lists that an earlier daemon left.
    pub(super) fn recall_lists(&mut self) -> Result<(), Error> {
        let mut found: HashMap<u32, Vec<IpNet>> = HashMap::new();
        let refused = |source| Error::kernel("list map ALLOW".to_owned(), source);
        for key in self.maps.v4.allow.keys() {
            let key: Key<AllowKey<Addr4>> = key.map_err(refused)?;
            add(&mut found, key.data().list, Ipv4Addr::from(key.data().addr).into(), key.prefix_len());
        }
        for key in self.maps.v6.allow.keys() {
            let key: Key<AllowKey<Addr6>> = key.map_err(refused)?;
            add(&mut found, key.data().list, Ipv6Addr::from(key.data().addr).into(), key.prefix_len());
        }
        self.lists = found
            .into_iter()
            .map(|(list, mut prefixes)| {
                prefixes.sort_unstable(); // as `Sources` has them
                (prefixes.into(), list)
            })
            .collect();
        self.forget_lists()
    }
}

fn add(found: &mut HashMap<u32, Vec<IpNet>>, list: u32, ip: IpAddr, bits: u32) {
    let length = u8::try_from(bits.saturating_sub(LIST_BITS)).unwrap_or(u8::MAX);
    found.entry(list).or_default().extend(IpNet::new(ip, length));
}
