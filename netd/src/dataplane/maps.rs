//! Typed handles of the pinned maps.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray},
};
use netd_common::{
    maps::{
        AllowKey, Config, Dialled, DialledKey, Endpoint, Flow, Held, LinkKey, Network, Open, Owner, PortSet,
        Publish, PublishKey, RouteKey, Rule6, Slot, TrustKey, Tuple, Uplink, ViaKey, port_set,
    },
    net::{Addr4, Addr6, IfIndex},
};

use super::{Error, raw};

/// Names of the pinned maps, as `netd-ebpf/src/maps.rs` has them. The drafts are not, nor are token buckets: they are working memory, and
/// the drafts' shape is the compiler's.
pub const NAMES: [&str; 49] = [
    "CONFIG",
    "FLOW4",
    "FLOW6",
    "ENDPOINT",
    "ADDRESS4",
    "ADDRESS6",
    "NETWORK",
    "SUBNET4",
    "SUBNET6",
    "LOCAL4",
    "LOCAL6",
    "PUBLISH4",
    "PUBLISH6",
    "PORTS",
    "UPLINK",
    "RULE6",
    "LONGER6",
    "DIALLED",
    "DROPS",
    "USAGE4",
    "USAGE6",
    "PACE",
    "PENDING4",
    "PENDING6",
    "OPEN4",
    "OPEN6",
    "LINK4",
    "LINK6",
    "TRUST",
    "VIA",
    "ALLOW4",
    "ALLOW6",
    "ASKED4",
    "ASKED6",
    "HANDED4",
    "HANDED6",
    "INPUT4",
    "INPUT6",
    "DENY4",
    "DENY6",
    "OPENINGS4",
    "OPENINGS6",
    "DATAGRAM4",
    "DATAGRAM6",
    "HELD",
    "HELD_BYTES",
    "HELD_NEXT",
    "LISTENING",
    "EVENTS",
];

/// A hash map with entries by the batch.
pub struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
    fd: OwnedFd,
    types: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens the map that is pinned by this name.
    pub fn open(pins: &Path, name: &'static str) -> Result<Self, Error> {
        let data = open(pins, name)?;
        let fd = data
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| Error::kernel(format!("open map {name}"), source))?;
        let map = HashMap::try_from(Map::HashMap(data))
            .map_err(|source| Error::kernel(format!("open map {name}"), source))?;
        Ok(Self { name, map, fd, types: PhantomData })
    }

    /// Returns another handle of the same map.
    pub fn again(&self) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::kernel(format!("open map {}", self.name), source);
        let data = MapData::from_fd(self.fd.try_clone().map_err(failed)?)
            .map_err(|source| Error::kernel(format!("open map {}", self.name), source))?;
        let map = HashMap::try_from(Map::HashMap(data))
            .map_err(|source| Error::kernel(format!("open map {}", self.name), source))?;
        Ok(Self { name: self.name, map, fd: self.fd.try_clone().map_err(failed)?, types: PhantomData })
    }

    /// Opens it again as it is.
    fn plain(&self) -> io::Result<PlainMap> {
        Ok((self.name, self.fd.try_clone()?, size_of::<K>(), size_of::<V>()))
    }

    /// Returns a value.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(Error::kernel(format!("read map {}", self.name), source)),
        }
    }

    /// Inserts or replaces an entry.
    pub fn put(&mut self, key: &K, value: &V) -> Result<(), Error> {
        self.map.insert(key, value, 0).map_err(|source| self.refused(source))
    }

    /// Removes an entry; gone already is fine.
    pub fn remove(&mut self, key: &K) -> Result<(), Error> {
        match self.map.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(())
            }
            Err(source) => Err(Error::kernel(format!("remove from map {}", self.name), source)),
        }
    }

    /// Inserts or replaces many entries in one call.
    pub fn put_many(&mut self, entries: &[(K, V)]) -> Result<(), Error> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            keys.extend_from_slice(bytes_of(key));
            values.extend_from_slice(bytes_of(value));
        }
        raw::update_many(self.fd.as_fd(), entries.len(), &keys, &values).map_err(|(done, source)| {
            if is_full(&source) {
                return self.full();
            }
            Error::kernel(
                format!("write {} entries to map {} ({done} done)", entries.len(), self.name),
                source,
            )
        })
    }

    /// Visits every entry.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> Result<(), Error> {
        raw::for_each(self.fd.as_fd(), size_of::<K>(), size_of::<V>(), |key, value| {
            visit(&from_bytes(key), &from_bytes(value));
        })
        .map_err(|source| Error::kernel(format!("list map {}", self.name), source))
    }

    /// Returns every entry.
    pub fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        let mut all = Vec::new();
        self.for_each(|key, value| all.push((*key, *value)))?;
        Ok(all)
    }

    fn refused(&self, source: MapError) -> Error {
        match &source {
            MapError::SyscallError(error) if is_full(&error.io_error) => self.full(),
            _ => Error::kernel(format!("write to map {}", self.name), source),
        }
    }

    fn full(&self) -> Error {
        Error::Limit(format!("map {} is full", self.name))
    }
}

