//! T42 to T50, T83, T85: processes of the host, and services on it.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use netd_tests::{
    Family, H as HOST, Lab, Proto, Server, at,
    truth::{
        Expect::{Ok, Refused},
        PORTS,
        Place::{Gateway, Gateway4, Loopback, Of, Second},
        Row, Stage, TCP, V4, V6,
        Who::{A1, C1, D1, H, L1, R, V1},
        ask, ping, row, story,
    },
};
use nix::errno::Errno;

pub fn rows() -> Vec<Row> {
    let mut rows = sandboxes();
    rows.extend(published());
    rows.extend(services());
    rows
}

fn sandboxes() -> Vec<Row> {
    vec![row(
        42,
        "the host reaches every port of a sandbox",
        [
            ask(H, Of(A1), 80, PORTS, Ok(A1, Gateway(A1))),
            ask(H, Of(A1), 81, PORTS, Ok(A1, Gateway(A1))),
            ping(H, Of(A1), Ok(A1, Gateway(A1))),
            ask(H, Of(C1), 71, PORTS, Ok(C1, Gateway(C1))),
            ping(H, Of(C1), Ok(C1, Gateway(C1))),
        ],
    )]
}

fn published() -> Vec<Row> {
    vec![
        row(
            43,
            "the host reaches a published port at loopback",
            [ask(H, Loopback(1), 8080, PORTS, Ok(A1, Gateway(A1))).only(V4)],
        ),
        row(
            44,
            "the host reaches a published port at its own addresses",
            [ask(H, Of(H), 8080, PORTS, Ok(A1, Of(H))), ask(H, Second(H), 8080, PORTS, Ok(A1, Second(H)))],
        ),
        row(
            45,
            "the host reaches a published port at IPv6 loopback",
            [
                ask(H, Loopback(1), 8080, PORTS, Ok(A1, Gateway(A1))).only(V6),
                ask(H, Loopback(1), 8181, PORTS, Ok(V1, Gateway4(V1))).only(V6),
            ],
        ),
        row(
            46,
            "the host reaches a published port at the gateway",
            [ask(H, Gateway(A1), 8080, PORTS, Ok(A1, Gateway(A1)))],
        ),
        row(
            47,
            "loopback is refused when another address is published",
            [
                ask(H, Loopback(1), 8484, PORTS, Refused),
                ask(H, Second(H), 8484, PORTS, Refused),
                ask(H, Of(H), 8484, PORTS, Ok(L1, Of(H))),
            ],
        ),
        row(
            48,
            "every loopback address leads to a port published everywhere",
            [ask(H, Loopback(5), 8080, PORTS, Ok(A1, Gateway(A1))).only(V4)],
        ),
    ]
}

fn services() -> Vec<Row> {
    vec![
        row(
            50,
            "sandboxes reach services of the host",
            [
                // TCP alone where the host has many addresses: its datagram server answers from the nearest.
                ask(A1, Gateway(A1), 2222, PORTS, Ok(H, Of(A1))),
                ask(A1, Of(H), 2222, TCP, Ok(H, Of(A1))),
                ask(C1, Gateway(C1), 2222, PORTS, Ok(H, Of(C1))),
                ask(C1, Of(H), 2222, TCP, Ok(H, Of(C1))),
                ask(D1, Gateway(D1), 2222, PORTS, Ok(H, Of(D1))),
                ask(D1, Of(H), 2222, TCP, Ok(H, Of(D1))),
                ask(R, Of(H), 2222, PORTS, Ok(H, Of(R))),
            ],
        ),
        row(
            83,
            "a published port does not ask the host's input rules",
            [story("tcp udp", "R → H:8080, INPUT drops all", "OK(a1 sees R)", Stage::Own(input_policy))],
        ),
        row(
            85,
            "a published port and a socket of the host exclude each other",
            [
                story("tcp udp", "H binds 8080, published", "EADDRINUSE", Stage::Own(bind_published)),
                story(
                    "tcp udp",
                    "publish 8080, bound by H",
                    "exit 4, nothing changed",
                    Stage::Own(publish_bound),
                ),
            ],
        ),
    ]
}

/// The rules of ufw's `default deny incoming`, as far as they matter here.
fn input_policy(family: Family) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _service = Server::start(&lab.h, &[2222]);
    let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let rule = |what: &str| {
        let args = ["-w", what, "INPUT", "-p", "tcp", "--dport", "2222", "-j", "DROP"];
        let out = lab.h.output(std::process::Command::new(program).args(args));
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        let args = ["-w", what, "INPUT", "-p", "tcp", "--dport", "8080", "-j", "DROP"];
        let out = lab.h.output(std::process::Command::new(program).args(args));
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    };
    rule("-A");
    assert_eq!(
        lab.r.probe(Proto::Tcp, at(HOST.ip(family), 2222)),
        netd_tests::Outcome::Timeout,
        "the rules work"
    );
    for proto in Proto::BOTH {
        let seen = lab.r.reach(proto, at(HOST.ip(family), 8080));
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", netd_tests::R.ip(family)), "{proto:?}");
    }
    rule("-D");
}

/// Tries to bind in the host's namespace.
fn bind(lab: &Lab, proto: Proto, address: SocketAddr) -> Result<(), Errno> {
    let bound = lab.h.run(|| match proto {
        Proto::Tcp => TcpListener::bind(address).map(drop),
        Proto::Udp => UdpSocket::bind(address).map(drop),
    });
    bound.map_err(|e| e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
}

fn bind_published(family: Family) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]);
    for proto in Proto::BOTH {
        for ip in [family.any(), family.loopback(), HOST.ip(family), net.gateway(family)] {
            assert_eq!(bind(&lab, proto, at(ip, 8080)), Err(Errno::EADDRINUSE), "{proto:?} {ip}");
            assert_eq!(bind(&lab, proto, at(ip, 8081)), Result::Ok(()), "{proto:?} {ip}");
        }
    }
}

fn publish_bound(family: Family) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    for (proto, spec) in [(Proto::Tcp, "8080:80"), (Proto::Udp, "8080:80/udp")] {
        let before = lab.snapshot();
        let server = Server::bind(&lab.h, &[(proto, at(HOST.ip(family), 8080))]);
        let line = lab.netd(&["sandbox", "create", "--network", net.name(), "-p", spec, "a1"]).refused(4);
        assert!(line.contains("8080") && line.contains("in use"), "{line}");
        lab.netd(&["sandbox", "inspect", "a1"]).refused(3);
        before.assert_unchanged(&lab.snapshot(), "a refused publish");
        assert_eq!(
            lab.r.reach(proto, at(HOST.ip(family), 8080)).server,
            "H",
            "the host's own server is undisturbed"
        );
        drop(server);
        let _a1 = lab.sandbox("a1", net, 2, &["-p", spec]).serving(&[80]);
        assert_eq!(lab.r.reach(proto, at(HOST.ip(family), 8080)).server, "a1", "the control");
        lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    }
}
