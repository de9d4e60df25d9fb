//! I1, I3, I5: what the packet path knows is what the state says.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    thread,
    time::Duration,
};

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData},
};
use netd_common::{
    maps::{
        AllowKey, Endpoint, Flow, LinkKey, Network, Open, Owner, Publish, PublishKey, TrustKey, Tuple,
        Uplink, ViaKey, endpoint_flags, flow_flags, port_set,
    },
    net::{Addr4, Addr6},
};

use super::{
    Faults,
    links::Indexes,
    programs::pins,
    state::{Binding, State, address, text},
};
use crate::Dirs;

/// Everything that the daemon wrote into the maps, a line each, without what packets change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapDump(BTreeSet<String>);

impl MapDump {
    /// Reads the maps of an instance.
    pub fn of(dirs: &Dirs) -> Self {
        let mut lines = BTreeSet::new();
        let Some(dir) = pins(dirs) else { return Self(lines) };
        for (index, mut endpoint) in endpoints(&dir) {
            // A hint that may say more than there is, until somebody has time.
            endpoint.published = [0; 2];
            lines.insert(format!("ENDPOINT {index} {endpoint:?}"));
        }
        for (slot, network) in networks(&dir) {
            lines.insert(format!("NETWORK {slot} {network:?}"));
        }
        dump::<Addr4, Owner>(&dir, "ADDRESS4", &mut lines);
        dump::<Addr6, Owner>(&dir, "ADDRESS6", &mut lines);
        dump::<Addr4, u32>(&dir, "LOCAL4", &mut lines);
        dump::<Addr6, u32>(&dir, "LOCAL6", &mut lines);
        dump::<PublishKey<Addr4>, Publish<Addr4>>(&dir, "PUBLISH4", &mut lines);
        dump::<PublishKey<Addr6>, Publish<Addr6>>(&dir, "PUBLISH6", &mut lines);
        dump::<PublishKey<Addr4>, Open>(&dir, "OPEN4", &mut lines);
        dump::<PublishKey<Addr6>, Open>(&dir, "OPEN6", &mut lines);
        dump::<LinkKey<Addr4>, u32>(&dir, "LINK4", &mut lines);
        dump::<LinkKey<Addr6>, u32>(&dir, "LINK6", &mut lines);
        dump::<TrustKey, u32>(&dir, "TRUST", &mut lines);
        dump::<ViaKey, u32>(&dir, "VIA", &mut lines);
        dump::<u32, Uplink>(&dir, "UPLINK", &mut lines);
        prefixes::<Addr4>(&dir, "SUBNET4", &mut lines);
        prefixes::<Addr6>(&dir, "SUBNET6", &mut lines);
        prefixes::<AllowKey<Addr4>>(&dir, "ALLOW4", &mut lines);
        prefixes::<AllowKey<Addr6>>(&dir, "ALLOW6", &mut lines);
        for (set, ports) in port_sets(&dir).into_iter().enumerate() {
            // Programs write one of the others, and what is of interest no more goes when there is time.
            if [port_set::PUBLISHED4, port_set::PUBLISHED6]
                .contains(&(u32::try_from(set).unwrap_or_default() % 5))
            {
                lines.insert(format!("PORTS {set} {ports:?}"));
            }
        }
        Self(lines)
    }

    /// Lists what another one has more (`+`) and less (`-`).
    pub fn diff(&self, after: &Self) -> Vec<String> {
        let less = self.0.difference(&after.0).map(|line| format!("- map {line}"));
        less.chain(after.0.difference(&self.0).map(|line| format!("+ map {line}"))).collect()
    }
}

fn open(dir: &Path, name: &str) -> Option<MapData> {
    MapData::from_pin(dir.join(name)).ok()
}

fn table<K: Pod, V: Pod>(dir: &Path, name: &str) -> Vec<(K, V)> {
    let map: Option<HashMap<MapData, K, V>> =
        open(dir, name).and_then(|data| HashMap::try_from(Map::HashMap(data)).ok());
    map.map(|map| map.iter().flatten().collect()).unwrap_or_default()
}

