//! Lists of interfaces by which the outside may come to a port, in the maps. A list is known by its names here and by interface indexes there; it follows
//! interfaces that come, go and change their names.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use netd_common::maps::ViaKey;

use super::{super::Error, Kernel};
use crate::model::{IfPattern, Sources};

/// What is known of lists of interfaces.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Numbers of the lists in the maps, by content. Those that an earlier daemon left are not here: they stay until no port has them.
    lists: HashMap<Arc<[IfPattern]>, u32>,
    /// Every interface of the host by name, with its index.
    links: BTreeMap<String, u32>,
    /// Whether lists of an earlier daemon are still there.
    left_over: bool,
}

impl Ways {
    /// Returns what the maps shall hold for a list.
    fn keys(&self, list: u32, patterns: &[IfPattern]) -> HashSet<ViaKey> {
        let named =
            self.links.iter().filter(|(name, _)| patterns.iter().any(|pattern| pattern.matches(name)));
        named.map(|(_, ifindex)| ViaKey { list, ifindex: *ifindex }).collect()
    }
}

impl Kernel {
    /// Returns the numbers of both lists of a port, which are in the maps from here on; 0: everybody, every way.
    pub(super) fn lists_of(&mut self, sources: &Sources) -> Result<(u32, u32), Error> {
        Ok((self.list_of(sources.prefixes())?, self.way_of(sources.via())?))
    }

    fn way_of(&mut self, patterns: &Arc<[IfPattern]>) -> Result<u32, Error> {
        if patterns.is_empty() {
            return Ok(0);
        }
        if let Some(list) = self.ways.lists.get(patterns) {
            return Ok(*list);
        }
        let mut taken: HashSet<u32> = self.ways.lists.values().copied().collect();
        // An earlier daemon's list may have no interface now, and no entry.
        taken.extend(self.used_ways()?);
        let list = (1..=u32::MAX).find(|list| !taken.contains(list)).unwrap_or(u32::MAX);
        // Known before it is written: what fails half-way is forgotten whole.
        self.ways.lists.insert(Arc::clone(patterns), list);
        let keys = self.ways.keys(list, patterns);
        if let Err(error) = keys.iter().try_for_each(|key| self.maps.via.put(key, &1)) {
            self.forget_ways()?;
            return Err(error);
        }
        Ok(list)
    }

    /// Makes this the complete list of the host's interfaces.
    pub(super) fn follow_links(&mut self, links: &BTreeMap<String, u32>) -> Result<(), Error> {
        if self.ways.left_over {
            self.forget_ways()?;
        }
        if self.ways.links == *links {
            return Ok(());
        }
        self.ways.links.clone_from(links);
        let result = self.write_ways();
        if result.is_err() {
            self.ways.links.clear(); // the next look writes all of it again
        }
        result
    }

    fn write_ways(&mut self) -> Result<(), Error> {
        let known: HashSet<u32> = self.ways.lists.values().copied().collect();
        let mut wanted = HashSet::new();
        for (patterns, list) in &self.ways.lists {
            wanted.extend(self.ways.keys(*list, patterns));
        }
        let living: HashSet<u32> = self.ways.links.values().copied().collect();
        let present: HashSet<ViaKey> = self.maps.via.entries()?.into_iter().map(|(key, _)| key).collect();
        for key in wanted.difference(&present) {
            self.maps.via.put(key, &1)?;
        }
        let stale = |key: &&ViaKey| known.contains(&key.list) || !living.contains(&key.ifindex);
        for key in present.difference(&wanted).filter(stale) {
            self.maps.via.remove(key)?;
        }
        Ok(())
    }

    /// Removes the lists that no port has.
    pub(super) fn forget_ways(&mut self) -> Result<(), Error> {
        let used = self.used_ways()?;
        self.ways.lists.retain(|_, list| used.contains(list));
        let known: HashSet<u32> = self.ways.lists.values().copied().collect();
        self.ways.left_over = used.iter().any(|list| *list != 0 && !known.contains(list));
        for (key, _) in self.maps.via.entries()? {
            if !used.contains(&key.list) {
                self.maps.via.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Returns the lists that ports have.
    fn used_ways(&self) -> Result<HashSet<u32>, Error> {
        let mut used = HashSet::new();
        self.maps.v4.publish.for_each(|_, publish| used.extend([publish.via]))?;
        self.maps.v6.publish.for_each(|_, publish| used.extend([publish.via]))?;
        self.maps.v4.open.for_each(|_, open| used.extend([open.via]))?;
        self.maps.v6.open.for_each(|_, open| used.extend([open.via]))?;
        Ok(used)
    }
}
