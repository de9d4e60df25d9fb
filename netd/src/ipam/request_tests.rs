use super::*;
use crate::ipam::{HostPrefixKind, docker_default_pools, ula_pool};
use crate::model::{BridgeOptions, Driver, Id};

const V4: Families = Families { ipv4: true, ipv6: false };
const BOTH: Families = Families { ipv4: true, ipv6: true };

/// Parses `SUBNET [range=R] [gw=G] [aux:NAME=A]...`.
fn request(text: &str) -> PoolRequest {
    let mut request = PoolRequest::default();
    for word in text.split_whitespace() {
        if let Some(range) = word.strip_prefix("range=") {
            request.ip_range = Some(range.parse().expect("a range"));
        } else if let Some(gateway) = word.strip_prefix("gw=") {
            request.gateway = Some(gateway.parse().expect("a gateway"));
        } else if let Some((name, address)) = word.strip_prefix("aux:").and_then(|aux| aux.split_once('=')) {
            request.aux.insert(name.to_owned(), address.parse().expect("an address"));
        } else {
            request.subnet = Some(word.parse().expect("a subnet"));
        }
    }
    request
}

fn network(name: &str, subnet: &str) -> Network {
    let id = Id::from_bytes(&[9; 32]);
    let pool = requested(&subnet.parse().expect("a subnet"), &request(subnet), false).expect("a pool");
    Network {
        bridge: BridgeOptions::parse(&std::collections::BTreeMap::new(), &id).expect("defaults"),
        name: name.parse().expect("a name"),
        driver: Driver::Bridge,
        created: String::new(),
        internal: false,
        ipv4: true,
        ipv6: false,
        ipam: Ipam { pools: vec![pool] },
        options: std::collections::BTreeMap::new(),
        labels: std::collections::BTreeMap::new(),
        index: Some(1),
        policies: Vec::new(),
        id,
    }
}

fn host(prefix: &str, kind: HostPrefixKind, device: &str) -> HostPrefix {
    let device = (!device.is_empty()).then(|| device.to_owned());
    HostPrefix { prefix: prefix.parse().expect("a prefix"), kind, device }
}

fn plan_in(
    networks: &[&Network],
    host: &[HostPrefix],
    families: Families,
    texts: &[&str],
) -> Result<Ipam, Error> {
    let mut default_pools = docker_default_pools();
    default_pools.push(ula_pool(&Id::from_bytes(&[7; 32])));
    let requests: Vec<PoolRequest> = texts.iter().map(|text| request(text)).collect();
    let world = World { networks, host, default_pools: &default_pools };
    plan_pools(&requests, families, WithoutGateway::default(), &world)
}

fn plan(texts: &[&str]) -> Result<Ipam, Error> {
    plan_in(&[], &[], BOTH, texts)
}

#[test]
fn dockers_texts_say_what_is_wrong_with_a_request() {
    for (request, text) in [
        ("10.10.10.0/8", "invalid subnet 10.10.10.0/8: it should be 10.0.0.0/8"),
        ("fd00::1/64", "invalid subnet fd00::1/64: it should be fd00::/64"),
        (
            "10.10.10.0/24 range=10.0.0.0/8",
            "invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.10.10.0/24",
        ),
        ("10.0.0.0/8 range=10.10.10.0/16", "invalid ip-range 10.10.10.0/16: it should be 10.10.0.0/16"),
        (
            "10.0.0.0/8 range=192.168.0.0/24",
            "invalid ip-range 192.168.0.0/24: parent subnet 10.0.0.0/8 doesn't contain ip-range",
        ),
        ("10.0.0.0/8 range=fd00::/64", "invalid ip-range fd00::/64: parent subnet is an IPv4 block"),
        (
            "10.0.0.0/8 gw=192.168.0.1",
            "invalid gateway 192.168.0.1: parent subnet 10.0.0.0/8 doesn't contain this address",
        ),
        ("10.0.0.0/24 gw=fd00::1", "invalid gateway fd00::1: parent subnet is an IPv4 block"),
        (
            "10.0.0.0/24 gw=10.0.0.0",
            "invalid gateway 10.0.0.0: it is the network address of subnet 10.0.0.0/24",
        ),
        (
            "10.0.0.0/24 gw=10.0.0.255",
            "invalid gateway 10.0.0.255: it is the broadcast address of subnet 10.0.0.0/24",
        ),
        (
            "10.0.0.0/8 aux:a=192.168.0.1",
            "invalid auxiliary address a: parent subnet 10.0.0.0/8 doesn't contain this address",
        ),
        (
            "10.0.0.0/24 gw=10.0.0.9 aux:a=10.0.0.9",
            "failed to allocate secondary ip address (a:10.0.0.9): Address already in use",
        ),
        ("gw=10.0.0.1", "every ip-range, gateway or aux-address must have a corresponding subnet"),
        ("fd00::9/128", "subnet fd00::9/128 has no address left for the gateway"),
        (
            "224.0.0.0/24",
            "invalid subnet 224.0.0.0/24: multicast addresses cannot be assigned to an interface",
        ),
        (
            "127.1.0.0/24",
            "invalid subnet 127.1.0.0/24: loopback and unspecified addresses never leave a host",
        ),
        (
            "fe80::/64",
            "invalid subnet fe80::/64: it clashes with the link-local prefix fe80::/64, which every interface has",
        ),
        ("0.0.0.0/0", "invalid subnet 0.0.0.0/0: it covers every address there is"),
    ] {
        let error = plan(&[request]).expect_err(request);
        assert_eq!((error.code, error.message.as_str()), (Code::Usage, text));
    }
}

