//! T12 to T22, T25, T84: gateway modes, trusted interfaces, the daemon-wide switches, who may use a published port.

use netd_tests::{
    Family, H as HOST, Lab, Options, Outcome, Proto, at, denied,
    truth::{
        Expect::{Drop, Ok, Refused},
        PORTS,
        Place::{Gateway, Of, Second},
        Row, Stage, TCP,
        Who::{H, R, R2, T1, U1, W2, X1},
        World, ask, ping, row, story,
    },
};

const DIRECT: &[&str] = &["DIRECT_ACCESS", "UNPUBLISHED"];

pub fn rows() -> Vec<Row> {
    let mut rows = modes();
    rows.extend(trusted());
    rows.extend(switches());
    rows
}

fn modes() -> Vec<Row> {
    vec![
        row(
            12,
            "a nat-unprotected network is reached directly on every port",
            [
                ask(R, Of(U1), 50, PORTS, Ok(U1, Of(R))),
                ask(R, Of(U1), 51, PORTS, Ok(U1, Of(R))),
                ping(R, Of(U1), Ok(U1, Of(R))),
                ask(R, Of(H), 5050, PORTS, Ok(U1, Of(R))),
            ],
        ),
        row(
            13,
            "a published port of a routed network is reached directly",
            [ask(R, Of(T1), 80, PORTS, Ok(T1, Of(R)))],
        ),
        row(
            14,
            "an unpublished port of a routed network is out of reach",
            [ask(R, Of(T1), 81, PORTS, Drop(T1, DIRECT)), ask(H, Of(T1), 81, PORTS, Ok(T1, Gateway(T1)))],
        ),
        row(15, "a sandbox of a routed network answers pings", [ping(R, Of(T1), Ok(T1, Of(R)))]),
        row(
            16,
            "a publish on a routed network takes no port of the host",
            [
                ask(R, Of(H), 80, TCP, Refused),
                ask(R, Of(T1), 80, TCP, Ok(T1, Of(R))),
                story("cli", "netd port t1", "no host port", Stage::Shared(no_host_port)),
            ],
        ),
        row(
            17,
            "egress of a routed network keeps its addresses",
            [ask(T1, Of(R), 80, PORTS, Ok(R, Of(T1))), ping(T1, Of(R), Ok(R, Of(T1)))],
        ),
        row(
            25,
            "the routed address of a sandbox on two networks is reached",
            [story("tcp", "R → w2':80", "OK(w2 sees R)", Stage::Shared(second_routed))],
        ),
    ]
}

fn trusted() -> Vec<Row> {
    vec![
        row(
            18,
            "a trusted interface leads to published ports of sandboxes",
            [ask(R, Of(X1), 80, PORTS, Ok(X1, Of(R)))],
        ),
        row(
            19,
            "a trusted interface does not lead to unpublished ports",
            [
                ask(R, Of(X1), 81, PORTS, Drop(X1, DIRECT)),
                ping(R, Of(X1), Drop(X1, DIRECT)),
                ask(H, Of(X1), 81, PORTS, Ok(X1, Gateway(X1))),
            ],
        ),
        row(
            20,
            "another interface than the trusted one leads nowhere",
            [ask(R2, Of(X1), 80, PORTS, Drop(X1, DIRECT)), ask(R2, Of(H), 8880, PORTS, Ok(X1, Of(R2)))],
        ),
    ]
}

fn switches() -> Vec<Row> {
    vec![
        row(
            21,
            "direct routing where it is allowed leads to published ports",
            [story(
                "tcp udp",
                "R → a1:80, a1:81, allow-direct-routing",
                "OK, DROP",
                Stage::Own(direct_routing),
            )],
        ),
        row(
            22,
            "marked packets from a trusted interface reach every port",
            [story("tcp icmp", "R → x1:80, x1:81, marked", "OK, OK, OK", Stage::Own(marked))],
        ),
        row(
            84,
            "a published port refuses the sources its list denies",
            [story(
                "tcp udp",
                "R, R2 → H:8080, R not on the list",
                "R: DROP, R2: OK",
                Stage::Own(access_list),
            )],
        ),
    ]
}

fn no_host_port(world: &World, _: Family) {
    let shown = world.netd(&["port", "t1"]).ok();
    // As Docker's HostPort "": the binding is shown, the port is empty.
    assert!(shown.lines().all(|line| line.ends_with(':')), "netd port t1: {shown:?}");
    assert!(world.netd(&["port", "a1"]).ok().contains("0.0.0.0:8080"), "the control");
}

/// Answers leave by the routed network, though the default route leads to the other one.
fn second_routed(world: &World, family: Family) {
    let to = world.address(Second(W2), R, family).expect("an address");
    let seen = world.r.reach(Proto::Tcp, at(to, 80));
    assert_eq!((seen.server.as_str(), seen.source.ip()), ("w2", netd_tests::R.ip(family)));
}

fn direct_routing(family: Family) {
    let options = Options { config: "allow-direct-routing = true\n".into(), ..Options::default() };
    let lab = Lab::with(&options);
    lab.allow_on_uplinks("172.20.0.0/24");
    lab.allow_on_uplinks("fd00:c:20::/64");
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80, 81]);
    for proto in Proto::BOTH {
        let seen = lab.r.reach(proto, at(a1.ip(family), 80));
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", netd_tests::R.ip(family)));
        denied(&lab, &a1, DIRECT, || {
            assert_eq!(lab.r.probe(proto, at(a1.ip(family), 81)), Outcome::Timeout, "{proto:?}");
        });
    }
}

fn marked(family: Family) {
    let options = Options { config: "bridge-accept-fwmark = \"0x2a\"\n".into(), ..Options::default() };
    let lab = Lab::with(&options);
    for net in ["172.27.0.0/24", "fd00:c:27::/64"] {
        lab.allow_on_uplinks(net);
    }
    let net = lab.network("netX", 27, &["-o", "com.docker.network.bridge.trusted_host_interfaces=eth0"]);
    let x1 = lab.sandbox("x1", net, 2, &["-p", "8080:80"]).serving(&[80, 81]);
    denied(&lab, &x1, DIRECT, || {
        assert_eq!(lab.r.probe(Proto::Tcp, at(x1.ip(family), 81)), Outcome::Timeout);
    });
    let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let rule = |what: &str| {
        let args =
            ["-w", "-t", "mangle", what, "PREROUTING", "-i", "eth0", "-j", "MARK", "--set-mark", "0x2a"];
        let out = lab.h.output(std::process::Command::new(program).args(args));
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    };
    rule("-A");
    for port in [80, 81] {
        assert_eq!(lab.r.reach(Proto::Tcp, at(x1.ip(family), port)).source.ip(), netd_tests::R.ip(family));
    }
    lab.r.ping(x1.ip(family));
    rule("-D");
}

fn access_list(family: Family) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    // Who is on the list may come; R is not.
    let publish =
        ["8080:80", "8080:80/udp"].map(|spec| format!("{spec},allow=10.0.1.0/24,allow=fd00:b::/64"));
    let a1 = lab.sandbox("a1", net, 2, &["-p", &publish[0], "-p", &publish[1]]).serving(&[80]);
    let to = at(HOST.ip(family), 8080);
    for proto in Proto::BOTH {
        denied(&lab, &a1, &["NOT_ALLOWED"], || {
            assert_eq!(lab.r.probe(proto, to), Outcome::Timeout, "{proto:?}");
        });
        assert_eq!(lab.r2.reach(proto, to).source.ip(), netd_tests::R2.ip(family), "{proto:?}");
    }
}
