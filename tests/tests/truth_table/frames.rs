//! T69, T70, T79 to T82: crafted frames: spoofed sources, segments of no flow, group traffic, SCTP with more addresses, frames that are not IP.

use std::time::Duration;

use netd_tests::{
    Capture, Family, Frame, H, Lab, PATIENCE, Proto, R, R2, Sandbox, at, denied,
    truth::{Row, Stage, V4, V6, Who, World, row, story},
};

const WAIT: Duration = Duration::from_secs(5);

pub fn rows() -> Vec<Row> {
    vec![
        row(
            69,
            "a foreign source never leaves the sandbox",
            [story("udp icmp", "a1 as another → R", "DROP", Stage::Shared(spoofed))],
        ),
        row(
            70,
            "segments of no flow never leave untranslated",
            [story("tcp", "a1's FIN, RST, ACK of no flow → R", "DROP", Stage::Shared(of_no_flow))],
        ),
        row(
            79,
            "broadcast and multicast from outside reach no published port",
            [story(
                "udp",
                "R → broadcast, multicast :8080",
                "not translated",
                Stage::Shared(groups_from_outside),
            )],
        ),
        row(
            80,
            "DHCP, mDNS and group membership stay on the bridge",
            [story(
                "udp igmp",
                "a1 → DHCP, mDNS, membership reports",
                "not at R",
                Stage::Shared(link_protocols),
            )],
        ),
        row(
            81,
            "an SCTP client is translated on its primary path alone",
            [story(
                "sctp",
                "R → H:8080, INIT with more addresses",
                "OK, CRC32c right",
                Stage::Own(more_addresses),
            )],
        ),
        row(
            82,
            "tagged frames and router advertisements do not reach a neighbour",
            [
                story(
                    "vlan",
                    "a1 → a2, tagged once and twice",
                    "DROP (reliability A.2)",
                    Stage::Shared(tagged),
                )
                .only(V4),
                story(
                    "llc",
                    "a1 → a2, LLC and others",
                    "OK with ICC, DROP without",
                    Stage::Shared(other_frames),
                )
                .only(V4),
                story(
                    "icmp",
                    "a1 → a2, H: router advertisement",
                    "DROP, no new route",
                    Stage::Shared(advertisement),
                )
                .only(V6),
            ],
        ),
    ]
}

fn mac(sandbox: &Sandbox) -> [u8; 6] {
    sandbox.link("eth0").expect("eth0").mac
}

/// A frame of a1 to its gateway.
fn to_gateway(world: &World) -> Frame {
    let (a1, gateway) = (world.sandbox(Who::A1), world.net(Who::A1).gateway(Family::V4));
    Frame { src: mac(a1), dst: a1.mac_of(gateway) }
}

fn spoofed(world: &World, family: Family) {
    let (a1, frame) = (world.sandbox(Who::A1), to_gateway(world));
    let (wire, remote) = (a1.capture(), Capture::start(&world.r, "eth0"));
    let stranger = if family == Family::V4 { "1.2.3.4" } else { "2001:db8::1" };
    let stranger = stranger.parse().expect("an address");
    let to = at(R.ip(family), 9);
    for source in
        [stranger, world.sandbox(Who::A2).ip(family), H.ip(family), world.net(Who::A1).gateway(family)]
    {
        denied(world, &world.r, &["SPOOF_IP"], || wire.send(&frame.udp(at(source, 5000), to, b"spoofed")));
        denied(world, &world.r, &["SPOOF_IP"], || wire.send(&frame.echo(source, to.ip(), 7)));
    }
    remote.take();
    wire.send(&frame.udp(at(a1.ip(family), 5000), to, b"honest"));
    let honest = remote.wait("the honest datagram", WAIT, |p| p.is_to(Proto::Udp, 9));
    assert_eq!(honest.src, Some(H.ip(family)));
}

fn of_no_flow(world: &World, family: Family) {
    let (a1, frame) = (world.sandbox(Who::A1), to_gateway(world));
    let (wire, remote) = (a1.capture(), Capture::start(&world.r, "eth0"));
    let (from, to) = (at(a1.ip(family), 5001), at(R.ip(family), 9));
    for segment in [frame.tcp_fin(from, to), frame.tcp_rst(from, to), frame.tcp_ack(from, to)] {
        denied(world, &world.r, &["CT_INVALID"], || wire.send(&segment));
    }
    let leaked = remote.take().into_iter().filter(|p| p.is_to(Proto::Tcp, 9)).count();
    assert_eq!(leaked, 0, "segments of no flow at R");
    wire.send(&frame.tcp_syn(from, to));
    let syn = remote.wait("the SYN", WAIT, |p| !p.outgoing && p.is_to(Proto::Tcp, 9));
    assert_eq!(syn.src, Some(H.ip(family)));
}

