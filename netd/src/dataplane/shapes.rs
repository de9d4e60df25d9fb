//! The maps of this netd, field by field.

use std::mem::offset_of;

use netd_common::{
    maps::{
        AllowKey, Allowance, Config, Datagram, Dialled, DialledKey, Endpoint, Flow, FragmentKey, Handed,
        Hearing, Held, LinkKey, Network, Open, Owner, Pace, Pending, Place, PortSet, Publish, PublishKey,
        RouteKey, Rule6, Timeouts, TrustKey, Tuple, Uplink, ViaKey, capacity, held, port_set,
    },
    monitor::RING_BYTES,
    net::{Addr4, Addr6},
    verdict::COUNTERS as REASONS,
};

use super::{
    IPV6_SHARE,
    layout::{Field, Kind, Shape},
};

/// Lists the fields of a type; `check` compares their sum with the map's own sizes at every start.
macro_rules! fields {
    ($type:ty: $($field:ident),+) => {
        vec![$( field(stringify!($field), offset_of!($type, $field), |value: &$type| &value.$field) ),+]
    };
}

fn field<T, F>(name: &str, offset: usize, _: impl Fn(&T) -> &F) -> Field {
    Field { name: name.to_owned(), offset, size: size_of::<F>() }
}

/// A key or value that is one thing.
fn whole<T>(name: &str) -> Vec<Field> {
    vec![Field { name: name.to_owned(), offset: 0, size: size_of::<T>() }]
}

/// A key of a trie: the length of the prefix, then these fields.
fn prefix(of: Vec<Field>) -> Vec<Field> {
    let length = Field { name: "prefix_len".to_owned(), offset: 0, size: 4 };
    let moved = of.into_iter().map(|field| Field { offset: field.offset + 4, ..field });
    [length].into_iter().chain(moved).collect()
}

/// Returns the fields of a flow's key.
pub fn tuple<A>() -> Vec<Field> {
    fields!(Tuple<A>: src, dst, sport, dport, zone, proto, pad)
}

fn flow<A>() -> Vec<Field> {
    fields!(Flow<A>: epoch, flags, seen, pad, src, dst, sport, dport, out, addr_delta, port_delta, dmac, mtu, smac, acked, nexthop,
        generation, last_seen, created)
}

fn config() -> Vec<Field> {
    fields!(Config: epoch, features, netns_cookie, secret, port_count, ports, timeouts, filter4, filter6, quota4, quota6, places4,
        places6, accept_mark, accept_mask, rules6, opening_rate)
}

fn endpoint() -> Vec<Field> {
    fields!(Endpoint: flags, network, mac, addr4, mask4, gateway4, published, addr6, mask6, gateway6)
}

fn network() -> Vec<Field> {
    fields!(Network: bridge, flags, mac, pad, gateway4, source4, gateway6, source6)
}

fn publish_key<A>() -> Vec<Field> {
    fields!(PublishKey<A>: addr, port, proto, pad)
}

fn rule6() -> Vec<Field> {
    fields!(Rule6: src, src_mask, dst, dst_mask, mark, mark_mask, iif, table, sports, dports, proto, class, flags)
}

