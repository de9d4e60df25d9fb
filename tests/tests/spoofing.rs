//! Rung: namespaces, truth-table row T69 and reliability A.2. A sandbox speaks for itself alone.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use etherparse::ArpOperation;
use netd_tests::{Capture, Family, Frame, H, Lab, Net, PATIENCE, Proto, R, Sandbox, at, denied, eventually};

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
fn t69_with_anti_spoofing_off_a_strangers_address_leaves_as_it_is_and_the_hosts_and_other_networks_do_not() {
    let lab = Lab::new();
    for key in ["all", "default", "eth0"] {
        lab.h.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0"); // the kernel's own check, as under Docker
    }
    let off = ["-o", "netd.anti_spoofing=false"];
    let (net, other) = (lab.network("netA", 20, &off), lab.network("netB", 21, &[]));
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    let (b1, b2) = (lab.sandbox("b1", other, 2, &[]), lab.sandbox("b2", other, 3, &[]));
    let (wire, victim, remote) = (a1.capture(), a2.capture(), Capture::start(&lab.r, "eth0"));
    let to_gateway = Frame { src: mac(&a1), dst: a1.mac_of(net.gateway(Family::V4)) };
    let by_bridge = Frame { src: [2, 0, 0, 0, 0, 99], dst: mac(&a2) };
    let limit = Duration::from_secs(30);
    for family in Family::BOTH {
        let stranger: IpAddr =
            if family == Family::V4 { "1.2.3.4" } else { "2001:db8::1" }.parse().expect("an address");
        let to = at(R.ip(family), 9);
        remote.take();
        wire.send(&to_gateway.udp(at(stranger, 5000), to, b"as it is"));
        let seen = remote.wait("a stranger's datagram", limit, |p| p.is_to(Proto::Udp, 9));
        assert_eq!((seen.src, seen.sport), (Some(stranger), Some(5000)), "no rule masquerades it");
        // Its network's own addresses are masqueraded, whoever uses them.
        wire.send(&to_gateway.udp(at(net.ip(family, 77), 5000), to, b"a neighbour's"));
        let seen = remote.wait("a neighbour's datagram", limit, |p| p.is_to(Proto::Udp, 9));
        assert_eq!(seen.src, Some(H.ip(family)));
        victim.take();
        wire.send(&by_bridge.udp(at(stranger, 5000), at(a2.ip(family), 9), b"to a neighbour"));
        victim.wait("a stranger's at a neighbour", limit, |p| p.is_to(Proto::Udp, 9));
        // What is somebody's stays his, and other networks stay closed.
        for source in [H.ip(family), net.gateway(family), b1.ip(family), family.loopback()] {
            denied(&lab, &lab.r, &["SPOOF_IP"], || {
                wire.send(&to_gateway.udp(at(source, 5000), to, b"not yours"));
            });
        }
        denied(&lab, &b1, &["ISOLATION"], || {
            wire.send(&to_gateway.udp(at(stranger, 5000), at(b1.ip(family), 9), b"let me in"));
        });
    }
    let (IpAddr::V4(gateway), Some(target)) = (net.gateway(Family::V4), a2.v4) else { panic!("IPv4") };
    let arp = Frame { src: mac(&a1), dst: mac(&a2) }.arp(ArpOperation::REPLY, gateway, target);
    victim.take();
    wire.send(&arp);
    victim.wait("an ARP reply in the gateway's name", limit, |p| p.ethertype == 0x0806 && !p.outgoing);
    denied(&lab, &a2, &["ROGUE_CONTROL"], || {
        wire.send(&by_bridge.udp(at(a1.ip(Family::V4), 67), at(a2.ip(Family::V4), 68), b"a lease"));
    });
    // A network that has not switched it off is as it was.
    let (wire, to_b2) = (b1.capture(), Frame { src: mac(&b1), dst: mac(&b2) });
    for (frame, reason) in [(to_b2, "SPOOF_IP"), (Frame { src: by_bridge.src, ..to_b2 }, "SPOOF_MAC")] {
        denied(&lab, &b2, &[reason], || {
            wire.send(&frame.udp(at(Ipv4Addr::new(1, 2, 3, 4), 5000), at(b2.ip(Family::V4), 9), b"x"));
        });
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
    let known = w.a2.mac_of(gateway);
    let (IpAddr::V4(gateway4), Some(own), Some(target)) = (gateway, w.a1.v4, w.a2.v4) else { panic!("IPv4") };
    let (unicast, everyone) = (w.to_neighbour(), Frame { dst: Frame::BROADCAST, ..w.to_neighbour() });
    let (nobody, unused) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(172, 20, 0, 99));
    let poison = [
        unicast.arp(ArpOperation::REPLY, gateway4, target),
        everyone.arp(ArpOperation::REQUEST, gateway4, target),
        everyone.arp(ArpOperation::REQUEST, gateway4, gateway4),
        everyone.arp(ArpOperation::REPLY, target, target),
        // Probes (RFC 5227 §2.1.1): who is about to take the address would give it up.
        everyone.arp(ArpOperation::REQUEST, nobody, target),
        unicast.arp(ArpOperation::REQUEST, nobody, gateway4),
        everyone.arp(ArpOperation::REQUEST, nobody, unused),
        everyone.arp(ArpOperation::REPLY, nobody, target),
    ];
    victim.take();
    let before = w.lab.drops();
    for bytes in &poison {
        wire.send(bytes);
    }
    eventually("each forged message to be counted", || {
        w.lab.drops()["spoofip"] >= before["spoofip"] + poison.len() as u64
    });
    // What it may say: a probe for its own address, an announcement, a question. The last one marks the end.
    let honest = [
        everyone.arp(ArpOperation::REQUEST, nobody, own),
        everyone.arp(ArpOperation::REQUEST, own, own),
        everyone.arp(ArpOperation::REQUEST, own, target),
    ];
    for bytes in &honest {
        wire.send(bytes);
    }
    let all = victim.until("the honest question", PATIENCE, |p| !p.outgoing && p.bytes == honest[2]);
    let seen = |bytes: &Vec<u8>| all.iter().any(|p| !p.outgoing && &p.bytes == bytes);
    assert!(honest.iter().all(seen), "what is its own passes: {all:?}");
    assert!(!poison.iter().any(seen), "a claim arrived: {all:?}");
    // Where namespaces are many, the kernel gives up entries that nobody uses.
    let after = w.a2.neighbour(gateway);
    assert!(after.is_none_or(|mac| mac == known), "the gateway's entry at a2: {after:?}");
    assert_eq!(w.a2.mac_of(gateway), known);
}