#[test]
fn everything_wrong_is_said_in_one_line() {
    let error = plan(&["10.0.0.1/8 gw=192.168.0.1"]).expect_err("two faults");
    assert!(error.message.contains("invalid subnet") && error.message.contains("invalid gateway"), "{error}");
    assert!(!error.message.contains('\n'));
}

#[test]
fn the_gateway_is_the_first_free_address_unless_given() {
    for (request, gateway) in [
        ("10.0.0.0/24", "10.0.0.1"),
        ("10.0.0.0/24 range=10.0.0.128/25", "10.0.0.1"),
        ("10.0.0.0/24 aux:a=10.0.0.1", "10.0.0.2"),
        ("10.0.0.0/24 gw=10.0.0.254", "10.0.0.254"),
        ("10.0.0.0/31", "10.0.0.0"),
    ] {
        let ipam = plan_in(&[], &[], V4, &[request]).expect(request);
        assert_eq!(ipam.pools[0].gateway.map(|ip| ip.to_string()).as_deref(), Some(gateway), "{request}");
        assert!(ipam.pools[0].configured);
    }
    let ipv6 = plan(&["10.0.0.0/24", "fd00:1::/64"]).expect("valid").pools[1].gateway;
    assert_eq!(ipv6, Some("fd00:1::1".parse().expect("an address")));
}

#[test]
fn an_isolated_network_has_no_gateway() {
    let world = World { networks: &[], host: &[], default_pools: &docker_default_pools() };
    let without = WithoutGateway { ipv4: true, ipv6: true };
    for requests in [vec![request("10.0.0.0/31")], Vec::new()] {
        assert_eq!(plan_pools(&requests, V4, without, &world).expect("valid").pools[0].gateway, None);
    }
}

#[test]
fn each_family_has_one_pool_and_defaults_fill_in() {
    let ipam = plan(&["fd00:1::/64"]).expect("valid");
    assert_eq!(ipam.pools[0].subnet.to_string(), "172.17.0.0/16");
    assert!(!ipam.pools[0].configured && ipam.pools[1].configured);

    let automatic = plan(&[]).expect("valid").pools[1].subnet;
    assert_eq!(automatic.prefix_len(), 64);
    assert_eq!(
        plan_in(&[], &[], V4, &["fd00:1::/64"]).expect("valid").pools.len(),
        1,
        "IPv6 is switched off"
    );

    let error = plan(&["10.0.0.0/24", "10.0.1.0/24"]).expect_err("two of one family");
    assert_eq!(error.message, "bridge driver doesn't support multiple subnets");
}

#[test]
fn an_overlap_names_what_is_in_the_way() {
    let web = network("web", "10.1.0.0/16");
    for subnet in ["10.1.2.0/24", "10.0.0.0/8", "10.1.0.0/16"] {
        let error = plan_in(&[&web], &[], V4, &[subnet]).expect_err(subnet);
        assert_eq!(error.code, Code::Forbidden);
        assert!(error.message.contains("Pool overlaps with other one on this address space"), "{error}");
        assert!(error.message.contains("10.1.0.0/16 of network web"), "{error}");
    }
    let vpn = [
        host("0.0.0.0/0", HostPrefixKind::Route, "eth0"),
        host("128.0.0.0/1", HostPrefixKind::Route, "tun0"),
        host("10.0.0.0/8", HostPrefixKind::Route, "tun0"),
    ];
    let error = plan_in(&[], &vpn, V4, &["10.9.0.0/24"]).expect_err("a route");
    assert_eq!(error.code, Code::Conflict);
    assert_eq!(error.message, "subnet 10.9.0.0/24 overlaps route 10.0.0.0/8 dev tun0 of the host");
    assert!(plan_in(&[&web], &vpn, V4, &["192.168.9.0/24"]).is_ok(), "a default route takes nothing away");
}

#[test]
fn automatic_pools_avoid_networks_routes_addresses_and_name_servers() {
    let web = network("web", "172.17.0.0/16");
    let taken = [
        host("172.18.5.0/24", HostPrefixKind::Route, "tun0"),
        host("172.19.0.1/24", HostPrefixKind::Address, "eth1"),
        host("172.20.0.53/32", HostPrefixKind::NameServer, ""),
        host("0.0.0.0/1", HostPrefixKind::Route, "tun0"),
    ];
    assert_eq!(plan_in(&[&web], &taken, V4, &[]).expect("free").pools[0].subnet.to_string(), "172.21.0.0/16");
    assert_eq!(taken[2].to_string(), "name server 172.20.0.53");

    let everything = [
        host("172.16.0.0/12", HostPrefixKind::Route, "tun0"),
        host("192.168.0.0/16", HostPrefixKind::Route, "tun0"),
    ];
    let error = plan_in(&[], &everything, V4, &[]).expect_err("none left");
    assert_eq!(error.message, "all predefined address pools have been fully subnetted");
}
