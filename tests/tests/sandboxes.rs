//! Rung: namespaces. What a sandbox gets: interfaces, addresses, routes, several networks, and what `inspect` and `ps` say of it.

use std::net::IpAddr;

use netd_tests::{Family, H, Lab, Proto, R, Server, at};
use serde_json::Value;

/// What `inspect` says about a sandbox's endpoint on a network.
fn endpoint(lab: &Lab, sandbox: &str, network: &str) -> Value {
    lab.inspect(sandbox)["NetworkSettings"]["Networks"][network].clone()
}

#[test]
fn a_static_address_and_mac_are_used_and_shown() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let option = "netA,ip=172.20.0.77,ip6=fd00:c:20::77,mac-address=02:42:ac:14:00:4d";
    let a1 = lab.sandbox_with("a1", &["--network", option]);
    let link = a1.link("eth0").expect("eth0");
    assert_eq!(link.mac, [2, 0x42, 0xac, 0x14, 0, 0x4d]);
    let shown = endpoint(&lab, "a1", "netA");
    for (key, value) in [
        ("IPAddress", "172.20.0.77"),
        ("Gateway", "172.20.0.1"),
        ("GlobalIPv6Address", "fd00:c:20::77"),
        ("IPv6Gateway", "fd00:c:20::1"),
        ("MacAddress", "02:42:ac:14:00:4d"),
    ] {
        assert_eq!(shown[key], value, "{key}: {shown}");
    }
    assert_eq!((&shown["IPPrefixLen"], &shown["GlobalIPv6PrefixLen"]), (&24.into(), &64.into()));
    let host_side = shown["HostInterface"].as_str().expect("HostInterface");
    assert!(lab.h.links().iter().any(|name| name == host_side), "{host_side} is on the host");
    let inspect = lab.inspect("a1");
    assert!(inspect["NetNS"].as_str().is_some_and(|path| path.ends_with("/netns/a1")), "{inspect}");
    assert!(inspect["Id"].as_str().is_some_and(|id| id.len() == 64) && inspect["Name"] == "a1", "{inspect}");
    for family in Family::BOTH {
        a1.ping(net.gateway(family));
    }
}

#[test]
fn dynamic_addresses_are_the_lowest_free_ones() {
    let lab = Lab::new();
    let _net = lab.network("netA", 20, &[]);
    let address = |name: &str| {
        let sandbox = lab.sandbox_with(name, &["--network", "netA"]);
        (sandbox.ip(Family::V4).to_string(), sandbox.ip(Family::V6).to_string())
    };
    assert_eq!(address("a1"), ("172.20.0.2".into(), "fd00:c:20::2".into()));
    assert_eq!(address("a2"), ("172.20.0.3".into(), "fd00:c:20::3".into()));
    lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    assert_eq!(address("a3"), ("172.20.0.2".into(), "fd00:c:20::2".into()));
}

#[test]
fn a_sandbox_on_several_networks_has_an_interface_on_each() {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let m = lab
        .sandbox_with(
            "m",
            &[
                "--network",
                "netA,ip=172.20.0.9,ip6=fd00:c:20::9",
                "--network",
                "netB,ip=172.21.0.9,ip6=fd00:c:21::9",
                "-p",
                "8080:80",
            ],
        )
        .serving(&[80]);
    let (a1, b1) = (lab.sandbox("a1", a, 2, &[]).serving(&[80]), lab.sandbox("b1", b, 2, &[]).serving(&[80]));
    assert_eq!(m.links(), ["eth0", "eth1", "lo"]);
    let _r = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for (neighbour, network, net) in [(&a1, "netA", a), (&b1, "netB", b)] {
                assert_eq!(m.reach(proto, at(neighbour.ip(family), 80)).server, neighbour.name());
                let key = if family == Family::V4 { "IPAddress" } else { "GlobalIPv6Address" };
                let own =
                    endpoint(&lab, "m", network)[key].as_str().and_then(|text| text.parse::<IpAddr>().ok());
                assert_eq!(neighbour.reach(proto, at(own.expect("an address"), 80)).server, "m", "{net:?}");
                assert_eq!(lab.h.reach(proto, at(own.expect("an address"), 80)).server, "m");
            }
            assert_eq!(m.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
        }
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).source.ip(), R.ip(family));
    }
}

#[test]
fn the_highest_gateway_priority_gives_the_default_route() {
    let lab = Lab::new();
    let _nets = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let gateway = |sandbox: &netd_tests::Sandbox| {
        let routes = sandbox.ip_json(&["route", "show", "default"]);
        routes[0]["gateway"].as_str().map(str::to_owned)
    };
    let plain = lab.sandbox_with("plain", &["--network", "netB", "--network", "netA"]);
    assert_eq!(gateway(&plain).as_deref(), Some("172.20.0.1"), "equal priorities: by name (H1)");
    let chosen = lab.sandbox_with("chosen", &["--network", "netA", "--network", "netB,gw-priority=1"]);
    assert_eq!(gateway(&chosen).as_deref(), Some("172.21.0.1"));
    lab.netd(&["network", "disconnect", "netB", "chosen"]).ok();
    assert_eq!(gateway(&chosen).as_deref(), Some("172.20.0.1"), "the next one is promoted (H2)");
}

