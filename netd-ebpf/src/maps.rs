//! The maps, as `netd_common::maps` describes them. All are pinned by name in the instance's directory.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use netd_common::{
    env::Draft,
    family::{V4, V6},
    maps::{
        AllowKey, Allowance, Config, Datagram, Dialled, DialledKey, Endpoint, Flow, FragmentKey, Handed,
        Hearing, Held, LinkKey, Network, Open, Owner, Pace, Pending, Place, PortSet, Publish, PublishKey,
        RouteKey, Rule6, Slot, TrustKey, Tuple, Uplink, ViaKey, capacity, held, port_set,
    },
    monitor::{self, Bucket},
    net::{Addr4, Addr6, IfIndex},
    verdict::COUNTERS as REASONS,
};

use crate::fib::Asked;

/// One entry: what all programs read.
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Both directions of every IPv4 flow. Preallocated and not LRU: no half of a flow is ever evicted.
#[map]
pub static FLOW4: HashMap<Tuple<Addr4>, Flow<Addr4>> = HashMap::with_max_entries(capacity::FLOW4, 0);
/// Both directions of every IPv6 flow.
#[map]
pub static FLOW6: HashMap<Tuple<Addr6>, Flow<Addr6>> = HashMap::with_max_entries(capacity::FLOW6, 0);
/// Endpoints by the index of their veth's host side.
#[map]
pub static ENDPOINT: Array<Endpoint> = Array::with_max_entries(capacity::ENDPOINT, 0);
/// Who has an IPv4 address.
#[map]
pub static ADDRESS4: HashMap<Addr4, Owner> = HashMap::with_max_entries(capacity::ADDRESS, BPF_F_NO_PREALLOC);
/// Who has an IPv6 address.
#[map]
pub static ADDRESS6: HashMap<Addr6, Owner> = HashMap::with_max_entries(capacity::ADDRESS, BPF_F_NO_PREALLOC);
/// Networks by slot.
#[map]
pub static NETWORK: Array<Network> = Array::with_max_entries(capacity::NETWORK, 0);
/// Slots by IPv4 subnet.
#[map]
pub static SUBNET4: LpmTrie<Addr4, Slot> = LpmTrie::with_max_entries(capacity::SUBNET, BPF_F_NO_PREALLOC);
/// Slots by IPv6 subnet.
#[map]
pub static SUBNET6: LpmTrie<Addr6, Slot> = LpmTrie::with_max_entries(capacity::SUBNET, BPF_F_NO_PREALLOC);
/// The host's own IPv4 addresses.
#[map]
pub static LOCAL4: HashMap<Addr4, u32> = HashMap::with_max_entries(capacity::LOCAL, BPF_F_NO_PREALLOC);
/// The host's own IPv6 addresses.
#[map]
pub static LOCAL6: HashMap<Addr6, u32> = HashMap::with_max_entries(capacity::LOCAL, BPF_F_NO_PREALLOC);
/// Published ports on IPv4 addresses.
#[map]
pub static PUBLISH4: HashMap<PublishKey<Addr4>, Publish<Addr4>> =
    HashMap::with_max_entries(capacity::PUBLISH, BPF_F_NO_PREALLOC);
/// Published ports on IPv6 addresses.
#[map]
pub static PUBLISH6: HashMap<PublishKey<Addr6>, Publish<Addr6>> =
    HashMap::with_max_entries(capacity::PUBLISH, BPF_F_NO_PREALLOC);
/// Ports open on sandboxes' own IPv4 addresses.
#[map]
pub static OPEN4: HashMap<PublishKey<Addr4>, Open> =
    HashMap::with_max_entries(capacity::OPEN, BPF_F_NO_PREALLOC);
/// Ports open on sandboxes' own IPv6 addresses.
#[map]
pub static OPEN6: HashMap<PublishKey<Addr6>, Open> =
    HashMap::with_max_entries(capacity::OPEN, BPF_F_NO_PREALLOC);
/// Lists of sources that may come to a port, IPv4.
#[map]
pub static ALLOW4: LpmTrie<AllowKey<Addr4>, u32> =
    LpmTrie::with_max_entries(capacity::ALLOW, BPF_F_NO_PREALLOC);
