//! Digests of the maps that the daemon alone writes: two that differ say that somebody else has written in between (reliability S27).

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
};

use aya::{
    Pod,
    maps::{LpmTrie, MapData},
};
use netd_common::maps::{AllowKey, LinkKey, Publish, PublishKey, port_set};

use super::{
    super::{
        Digests, Error,
        maps::{FamilyMaps, Table, bytes_of},
    },
    Kernel,
};

impl Kernel {
    /// Reads every map that the daemon alone writes. `CONFIG` is not among them: it says how often something has changed.
    pub(super) fn read_digests(&self) -> Result<Digests, Error> {
        let maps = &self.maps;
        let mut all = BTreeMap::from([
            ("UPLINK", of_table(&maps.uplink)?),
            ("TRUST", of_table(&maps.trust)?),
            ("VIA", of_table(&maps.via)?),
            ("LONGER6", of_trie("LONGER6", &maps.longer6)?),
            ("ENDPOINT", self.of_endpoints()?),
            ("NETWORK", self.of_networks()?),
            ("PORTS", self.of_port_sets()?),
        ]);
        add_family(
            &mut all,
            ["ADDRESS4", "SUBNET4", "LOCAL4", "PUBLISH4", "OPEN4", "ALLOW4", "DENY4", "LINK4"],
            &maps.v4,
        )?;
        add_family(
            &mut all,
            ["ADDRESS6", "SUBNET6", "LOCAL6", "PUBLISH6", "OPEN6", "ALLOW6", "DENY6", "LINK6"],
            &maps.v6,
        )?;
        Ok(all)
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

    /// Of the sets that neither programs write nor the collector, which forgets ports when their last flow has gone.
    fn of_port_sets(&self) -> Result<u64, Error> {
        let mut digest = Digest::default();
        for (index, set) in (0_u32..).zip(self.maps.port_sets()?) {
            if ![port_set::KEPT, port_set::INTEREST].contains(&(index % port_set::PURPOSES)) {
                digest.add(&[&index.to_ne_bytes(), bytes_of(&set)]);
            }
        }
        Ok(digest.0)
    }
}

fn add_family<A: Pod>(all: &mut Digests, names: [&'static str; 8], maps: &FamilyMaps<A>) -> Result<(), Error>
where
    PublishKey<A>: Pod,
    Publish<A>: Pod,
    AllowKey<A>: Pod,
    LinkKey<A>: Pod,
{
    let [address, subnet, local, publish, open, allow, deny, link] = names;
    all.extend([
        (address, of_table(&maps.address)?),
        (subnet, of_trie(subnet, &maps.subnet)?),
        (local, of_table(&maps.local)?),
        (publish, of_table(&maps.publish)?),
        (open, of_table(&maps.open)?),
        (allow, of_trie(allow, &maps.allow)?),
        (deny, of_trie(deny, &maps.denied)?),
        (link, of_table(&maps.link)?),
    ]);
    Ok(())
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

fn of_table<K: Pod, V: Pod>(table: &Table<K, V>) -> Result<u64, Error> {
    let mut digest = Digest::default();
    table.for_each(|key, value| digest.add(&[bytes_of(key), bytes_of(value)]))?;
    Ok(digest.0)
}

fn of_trie<K: Pod, V: Pod>(name: &str, trie: &LpmTrie<MapData, K, V>) -> Result<u64, Error> {
    let mut digest = Digest::default();
    for entry in trie {
        let (key, value) = entry.map_err(|source| Error::kernel(format!("list map {name}"), source))?;
        digest.add(&[&key.prefix_len().to_ne_bytes(), bytes_of(&key.data()), bytes_of(&value)]);
    }
    Ok(digest.0)
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