#[test]
fn networks_are_connected_and_disconnected_while_the_sandbox_runs() {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80"]).serving(&[80]);
    let b1 = lab.sandbox("b1", b, 2, &[]).serving(&[80]);
    for _ in 0..2 {
        let before = lab.snapshot();
        lab.netd(&["network", "connect", "--ip", "172.21.0.9", "--ip6", "fd00:c:21::9", "netB", "a1"]).ok();
        assert_eq!(a1.links(), ["eth0", "eth1", "lo"]);
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                assert_eq!(a1.reach(proto, at(b1.ip(family), 80)).source.ip(), b.ip(family, 9));
            }
        }
        lab.netd(&["network", "disconnect", "netB", "a1"]).ok();
        assert_eq!(a1.links(), ["eth0", "lo"]);
        before.assert_unchanged(&lab.snapshot(), "connecting and disconnecting");
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).server, "a1");
    }
}

#[test]
fn the_last_network_can_go_and_another_come() {
    let lab = Lab::new();
    let (a, _b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80"]).serving(&[80]);
    lab.netd(&["network", "disconnect", "netA", "a1"]).ok();
    assert_eq!(a1.links(), ["lo"]);
    lab.netd(&["network", "connect", "netB", "a1"]).ok();
    assert_eq!(a1.links(), ["eth0", "lo"]);
    for family in Family::BOTH {
        assert_eq!(
            lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).server,
            "a1",
            "bindings follow the gateway (E16)"
        );
    }
}

#[test]
fn the_default_network_serves_sandboxes_without_options() {
    let lab = Lab::new();
    let c = lab.sandbox_with("c", &["-p", "8080:80"]).serving(&[80]);
    assert_eq!(c.ip(Family::V4).to_string(), "172.17.0.2", "the first default pool");
    assert!(lab.h.links().iter().any(|name| name == "netd0"));
    let _r = Server::start(&lab.r, &[80]);
    assert_eq!(c.reach(Proto::Tcp, at(R.v4, 80)).source.ip(), H.ip(Family::V4));
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).source.ip(), R.ip(Family::V4));
}

#[test]
fn ps_and_ls_show_names_addresses_and_ports() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]);
    let _a2 = lab.sandbox("a2", net, 3, &[]);
    let table = lab.netd(&["ps"]).ok();
    let line = table.lines().find(|line| line.contains("a1")).expect("a line for a1");
    for part in ["netA", "172.20.0.2", "8080->80/tcp"] {
        assert!(line.contains(part), "{part} in {line:?}");
    }
    let ids = lab.netd(&["sandbox", "ls", "-q"]).ok();
    assert_eq!(ids.lines().count(), 2);
    let listed = lab.netd(&["sandbox", "ls", "--format", "json"]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    let names = lab.netd(&["sandbox", "ls", "--format", "{{.Name}}", "--filter", "network=netA"]).ok();
    let mut names: Vec<_> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["a1", "a2"]);
    let lines = lab.netd(&["sandbox", "ls", "--format", "jsonl"]).ok();
    assert!(
        lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|v| v.is_object())),
        "{lines}"
    );
}

#[test]
fn the_connection_table_shows_flows_and_forgets_flushed_ones() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    let _r = Server::start(&lab.r, &[80]);
    let (_out, seen) = a1.connect_stream_from(at(R.v4, 80), Family::V4.from_port(40_000));
    let (_in, _) = lab.r.connect_stream(at(H.v4, 8080));
    let flows = lab.flows(&["proto=tcp"]);
    let egress = flows
        .iter()
        .find(|f| f["SourcePort"] == 40_000)
        .unwrap_or_else(|| panic!("no egress flow: {flows:?}"));
    assert_eq!((&egress["Source"], &egress["Destination"]), (&"172.20.0.2".into(), &R.v4.to_string().into()));
    assert_eq!(egress["TranslatedSource"], H.v4.to_string());
    assert_eq!(egress["TranslatedSourcePort"], seen.source.port());
    assert_eq!(lab.flows(&["port=8080"]).len(), 1);
    assert_eq!(lab.flows(&["sandbox=a1"]).len(), 2);
    assert_eq!(lab.flows(&["network=netA"]).len(), 2);
    lab.netd(&["flow", "flush", "--filter", "port=8080"]).ok();
    assert_eq!(lab.flows(&[]).len(), 1);
    lab.netd(&["flow", "flush"]).ok();
    assert_eq!(lab.flows(&[]), Vec::<Value>::new());
}
