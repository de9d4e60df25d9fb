//! Bytes of maps in words, by the names of their fields: addresses, ports, flags, interfaces.
//!
//! A field's name is its meaning in every layout (ADR 0016), so that nothing here depends on where it lies. Names of fields are those of
//! `netd_common::maps`.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netd_common::{
    maps::{Timeouts, endpoint_flags as endpoint, features, flow_flags, link_by, port_set, rule_flags},
    net::{HANDED_ZONE, LOOPBACK_ZONE, UPLINK_ZONE},
    verdict::{DropReason, tries},
};
use serde_json::{Map, Value, json};

use crate::dataplane::{
    flows,
    layout::{Field, Shape},
    shapes,
};

/// Names for the numbers in maps; what has none is shown as a number alone.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, String>,
    /// Sandboxes by the index of a host side.
    pub sandboxes: BTreeMap<u32, String>,
    /// Networks by slot.
    pub networks: BTreeMap<u32, String>,
}

type Bits = &'static [(u32, &'static str)];

const ENDPOINT: Bits = &[
    (endpoint::ACTIVE, "ACTIVE"),
    (endpoint::ICC, "ICC"),
    (endpoint::INTERNAL, "INTERNAL"),
    (endpoint::MASQUERADE4, "MASQUERADE4"),
    (endpoint::MASQUERADE6, "MASQUERADE6"),
    (endpoint::ROUTED4, "ROUTED4"),
    (endpoint::ROUTED6, "ROUTED6"),
    (endpoint::UNPROTECTED4, "UNPROTECTED4"),
    (endpoint::UNPROTECTED6, "UNPROTECTED6"),
    (endpoint::TRUSTS, "TRUSTS"),
    (endpoint::HOST_CLOSED, "HOST_CLOSED"),
    (endpoint::LINKS, "LINKS"),
    (endpoint::SEEN_AS_GATEWAY, "SEEN_AS_GATEWAY"),
    (endpoint::SEEN_AS_CLIENT, "SEEN_AS_CLIENT"),
    (endpoint::ANY_SOURCE, "ANY_SOURCE"),
    (endpoint::PROMOTION, "PROMOTION"),
    (endpoint::OWN_BRIDGE, "OWN_BRIDGE"),
];
const FLOW: Bits = &[
    (flow_flags::ORIGINAL as u32, "ORIGINAL"),
    (flow_flags::TRANSLATE as u32, "TRANSLATE"),
    (flow_flags::TO_SANDBOX as u32, "TO_SANDBOX"),
    (flow_flags::ROUTED as u32, "ROUTED"),
    (flow_flags::MASQUERADED as u32, "MASQUERADED"),
    (flow_flags::OPENED as u32, "OPENED"),
    (flow_flags::LINKED as u32, "LINKED"),
    (flow_flags::AS_IPV4 as u32, "AS_IPV4"),
];
const RULE: Bits = &[
    (rule_flags::INVERT as u32, "INVERT"),
    (rule_flags::FORBIDS as u32, "FORBIDS"),
    (rule_flags::SUPPRESSES as u32, "SUPPRESSES"),
];
const FEATURES: Bits = &[
    (features::PEER_SCRUBS, "PEER_SCRUBS"),
    (features::CSUM_IPV6, "CSUM_IPV6"),
    (features::DIRECT_ROUTING, "DIRECT_ROUTING"),
    (features::ASKS_HOST, "ASKS_HOST"),
    (features::UPLINKS_FIRST, "UPLINKS_FIRST"),
    (features::CHANGING, "CHANGING"),
];
const LINK: Bits = &[(link_by::LINK, "LINK"), (link_by::POLICY, "POLICY")];
/// Sets of `PORTS`, by purpose.
const PURPOSES: [(u32, &str); 5] = [
    (port_set::PUBLISHED4, "PUBLISHED4"),
    (port_set::PUBLISHED6, "PUBLISHED6"),
    (port_set::INTEREST, "INTEREST"),
    (port_set::EXCLUDED, "EXCLUDED"),
    (port_set::KEPT, "KEPT"),
];

