use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::{BridgeOptions, Driver, Id, Ipam};

fn pool(subnet: &str) -> Pool {
    let subnet = subnet.parse().expect("a subnet");
    Pool { subnet, ip_range: None, gateway: None, aux: BTreeMap::new(), configured: true }
}

fn network(name: &str, pools: Vec<Pool>) -> Network {
    let id = Id::from_bytes(&[1; 32]);
    Network {
        bridge: BridgeOptions::parse(&BTreeMap::new(), &id).expect("defaults"),
        name: name.parse().expect("a name"),
        driver: Driver::Bridge,
        created: String::new(),
        internal: false,
        ipv4: true,
        ipv6: pools.len() > 1,
        ipam: Ipam { pools },
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        index: Some(1),
        policies: Vec::new(),
        id,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Takes addresses until none is left, at most `limit`.
fn drain(pool: &Pool, mut used: BTreeSet<IpAddr>, limit: usize) -> Vec<String> {
    let mut given = Vec::new();
    while let Some(address) = allocate(pool, &used).filter(|_| given.len() < limit) {
        assert!(used.insert(address), "{address} was handed out twice");
        given.push(address.to_string());
    }
    given
}

#[test]
fn reserved_addresses_follow_the_family_and_length() {
    for (subnet, expected) in [
        ("10.0.0.0/29", &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"][..]),
        ("10.0.0.0/30", &["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.0/31", &["10.0.0.0", "10.0.0.1"]),
        ("10.0.0.7/32", &["10.0.0.7"]),
        ("fd00::/126", &["fd00::1", "fd00::2", "fd00::3"]),
        ("fd00::/127", &["fd00::1"]),
        ("fd00::9/128", &[]),
        ("255.255.255.254/31", &["255.255.255.254", "255.255.255.255"]),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127", &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
    ] {
        assert_eq!(drain(&pool(subnet), BTreeSet::new(), 10), expected, "{subnet}");
    }
}

#[test]
fn a_freed_address_goes_to_the_next_endpoint() {
    let pool = pool("10.0.0.0/24");
    let mut used: BTreeSet<IpAddr> = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(ip).into();
    assert_eq!(allocate(&pool, &used), Some(ip("10.0.0.4")));
    used.remove(&ip("10.0.0.2"));
    assert_eq!(allocate(&pool, &used), Some(ip("10.0.0.2")));
}

#[test]
fn huge_pools_cost_nothing() {
    for (subnet, second) in [("10.0.0.0/8", "10.0.0.2"), ("fd00::/64", "fd00::2"), ("fd00::/8", "fd00::2")] {
        assert_eq!(drain(&pool(subnet), BTreeSet::new(), 2)[1], second, "{subnet}");
    }
}

#[test]
fn dynamic_addresses_come_from_the_range() {
    let ranged = Pool { ip_range: Some("10.0.0.248/29".parse().expect("a range")), ..pool("10.0.0.0/24") };
    let given = drain(&ranged, [ip("10.0.0.249")].into(), 10);
    assert_eq!(given[0], "10.0.0.248");
    assert_eq!(given[1], "10.0.0.250");
    assert_eq!(given.last().map(String::as_str), Some("10.0.0.254"), "the broadcast address stays reserved");
}

#[test]
fn a_static_address_is_in_the_subnet_and_free() {
    let web = Pool {
        gateway: Some(ip("10.0.0.1")),
        ip_range: Some("10.0.0.64/26".parse().expect("a range")),
        ..pool("10.0.0.0/24")
    };
    let network = network("web", vec![web]);
    let used = [ip("10.0.0.1"), ip("10.0.0.9")].into();
    for free in ["10.0.0.2", "10.0.0.70", "10.0.0.254"] {
        assert_eq!(claim(&network, ip(free), &used), Ok(()), "{free}");
    }
    for taken in ["10.0.0.0", "10.0.0.1", "10.0.0.9", "10.0.0.255"] {
        let error = claim(&network, ip(taken), &used).expect_err(taken);
        assert_eq!(error.code, Code::Conflict, "{taken}");
        assert!(error.message.starts_with("Address already in use"), "{error}");
    }
    for outside in ["10.0.1.0", "192.0.2.1", "fd00::1"] {
        let error = claim(&network, ip(outside), &used).expect_err(outside);
        assert_eq!(error.code, Code::Usage, "{outside}");
        assert_eq!(error.message, format!("no configured subnet contains IP address {outside}"));
    }
}

#[test]
fn an_endpoint_gets_one_address_of_each_family() {
    let dual = network("dual", vec![pool("10.0.0.0/24"), pool("fd00::/64")]);
    let wanted = Some("fd00::7".parse().expect("an address"));
    let (ipv4, ipv6) = endpoint_addresses(&dual, None, wanted, &[ip("10.0.0.1")].into()).expect("free");
    assert_eq!(ipv4.map(|net| net.to_string()).as_deref(), Some("10.0.0.2/24"));
    assert_eq!(ipv6.map(|net| net.to_string()).as_deref(), Some("fd00::7/64"));

    let single = network("single", vec![pool("10.0.0.0/24")]);
    assert_eq!(endpoint_addresses(&single, None, None, &BTreeSet::new()).expect("free").1, None);
}

#[test]
fn the_default_network_takes_no_static_address() {
    let bridge = network("bridge", vec![pool("172.17.0.0/16")]);
    let error = endpoint_addresses(&bridge, Some(Ipv4Addr::new(172, 17, 0, 9)), None, &BTreeSet::new())
        .expect_err("refused");
    assert_eq!(error.message, "user-specified IP address is supported on user-defined networks only");
}

#[test]
fn a_full_pool_says_which_network() {
    let tiny = network("tiny", vec![pool("10.0.0.0/30")]);
    let used = ["10.0.0.1", "10.0.0.2"].map(ip).into();
    let error = endpoint_addresses(&tiny, None, None, &used).expect_err("full");
    assert_eq!(
        error.message,
        "no available IPv4 addresses on this network's address pools: tiny (010101010101)"
    );
}

#[test]
fn the_status_counts_reserved_addresses_as_used() {
    let used = [ip("10.0.0.1"), ip("10.0.0.2")].into();
    let status = pool_status(&pool("10.0.0.0/24"), &used);
    assert_eq!(status, PoolStatus { in_use: 4, dynamic_available: 252 });
    let huge = pool_status(&pool("fd00::/8"), &[ip("fd00::1")].into());
    assert_eq!(huge, PoolStatus { in_use: 2, dynamic_available: u64::MAX });
}

#[test]
fn the_auxiliary_default_gateway_wins() {
    let aux = BTreeMap::from([("DefaultGatewayIPv4".to_owned(), ip("10.0.0.254"))]);
    let plain = Pool { gateway: Some(ip("10.0.0.1")), ..pool("10.0.0.0/24") };
    assert_eq!(default_gateway(&plain), Some(ip("10.0.0.1")));
    assert_eq!(default_gateway(&Pool { aux, ..plain }), Some(ip("10.0.0.254")));
}

proptest! {
    #[test]
    fn an_allocated_address_is_the_lowest_free_one(offsets in prop::collection::btree_set(0_u8..=63, 0..64)) {
        let pool = pool("10.0.0.0/26");
        let used: BTreeSet<IpAddr> = offsets.iter().map(|last| ip(&format!("10.0.0.{last}"))).collect();
        let expected = (1..=62).find(|last| !offsets.contains(last)).map(|last| ip(&format!("10.0.0.{last}")));
        prop_assert_eq!(allocate(&pool, &used), expected);
    }
}
