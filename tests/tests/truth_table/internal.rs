//! T51 to T60: internal and isolated networks.

use netd_tests::{
    Family, H as HOST, Lab, Net, Outcome, Proto, R as REMOTE, Sandbox, Server, at, denied,
    truth::{
        ALL_PORTS,
        Expect::{Drop, Ok, Refused, Unreachable},
        PORTS,
        Place::{Gateway, Nowhere, Of},
        Row, Stage, TCP,
        Who::{A1, H, I1, I2, R, S1, S2},
        World, ask, ping, row, story,
    },
};

pub fn rows() -> Vec<Row> {
    let mut rows = inside();
    rows.extend(outside());
    rows.extend(isolated());
    rows
}

fn inside() -> Vec<Row> {
    vec![
        row(
            51,
            "sandboxes of an internal network reach each other",
            [ask(I1, Of(I2), 60, ALL_PORTS, Ok(I2, Of(I1))), ping(I1, Of(I2), Ok(I2, Of(I1)))],
        ),
        row(
            52,
            "the host serves an internal network at its gateway",
            [ask(I1, Gateway(I1), 2222, PORTS, Ok(H, Of(I1))), ping(I1, Gateway(I1), Ok(H, Of(I1)))],
        ),
        row(
            53,
            "an internal network knows no way out",
            [
                ask(I1, Of(R), 80, PORTS, Unreachable),
                ping(I1, Of(R), Unreachable),
                ping(I1, Nowhere, Unreachable),
                ask(A1, Of(R), 80, PORTS, Ok(R, Of(H))),
            ],
        ),
        row(
            56,
            "the host reaches every port of an internal network",
            [ask(H, Of(I1), 60, PORTS, Ok(I1, Gateway(I1))), ping(H, Of(I1), Ok(I1, Gateway(I1)))],
        ),
    ]
}

fn outside() -> Vec<Row> {
    const FROM_OUTSIDE: &[&str] = &["INTERNAL", "DIRECT_ACCESS"];
    const FROM_INSIDE: &[&str] = &["INTERNAL", "ISOLATION"];
    vec![
        row(
            54,
            "a route by hand does not lead out of an internal network",
            [story("tcp udp icmp", "i1, routed by hand → R", "DROP", Stage::Own(route_by_hand))],
        ),
        row(
            55,
            "an internal network reaches no other sandbox, direct or published",
            [story("tcp udp", "i1, routed by hand → a1, H:8080, gw:9090", "DROP", Stage::Own(across))],
        ),
        row(
            57,
            "nobody else reaches an internal network",
            [
                ask(R, Of(I1), 60, PORTS, Drop(I1, FROM_OUTSIDE)),
                ping(R, Of(I1), Drop(I1, FROM_OUTSIDE)),
                ask(A1, Of(I1), 60, PORTS, Drop(I1, FROM_INSIDE)),
                ping(A1, Of(I1), Drop(I1, FROM_INSIDE)),
                ask(I2, Of(I1), 60, PORTS, Ok(I1, Of(I2))),
            ],
        ),
        row(
            58,
            "a publish on an internal network has no effect",
            [
                ask(R, Of(H), 6060, TCP, Refused),
                ask(H, Of(I1), 60, TCP, Ok(I1, Gateway(I1))),
                story("cli", "inspect i1", "no Ports", Stage::Shared(no_ports)),
            ],
        ),
    ]
}

fn isolated() -> Vec<Row> {
    vec![
        row(
            59,
            "sandboxes of an isolated network reach each other",
            [ask(S1, Of(S2), 60, ALL_PORTS, Ok(S2, Of(S1))), ping(S1, Of(S2), Ok(S2, Of(S1)))],
        ),
        row(
            60,
            "an isolated network and the host do not know each other",
            [
                ask(S1, Of(H), 2222, PORTS, Unreachable),
                ping(S1, Of(H), Unreachable),
                ask(H, Of(S1), 60, PORTS, Unreachable),
                ping(H, Of(S1), Unreachable),
                ask(S2, Of(S1), 60, PORTS, Ok(S1, Of(S2))),
                story("ip", "the bridge", "no address", Stage::Shared(no_bridge_address)),
            ],
        ),
    ]
}

fn no_ports(world: &World, _: Family) {
    let ports = &world.inspect("i1")["NetworkSettings"]["Ports"];
    let bound = ports
        .as_object()
        .is_some_and(|all| all.values().any(|b| b.as_array().is_some_and(|b| !b.is_empty())));
    assert!(!bound, "Ports of a sandbox on an internal network: {ports}");
}

fn no_bridge_address(world: &World, family: Family) {
    let id = world.inspect_network("netS")["Id"].as_str().expect("an id").to_owned();
    let shown = world.h.ip_json(&["addr", "show", "dev", &format!("br-{}", &id[..12])]);
    let wanted = if family == Family::V4 { "inet" } else { "inet6" };
    let all = shown[0]["addr_info"].as_array().expect("addresses");
    let global = all.iter().any(|a| a["family"] == wanted && a["scope"] == "global");
    assert!(!global, "the bridge of an isolated network: {shown}");
}

/// Dropped in this order: what is in namespaces before the lab.
struct Inside {
    i1: Sandbox,
    a1: Sandbox,
    b1: Sandbox,
    net: Net,
    b: Net,
    lab: Lab,
}

/// i1 on an internal network, with the route that a process with `NET_ADMIN` could make; a1 published as 8080, b1 as 9090.
fn with_a_route(family: Family) -> Inside {
    let lab = Lab::new();
    let net = lab.network("netI", 23, &["--internal"]);
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let i1 = lab.sandbox("i1", net, 2, &[]);
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let b1 = lab.sandbox("b1", b, 2, &["-p", "9090:90", "-p", "9090:90/udp"]).serving(&[90]);
    i1.ip_batch(&format!("route add default via {}", net.gateway(family)));
    Inside { i1, a1, b1, net, b, lab }
}

fn route_by_hand(family: Family) {
    let w = with_a_route(family);
    let _server = Server::start(&w.lab.r, &[80]);
    let to = at(REMOTE.ip(family), 80);
    for proto in Proto::BOTH {
        denied(&w.lab, &w.lab.r, &["INTERNAL"], || {
            assert_eq!(w.i1.probe(proto, to), Outcome::Timeout, "{proto:?}");
        });
        w.a1.reach(proto, to);
    }
    denied(&w.lab, &w.lab.r, &["INTERNAL"], || {
        assert_eq!(w.i1.probe_ping(to.ip()), Outcome::Timeout);
    });
}

fn across(family: Family) {
    let w = with_a_route(family);
    let ways = [
        (&w.a1, at(w.a1.ip(family), 80)),
        (&w.a1, at(HOST.ip(family), 8080)),
        (&w.b1, at(w.net.gateway(family), 9090)),
    ];
    for (victim, to) in ways {
        for proto in Proto::BOTH {
            denied(&w.lab, victim, &["INTERNAL", "ISOLATION"], || {
                assert_eq!(w.i1.probe(proto, to), Outcome::Timeout, "{to} {proto:?}");
            });
        }
    }
    for proto in Proto::BOTH {
        assert_eq!(w.b1.reach(proto, at(HOST.ip(family), 8080)).server, "a1");
        assert_eq!(w.a1.reach(proto, at(w.b.gateway(family), 9090)).server, "b1");
    }
}
