//! T5 to T11, T23, T24, T26 to T30: remote hosts and published ports, and what they must not reach.

use netd_tests::{
    Capture, Family, Frame, Lab, Proto, R, at, denied,
    truth::{
        ALL_PORTS,
        Expect::{Drop, Ok, Refused},
        PORTS,
        Place::{Gateway4, Loopback, Of, Second},
        Row, Stage, V4, V6,
        Who::{A1, B1, H, L1, R as RW, R2 as R2W, V1, W1},
        ask, not_applicable, ping, row, story,
    },
};

const DIRECT: &[&str] = &["DIRECT_ACCESS"];

pub fn rows() -> Vec<Row> {
    let mut rows = published();
    rows.extend(direct());
    rows.extend(single_addresses());
    rows
}

fn published() -> Vec<Row> {
    let everywhere = |families| {
        [
            ask(RW, Of(H), 8080, ALL_PORTS, Ok(A1, Of(RW))).only(families),
            ask(RW, Second(H), 8080, PORTS, Ok(A1, Of(RW))).only(families),
            ask(R2W, Second(H), 8080, PORTS, Ok(A1, Of(R2W))).only(families),
            ask(R2W, Of(H), 8080, PORTS, Ok(A1, Of(R2W))).only(families),
        ]
    };
    vec![
        row(5, "a published port shows the server its real client", everywhere(V4)),
        row(6, "a published port over IPv6 shows the server its real client", everywhere(V6)),
        row(
            7,
            "an IPv4 sandbox is reached over IPv6 too",
            [ask(RW, Of(H), 8181, PORTS, Ok(V1, Gateway4(V1))).only(V6)],
        ),
        row(
            8,
            "a port that nobody published is the host's own",
            [ask(RW, Of(H), 8081, PORTS, Refused), ask(RW, Of(H), 2222, PORTS, Ok(H, Of(RW)))],
        ),
        row(
            26,
            "what is routed through the host is never redirected",
            [ask(RW, Of(R2W), 8080, PORTS, Ok(R2W, Of(RW))), ask(R2W, Of(RW), 8080, PORTS, Ok(RW, Of(R2W)))],
        ),
    ]
}

fn direct() -> Vec<Row> {
    vec![
        row(
            9,
            "a published port on the sandbox's own address is out of reach",
            [
                ask(RW, Of(A1), 80, PORTS, Drop(A1, DIRECT)),
                ask(R2W, Of(A1), 80, PORTS, Drop(A1, DIRECT)),
                ask(RW, Of(H), 8080, PORTS, Ok(A1, Of(RW))),
            ],
        ),
        row(
            10,
            "an unpublished port of a sandbox is out of reach",
            [
                ask(RW, Of(A1), 81, PORTS, Drop(A1, DIRECT)),
                ask(H, Of(A1), 81, PORTS, Ok(A1, netd_tests::truth::Place::Gateway(A1))),
            ],
        ),
        row(
            11,
            "a sandbox does not answer remote pings",
            [
                ping(RW, Of(A1), Drop(A1, DIRECT)),
                ping(H, Of(A1), Ok(A1, netd_tests::truth::Place::Gateway(A1))),
                ping(RW, Of(H), Ok(H, Of(RW))),
            ],
        ),
        not_applicable(
            23,
            "DOCKER_INSECURE_NO_IPTABLES_RAW",
            "dockerd's switch; netd does not offer it, T9 and T27 hold always",
        ),
        row(
            24,
            "the second address of a sandbox on two networks is out of reach",
            [
                ask(RW, Second(W1), 80, PORTS, Drop(W1, DIRECT)),
                ping(RW, Second(W1), Drop(W1, DIRECT)),
                ask(B1, Second(W1), 80, PORTS, Ok(W1, Of(B1))),
            ],
        ),
    ]
}

fn single_addresses() -> Vec<Row> {
    vec![
        row(
            27,
            "a port published on loopback cannot be attacked from the segment",
            [story("tcp udp", "R → 127.0.0.1:8080, route_localnet", "DROP", Stage::Own(loopback_attack))
                .only(V4)],
        ),
        row(
            28,
            "a port published on loopback is refused from outside",
            [
                ask(RW, Of(H), 8282, PORTS, Refused),
                ask(RW, Second(H), 8282, PORTS, Refused),
                ask(H, Loopback(1), 8282, PORTS, Ok(L1, netd_tests::truth::Place::Gateway(L1))),
            ],
        ),
        row(
            29,
            "a port published on a distinct loopback address serves the host alone",
            [story("tcp udp", "R, H → 127.0.0.2:8080", "R: DROP, H: OK", Stage::Own(distinct_loopback))
                .only(V4)],
        ),
        row(
            30,
            "a port published on one address is reached through every uplink",
            [
                ask(RW, Second(H), 8383, PORTS, Ok(L1, Of(RW))),
                ask(R2W, Second(H), 8383, PORTS, Ok(L1, Of(R2W))),
                ask(RW, Of(H), 8383, PORTS, Refused),
            ],
        ),
    ]
}

/// Frames to a loopback address, as from a machine on the segment, against a host that would route them.
fn attack(lab: &Lab, victim: &netd_tests::Ns, address: [u8; 4]) {
    lab.h.sysctl("net/ipv4/conf/eth0/route_localnet", "1"); // the kernel's own protection is off
    let wire = Capture::start(&lab.r, "eth0");
    let frame =
        Frame { src: lab.r.link("eth0").expect("eth0").mac, dst: lab.h.link("eth0").expect("eth0").mac };
    let (from, to) = (at(R.v4, 40_000), at(address, 8080));
    for bytes in [frame.tcp_syn(from, to), frame.udp(from, to, b"attack")] {
        denied(lab, victim, &["REMOTE_LOOPBACK"], || wire.send(&bytes));
    }
    for proto in Proto::BOTH {
        assert_eq!(lab.h.reach(proto, to).server, "a1");
    }
    lab.h.sysctl("net/ipv4/conf/eth0/route_localnet", "0");
}

fn loopback_attack(_: Family) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let publish = ["-p", "127.0.0.1:8080:80", "-p", "127.0.0.1:8080:80/udp"];
    let a1 = lab.sandbox("a1", net, 2, &publish).serving(&[80]);
    attack(&lab, &a1, [127, 0, 0, 1]);
}

fn distinct_loopback(_: Family) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let publish = ["-p", "127.0.0.2:8080:80", "-p", "127.0.0.2:8080:80/udp"];
    let a1 = lab.sandbox("a1", net, 2, &publish).serving(&[80]);
    attack(&lab, &a1, [127, 0, 0, 2]);
}