fn groups_from_outside(world: &World, family: Family) {
    let (a1, wire) = (world.sandbox(Who::A1).capture(), Capture::start(&world.r, "eth0"));
    let own = world.r.link("eth0").expect("eth0").mac;
    let groups: &[(&str, [u8; 6])] = match family {
        Family::V4 => &[
            ("10.0.0.255", Frame::BROADCAST),
            ("255.255.255.255", Frame::BROADCAST),
            ("224.0.0.1", [1, 0, 0x5e, 0, 0, 1]),
        ],
        Family::V6 => &[("ff02::1", [0x33, 0x33, 0, 0, 0, 1])],
    };
    let from = at(R.ip(family), 41_000);
    a1.take();
    for (to, dst) in groups {
        let to = at(to.parse::<std::net::IpAddr>().expect("an address"), 8080);
        wire.send(&Frame { src: own, dst: *dst }.udp(from, to, b"to all"));
    }
    let host = Frame { src: own, dst: world.h.link("eth0").expect("eth0").mac };
    wire.send(&host.udp(from, at(H.ip(family), 8080), b"to one"));
    let first = a1.wait("the datagram to one", WAIT, |p| !p.outgoing && p.proto == Some(17));
    assert!(first.bytes.ends_with(b"to one"), "a group's datagram was translated: {first:x?}");
    let others = a1.take().into_iter().filter(|p| !p.outgoing && p.proto == Some(17)).count();
    assert_eq!(others, 0, "the datagram to one comes last, and alone");
}

fn link_protocols(world: &World, family: Family) {
    let (a1, a2) = (world.sandbox(Who::A1), world.sandbox(Who::A2).capture());
    let (wire, outside) = (a1.capture(), Capture::start(&world.r, "eth0"));
    let address = |text: &str| text.parse::<std::net::IpAddr>().expect("an address");
    let own = a1.ip(family);
    let frames: Vec<Vec<u8>> = match family {
        Family::V4 => {
            let everyone = Frame { src: mac(a1), dst: Frame::BROADCAST };
            let mdns = Frame { src: mac(a1), dst: [1, 0, 0x5e, 0, 0, 0xfb] };
            vec![
                mdns.udp(at(own, 5353), at(address("224.0.0.251"), 5353), b"mdns"),
                mdns.ip_payload(own, address("224.0.0.22"), 2, &[0x22, 0, 0xdd, 0xff, 0, 0, 0, 0]),
                everyone.udp(at(own, 68), at(address("255.255.255.255"), 67), b"dhcp"),
            ]
        }
        Family::V6 => {
            let mdns = Frame { src: mac(a1), dst: [0x33, 0x33, 0, 0, 0, 0xfb] };
            let dhcp = Frame { src: mac(a1), dst: [0x33, 0x33, 0, 1, 0, 2] };
            vec![
                mdns.udp(at(own, 5353), at(address("ff02::fb"), 5353), b"mdns"),
                dhcp.udp(at(own, 546), at(address("ff02::1:2"), 547), b"dhcp"),
            ]
        }
    };
    outside.take();
    let from_a1 = |p: &netd_tests::Packet| !p.outgoing && p.src == Some(own);
    for frame in &frames {
        wire.send(frame);
    }
    // On the bridge, at least mDNS is heard.
    a2.wait("mDNS", WAIT, |p| from_a1(p) && p.is_to(Proto::Udp, 5353));
    a1.ping(R.ip(family));
    let known = |p: &netd_tests::Packet| {
        p.is_to(Proto::Udp, 5353) || p.is_to(Proto::Udp, 67) || p.is_to(Proto::Udp, 547) || p.proto == Some(2)
    };
    let leaked: Vec<_> = outside.take().into_iter().filter(|p| !p.outgoing && known(p)).collect();
    assert!(leaked.is_empty(), "on the uplink: {:?}", leaked.first());
}

fn more_addresses(family: Family) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/sctp"]).serving(&[80]);
    let (inside, outside) = (a1.capture(), Capture::start(&lab.r2, "eth0"));
    // A second address of the client, on its other interface: of another uplink of the host.
    let more = [R2.ip(family)];
    let outcome = lab.r.init_sctp_with(at(H.ip(family), 8080), 40_000, &more, PATIENCE);
    let seen = outcome.seen().expect("an answer, its checksum right");
    assert_eq!((seen.server.as_str(), seen.source), ("a1", at(R.ip(family), 40_000)));
    let sctp = |p: &netd_tests::Packet| p.proto == Some(132);
    let clients: Vec<_> =
        inside.take().into_iter().filter(|p| !p.outgoing && sctp(p)).map(|p| p.src).collect();
    assert_eq!(clients, [Some(R.ip(family))], "one path, the primary one");
    lab.r.ping(R2.ip(family));
    assert!(!outside.take().iter().any(sctp), "nothing to the other address");
}

