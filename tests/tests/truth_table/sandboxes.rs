//! T31 to T41, T49, T61 to T68: sandboxes among themselves, directly and through published ports.

use std::{net::UdpSocket, time::Duration};

use netd_tests::{
    Capture, Family, Lab, Net, Options, Outcome, Proto, Sandbox, at, denied,
    truth::{
        ALL_PORTS,
        Expect::{Drop, Ok, Refused},
        PORTS,
        Place::{Any, Gateway, LinkLocal, Loopback, Of},
        Row, Stage, TCP, V6,
        Who::{A1, A2, B1, C1, C2, D1, D2, H, L1, R, T1, U1},
        World, ask, ping, row, story,
    },
};

const ISOLATED: &[&str] = &["ISOLATION"];
const NO_ICC: [&str; 2] = ["-o", "com.docker.network.bridge.enable_icc=false"];

pub fn rows() -> Vec<Row> {
    let mut rows = direct();
    rows.extend(published());
    rows.extend(without_icc());
    rows.extend(links());
    rows
}

fn direct() -> Vec<Row> {
    vec![
        row(
            31,
            "sandboxes of a network reach each other by their own addresses",
            [
                ask(A1, Of(A2), 80, ALL_PORTS, Ok(A2, Of(A1))),
                ask(A2, Of(A1), 81, ALL_PORTS, Ok(A1, Of(A2))),
                ping(A1, Of(A2), Ok(A2, Of(A1))),
                story("udp", "a1 → broadcast, multicast", "a2 hears, R does not", Stage::Shared(groups)),
            ],
        ),
        row(
            32,
            "another network's sandboxes are out of reach",
            [
                ask(A1, Of(B1), 90, PORTS, Drop(B1, ISOLATED)),
                ask(A1, Of(B1), 91, PORTS, Drop(B1, ISOLATED)),
                ping(A1, Of(B1), Drop(B1, ISOLATED)),
                ask(H, Of(B1), 91, PORTS, Ok(B1, Gateway(B1))),
                ping(H, Of(B1), Ok(B1, Gateway(B1))),
            ],
        ),
        row(
            33,
            "another network reaches a routed network's published port",
            [ask(A1, Of(T1), 80, PORTS, Ok(T1, Gateway(T1)))],
        ),
        row(
            34,
            "another network does not reach a routed network's unpublished port",
            [
                ask(A1, Of(T1), 81, PORTS, Drop(T1, &["UNPUBLISHED", "ISOLATION"])),
                ping(A1, Of(T1), Ok(T1, Gateway(T1))),
            ],
        ),
        row(
            35,
            "a routed network does not reach a nat network",
            [
                ask(T1, Of(A1), 80, PORTS, Drop(A1, ISOLATED)),
                ask(T1, Of(A1), 81, PORTS, Drop(A1, ISOLATED)),
                ping(T1, Of(A1), Drop(A1, ISOLATED)),
                ask(A2, Of(A1), 81, PORTS, Ok(A1, Of(A2))),
            ],
        ),
        row(
            36,
            "another network reaches every port of a nat-unprotected network",
            [
                ask(A1, Of(U1), 50, PORTS, Ok(U1, Gateway(U1))),
                ask(A1, Of(U1), 51, PORTS, Ok(U1, Gateway(U1))),
            ],
        ),
    ]
}