/// Returns a key in words.
pub fn of_key(shape: &Shape, bytes: &[u8], names: &Names) -> Map<String, Value> {
    let mut key = fields(&shape.name, &shape.key, bytes, names);
    let index = key.get("index").and_then(Value::as_u64).and_then(|index| u32::try_from(index).ok());
    match (shape.name.as_str(), index) {
        ("DROPS", Some(index)) => drop(key.insert("counts".to_owned(), counted(index).into())),
        ("PORTS", Some(index)) => drop(key.insert("set".to_owned(), set(index).into())),
        ("NETWORK", Some(slot)) => named(&mut key, "network", names.networks.get(&slot)),
        ("ENDPOINT" | "USAGE4" | "USAGE6" | "PACE", Some(index)) => {
            named(&mut key, "interface", names.interfaces.get(&index));
            named(&mut key, "sandbox", names.sandboxes.get(&index));
        }
        _ => {}
    }
    key
}

/// Returns a value in words; of a map with a value for each processor, their sum.
pub fn of_value(shape: &Shape, bytes: &[u8], names: &Names) -> Map<String, Value> {
    let size = shape.value_size();
    if bytes.len() > size && size <= 8 {
        let sum: u64 = bytes.chunks_exact(8).map(|one| number(&one[..size])).sum();
        let name = shape.value.first().map_or("value", |field| field.name.as_str());
        return Map::from_iter([(name.to_owned(), sum.into())]);
    }
    fields(&shape.name, &shape.value, bytes, names)
}

fn fields(map: &str, fields: &[Field], bytes: &[u8], names: &Names) -> Map<String, Value> {
    let mut all = Map::new();
    for field in fields.iter().filter(|field| field.name != "pad") {
        let Some(part) = bytes.get(field.offset..field.offset + field.size) else { continue };
        all.insert(field.name.clone(), of_field(map, &field.name, part, names));
        if field.size == 4 {
            explain(&mut all, map, &field.name, number32(part), names);
        }
    }
    all
}

/// Adds what a number stands for.
fn explain(all: &mut Map<String, Value>, map: &str, field: &str, number: u32, names: &Names) {
    match field {
        "ifindex" | "out" | "iif" | "bridge" | "device" => {
            named(all, &format!("{field}_name"), names.interfaces.get(&number));
            named(all, &format!("{field}_sandbox"), names.sandboxes.get(&number));
        }
        "zone" => {
            let own = [(UPLINK_ZONE, "uplink"), (LOOPBACK_ZONE, "host"), (HANDED_ZONE, "handed over")];
            let own = own.into_iter().find(|(zone, _)| *zone == number).map(|(_, name)| name.to_owned());
            named(all, "zone_name", own.as_ref().or_else(|| names.sandboxes.get(&number)));
        }
        "slot" => named(all, "network_name", names.networks.get(&number)),
        "network" if map == "TRUST" => named(all, "network_name", names.networks.get(&number)),
        _ => {}
    }
}

fn named(all: &mut Map<String, Value>, key: &str, name: Option<&String>) {
    all.extend(name.map(|name| (key.to_owned(), Value::from(name.clone()))));
}

/// Returns one field in words.
pub fn of_field(map: &str, field: &str, bytes: &[u8], names: &Names) -> Value {
    let family = map.trim_end_matches(['4', '6']);
    match (field, bytes.len()) {
        ("secret", _) => "hidden".into(),
        ("mac" | "smac" | "dmac", 6) => crate::model::Mac(array(bytes)).to_string().into(),
        ("port" | "sport" | "dport", 2) => u16::from_be_bytes(array(bytes)).into(),
        ("proto", 1 | 2) => flows::protocol_name(u8::try_from(number(bytes)).unwrap_or(u8::MAX)).into(),
        ("sports" | "dports", 4) => json!([half(bytes, 0), half(bytes, 2)]),
        ("ports", _) if map == "CONFIG" => bytes.chunks_exact(4).filter_map(range).collect(),
        ("ports", _) => ranges(bytes).into(),
        ("timeouts", _) => timeouts(bytes),
        ("flags", _) => bits(
            match family {
                "ENDPOINT" | "NETWORK" | "ADDRESS" => ENDPOINT,
                "FLOW" => FLOW,
                "RULE" => RULE,
                _ => &[],
            },
            number(bytes),
        ),
        ("features", _) => bits(FEATURES, number(bytes)),
        ("present", _) if family == "LINK" => bits(LINK, number(bytes)),
        ("original", 20) => fields("FLOW4", &shapes::tuple::<netd_common::net::Addr4>(), bytes, names).into(),
        ("original", 44) => fields("FLOW6", &shapes::tuple::<netd_common::net::Addr6>(), bytes, names).into(),
        (_, 4) if is_address(field) => std::net::Ipv4Addr::from(array::<4>(bytes)).to_string().into(),
        (_, 16) if is_address(field) => std::net::Ipv6Addr::from(array::<16>(bytes)).to_string().into(),
        (_, 1 | 2 | 4 | 8) => number(bytes).into(),
        _ => hex(bytes).into(),
    }
}