/// Returns the maps of one family: its digit, and how many times smaller its flow table is.
fn of_family<A>(digit: char, flows: u32) -> Vec<Shape> {
    use Kind::{Array, Hash, LpmTrie, LruHash};
    let shape = |name: &str, kind, entries, key, value| Shape {
        name: format!("{name}{digit}"),
        kind,
        entries,
        key,
        value,
    };
    let owner = fields!(Owner: ifindex, network, mac, flags);
    let publish = fields!(Publish<A>: backend, ifindex, port, network, allow, via);
    let handed = fields!(Handed<A>: addr, port, pad, since);
    let link = fields!(LinkKey<A>: src, dst, port, proto, pad);
    let place = fields!(Place: ifindex, number);
    vec![
        shape("FLOW", Hash, flows, tuple::<A>(), flow::<A>()),
        shape("ADDRESS", Hash, capacity::ADDRESS, whole::<A>("addr"), owner),
        shape("SUBNET", LpmTrie, capacity::SUBNET, prefix(whole::<A>("addr")), whole::<u32>("slot")),
        shape("LOCAL", Hash, capacity::LOCAL, whole::<A>("addr"), whole::<u32>("present")),
        shape("PUBLISH", Hash, capacity::PUBLISH, publish_key::<A>(), publish),
        shape("OPEN", Hash, capacity::OPEN, publish_key::<A>(), fields!(Open: ifindex, allow, via)),
        shape(
            "ALLOW",
            LpmTrie,
            capacity::ALLOW,
            prefix(fields!(AllowKey<A>: list, addr)),
            whole::<u32>("present"),
        ),
        shape("ASKED", LruHash, capacity::ASKED, tuple::<A>(), whole::<u32>("tick")),
        shape("HANDED", LruHash, capacity::HANDED, tuple::<A>(), handed),
        shape("INPUT", LruHash, capacity::INPUT, tuple::<A>(), fields!(Hearing: state, since, asked)),
        shape("DENY", LpmTrie, capacity::DENY, prefix(whole::<A>("addr")), whole::<u32>("present")),
        shape("OPENINGS", LruHash, capacity::OPENINGS, whole::<A>("addr"), fields!(Allowance: tick, tokens)),
        shape("LINK", Hash, capacity::LINK, link, whole::<u32>("present")),
        shape("USAGE", Array, capacity::ENDPOINT, whole::<u32>("index"), whole::<u32>("flows")),
        shape("PENDING", LruHash, flows.div_ceil(2), place, fields!(Pending<A>: original, generation)),
        shape(
            "DATAGRAM",
            LruHash,
            capacity::DATAGRAM,
            whole::<FragmentKey<A>>("datagram"),
            whole::<Datagram>("state"),
        ),
    ]
}

/// Returns the fields of the timeouts in `CONFIG`.
pub fn timeouts() -> Vec<Field> {
    fields!(Timeouts: tcp_syn_sent, tcp_syn_recv, tcp_established, tcp_closing, tcp_closed, tcp_reset, udp, udp_replied, udp_dns, icmp,
        other)
}

/// Returns every map that is pinned, where the table of IPv4 flows has so many entries.
pub fn all(flow_entries: u32) -> Vec<Shape> {
    use Kind::{Array, Hash, LpmTrie, LruHash, PerCpuArray, RingBuf};
    let shape =
        |name: &str, kind, entries, key, value| Shape { name: name.into(), kind, entries, key, value };
    let array = |name: &str, entries, value| shape(name, Array, entries, whole::<u32>("index"), value);
    let mut maps = of_family::<Addr4>('4', flow_entries);
    maps.extend(of_family::<Addr6>('6', flow_entries.div_ceil(IPV6_SHARE)));
    maps.extend([
        array("CONFIG", 1, config()),
        array("ENDPOINT", capacity::ENDPOINT, endpoint()),
        array("NETWORK", capacity::NETWORK, network()),
        array("RULE6", capacity::RULE6, rule6()),
        shape(
            "LONGER6",
            LpmTrie,
            capacity::LONGER6,
            prefix(fields!(RouteKey: rule, addr)),
            whole::<u32>("ifindex"),
        ),
        array("PORTS", port_set::COUNT, whole::<PortSet>("ports")),
        array("PACE", capacity::ENDPOINT, fields!(Pace: place, tick, resets)),
        array("HELD", capacity::HELD, whole::<Held>("fragment")),
        array("HELD_BYTES", capacity::HELD, whole::<[u8; held::BYTES]>("bytes")),
        array("HELD_NEXT", held::SHELVES, whole::<u32>("next")),
        shape("DROPS", PerCpuArray, REASONS, whole::<u32>("index"), whole::<u64>("packets")),
        array("LISTENING", 1, whole::<u32>("listening")),
        shape("EVENTS", RingBuf, RING_BYTES, Vec::new(), Vec::new()),
        shape("UPLINK", Hash, capacity::UPLINK, whole::<u32>("ifindex"), fields!(Uplink: addr4, addr6, mtu)),
        shape("TRUST", Hash, capacity::TRUST, fields!(TrustKey: network, ifindex), whole::<u32>("present")),
        shape("VIA", Hash, capacity::VIA, fields!(ViaKey: list, ifindex), whole::<u32>("present")),
        shape(
            "DIALLED",
            LruHash,
            capacity::DIALLED,
            fields!(DialledKey: cookie, addr, port, proto),
            fields!(Dialled: addr, port, names),
        ),
    ]);
    maps
}