/// Lists of sources that may come to a port, IPv6.
#[map]
pub static ALLOW6: LpmTrie<AllowKey<Addr6>, u32> =
    LpmTrie::with_max_entries(capacity::ALLOW, BPF_F_NO_PREALLOC);
/// Lists of interfaces by which the outside may come to a port.
#[map]
pub static VIA: HashMap<ViaKey, u32> = HashMap::with_max_entries(capacity::VIA, BPF_F_NO_PREALLOC);
/// Ticks at which the host sent something, by the answer's tuple: to sandboxes that may not reach it, and to the outside by protocols whose sockets cannot be
/// looked up. LRU: a lost entry costs an answer, or leaves a tuple to a sandbox until the host's next packet.
#[map]
pub static ASKED4: LruHashMap<Tuple<Addr4>, u32> = LruHashMap::with_max_entries(capacity::ASKED, 0);
/// The same for IPv6.
#[map]
pub static ASKED6: LruHashMap<Tuple<Addr6>, u32> = LruHashMap::with_max_entries(capacity::ASKED, 0);
/// What IPv4 packets were addressed to that the host's stack was given to answer, by the answer's tuple. LRU: a lost entry costs an error.
#[map]
pub static HANDED4: LruHashMap<Tuple<Addr4>, Handed<Addr4>> =
    LruHashMap::with_max_entries(capacity::HANDED, 0);
/// The same for IPv6.
#[map]
pub static HANDED6: LruHashMap<Tuple<Addr6>, Handed<Addr6>> =
    LruHashMap::with_max_entries(capacity::HANDED, 0);
/// What the host's own input rules say of IPv4 packets to published ports. LRU: a lost entry costs a packet, which is sent again.
#[map]
pub static INPUT4: LruHashMap<Tuple<Addr4>, Hearing> = LruHashMap::with_max_entries(capacity::INPUT, 0);
/// The same for IPv6.
#[map]
pub static INPUT6: LruHashMap<Tuple<Addr6>, Hearing> = LruHashMap::with_max_entries(capacity::INPUT, 0);
/// IPv4 sources that the guard denies.
#[map]
pub static DENY4: LpmTrie<Addr4, u32> = LpmTrie::with_max_entries(capacity::DENY, BPF_F_NO_PREALLOC);
/// The same for IPv6.
#[map]
pub static DENY6: LpmTrie<Addr6, u32> = LpmTrie::with_max_entries(capacity::DENY, BPF_F_NO_PREALLOC);
/// What IPv4 sources may still open. LRU: a lost entry is a full bucket.
#[map]
pub static OPENINGS4: LruHashMap<Addr4, Allowance> = LruHashMap::with_max_entries(capacity::OPENINGS, 0);
/// The same for IPv6, by the first half of an address.
#[map]
pub static OPENINGS6: LruHashMap<Addr6, Allowance> = LruHashMap::with_max_entries(capacity::OPENINGS, 0);
/// What links and policies open between two IPv4 addresses.
#[map]
pub static LINK4: HashMap<LinkKey<Addr4>, u32> = HashMap::with_max_entries(capacity::LINK, BPF_F_NO_PREALLOC);
/// The same for IPv6.
#[map]
pub static LINK6: HashMap<LinkKey<Addr6>, u32> = HashMap::with_max_entries(capacity::LINK, BPF_F_NO_PREALLOC);
/// Interfaces that may reach a network's open ports directly.
#[map]
pub static TRUST: HashMap<TrustKey, u32> = HashMap::with_max_entries(capacity::TRUST, BPF_F_NO_PREALLOC);
/// Sets of ports by `port_set::index`.
#[map]
pub static PORTS: Array<PortSet> = Array::with_max_entries(port_set::COUNT, 0);
/// Devices through which the outside is reached.
#[map]
pub static UPLINK: HashMap<IfIndex, Uplink> = HashMap::with_max_entries(capacity::UPLINK, BPF_F_NO_PREALLOC);
/// Rules of the host's IPv6 policy routing, in their order, while one of them suppresses routes.
#[map]
pub static RULE6: Array<Rule6> = Array::with_max_entries(capacity::RULE6, 0);
/// Devices of the routes that such rules do not suppress.
#[map]
pub static LONGER6: LpmTrie<RouteKey, IfIndex> =
    LpmTrie::with_max_entries(capacity::LONGER6, BPF_F_NO_PREALLOC);
