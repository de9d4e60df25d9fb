//! Rung: namespaces, truth-table row T69 and reliability A.2. A sandbox speaks for itself alone.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use etherparse::ArpOperation;
use netd_tests::{Capture, Family, Frame, H, Lab, Net, Proto, R, Sandbox, at, denied};

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    a1: Sandbox,
    a2: Sandbox,
    net: Net,
    lab: Lab,
}

fn world() -> World {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    World { a1, a2, net, lab }
}

impl World {
    /// A frame of a1 to the gateway.
    fn to_gateway(&self) -> Frame {
        Frame { src: mac(&self.a1), dst: self.a1.mac_of(self.net.gateway(Family::V4)) }
    }

    /// A frame of a1 to a2.
    fn to_neighbour(&self) -> Frame {
        Frame { src: mac(&self.a1), dst: mac(&self.a2) }
    }
}

fn mac(sandbox: &Sandbox) -> [u8; 6] {
    sandbox.link("eth0").unwrap_or_else(|| panic!("eth0 of {}", sandbox.name())).mac
}

/// Addresses that are not a1's: strangers, the neighbour, the gateway, the host, loopback, groups.
fn foreign(w: &World, family: Family) -> Vec<IpAddr> {
    let text: &[&str] = match family {
        Family::V4 => &["1.2.3.4", "0.0.0.0", "224.0.0.1", "255.255.255.255"],
        Family::V6 => &["2001:db8::1", "::ffff:172.20.0.2", "ff02::1"],
    };
    let mut all: Vec<IpAddr> = text.iter().map(|t| t.parse().expect("an address")).collect();
    all.extend([w.a2.ip(family), w.net.gateway(family), H.ip(family), R.ip(family), family.loopback()]);
    all
}

#[test]
fn t69_a_foreign_source_never_leaves_the_sandbox() {
    let w = world();
    let (wire, frame) = (w.a1.capture(), w.to_gateway());
    let remote = Capture::start(&w.lab.r, "eth0");
    for family in Family::BOTH {
        let to = at(R.ip(family), 9);
        for source in foreign(&w, family) {
            denied(&w.lab, &w.lab.r, &["SPOOF_IP"], || {
                wire.send(&frame.udp(at(source, 5000), to, b"spoofed"));
            });
        }
        remote.take();
        wire.send(&frame.udp(at(w.a1.ip(family), 5000), to, b"honest"));
        let honest = remote.wait("the honest datagram", Duration::from_secs(5), |p| p.is_to(Proto::Udp, 9));
        assert_eq!(honest.src, Some(H.ip(family)));
    }
}

#[test]
fn t69_a_foreign_source_never_reaches_a_neighbour() {
    let w = world();
    let (wire, frame, victim) = (w.a1.capture(), w.to_neighbour(), w.a2.capture());
    for family in Family::BOTH {
        let to = at(w.a2.ip(family), 9);
        for source in foreign(&w, family) {
            denied(&w.lab, &w.a2, &["SPOOF_IP"], || wire.send(&frame.udp(at(source, 5000), to, b"spoofed")));
            denied(&w.lab, &w.a2, &["SPOOF_IP"], || wire.send(&frame.echo(source, to.ip(), 7)));
        }
        victim.take();
        wire.send(&frame.udp(at(w.a1.ip(family), 5000), to, b"honest"));
        victim.wait("the honest datagram", Duration::from_secs(5), |p| p.is_to(Proto::Udp, 9));
    }
}

#[test]
fn a_foreign_ethernet_source_is_dropped_and_teaches_the_bridge_nothing() {
    let w = world();
    let (wire, victim) = (w.a1.capture(), w.a2.capture());
    let honest = w.to_neighbour();
    let spoofed = Frame { src: mac(&w.a2), ..honest };
    for family in Family::BOTH {
        let (from, to) = (at(w.a1.ip(family), 5000), at(w.a2.ip(family), 9));
        denied(&w.lab, &w.a2, &["SPOOF_MAC"], || wire.send(&spoofed.udp(from, to, b"spoofed")));
        let everyone = Frame { dst: Frame::BROADCAST, ..spoofed };
        denied(&w.lab, &w.a2, &["SPOOF_MAC"], || wire.send(&everyone.udp(from, to, b"spoofed")));
        victim.take();
        wire.send(&honest.udp(from, to, b"honest"));
        victim.wait("the honest datagram", Duration::from_secs(5), |p| p.is_to(Proto::Udp, 9));
        w.lab.h.ping(w.a2.ip(family)); // the bridge still knows the way
    }
}