/// Whether the kernel says that a map has no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM))
}

/// Returns a value's bytes.
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: `Pod` types are plain bytes without padding (asserted in netd-common).
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Returns the value that bytes spell.
pub fn from_bytes<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "a map's entry has its type's size");
    // SAFETY: the length was compared, and every bit pattern is a value of a `Pod` type.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// A map by its name, another descriptor of it, and the sizes of its keys and values.
pub type PlainMap = (&'static str, OwnedFd, usize, usize);

/// The maps of one family.
pub struct FamilyMaps<A> {
    /// Flows that each endpoint pays for.
    pub usage: Array<MapData, u32>,
    /// Both directions of every flow.
    pub flow: Table<Tuple<A>, Flow<A>>,
    /// Who has an address.
    pub address: Table<A, Owner>,
    /// Slots by subnet.
    pub subnet: LpmTrie<MapData, A, Slot>,
    /// The host's own addresses.
    pub local: Table<A, u32>,
    /// Published ports.
    pub publish: Table<PublishKey<A>, Publish<A>>,
    /// Ports open on sandboxes' own addresses.
    pub open: Table<PublishKey<A>, Open>,
    /// Lists of sources that may come to a port.
    pub allow: LpmTrie<MapData, AllowKey<A>, u32>,
    /// Sources that guards deny.
    pub denied: LpmTrie<MapData, A, u32>,
    /// The tries again, to read them at once: subnets, lists of sources, denied sources.
    tries: [PlainMap; 3],
    /// Ports that links open.
    pub link: Table<LinkKey<A>, u32>,
}

impl<A: Pod> FamilyMaps<A>
where
    PublishKey<A>: Pod,
    Publish<A>: Pod,
    LinkKey<A>: Pod,
{
    /// Opens those again that the daemon alone writes.
    fn plain(&self) -> Vec<io::Result<PlainMap>> {
        let mut all = vec![
            self.address.plain(),
            self.local.plain(),
            self.publish.plain(),
            self.open.plain(),
            self.link.plain(),
        ];
        all.extend(self.tries.iter().map(again));
        all
    }
}

/// All maps that the daemon reads and writes.
pub struct Maps {
    /// What all programs read.
    pub config: Array<MapData, Config>,
    /// Endpoints by interface index.
    pub endpoint: Array<MapData, Endpoint>,
    /// Networks by slot.
    pub network: Array<MapData, Network>,
    /// The same map, to read it at once.
    network_slots: OwnedFd,
    /// Sets of ports.
    pub ports: Array<MapData, Ports>,
    /// Devices through which the outside is reached.
    pub uplink: Table<IfIndex, Uplink>,
    /// Rules of the host's IPv6 policy routing.
    pub rule6: Array<MapData, Rule6>,
    /// Devices of the routes that rules do not suppress.
    pub longer6: LpmTrie<MapData, RouteKey, IfIndex>,
    /// The same map, to read it at once.
    longer6_again: PlainMap,
    /// What host processes dialled where the socket programs changed it.
    pub dialled: Table<DialledKey, Dialled>,
    /// Interfaces that may reach a network's open ports directly.
    pub trust: Table<TrustKey, u32>,
    /// Lists of interfaces by which the outside may come to a port.
    pub via: Table<ViaKey, u32>,
    /// Dropped packets by reason.
    pub drops: PerCpuArray<MapData, u64>,
    /// Fragments that wait for their first.
    pub held: Array<MapData, Held>,
    /// IPv4.
    pub v4: FamilyMaps<Addr4>,
    /// IPv6.
    pub v6: FamilyMaps<Addr6>,
}

/// A set of ports as one map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Ports(pub PortSet);

// SAFETY: an array of integers.
unsafe impl Pod for Ports {}

impl Ports {
    /// Adds or removes a port; returns whether that changed the set.
    pub fn set(&mut self, port: u16, present: bool) -> bool {
        let (word, bit) = (&mut self.0[usize::from(port >> 5)], 1_u32 << (port & 31));
        let before = *word;
        *word = if present { before | bit } else { before & !bit };
        *word != before
    }
}

impl Maps {
    /// Opens the pinned maps.
    pub fn open(pins: &Path) -> Result<Self, Error> {
        let network = open(pins, "NETWORK")?;
        let network_slots = network
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| Error::kernel("open map NETWORK".to_owned(), source))?;
        Ok(Self {
            config: array(pins, "CONFIG")?,
            endpoint: array(pins, "ENDPOINT")?,
            network: Array::try_from(Map::Array(network))
                .map_err(|source| Error::kernel("open map NETWORK".to_owned(), source))?,
            network_slots,
            ports: array(pins, "PORTS")?,
            uplink: Table::open(pins, "UPLINK")?,
            rule6: array(pins, "RULE6")?,
            longer6: trie(pins, "LONGER6")?,
            longer6_again: plain_trie::<RouteKey>(pins, "LONGER6")?,
            dialled: Table::open(pins, "DIALLED")?,
            trust: Table::open(pins, "TRUST")?,
            via: Table::open(pins, "VIA")?,
            drops: per_cpu_array(pins, "DROPS")?,
            held: array(pins, "HELD")?,
            v4: FamilyMaps {
                usage: array(pins, "USAGE4")?,
                flow: Table::open(pins, "FLOW4")?,
                address: Table::open(pins, "ADDRESS4")?,
                subnet: trie(pins, "SUBNET4")?,
                local: Table::open(pins, "LOCAL4")?,
                publish: Table::open(pins, "PUBLISH4")?,
                open: Table::open(pins, "OPEN4")?,
                allow: trie(pins, "ALLOW4")?,
                denied: trie(pins, "DENY4")?,
                tries: [
                    plain_trie::<Addr4>(pins, "SUBNET4")?,
                    plain_trie::<AllowKey<Addr4>>(pins, "ALLOW4")?,
                    plain_trie::<Addr4>(pins, "DENY4")?,
                ],
                link: Table::open(pins, "LINK4")?,
            },
            v6: FamilyMaps {
                usage: array(pins, "USAGE6")?,
                flow: Table::open(pins, "FLOW6")?,
                address: Table::open(pins, "ADDRESS6")?,
                subnet: trie(pins, "SUBNET6")?,
                local: Table::open(pins, "LOCAL6")?,
                publish: Table::open(pins, "PUBLISH6")?,
                open: Table::open(pins, "OPEN6")?,
                allow: trie(pins, "ALLOW6")?,
                denied: trie(pins, "DENY6")?,
                tries: [
                    plain_trie::<Addr6>(pins, "SUBNET6")?,
                    plain_trie::<AllowKey<Addr6>>(pins, "ALLOW6")?,
                    plain_trie::<Addr6>(pins, "DENY6")?,
                ],
                link: Table::open(pins, "LINK6")?,
            },
        })
    }

    /// Reads every slot of networks, with its number.
    pub fn networks(&self) -> Result<Vec<(u32, Network)>, Error> {
        let mut all = Vec::new();
        let slots = self.network_slots.as_fd();
        raw::for_each(slots, size_of::<u32>(), size_of::<Network>(), |slot, network| {
            all.push((from_bytes(slot), from_bytes(network)));
        })
        .map_err(|source| Error::kernel("read map NETWORK".to_owned(), source))?;
        Ok(all)
    }

    /// Opens the tables and tries again that the daemon alone writes.
    pub fn plain(&self) -> Vec<io::Result<PlainMap>> {
        let mut all =
            vec![self.uplink.plain(), self.trust.plain(), self.via.plain(), again(&self.longer6_again)];
        all.extend(self.v4.plain());
        all.extend(self.v6.plain());
        all
    }

    /// Reads every set of ports.
    pub fn port_sets(&self) -> Result<Vec<Ports>, Error> {
        (0..port_set::COUNT)
            .map(|index| {
                self.ports.get(&index, 0).map_err(|source| Error::kernel("read map PORTS".to_owned(), source))
            })
            .collect()
    }
}