fn dump<K: Pod + std::fmt::Debug, V: Pod + std::fmt::Debug>(
    dir: &Path,
    name: &str,
    into: &mut BTreeSet<String>,
) {
    into.extend(table::<K, V>(dir, name).into_iter().map(|(key, value)| format!("{name} {key:?} {value:?}")));
}

fn prefixes<K: Pod + std::fmt::Debug>(dir: &Path, name: &str, into: &mut BTreeSet<String>) {
    let map: Option<LpmTrie<MapData, K, u32>> =
        open(dir, name).and_then(|data| LpmTrie::try_from(Map::LpmTrie(data)).ok());
    for (key, value) in map.iter().flat_map(|map| map.iter().flatten()) {
        into.insert(format!("{name} {:?}/{} {value}", key.data(), key.prefix_len()));
    }
}

/// Reads an array in one call: element by element it would be 65,536 calls.
fn array<V: Pod>(dir: &Path, name: &str) -> Vec<V> {
    let Some(map) = open(dir, name) else { return Vec::new() };
    let length = map.info().map_or(0, |info| info.max_entries());
    let (mut keys, mut next) = (vec![0_u32; length as usize], 0_u32);
    let mut values = vec![0_u8; length as usize * size_of::<V>()];
    let mut request = LookupBatch {
        in_batch: 0,
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: length,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        flags: [0; 2],
    };
    // SAFETY: keys and values have room for `count` elements, and all of it outlives the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut request, size_of::<LookupBatch>()) };
    let at_end = answer == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT);
    assert!(at_end && request.count == length, "read map {name}: {} of {length}", request.count);
    // SAFETY: every bit pattern is a value of a `Pod` type; chunks have its size.
    values
        .chunks_exact(size_of::<V>())
        .map(|bytes| unsafe { bytes.as_ptr().cast::<V>().read_unaligned() })
        .collect()
}

/// `BPF_MAP_LOOKUP_BATCH`.
const LOOKUP_BATCH: libc::c_int = 24;

/// Its part of `union bpf_attr`.
#[repr(C)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    flags: [u64; 2],
}

fn endpoints(dir: &Path) -> BTreeMap<u32, Endpoint> {
    let active = |(_, endpoint): &(u32, Endpoint)| *endpoint != Endpoint::default();
    (0..).zip(array::<Endpoint>(dir, "ENDPOINT")).filter(active).collect()
}

fn networks(dir: &Path) -> BTreeMap<u32, Network> {
    let used = |(_, network): &(u32, Network)| *network != Network::default();
    (0..).zip(array::<Network>(dir, "NETWORK")).filter(used).collect()
}

/// The ports of every set.
fn port_sets(dir: &Path) -> Vec<BTreeSet<u16>> {
    let set = |words: [u32; 2048]| {
        let bits = words.into_iter().enumerate().flat_map(|(word, bits)| {
            (0..32).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 32 + bit)
        });
        bits.filter_map(|port| u16::try_from(port).ok()).collect()
    };
    array::<[u32; 2048]>(dir, "PORTS").into_iter().map(set).collect()
}

/// Compares the maps with the state.
pub fn check(state: &State, indexes: &Indexes, dirs: &Dirs, faults: &mut Faults) {
    let Some(dir) = pins(dirs) else { return };
    let index = |ifname: &str| indexes.get(ifname).copied().unwrap_or_default();
    let wanted = state.endpoints().map(|at| {
        let slot = at.network["index"].as_u64().unwrap_or_default();
        (index(text(at.endpoint, "host_ifname")), slot, ip(&at.endpoint["ipv4"]), ip(&at.endpoint["ipv6"]))
    });
    let found = endpoints(&dir).into_iter().map(|(index, endpoint)| {
        let active = endpoint.flags & endpoint_flags::ACTIVE != 0;
        faults.check(active, || format!("wrong: record of endpoint {index} is not active"));
        (index, u64::from(endpoint.network), shown(v4(endpoint.addr4)), shown(v6(endpoint.addr6)))
    });
    let found = found.collect();
    faults.same("record of endpoint (index, slot, addresses)", &wanted.collect(), &found);
    let owners =
        table::<Addr4, Owner>(&dir, "ADDRESS4").into_iter().map(|(addr, owner)| (v4(addr), owner.ifindex));
    let owners6 =
        table::<Addr6, Owner>(&dir, "ADDRESS6").into_iter().map(|(addr, owner)| (v6(addr), owner.ifindex));
    let wanted = state.endpoints().flat_map(|at| {
        let index = index(text(at.endpoint, "host_ifname"));
        ["ipv4", "ipv6"].into_iter().filter_map(move |key| Some((address(&at.endpoint[key])?, index)))
    });
    faults.same("owner of address", &wanted.collect(), &owners.chain(owners6).collect());
    slots(state, indexes, &dir, faults);
    publishes(state, indexes, &dir, faults);
    flows::<Addr4>(&dir, "FLOW4", indexes, faults);
    flows::<Addr6>(&dir, "FLOW6", indexes, faults);
    surroundings(indexes, &dir, faults);
}