#[test]
fn arp_for_another_address_is_dropped_and_neighbours_keep_what_they_know() {
    let w = world();
    let (wire, victim) = (w.a1.capture(), w.a2.capture());
    let gateway = w.net.gateway(Family::V4);
    let known = Some(w.a2.mac_of(gateway));
    let (IpAddr::V4(gateway4), Some(own), Some(target)) = (gateway, w.a1.v4, w.a2.v4) else { panic!("IPv4") };
    let (unicast, everyone) = (w.to_neighbour(), Frame { dst: Frame::BROADCAST, ..w.to_neighbour() });
    let poison = [
        unicast.arp(ArpOperation::REPLY, gateway4, target),
        everyone.arp(ArpOperation::REQUEST, gateway4, target),
        everyone.arp(ArpOperation::REQUEST, gateway4, gateway4),
        everyone.arp(ArpOperation::REPLY, target, target),
    ];
    victim.take();
    let before = w.lab.drops();
    for bytes in &poison {
        wire.send(bytes);
    }
    // A request for an own address, and a probe with sender 0 (RFC 5227), pass; they mark the end.
    wire.send(&everyone.arp(ArpOperation::REQUEST, Ipv4Addr::UNSPECIFIED, own));
    wire.send(&everyone.arp(ArpOperation::REQUEST, own, target));
    let mut seen = Vec::new();
    while !seen.contains(&Some(IpAddr::V4(own))) {
        let packet =
            victim.wait("the honest ARP", Duration::from_secs(5), |p| !p.outgoing && p.ethertype == 0x0806);
        seen.push(packet.src);
    }
    assert!(
        !seen.contains(&Some(gateway)) && !seen.contains(&Some(IpAddr::V4(target))),
        "poison arrived: {seen:?}"
    );
    assert_eq!(w.a2.neighbour(gateway), known, "the neighbour's entry for the gateway");
    let counted = |drops: &std::collections::BTreeMap<String, u64>| -> u64 { drops.values().sum() };
    assert!(counted(&w.lab.drops()) >= counted(&before) + 4, "each forged message is counted");
}

#[test]
fn a_sandbox_cannot_speak_to_the_host_in_anothers_name() {
    let w = world();
    let (wire, frame) = (w.a1.capture(), w.to_gateway());
    let socket = w.lab.h.run(|| std::net::UdpSocket::bind("0.0.0.0:7777").expect("a socket"));
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let to: SocketAddr = at(w.net.gateway(Family::V4), 7777);
    for source in foreign(&w, Family::V4) {
        wire.send(&frame.udp(at(source, 5000), to, b"spoofed"));
    }
    wire.send(&frame.udp(at(w.a1.ip(Family::V4), 5000), to, b"honest"));
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).expect("the honest datagram");
    assert_eq!((&buffer[..length], from), (&b"honest"[..], at(w.a1.ip(Family::V4), 5000)));
}

#[test]
fn a_sandbox_cannot_route_itself_an_extra_address() {
    let w = world();
    for family in Family::BOTH {
        // First, so that the gateway is resolved: a neighbour request would name the extra address, and be dropped for it.
        w.a1.ping(w.net.gateway(family));
    }
    w.a1.ip_batch("addr add 172.20.0.77/24 dev eth0\naddr add fd00:c:20::77/64 dev eth0 nodad");
    let _server = netd_tests::Server::start(&w.lab.r, &[80]);
    for (family, extra) in Family::BOTH.into_iter().zip(["172.20.0.77", "fd00:c:20::77"]) {
        let from = Some(at(extra.parse::<IpAddr>().expect("an address"), 0));
        denied(&w.lab, &w.lab.r, &["SPOOF_IP"], || {
            let outcome = w.a1.dial(Proto::Udp, at(R.ip(family), 80), from, netd_tests::SILENCE);
            assert_eq!(outcome, netd_tests::Outcome::Timeout);
        });
        let own = Some(at(w.a1.ip(family), 0)); // IPv6 would choose the newer address
        assert_eq!(w.a1.reach_from(Proto::Udp, at(R.ip(family), 80), own).source.ip(), H.ip(family));
    }
}