fn open(pins: &Path, name: &str) -> Result<MapData, Error> {
    MapData::from_pin(pins.join(name))
        .map_err(|source| Error::kernel(format!("open the pinned map {name}"), source))
}

/// Opens the array that is pinned by this name.
pub fn array<V: Pod>(pins: &Path, name: &str) -> Result<Array<MapData, V>, Error> {
    Array::try_from(Map::Array(open(pins, name)?))
        .map_err(|source| Error::kernel(format!("open map {name}"), source))
}

/// Opens the array of values of processors that is pinned by this name.
pub fn per_cpu_array<V: Pod>(pins: &Path, name: &str) -> Result<PerCpuArray<MapData, V>, Error> {
    PerCpuArray::try_from(Map::PerCpuArray(open(pins, name)?))
        .map_err(|source| Error::kernel(format!("open map {name}"), source))
}

/// Opens the trie that is pinned by this name as it is.
fn plain_trie<K: Pod>(pins: &Path, name: &'static str) -> Result<PlainMap, Error> {
    let map = raw::open_pin(&pins.join(name))
        .map_err(|source| Error::kernel(format!("open the pinned map {name}"), source))?;
    // A key begins with the length of its prefix.
    Ok((name, map, size_of::<u32>() + size_of::<K>(), size_of::<u32>()))
}

fn again((name, map, key_size, value_size): &PlainMap) -> io::Result<PlainMap> {
    Ok((name, map.try_clone()?, *key_size, *value_size))
}

fn trie<K: Pod>(pins: &Path, name: &str) -> Result<LpmTrie<MapData, K, Slot>, Error> {
    LpmTrie::try_from(Map::LpmTrie(open(pins, name)?))
        .map_err(|source| Error::kernel(format!("open map {name}"), source))
}