/// What host processes dialled where the socket programs changed it. LRU: a lost entry costs only the name of a peer.
#[map]
pub static DIALLED: LruHashMap<DialledKey, Dialled> = LruHashMap::with_max_entries(capacity::DIALLED, 0);
/// Fragmented IPv4 datagrams whose first fragment was seen.
#[map]
pub static DATAGRAM4: LruHashMap<FragmentKey<Addr4>, Datagram> =
    LruHashMap::with_max_entries(capacity::DATAGRAM, 0);
/// Fragmented IPv6 datagrams whose first fragment was seen.
#[map]
pub static DATAGRAM6: LruHashMap<FragmentKey<Addr6>, Datagram> =
    LruHashMap::with_max_entries(capacity::DATAGRAM, 0);
/// Fragments that wait for their first, by place.
#[map]
pub static HELD: Array<Held> = Array::with_max_entries(capacity::HELD, 0);
/// What waiting fragments carry.
#[map]
pub static HELD_BYTES: Array<[u8; held::BYTES]> = Array::with_max_entries(capacity::HELD, 0);
/// Fragments that each shelf has taken so far.
#[map]
pub static HELD_NEXT: Array<u32> = Array::with_max_entries(held::SHELVES, 0);
/// Working memory: the datagram of the fragment at hand.
#[map]
pub static HELD_KEY: PerCpuArray<FragmentKey<Addr6>> = PerCpuArray::with_max_entries(1, 0);
/// IPv4 flows that each endpoint pays for. The programs count; the daemon puts it right each time it has looked at every flow.
#[map]
pub static USAGE4: Array<u32> = Array::with_max_entries(capacity::ENDPOINT, 0);
/// The same for IPv6.
#[map]
pub static USAGE6: Array<u32> = Array::with_max_entries(capacity::ENDPOINT, 0);
/// What goes on at each endpoint.
#[map]
pub static PACE: Array<Pace> = Array::with_max_entries(capacity::ENDPOINT, 0);
/// Each endpoint's latest IPv4 flows by place. LRU: a lost entry costs one early chance to make room.
#[map]
pub static PENDING4: LruHashMap<Place, Pending<Addr4>> = LruHashMap::with_max_entries(capacity::PENDING4, 0);
/// Each endpoint's latest IPv6 flows by place.
#[map]
pub static PENDING6: LruHashMap<Place, Pending<Addr6>> = LruHashMap::with_max_entries(capacity::PENDING6, 0);
/// Dropped packets by reason.
#[map]
pub static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASONS, 0);
/// One entry, the daemon's: not zero while somebody wants to be told of drops.
#[map]
pub static LISTENING: Array<u32> = Array::with_max_entries(1, 0);
/// What listeners are told.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(monitor::RING_BYTES, 0);
/// How much of each kind they may still be told.
#[map]
pub static BUCKETS: PerCpuArray<Bucket> = PerCpuArray::with_max_entries(monitor::BUCKETS, 0);
/// Working memory for opening an IPv4 flow.
#[map]
pub static DRAFT4: PerCpuArray<Draft<V4>> = PerCpuArray::with_max_entries(1, 0);
/// Working memory for opening an IPv6 flow.
#[map]
pub static DRAFT6: PerCpuArray<Draft<V6>> = PerCpuArray::with_max_entries(1, 0);
/// Working memory for asking for IPv4 routes.
#[map]
pub static ROUTING4: PerCpuArray<Asked<Addr4>> = PerCpuArray::with_max_entries(1, 0);
/// Working memory for asking for IPv6 routes.
#[map]
pub static ROUTING6: PerCpuArray<Asked<Addr6>> = PerCpuArray::with_max_entries(1, 0);