/// Whether a field of that name and the size of an address is one.
fn is_address(field: &str) -> bool {
    const NAMES: [&str; 15] = [
        "addr", "src", "dst", "backend", "nexthop", "addr4", "addr6", "mask4", "mask6", "gateway4",
        "gateway6", "source4", "source6", "src_mask", "dst_mask",
    ];
    NAMES.contains(&field)
}

/// Returns the prefix that a key of a trie stands for, behind so many bits of something else.
pub fn prefix(key: &[u8], before: usize) -> Option<IpNet> {
    let bits = u8::try_from(number32(key.get(..4)?).checked_sub(u32::try_from(before * 8).ok()?)?).ok()?;
    let addr = key.get(4 + before..)?;
    match addr.len() {
        4 => IpNet::new(std::net::Ipv4Addr::from(array::<4>(addr)).into(), bits).ok(),
        16 => IpNet::new(std::net::Ipv6Addr::from(array::<16>(addr)).into(), bits).ok(),
        _ => None,
    }
}

/// Returns what an element of `DROPS` counts.
fn counted(index: u32) -> String {
    if let Some(reason) = DropReason::ALL.iter().find(|reason| **reason as u32 == index) {
        return reason.as_str().to_owned();
    }
    match index.checked_sub(tries::FIRST).and_then(|at| tries::AT_MOST.into_iter().nth(at as usize)) {
        Some(most) => format!("flows whose port was found in {most} tries"),
        None if index == tries::SUM => "tries for a port".to_owned(),
        None => "verdicts".to_owned(),
    }
}

/// Returns what an element of `PORTS` is for.
pub fn set(index: u32) -> String {
    let proto = ["tcp", "udp", "icmp", "sctp"].get((index / port_set::PURPOSES) as usize).unwrap_or(&"?");
    let purpose = PURPOSES.iter().find(|(purpose, _)| *purpose == index % port_set::PURPOSES);
    format!("{proto} {}", purpose.map_or("?", |(_, name)| name))
}

/// Returns the ports of a set as ranges.
pub fn ranges(set: &[u8]) -> Vec<String> {
    let is_in = |port: usize| set.get(port / 8).is_some_and(|byte| byte >> (port % 8) & 1 == 1);
    let mut all: Vec<(usize, usize)> = Vec::new();
    for port in (0..set.len() * 8).filter(|port| is_in(*port)) {
        match all.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => all.push((port, port)),
        }
    }
    all.iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect()
}

/// Returns one range of `CONFIG`; None: it is unused.
fn range(bytes: &[u8]) -> Option<String> {
    let (first, count) = (half(bytes, 0), half(bytes, 2));
    (count > 0).then(|| format!("{first}-{}", u32::from(first) + u32::from(count) - 1))
}

fn timeouts(bytes: &[u8]) -> Value {
    if bytes.len() != size_of::<Timeouts>() {
        return hex(bytes).into();
    }
    let of = |field: &Field| {
        let ticks = number32(&bytes[field.offset..field.offset + field.size]);
        (field.name.clone(), json!(flows::seconds(ticks)))
    };
    shapes::timeouts().iter().map(of).collect::<Map<_, _>>().into()
}

fn bits(names: Bits, mut value: u64) -> Value {
    let mut set = Vec::new();
    for (bit, name) in names {
        if value & u64::from(*bit) != 0 {
            set.push((*name).to_owned());
            value &= !u64::from(*bit);
        }
    }
    if value != 0 {
        set.push(format!("{value:#x}"));
    }
    set.into()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |half| u16::from_ne_bytes(array(half)))
}

