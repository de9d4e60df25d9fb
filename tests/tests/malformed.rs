//! Rung: namespaces. Malformed packets (reliability A.4) on the wire: what a sandbox sends leaves translated or not at all, what a neighbour on
//! the segment sends never reaches a sandbox's own address, every drop is counted, and all goes on as before.

use std::net::{IpAddr, SocketAddr};

use netd_common::fake::{
    Kind,
    malformed::{Case, Fate, cases},
};
use netd_tests::{Capture, Family, Frame, H, Lab, Net, PATIENCE, Packet, Proto, R, Sandbox, Server, at};

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    a1: Sandbox,
    a2: Sandbox,
    _remote: Server,
    net: Net,
    lab: Lab,
}

fn world() -> World {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80, 81]);
    let a2 = lab.sandbox("a2", net, 3, &[]).serving(&[80]);
    for family in Family::BOTH {
        a1.ping(net.gateway(family));
    }
    let remote = Server::start(&lab.r, &[80]);
    World { a1, a2, _remote: remote, net, lab }
}

fn applies(case: &Case, family: Family) -> bool {
    if family == Family::V4 { case.v4 } else { case.v6 }
}

/// The case's frame between two addresses. None: too short for a device to take.
fn spoilt(case: &Case, frame: &Frame, from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let good = match case.base {
        Kind::Tcp(_) => frame.tcp_syn(from, to),
        Kind::Other(protocol) => frame.ip_payload(from.ip(), to.ip(), protocol, b"payload!"),
        _ => frame.udp(from, to, b"payload!"),
    };
    Some(case.spoilt(good, to.is_ipv6())).filter(|bytes| bytes.len() >= 14)
}

impl World {
    fn counted(&self) -> u64 {
        self.lab.drops().values().sum()
    }

    /// The positive control: every way still works.
    fn goes_on(&self, family: Family) {
        for proto in Proto::BOTH {
            assert_eq!(self.a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
            assert_eq!(self.lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family));
            assert_eq!(self.a2.reach(proto, at(self.a1.ip(family), 80)).server, "a1");
            assert_eq!(self.lab.h.reach(proto, at(self.a1.ip(family), 81)).server, "a1");
        }
    }

    /// Sends every case from a1 to an address by the gateway; returns how many of them must be dropped.
    fn send_from_a1(&self, family: Family, to: IpAddr, dst: [u8; 6]) -> u64 {
        let frame = Frame { src: self.a1.link("eth0").expect("eth0").mac, dst };
        let wire = self.a1.capture();
        let mut refused = 0;
        for (number, case) in cases().iter().enumerate().filter(|(_, case)| applies(case, family)) {
            let port = 1000 + u16::try_from(number).expect("few cases");
            let Some(bytes) = spoilt(case, &frame, at(self.a1.ip(family), 40_000), at(to, port)) else {
                continue;
            };
            wire.send(&bytes);
            refused += u64::from(case.fate == Fate::Refused);
        }
        refused
    }
}

#[test]
fn malformed_packets_to_the_world_leave_translated_or_are_counted() {
    let w = world();
    for family in Family::BOTH {
        let gateway = w.a1.mac_of(w.net.gateway(family));
        let (outside, before) = (Capture::start(&w.lab.r, "eth0"), w.counted());
        let refused = w.send_from_a1(family, R.ip(family), gateway);
        w.goes_on(family);
        assert!(w.counted() - before >= refused, "{} of {refused} counted", w.counted() - before);
        let carried: Vec<_> = outside.take().into_iter().filter(|p| !p.outgoing && p.src.is_some()).collect();
        assert!(carried.len() > 10, "some odd packets are carried");
        assert!(!carried.iter().any(|p| p.src == Some(w.a1.ip(family))), "a sandbox's address at R");
    }
}

#[test]
fn malformed_packets_to_a_neighbour_harm_nobody() {
    let w = world();
    for family in Family::BOTH {
        w.send_from_a1(family, w.a2.ip(family), w.a2.link("eth0").expect("eth0").mac);
        w.goes_on(family);
    }
}

#[test]
fn malformed_packets_from_outside_reach_no_sandbox_by_its_own_address() {
    let w = world();
    let frame =
        Frame { src: w.lab.r.link("eth0").expect("eth0").mac, dst: w.lab.h.link("eth0").expect("eth0").mac };
    for family in Family::BOTH {
        let (wire, inside) = (Capture::start(&w.lab.r, "eth0"), w.a1.capture());
        let cases = cases();
        for (number, case) in cases.iter().enumerate().filter(|(_, case)| applies(case, family)) {
            let from = at(R.ip(family), 40_000 + u16::try_from(number).expect("few cases"));
            for to in [at(w.a1.ip(family), 81), at(H.ip(family), 8080), at(H.ip(family), 22)] {
                if let Some(bytes) = spoilt(case, &frame, from, to) {
                    wire.send(&bytes);
                }
            }
        }
        let marker = (at(R.ip(family), 39_999), at(H.ip(family), 8080));
        wire.send(&frame.udp(marker.0, marker.1, b"the end"));
        let last = |p: &Packet| !p.outgoing && p.sport == Some(marker.0.port());
        let all = inside.until("the last datagram", PATIENCE, last);
        let direct = all.iter().filter(|p| !p.outgoing && p.dport == Some(81)).count();
        assert_eq!(direct, 0, "{family:?}: packets to a1's own address arrived");
        w.goes_on(family);
    }
}