/// The link-local address that spells an Ethernet address (RFC 4291 appendix A).
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, 0, 0, 0xff, 0xfe, 0, 0, 0];
    octets[9..11].copy_from_slice(&mac[1..3]);
    octets[13..].copy_from_slice(&mac[3..]);
    Ipv6Addr::from(octets)
}

/// A neighbour solicitation (135) or advertisement (136, overriding) about an address, with a1's Ethernet address.
fn discovery(w: &World, kind: u8, target: Ipv6Addr) -> Vec<u8> {
    let flags = if kind == 136 { 0x20 } else { 0 };
    [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), &[kind - 134, 1], &mac(&w.a1)].concat()
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

#[test]
fn a2_row9_neighbour_discovery_for_another_address_is_dropped_and_neighbours_keep_what_they_know() {
    let w = world();
    let (IpAddr::V6(own), IpAddr::V6(victim), IpAddr::V6(gateway)) =
        (w.a1.ip(Family::V6), w.a2.ip(Family::V6), w.net.gateway(Family::V6))
    else {
        panic!("IPv6")
    };
    w.a2.ping(IpAddr::V6(gateway));
    let known = w.a2.neighbour(IpAddr::V6(gateway)).expect("a2 knows its gateway");
    let (wire, seen) = (w.a1.capture(), w.a2.capture());
    let everyone = Frame { dst: [0x33, 0x33, 0, 0, 0, 1], ..w.to_neighbour() };
    let of_gateway = link_local(known);
    let claims = [
        (own, discovery(&w, 136, victim)),
        (own, discovery(&w, 136, gateway)),
        (own, discovery(&w, 136, of_gateway)),
        (own, discovery(&w, 136, link_local(mac(&w.a2)))),
        (gateway, discovery(&w, 136, gateway)),
        (of_gateway, discovery(&w, 136, of_gateway)),
        (victim, discovery(&w, 135, gateway)),
        (of_gateway, discovery(&w, 135, victim)),
        // Duplicate address detection for an address of somebody else: it would lose the address.
        (Ipv6Addr::UNSPECIFIED, discovery(&w, 135, victim)),
        (Ipv6Addr::UNSPECIFIED, discovery(&w, 135, link_local(mac(&w.a2)))),
    ];
    seen.take();
    for (from, message) in &claims {
        w.a2.ping(IpAddr::V6(gateway)); // an entry that a claim could change
        denied(&w.lab, &w.a2, &["SPOOF_IP"], || wire.send(&everyone.icmpv6(*from, ALL_NODES, message)));
    }
    // What it may say of itself: an advertisement and detection for its own two addresses. The last one marks the end.
    for target in [link_local(mac(&w.a1)), own] {
        wire.send(&everyone.icmpv6(Ipv6Addr::UNSPECIFIED, ALL_NODES, &discovery(&w, 135, target)));
        wire.send(&everyone.icmpv6(target, ALL_NODES, &discovery(&w, 136, target)));
    }
    let last = everyone.icmpv6(own, ALL_NODES, &discovery(&w, 136, own));
    let all = seen.until("its own advertisement", PATIENCE, |p| !p.outgoing && p.bytes == last);
    let of_a1 = |p: &&netd_tests::Packet| !p.outgoing && matches!(p.bytes.get(54), Some(135 | 136));
    let forged = claims.iter().map(|(from, message)| everyone.icmpv6(*from, ALL_NODES, message));
    let forged: Vec<_> = forged.collect();
    assert!(all.iter().filter(of_a1).count() >= 4, "what is its own passes: {all:?}");
    assert!(!all.iter().any(|p| forged.contains(&p.bytes)), "a claim arrived");
    // Where namespaces are many, the kernel gives up entries that nobody uses.
    let after = w.a2.neighbour(IpAddr::V6(gateway));
    assert!(after.is_none_or(|mac| mac == known), "the gateway's entry at a2: {after:?}");
    assert_eq!(w.a2.mac_of(IpAddr::V6(gateway)), known);
}