/// Returns a number of at most eight bytes, as this machine orders them.
pub fn number(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    for (place, byte) in wide.iter_mut().zip(bytes) {
        *place = *byte;
    }
    u64::from_le_bytes(wide)
}

fn number32(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(array(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // into a string, which takes everything
        text
    })
}

#[cfg(test)]
mod tests {
    use netd_common::{
        maps::{Config, Endpoint, PortRange, Publish, PublishKey},
        net::{Addr4, Be16, Mac},
    };

    use super::*;
    use crate::dataplane::maps::bytes_of;

    fn shape(name: &str) -> Shape {
        shapes::all(16).into_iter().find(|shape| shape.name == name).expect("a map of netd's")
    }

    fn names() -> Names {
        Names {
            interfaces: BTreeMap::from([(7, "veth7".to_owned())]),
            sandboxes: BTreeMap::from([(7, "web".to_owned())]),
            networks: BTreeMap::from([(3, "app".to_owned())]),
        }
    }

    #[test]
    fn keys_and_values_are_told_by_the_names_of_their_fields() {
        let key = PublishKey {
            addr: Addr4::from(std::net::Ipv4Addr::new(192, 0, 2, 1)),
            port: Be16::from(8080),
            proto: 6,
            pad: 0,
        };
        let shape = shape("PUBLISH4");
        let told = of_key(&shape, bytes_of(&key), &names());
        assert_eq!(Value::from(told), json!({"addr": "192.0.2.1", "port": 8080, "proto": "tcp"}));
        let value = Publish::<Addr4> { ifindex: 7, port: Be16::from(80), network: 3, ..Publish::default() };
        let told = Value::from(of_value(&shape, bytes_of(&value), &names()));
        assert_eq!((&told["port"], &told["ifindex"]), (&json!(80), &json!(7)));
        assert_eq!((&told["ifindex_name"], &told["ifindex_sandbox"]), (&json!("veth7"), &json!("web")));
    }

    #[test]
    fn flags_have_names_and_what_has_none_is_a_number() {
        let flags = endpoint::ACTIVE | endpoint::ICC | 1 << 30;
        let endpoint = Endpoint { flags, mac: Mac::from([2, 0, 0, 0, 0, 9]), ..Endpoint::default() };
        let told = Value::from(of_value(&shape("ENDPOINT"), bytes_of(&endpoint), &names()));
        assert_eq!(told["flags"], json!(["ACTIVE", "ICC", "0x40000000"]));
        assert_eq!(told["mac"], json!("02:00:00:00:00:09"));
    }

    #[test]
    fn the_key_of_the_port_choice_is_not_told() {
        let ports = [
            PortRange { first: 10_000, count: 2 },
            PortRange::default(),
            PortRange::default(),
            PortRange::default(),
        ];
        let config = Config { secret: 0x1234_5678, ports, ..Config::default() };
        let told = Value::from(of_value(&shape("CONFIG"), bytes_of(&config), &names()));
        assert_eq!((&told["secret"], &told["ports"]), (&json!("hidden"), &json!(["10000-10001"])));
        assert!(told["timeouts"]["tcp_established"].is_number(), "{told}");
    }

    #[test]
    fn every_field_of_every_map_is_told() {
        for shape in shapes::all(16).iter().filter(|shape| !shape.value.is_empty()) {
            let told = of_value(shape, &vec![0; shape.value_size()], &Names::default());
            let fields = shape.value.iter().filter(|field| field.name != "pad");
            assert!(fields.clone().all(|field| told.contains_key(&field.name)), "{} {told:?}", shape.name);
        }
    }

    #[test]
    fn sets_of_ports_are_told_as_ranges() {
        let mut set = vec![0_u8; 8192];
        for port in [80, 443, 444, 65_535] {
            set[port / 8] |= 1 << (port % 8);
        }
        assert_eq!(ranges(&set), ["80", "443-444", "65535"]);
        assert_eq!(super::set(port_set::index(port_set::EXCLUDED, 17).expect("udp")), "udp EXCLUDED");
    }
}
