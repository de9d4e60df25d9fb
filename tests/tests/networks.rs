//! Rung: namespaces. Networks: defaults, addresses, options, and what `ls` and `inspect` say of them.

use std::collections::BTreeSet;

use netd_tests::{Family, Lab, Outcome, Proto, at};

/// Creates a network with these arguments and returns its subnets.
fn subnets(lab: &Lab, args: &[&str], name: &str) -> Vec<String> {
    let line = [&["network", "create"], args, &[name]].concat();
    lab.netd(&line).ok();
    let inspect = lab.inspect_network(name);
    let pools = inspect["IPAM"]["Config"].as_array().unwrap_or_else(|| panic!("no IPAM.Config: {inspect}"));
    pools.iter().filter_map(|pool| pool["Subnet"].as_str().map(str::to_owned)).collect()
}

fn address(lab: &Lab, name: &str, options: &[&str]) -> String {
    lab.sandbox_with(name, options).ip(Family::V4).to_string()
}

#[test]
fn three_networks_exist_from_the_start() {
    let lab = Lab::new();
    let listed = lab.netd(&["network", "ls", "--format", "json"]).json();
    let rows = listed.as_array().expect("an array");
    let found: BTreeSet<_> = rows.iter().map(|n| (n["Name"].as_str(), n["Driver"].as_str())).collect();
    let expected = [("bridge", "bridge"), ("host", "host"), ("none", "null")];
    assert_eq!(found, expected.map(|(name, driver)| (Some(name), Some(driver))).into());
    let bridge = lab.inspect_network("bridge");
    assert_eq!(bridge["IPAM"]["Config"][0]["Subnet"], "172.17.0.0/16");
    assert_eq!(bridge["Options"]["com.docker.network.bridge.name"], "netd0");
    assert!(lab.netd(&["network", "ls"]).ok().lines().count() == 4, "a header and three lines");
}

#[test]
fn subnets_come_from_the_default_pools_in_order_and_are_given_back() {
    let lab = Lab::new();
    assert_eq!(subnets(&lab, &[], "one"), ["172.18.0.0/16"]);
    assert_eq!(subnets(&lab, &[], "two"), ["172.19.0.0/16"]);
    lab.netd(&["network", "rm", "one"]).ok();
    assert_eq!(subnets(&lab, &[], "three"), ["172.18.0.0/16"]);
}

#[test]
fn default_pools_avoid_routes_of_the_host() {
    let lab = Lab::new();
    lab.h.ip_batch("link add v0 type bridge\nlink set v0 up\naddr add 172.18.5.1/24 dev v0\nroute add 172.19.0.0/16 dev v0");
    assert_eq!(subnets(&lab, &[], "one"), ["172.20.0.0/16"]);
    let args = ["network", "create", "--subnet", "172.18.0.0/16", "two"];
    let line = lab.netd(&args).refused(4);
    assert!(line.contains("172.18"), "{line}");
    lab.h.ip_batch("link del v0");
    lab.netd(&args).ok();
}

#[test]
fn ipv6_without_a_subnet_gets_a_64_of_its_own() {
    let lab = Lab::new();
    let own =
        |name: &str| subnets(&lab, &["--ipv6"], name).into_iter().find(|s| s.contains(':')).expect("IPv6");
    let (one, two) = (own("one"), own("two"));
    assert!(
        one != two && [&one, &two].iter().all(|s| s.starts_with("fd") && s.ends_with("::/64")),
        "{one} {two}"
    );
    let a = lab.sandbox_with("a", &["--network", "one"]);
    let b = lab.sandbox_with("b", &["--network", "one"]).serving(&[80]);
    assert_eq!(a.reach(Proto::Tcp, at(b.ip(Family::V6), 80)).source.ip(), a.ip(Family::V6));
}

#[test]
fn ranges_gateways_and_reserved_addresses_are_respected() {
    let lab = Lab::new();
    let args = [
        "--subnet",
        "172.20.0.0/24",
        "--gateway",
        "172.20.0.254",
        "--ip-range",
        "172.20.0.128/29",
        "--aux-address",
        "printer=172.20.0.129",
    ];
    subnets(&lab, &args, "netA");
    let addresses: Vec<_> = (0..3).map(|n| address(&lab, &format!("a{n}"), &["--network", "netA"])).collect();
    assert_eq!(addresses, ["172.20.0.128", "172.20.0.130", "172.20.0.131"]);
    assert_eq!(address(&lab, "outside-the-range", &["--network", "netA,ip=172.20.0.5"]), "172.20.0.5");
    let inspect = lab.inspect("a0");
    assert_eq!(inspect["NetworkSettings"]["Networks"]["netA"]["Gateway"], "172.20.0.254");
    for n in 3..7 {
        address(&lab, &format!("a{n}"), &["--network", "netA"]);
    }
    let line = lab.netd(&["sandbox", "create", "--network", "netA", "one-too-many"]).refused(4);
    assert!(line.contains("netA"), "{line}");
}