#[test]
fn a2_row10_nobody_but_the_gateway_is_a_router_or_serves_dhcp() {
    let w = world();
    let (wire, seen) = (w.a1.capture(), w.a2.capture());
    let unicast = w.to_neighbour();
    let everyone = Frame { dst: Frame::BROADCAST, ..unicast };
    let nodes = Frame { dst: [0x33, 0x33, 0, 0, 0, 1], ..unicast };
    let IpAddr::V6(own) = w.a1.ip(Family::V6) else { panic!("IPv6") };
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &own.octets(), &ALL_NODES.octets()].concat();
    let mut frames = vec![nodes.icmpv6(own, ALL_NODES, &redirect)];
    for (family, server, client, group) in
        [(Family::V4, 67, 68, "255.255.255.255"), (Family::V6, 547, 546, "ff02::1")]
    {
        let from = at(w.a1.ip(family), server);
        let group = at(group.parse::<IpAddr>().expect("an address"), client);
        let gateway = w.net.gateway(family);
        let to_host = Frame { dst: w.a1.mac_of(gateway), ..unicast };
        frames.push(unicast.udp(from, at(w.a2.ip(family), client), b"offer"));
        frames.push(if family == Family::V4 { everyone } else { nodes }.udp(from, group, b"offer"));
        frames.push(to_host.udp(from, at(gateway, client), b"offer"));
    }
    for frame in &frames {
        denied(&w.lab, &w.a2, &["ROGUE_CONTROL"], || wire.send(frame));
    }
    seen.take();
    // A client's words pass, and so does a server's port towards another.
    for (family, server, client) in [(Family::V4, 67, 68), (Family::V6, 547, 546)] {
        for (sport, dport) in [(client, server), (server, 9)] {
            let honest = unicast.udp(at(w.a1.ip(family), sport), at(w.a2.ip(family), dport), b"honest");
            wire.send(&honest);
            seen.wait("the honest datagram", PATIENCE, |p| !p.outgoing && p.bytes == honest);
        }
    }
}