fn published() -> Vec<Row> {
    vec![
        row(
            37,
            "another network's published port is reached at the host's address",
            [ask(A1, Of(H), 9090, ALL_PORTS, Ok(B1, Gateway(B1)))],
        ),
        row(
            38,
            "another network's published port is reached at any gateway",
            [
                ask(A1, Gateway(A1), 9090, PORTS, Ok(B1, Gateway(B1))),
                ask(A1, Gateway(B1), 9090, PORTS, Ok(B1, Gateway(B1))),
            ],
        ),
        row(
            39,
            "a sandbox reaches its own published port and sees the gateway",
            [
                ask(A1, Of(H), 8080, PORTS, Ok(A1, Gateway(A1))),
                ask(A1, Gateway(A1), 8080, PORTS, Ok(A1, Gateway(A1))),
            ],
        ),
        row(
            40,
            "a neighbour reaches a published port and is seen as itself",
            [ask(A2, Of(H), 8080, PORTS, Ok(A1, Of(A2))), ask(A2, Gateway(A1), 8080, PORTS, Ok(A1, Of(A2)))],
        ),
        row(
            41,
            "a published port is reached at the host's link-local address",
            [
                ask(A1, LinkLocal, 8080, PORTS, Ok(A1, Any)).only(V6),
                ask(A2, LinkLocal, 8080, PORTS, Ok(A1, Any)).only(V6),
            ],
        ),
        row(
            49,
            "a port published on loopback is refused at every gateway",
            [
                ask(A2, Gateway(A1), 8282, PORTS, Refused),
                ask(A2, Gateway(B1), 8282, PORTS, Refused),
                ask(B1, Gateway(B1), 8282, PORTS, Refused),
                ask(B1, Of(H), 8282, PORTS, Refused),
                ask(H, Loopback(1), 8282, PORTS, Ok(L1, Gateway(L1))),
            ],
        ),
    ]
}

fn without_icc() -> Vec<Row> {
    vec![
        row(
            61,
            "without ICC sandboxes do not reach each other",
            [
                ask(C1, Of(C2), 70, PORTS, Drop(C2, &["ICC"])),
                ask(C2, Of(C1), 71, PORTS, Drop(C1, &["ICC"])),
                ping(C1, Of(C2), Drop(C2, &["ICC"])),
                ask(H, Of(C2), 70, PORTS, Ok(C2, Gateway(C2))),
            ],
        ),
        row(
            62,
            "without ICC the host and the world are reached",
            [
                ask(C1, Of(R), 80, PORTS, Ok(R, Of(H))),
                ping(C1, Of(R), Ok(R, Of(H))),
                ask(C1, Of(H), 2222, TCP, Ok(H, Of(C1))),
                ask(C1, Gateway(C1), 2222, PORTS, Ok(H, Of(C1))),
                ping(C1, Gateway(C1), Ok(H, Of(C1))),
            ],
        ),
        row(
            63,
            "layer two tricks do not pass ICC",
            [story("tcp icmp", "c1 → c2 by a static neighbour", "DROP", Stage::Own(static_neighbour))],
        ),
        row(
            64,
            "without ICC a published port is reached through the host",
            [ask(C2, Of(H), 7070, PORTS, Ok(C1, Of(C2))), ask(C2, Gateway(C1), 7070, PORTS, Ok(C1, Of(C2)))],
        ),
    ]
}

fn links() -> Vec<Row> {
    vec![
        row(
            65,
            "a link leads to the exposed ports of its target",
            [
                ask(D1, Of(D2), 82, TCP, Ok(D2, Of(D1))),
                ask(D1, Of(D2), 83, TCP, Drop(D2, &["ICC"])),
                ping(D1, Of(D2), Drop(D2, &["ICC"])),
            ],
        ),
        row(
            66,
            "a link does not lead back",
            [ask(D2, Of(D1), 82, TCP, Drop(D1, &["ICC"])), ask(D1, Of(D2), 82, TCP, Ok(D2, Of(D1)))],
        ),
        row(
            67,
            "a link follows its target and ends with it",
            [story("tcp", "d1 → d2, moved, removed", "OK at the new, DROP", Stage::Own(moved_target))],
        ),
        row(
            68,
            "a link on a network of one's own opens nothing",
            [story("tcp", "c3 → linked c2:82", "DROP", Stage::Own(link_on_own_network))],
        ),
    ]
}