#[test]
fn a_network_without_ipv4_has_ipv6_alone() {
    let lab = Lab::new();
    subnets(&lab, &["--ipv4=false", "--ipv6", "--subnet", "fd00:c:20::/64"], "six");
    let a = lab.sandbox_with("a", &["--network", "six", "-p", "8080:80"]).serving(&[80]);
    let b = lab.sandbox_with("b", &["--network", "six"]);
    assert_eq!(a.v4, None);
    assert_eq!(b.reach(Proto::Tcp, at(a.ip(Family::V6), 80)).source.ip(), b.ip(Family::V6));
    lab.r.reach(Proto::Tcp, at(netd_tests::H.v6, 8080));
    a.ping(netd_tests::R.v6);
}

#[test]
fn a_network_without_ipv6_has_no_ipv6_inside() {
    let lab = Lab::new();
    subnets(&lab, &["--subnet", "172.20.0.0/24"], "four");
    let a = lab.sandbox_with("a", &["--network", "four"]);
    let addresses = a.ip_json(&["-6", "addr", "show", "dev", "eth0"]);
    let any = addresses
        .as_array()
        .is_some_and(|links| links.iter().any(|l| !l["addr_info"].as_array().is_none_or(Vec::is_empty)));
    assert!(!any, "no IPv6 address on eth0 (B15): {addresses}");
    a.ping(std::net::Ipv6Addr::LOCALHOST);
}

#[test]
fn dockers_options_name_the_bridge_and_set_the_mtu() {
    let lab = Lab::new();
    let options = ["-o", "com.docker.network.bridge.name=web0", "-o", "com.docker.network.driver.mtu=1400"];
    let net = lab.network("netA", 20, &options);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    assert_eq!(lab.h.link("web0").expect("the bridge").mtu, 1400);
    assert_eq!(a1.link("eth0").expect("eth0").mtu, 1400);
    let plain = lab.network("netB", 21, &[]);
    let id = lab.inspect_network(plain.name())["Id"].as_str().expect("Id").to_owned();
    assert!(lab.h.link(&format!("br-{}", &id[..12])).is_some(), "br- and the id's first 12 digits (B1)");
}

#[test]
fn ports_are_published_on_the_networks_host_address() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &["-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1"]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "10.0.0.2:8081:80"]).serving(&[80]);
    assert_eq!(lab.netd(&["port", "a1"]).ok(), "80/tcp -> 10.0.0.2:8081\n80/tcp -> 127.0.0.1:8080");
    assert_eq!(lab.r.attempt(Proto::Tcp, at(netd_tests::H.v4, 8080)), Outcome::Refused);
    lab.r.reach(Proto::Tcp, at(netd_tests::H.v4, 8081));
    lab.h.reach(Proto::Tcp, at([127, 0, 0, 1], 8080));
}

#[test]
fn inspect_has_dockers_shape() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &["--label", "team=web", "-o", "some.unknown=kept"]);
    let _a1 = lab.sandbox("a1", net, 2, &[]);
    let n = lab.inspect_network("netA");
    assert_eq!(
        (&n["Name"], &n["Driver"], &n["Scope"]),
        (&"netA".into(), &"bridge".into(), &"local".into()),
        "{n}"
    );
    assert_eq!((&n["Internal"], &n["EnableIPv6"]), (&false.into(), &true.into()));
    assert_eq!(n["Labels"]["team"], "web");
    assert_eq!(n["Options"]["some.unknown"], "kept");
    let config = n["IPAM"]["Config"].as_array().expect("IPAM.Config");
    let pools: BTreeSet<_> = config.iter().map(|p| (p["Subnet"].as_str(), p["Gateway"].as_str())).collect();
    let expected = [("172.20.0.0/24", "172.20.0.1"), ("fd00:c:20::/64", "fd00:c:20::1")];
    assert_eq!(pools, expected.map(|(subnet, gateway)| (Some(subnet), Some(gateway))).into());
    let containers = n["Containers"].as_object().expect("Containers");
    let (id, entry) = containers.iter().next().expect("one sandbox");
    assert_eq!(lab.inspect("a1")["Id"].as_str(), Some(id.as_str()));
    assert_eq!((&entry["Name"], &entry["IPv4Address"]), (&"a1".into(), &"172.20.0.2/24".into()));
    for reference in [n["Id"].as_str().expect("Id"), &n["Id"].as_str().expect("Id")[..12], "netA"] {
        assert_eq!(lab.inspect_network(reference)["Name"], "netA", "by {reference}");
    }
}