fn ip(value: &serde_json::Value) -> String {
    address(value).map(|ip| ip.to_string()).unwrap_or_default()
}

fn shown(ip: IpAddr) -> String {
    if ip.is_unspecified() { String::new() } else { ip.to_string() }
}

fn v4(addr: Addr4) -> IpAddr {
    Ipv4Addr::from(addr).into()
}

fn v6(addr: Addr6) -> IpAddr {
    Ipv6Addr::from(addr).into()
}

fn slots(state: &State, indexes: &Indexes, dir: &Path, faults: &mut Faults) {
    let wanted = state.bridged().map(|network| {
        let bridge = indexes.get(text(&network["bridge"], "ifname")).copied().unwrap_or_default();
        (network["index"].as_u64().and_then(|slot| u32::try_from(slot).ok()).unwrap_or_default(), bridge)
    });
    let found = networks(dir).into_iter().map(|(slot, network)| (slot, network.bridge)).collect();
    faults.same("network (slot, bridge)", &wanted.collect(), &found);
    let wanted = state.bridged().flat_map(|network| {
        let pools = network["ipam"]["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
        pools
            .iter()
            .map(|pool| (text(pool, "subnet").to_owned(), network["index"].as_u64().unwrap_or_default()))
    });
    let mut found = BTreeSet::new();
    let map: Option<LpmTrie<MapData, Addr4, u32>> =
        open(dir, "SUBNET4").and_then(|data| LpmTrie::try_from(Map::LpmTrie(data)).ok());
    for (key, slot) in map.iter().flat_map(|map| map.iter().flatten()) {
        found.insert((format!("{}/{}", v4(key.data()), key.prefix_len()), u64::from(slot)));
    }
    let map: Option<LpmTrie<MapData, Addr6, u32>> =
        open(dir, "SUBNET6").and_then(|data| LpmTrie::try_from(Map::LpmTrie(data)).ok());
    for (key, slot) in map.iter().flat_map(|map| map.iter().flatten()) {
        found.insert((format!("{}/{}", v6(key.data()), key.prefix_len()), u64::from(slot)));
    }
    faults.same("subnet (prefix, slot)", &wanted.collect(), &found);
}

fn publishes(state: &State, indexes: &Indexes, dir: &Path, faults: &mut Faults) {
    let mut found = BTreeSet::new();
    for (key, value) in table::<PublishKey<Addr4>, Publish<Addr4>>(dir, "PUBLISH4") {
        let binding = Binding {
            ip: v4(key.addr),
            port: key.port.into(),
            protocol: key.proto,
            inner: value.port.into(),
        };
        found.insert((binding, v4(value.backend), value.ifindex));
    }
    for (key, value) in table::<PublishKey<Addr6>, Publish<Addr6>>(dir, "PUBLISH6") {
        let binding = Binding {
            ip: v6(key.addr),
            port: key.port.into(),
            protocol: key.proto,
            inner: value.port.into(),
        };
        found.insert((binding, v6(value.backend).to_canonical(), value.ifindex));
    }
    let wanted = state.bindings().map(|(binding, at)| {
        let (ipv4, ipv6) = (address(&at.endpoint["ipv4"]), address(&at.endpoint["ipv6"]));
        let backend = if binding.ip.is_ipv4() { ipv4 } else { ipv6.or(ipv4) };
        let index = indexes.get(text(at.endpoint, "host_ifname")).copied().unwrap_or_default();
        (binding, backend.unwrap_or(binding.ip), index)
    });
    faults.same("published port (where, backend, index)", &wanted.collect(), &found);
    let sets = port_sets(dir);
    for (purpose, ipv4) in [(port_set::PUBLISHED4, true), (port_set::PUBLISHED6, false)] {
        for protocol in [6, 17, 132] {
            let wanted: BTreeSet<u16> = found
                .iter()
                .filter(|(binding, ..)| binding.ip.is_ipv4() == ipv4 && binding.protocol == protocol)
                .map(|(binding, ..)| binding.port)
                .collect();
            let index = port_set::index(purpose, protocol).and_then(|index| usize::try_from(index).ok());
            let set = index.and_then(|index| sets.get(index)).cloned().unwrap_or_default();
            faults.same(&format!("guarded port of protocol {protocol} (IPv4 {ipv4})"), &wanted, &set);
        }
    }
}

/// I5: both directions of a flow are there, and none belongs to an interface that is gone.
fn flows<A>(dir: &Path, name: &str, indexes: &Indexes, faults: &mut Faults)
where
    A: netd_common::family::Address + Eq + Hash,
    Tuple<A>: Pod,
    Flow<A>: Pod,
{
    let flows: std::collections::HashMap<Tuple<A>, Flow<A>> = table(dir, name).into_iter().collect();
    let living: BTreeSet<u32> = indexes.values().copied().chain([0]).collect();
    for (key, flow) in &flows {
        let dead = !living.contains(&key.zone)
            || (flow.flags & flow_flags::TO_SANDBOX != 0 && !living.contains(&flow.out));
        faults.check(!dead, || format!("too much: a flow in {name} of an interface that is gone"));
    }
    // In `FLOW6` the other direction of a mapped flow is in `FLOW4`.
    let mapped = |flow: &Flow<A>| flow.flags & flow_flags::AS_IPV4 != 0;
    let alone =
        flows.iter().filter(|(key, flow)| !mapped(flow) && !flows.contains_key(&key.counterpart(flow)));
    let alone: Vec<_> = alone.map(|(key, flow)| (*key, key.counterpart(flow))).collect();
    if alone.is_empty() {
        return;
    }
    // Flows come and go while they are read, a direction at a time.
    thread::sleep(Duration::from_millis(100));
    let map: Option<HashMap<MapData, Tuple<A>, Flow<A>>> =
        open(dir, name).and_then(|data| HashMap::try_from(Map::HashMap(data)).ok());
    let there = |key| map.as_ref().is_some_and(|map| map.get(key, 0).is_ok());
    for _ in alone.iter().filter(|(key, other)| there(key) && !there(other)) {
        faults.add(format!("missing: the other direction of a flow in {name}"));
    }
}

/// Interfaces and lists that other maps speak of exist.
fn surroundings(indexes: &Indexes, dir: &Path, faults: &mut Faults) {
    let living: BTreeSet<u32> = indexes.values().copied().collect();
    for (index, _) in table::<u32, Uplink>(dir, "UPLINK") {
        faults.check(living.contains(&index), || format!("too much: uplink {index}, which is gone"));
    }
    for (key, _) in table::<TrustKey, u32>(dir, "TRUST") {
        faults.check(living.contains(&key.ifindex), || {
            format!("too much: trust in {}, which is gone", key.ifindex)
        });
    }
    for (key, _) in table::<ViaKey, u32>(dir, "VIA") {
        faults.check(living.contains(&key.ifindex), || {
            format!("too much: a way by {}, which is gone", key.ifindex)
        });
    }
    let open4 = table::<PublishKey<Addr4>, Open>(dir, "OPEN4").into_iter().map(|(_, open)| open.ifindex);
    let open6 = table::<PublishKey<Addr6>, Open>(dir, "OPEN6").into_iter().map(|(_, open)| open.ifindex);
    for index in open4.chain(open6) {
        faults.check(living.contains(&index), || format!("too much: an open port of {index}, which is gone"));
    }
}