/// Broadcast and multicast stay on the bridge.
fn groups(world: &World, family: Family) {
    let (a1, inside) = (world.sandbox(A1), world.sandbox(A2).capture());
    let outside = Capture::start(&world.r, "eth0");
    let index = a1.link("eth0").expect("eth0").index;
    let groups: Vec<String> = match family {
        Family::V4 => ["172.20.0.255", "255.255.255.255", "224.0.0.251", "239.1.1.1"]
            .map(|to| format!("{to}:5353"))
            .into(),
        Family::V6 => vec![format!("[ff02::fb%{index}]:5353")],
    };
    for to in groups {
        a1.run(|| {
            let socket = UdpSocket::bind(at(family.any(), 0)).expect("a socket");
            if family == Family::V4 {
                socket.set_broadcast(true).expect("SO_BROADCAST");
            }
            socket.send_to(b"to all", &to).expect("send");
        });
        inside.wait(&to, Duration::from_secs(5), |p| !p.outgoing && p.is_to(Proto::Udp, 5353));
    }
    world.r.ping(netd_tests::H.ip(family));
    let leaked = outside.take().into_iter().filter(|p| p.is_to(Proto::Udp, 5353)).count();
    assert_eq!(leaked, 0, "group traffic of a sandbox on the uplink");
}

fn lab_without_icc() -> (Lab, Net, Sandbox, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netC", 22, &NO_ICC);
    let c1 = lab.sandbox("c1", net, 2, &[]).serving(&[70]);
    let c2 = lab.sandbox("c2", net, 3, &["--expose", "82"]).serving(&[70, 82]);
    (lab, net, c1, c2)
}

fn static_neighbour(family: Family) {
    let (lab, _, c1, c2) = lab_without_icc();
    let mac = c2.link("eth0").expect("eth0").mac.map(|byte| format!("{byte:02x}")).join(":");
    c1.ip_batch(&format!("neigh replace {} lladdr {mac} nud permanent dev eth0", c2.ip(family)));
    denied(&lab, &c2, &["ICC"], || {
        assert_eq!(c1.probe(Proto::Tcp, at(c2.ip(family), 70)), Outcome::Timeout);
        assert_eq!(c1.probe_ping(c2.ip(family)), Outcome::Timeout);
    });
    assert_eq!(lab.h.reach(Proto::Tcp, at(c2.ip(family), 70)).server, "c2");
}

fn moved_target(family: Family) {
    let config = "icc = false\nbip = \"172.30.0.1/24\"\nipv6 = true\nfixed-cidr-v6 = \"fd00:c:30::/64\"\n";
    let lab = Lab::with(&Options { config: config.into(), ..Options::default() });
    let target = |name: &str| lab.sandbox_with(name, &["--expose", "82"]).serving(&[82]);
    let d2 = target("d2");
    let d1 = lab.sandbox_with("d1", &["--link", "d2"]);
    let (old, to) = (d2.ip(family), |ip| at(ip, 82));
    assert_eq!(d1.reach(Proto::Tcp, to(old)).server, "d2");
    drop(d2);
    lab.netd(&["network", "disconnect", "bridge", "d2"]).ok();
    let d3 = target("d3"); // takes the lowest free address
    assert_eq!(d3.ip(family), old);
    denied(&lab, &d3, &["ICC"], || assert_eq!(d1.probe(Proto::Tcp, to(old)), Outcome::Timeout));
    lab.netd(&["network", "connect", "bridge", "d2"]).ok();
    let d2 = lab.open("d2").serving(&[82]);
    assert_ne!(d2.ip(family), old);
    assert_eq!(d1.reach(Proto::Tcp, to(d2.ip(family))).server, "d2", "at its new address");
    let new = d2.ip(family);
    drop(d2);
    lab.netd(&["sandbox", "rm", "-f", "d2"]).ok();
    let d4 = target("d4");
    assert_eq!(d4.ip(family), new);
    denied(&lab, &d4, &["ICC"], || assert_eq!(d1.probe(Proto::Tcp, to(new)), Outcome::Timeout));
    assert_eq!(lab.h.reach(Proto::Tcp, to(new)).server, "d4");
}

fn link_on_own_network(family: Family) {
    let (lab, net, _c1, c2) = lab_without_icc();
    let c3 = lab.sandbox("c3", net, 4, &["--link", "c2"]);
    denied(&lab, &c2, &["ICC"], || {
        assert_eq!(c3.probe(Proto::Tcp, at(c2.ip(family), 82)), Outcome::Timeout);
    });
    assert_eq!(lab.h.reach(Proto::Tcp, at(c2.ip(family), 82)).server, "c2");
}