/// A frame that arrives, and what stands in its place: tags between addresses and type, or another type.
fn honest(from: &Sandbox, to: &Sandbox) -> Vec<u8> {
    let frame = Frame { src: mac(from), dst: mac(to) };
    frame.udp(at(from.ip(Family::V4), 5000), at(to.ip(Family::V4), 9), b"marker")
}

fn tagged(world: &World, _: Family) {
    let (a1, a2) = (world.sandbox(Who::A1), world.sandbox(Who::A2));
    let (wire, victim, honest) = (a1.capture(), a2.capture(), honest(a1, a2));
    let tagged = |tags: &[[u8; 4]]| [&honest[..12], &tags.concat(), &honest[12..]].concat();
    for tags in [&[[0x81, 0, 0, 1]][..], &[[0x81, 0, 0, 0]], &[[0x88, 0xa8, 0, 2], [0x81, 0, 0, 1]]] {
        denied(world, a2, &["UNKNOWN_L3"], || wire.send(&tagged(tags)));
    }
    victim.take();
    wire.send(&honest);
    let arrived = victim.wait("the honest datagram", WAIT, |p| !p.outgoing);
    assert_eq!(arrived.bytes, honest);
}

fn other_frames(world: &World, _: Family) {
    const TYPES: [u16; 4] = [0x88b5, 0x8863, 0x8847, 0x0040];
    let typed = |honest: &[u8], kind: u16| [&honest[..12], &kind.to_be_bytes(), &honest[14..]].concat();
    let (a1, a2) = (world.sandbox(Who::A1), world.sandbox(Who::A2));
    let (wire, victim) = (a1.capture(), a2.capture());
    for kind in TYPES {
        let frame = typed(&honest(a1, a2), kind);
        wire.send(&frame);
        victim.wait("the frame", WAIT, |p| !p.outgoing && p.bytes == frame);
    }
    let (c1, c2) = (world.sandbox(Who::C1), world.sandbox(Who::C2));
    let (wire, victim) = (c1.capture(), c2.capture());
    for kind in TYPES {
        denied(world, c2, &["UNKNOWN_L3"], || wire.send(&typed(&honest(c1, c2), kind)));
    }
    let arrived = victim.take().into_iter().filter(|p| !p.outgoing && TYPES.contains(&p.ethertype)).count();
    assert_eq!(arrived, 0, "frames that are not IP at c2");
}

fn advertisement(world: &World, _: Family) {
    let (a1, a2) = (world.sandbox(Who::A1), world.sandbox(Who::A2));
    let routes = || world.h.ip_json(&["-6", "route", "show"]);
    let before = (routes(), a2.ip_json(&["-6", "route", "show"]));
    let all_nodes = "ff02::1".parse().expect("an address");
    let frame = Frame { src: mac(a1), dst: [0x33, 0x33, 0, 0, 0, 1] };
    // Hop limit 64, no flags, lifetime 1800 s; a prefix option for autoconfiguration (RFC 4861 §4.2, §4.6.2).
    let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0]);
    message.extend("2001:db8:bad::".parse::<std::net::Ipv6Addr>().expect("a prefix").octets());
    let link_local = a1_link_local(world);
    let wire = a1.capture();
    let victim = a2.capture();
    denied(world, a2, &["ROGUE_CONTROL"], || {
        wire.send(&frame.icmpv6(link_local, all_nodes, &message));
    });
    wire.send(&Frame { src: mac(a1), dst: mac(a2) }.udp(
        at(a1.ip(Family::V6), 5000),
        at(a2.ip(Family::V6), 9),
        b"end",
    ));
    let seen = victim.until("the honest datagram", WAIT, |p| !p.outgoing && p.is_to(Proto::Udp, 9));
    let arrived = seen.iter().any(|p| !p.outgoing && p.bytes.get(54) == Some(&134));
    assert!(!arrived, "an advertisement arrived");
    assert_eq!((routes(), a2.ip_json(&["-6", "route", "show"])), before, "routes of the host and of a2");
}

fn a1_link_local(world: &World) -> std::net::Ipv6Addr {
    let shown = world.sandbox(Who::A1).ip_json(&["-6", "addr", "show", "dev", "eth0"]);
    let all = shown[0]["addr_info"].as_array().expect("addresses");
    let local = all.iter().find(|a| a["scope"] == "link").expect("a link-local address");
    local["local"].as_str().and_then(|text| text.parse().ok()).expect("an address")
}
