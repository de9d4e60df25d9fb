//! Digests of the maps that the daemon alone writes: two that differ say that somebody else has written in between (reliability S27).

use std::{
    hash::{DefaultHasher, Hasher as _},
    os::fd::{AsFd as _, OwnedFd},
};

use netd_common::maps::port_set;

use super::{
    super::{
        Digesting, Digests, Error,
        maps::{Ports, bytes_of},
        raw,
    },
    Kernel,
};

/// A map that is read without the daemon's own handle of it.
struct Plain {
    name: &'static str,
    map: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl Plain {
    /// Sums up every entry.
    fn digest(&self) -> Result<u64, Error> {
        let mut digest = Digest::default();
        raw::for_each(self.map.as_fd(), self.key_size, self.value_size, |key, value| {
            digest.add(&[key, value]);
        })
        .map_err(|source| Error::kernel(format!("list map {}", self.name), source))?;
        Ok(digest.0)
    }
}

impl Kernel {
    /// Begins a look at every map that the daemon alone writes. What is small is read now; the rest, which may be tens of thousands of entries, by who calls
    /// what is returned, while the daemon goes on.
    pub(super) fn begin_digests(&self) -> Result<Digesting, Error> {
        let mut all = Digests::from([
            ("RULE6", self.of_rules()?),
            ("CONFIG", self.of_config()?),
            ("ENDPOINT", self.of_endpoints()?),
            ("NETWORK", self.of_networks()?),
            ("PORTS", self.of_port_sets()?),
        ]);
        let mut large: Vec<Plain> = Vec::new();
        for map in self.maps.plain() {
            let (name, map, key_size, value_size) =
                map.map_err(|source| Error::kernel("open a map again".to_owned(), source))?;
            large.push(Plain { name, map, key_size, value_size });
        }
        Ok(Box::new(move || {
            for map in large {
                all.insert(map.name, map.digest()?);
            }
            Ok(all)
        }))
    }

    /// Of the interfaces that have netd's programs: nothing asks for another's.
    fn of_endpoints(&self) -> Result<u64, Error> {
        let mut digest = Digest::default();
        for &ifindex in self.attached.keys() {
            digest.add(&[&ifindex.to_ne_bytes(), bytes_of(&self.endpoint(ifindex)?)]);
        }
        Ok(digest.0)
    }

    fn of_networks(&self) -> Result<u64, Error> {
        let mut digest = Digest::default();
        for (slot, network) in self.maps.networks()? {
            digest.add(&[&slot.to_ne_bytes(), bytes_of(&network)]);
        }
        Ok(digest.0)
    }

    fn of_rules(&self) -> Result<u64, Error> {
        let mut digest = Digest::default();
        for (place, rule) in (0_u32..).zip(self.rules()?) {
            digest.add(&[&place.to_ne_bytes(), bytes_of(&rule)]);
        }
        Ok(digest.0)
    }

    /// Of what differs from the last that the daemon has written: it writes there at every change of routes, and while room for flows is short.
    fn of_config(&self) -> Result<u64, Error> {
        let mut digest = Digest::default();
        let config = self.maps.config.get(&0, 0);
        let config = config.map_err(|source| Error::kernel("read map CONFIG".to_owned(), source))?;
        if config != self.config {
            digest.add(&[bytes_of(&config)]);
        }
        Ok(digest.0)
    }

    /// The same of the sets of ports that the daemon writes: the collector forgets ports when their last flow has gone.
    fn of_port_sets(&self) -> Result<u64, Error> {
        let mut digest = Digest::default();
        for (index, set) in self.foreign_sets()? {
            digest.add(&[&index.to_ne_bytes(), bytes_of(&set)]);
        }
        Ok(digest.0)
    }

    /// Returns the sets of ports that are not as the daemon wrote them.
    fn foreign_sets(&self) -> Result<Vec<(u32, Ports)>, Error> {
        let sets = (0_u32..).zip(self.maps.port_sets()?).filter(|(index, set)| {
            // These the programs write.
            index % port_set::PURPOSES != port_set::KEPT && set.0 != self.sets[*index as usize].0
        });
        Ok(sets.collect())
    }

    /// Writes again what the daemon knows by itself and others have changed.
    pub(super) fn write_known(&mut self) -> Result<(), Error> {
        self.write_config()?;
        let changed = self.foreign_sets()?.into_iter().map(|(index, _)| index).collect();
        self.write_sets(&changed)
    }
}

/// A sum over entries, whatever their order.
#[derive(Default)]
struct Digest(u64);

impl Digest {
    /// Adds an entry, by the bytes of its parts.
    fn add(&mut self, parts: &[&[u8]]) {
        let mut hasher = DefaultHasher::new();
        for part in parts {
            hasher.write(part);
        }
        self.0 = self.0.wrapping_add(hasher.finish());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_what_is_there_in_any_order() {
        let of = |entries: &[[&[u8]; 2]]| {
            let mut digest = Digest::default();
            for entry in entries {
                digest.add(entry);
            }
            digest.0
        };
        let (a, b): ([&[u8]; 2], [&[u8]; 2]) = ([b"a", b"1"], [b"b", b"2"]);
        assert_eq!(of(&[a, b]), of(&[b, a]));
        let others = [of(&[]), of(&[a]), of(&[a, [b"b", b"3"]]), of(&[a, b, [b"c", b""]])];
        assert!(others.iter().all(|other| *other != of(&[a, b])));
    }
}