#[test]
fn a2_row11_a_link_local_address_that_spells_another_interface_is_not_ones_own() {
    let w = world();
    let gateway = w.a1.mac_of(w.net.gateway(Family::V6));
    let (wire, seen, frame) = (w.a1.capture(), w.a2.capture(), w.to_neighbour());
    let to = |port| at(IpAddr::V6(link_local(mac(&w.a2))), port);
    for source in [link_local(mac(&w.a2)), link_local(gateway)] {
        for to in [to(9), at(w.a2.ip(Family::V6), 9)] {
            denied(&w.lab, &w.a2, &["SPOOF_IP"], || {
                wire.send(&frame.udp(at(IpAddr::V6(source), 5000), to, b"spoofed"));
            });
        }
    }
    seen.take();
    let honest = frame.udp(at(IpAddr::V6(link_local(mac(&w.a1))), 5000), to(9), b"honest");
    wire.send(&honest);
    seen.wait("the honest datagram", PATIENCE, |p| !p.outgoing && p.bytes == honest);
}

#[test]
fn a2_row8_what_is_for_the_bridge_itself_reaches_nobody() {
    let w = world();
    let bridges = || w.lab.h.ip_json(&["-details", "link", "show", "type", "bridge"]);
    let states = |links: &serde_json::Value| -> Vec<serde_json::Value> {
        let all = links.as_array().expect("bridges");
        all.iter().map(|link| link["linkinfo"]["info_data"]["root_id"].clone()).collect()
    };
    let before = states(&bridges());
    assert!(!before.is_empty() && before.iter().all(serde_json::Value::is_string), "{before:?}");
    let (wire, seen) = (w.a1.capture(), w.a2.capture());
    let own = mac(&w.a1);
    // A bridge protocol data unit of the best root there is, in an LLC frame; slow protocols; LLDP.
    let unit = [&[0, 38, 0x42, 0x42, 3, 0, 0, 0, 0, 0][..], &[0; 35], &[0; 7]].concat();
    let other = |kind: [u8; 2]| [&kind[..], &[0; 46]].concat();
    for (last, rest) in [(0, unit), (2, other([0x88, 0x09])), (0x0e, other([0x88, 0xcc]))] {
        let frame = [&[1, 0x80, 0xc2, 0, 0, last], &own[..], &rest].concat();
        denied(&w.lab, &w.a2, &["UNKNOWN_L3"], || wire.send(&frame));
        assert!(!seen.take().iter().any(|p| p.bytes == frame), "to group {last:x}: seen at a2");
    }
    assert_eq!(states(&bridges()), before, "the bridges' root");
    // Another group's frame passes (ADR 0014).
    let frame = [&[1, 0, 0x5e, 0x90, 0, 1], &own[..], &other([0x88, 0xb5])].concat();
    wire.send(&frame);
    seen.wait("a frame to an ordinary group", PATIENCE, |p| !p.outgoing && p.bytes == frame);
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
        // First and for good: a neighbour request would name the extra address, and be dropped for it.
        let gateway = w.net.gateway(family);
        let mac = w.a1.mac_of(gateway).map(|byte| format!("{byte:02x}")).join(":");
        w.a1.ip_batch(&format!("neigh replace {gateway} lladdr {mac} dev eth0 nud permanent"));
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
