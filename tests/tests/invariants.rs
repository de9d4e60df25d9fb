//! Rung: namespaces. Invariant 1 of Docker semantics 5.5: no frame, however made, reaches a sandbox of a nat network by its own address, but from its
//! own network. Seeded, so that a failure can be had again.

use std::net::IpAddr;

use netd_tests::{Capture, Family, Frame, H, Lab, Ns, PATIENCE, Packet, Proto, R, R2, Random, Sandbox, at};

const FRAMES: u64 = 600;

/// A random packet between two addresses: protocol, ports, flags, TTL, fragments, options, VLAN tags, and bytes spoilt anywhere behind the addresses.
fn random_frame(random: &mut Random, frame: &Frame, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let port = random.one_of(&[80, 81, 8080, 22, 53]);
    let (source, target) = (at(from, random.one_of(&[40_000, 80, 53, 8080])), at(to, port));
    let protocol = random.one_of(&[1, 2, 4, 33, 41, 47, 50, 58, 132, 136, 253]);
    let mut bytes = match random.next() % 6 {
        0 => frame.tcp_syn(source, target),
        1 => frame.tcp_ack(source, target),
        2 => frame.tcp_rst(source, target),
        3 => frame.udp(source, target, b"direct"),
        4 => frame.echo(from, to, 7),
        _ => frame.ip_payload(from, to, protocol, b"direct access, sixteen bytes and more"),
    };
    let l3 = 14;
    if to.is_ipv4() {
        match random.next() % 4 {
            0 => bytes[l3 + 8] = random.one_of(&[0, 1, 2, 255]),
            1 => bytes[l3 + 6] = random.one_of(&[0x20, 0x00, 0x40]) | random.byte() & 0x1f, // a fragment
            2 => bytes[l3] = 0x40 | random.one_of(&[5, 6, 8, 15]),
            _ => {}
        }
        bytes[l3 + 10..l3 + 12].fill(0);
        let sum: u32 = bytes[l3..l3 + 20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let sum = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded");
        bytes[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    } else if random.next().is_multiple_of(3) {
        bytes[l3 + 6] = random.one_of(&[0, 43, 44, 51, 59, 60]); // whatever follows is read as an extension header
    }
    if random.next().is_multiple_of(8) {
        let tag = [0x81, 0, 0, random.one_of(&[0, 1, 7])];
        bytes.splice(12..12, tag);
    }
    if random.next().is_multiple_of(4) {
        let at = bytes.len() - 1 - usize::from(random.byte()) % 8;
        bytes[at] = random.byte();
    }
    bytes
}

/// Sends random frames from an attacker to a1's own address.
fn attack(seed: u64, family: Family, attacker: &Ns, source: IpAddr, dst: [u8; 6], a1: &Sandbox) {
    let wire = Capture::start(attacker, "eth0");
    let frame = Frame { src: attacker.link("eth0").expect("eth0").mac, dst };
    let mut random = Random::new(seed);
    for _ in 0..FRAMES {
        wire.send(&random_frame(&mut random, &frame, source, a1.ip(family)));
    }
}

#[test]
fn nothing_reaches_a_sandbox_by_its_own_address_but_from_its_network() {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80, 81]);
    let b1 = lab.sandbox("b1", b, 2, &[]);
    let mac = |ns: &Ns, ifname| ns.link(ifname).expect("a link").mac;
    for family in Family::BOTH {
        let gateway = b1.mac_of(b.gateway(family));
        let inside = a1.capture();
        let before: u64 = lab.drops().values().sum();
        attack(1, family, &lab.r, R.ip(family), mac(&lab.h, "eth0"), &a1);
        attack(2, family, &lab.r2, R2.ip(family), mac(&lab.h, "eth1"), &a1);
        attack(3, family, &b1, b1.ip(family), gateway, &a1);
        // The control, and the end: the published port, and what was counted.
        let marker = at(R.ip(family), 39_999);
        assert_eq!(lab.r.reach_from(Proto::Udp, at(H.ip(family), 8080), Some(marker)).source, marker);
        let last = |p: &Packet| !p.outgoing && p.sport == Some(marker.port());
        let strangers = [R.ip(family), R2.ip(family), b1.ip(family)];
        let arrived: Vec<_> = inside
            .until("the last datagram", PATIENCE, last)
            .into_iter()
            .filter(|p| !p.outgoing && !last(p) && p.src.is_some_and(|src| strangers.contains(&src)))
            .collect();
        assert!(arrived.is_empty(), "{family:?}: {} arrived, first {:x?}", arrived.len(), arrived[0]);
        let counted = lab.drops().values().sum::<u64>() - before;
        assert!(counted > FRAMES, "{counted} of {} counted", 3 * FRAMES);
    }
}
