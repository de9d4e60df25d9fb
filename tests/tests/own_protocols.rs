//! Rung: namespaces, dataplane §7.6 and case 6, security row S14. What the host itself says by protocols whose sockets nobody can look up: no sandbox gets
//! the answers, whoever spoke first.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use netd_tests::{Capture, Family, H, Lab, Ns, Options, PATIENCE, Packet, R, Topology, Wire, eventually};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

/// IP in IP: of those without ports the one about which every kernel sends an error.
const IPIP: u8 = 4;
const SCTP: u8 = 132;
const DCCP: u8 = 33;

/// Sends a packet as the host's own, by its stack.
fn host_sends(h: &Ns, packet: &[u8], to: IpAddr) {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = h.run(|| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw));
    let raw = raw.expect("a raw socket");
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty()).expect("send");
}

/// What IP carries: two ports where the protocol has them, an SCTP packet's first chunk, and words. Nobody asks for the checksum.
fn body(proto: u8, (sport, dport): (u16, u16), words: &[u8]) -> Vec<u8> {
    const INIT: u8 = 1;
    let mut bytes =
        if proto == IPIP { vec![0; 4] } else { [sport.to_be_bytes(), dport.to_be_bytes()].concat() };
    bytes.extend([0, 8, 1, 2, 0, 0, 0, 0, INIT, 0, 0, 8]);
    bytes.extend(words);
    bytes
}

/// The source port of what IP carries; 0 where the protocol has none.
fn source_port(packet: &Packet) -> u16 {
    let at = if packet.ethertype == 0x0800 { 34 } else { 54 };
    u16::from_be_bytes([packet.bytes[at], packet.bytes[at + 1]])
}

fn arrives(at: &Capture, proto: u8, words: &[u8]) -> Packet {
    at.wait(&format!("protocol {proto}: {}", String::from_utf8_lossy(words)), PATIENCE, |p| {
        !p.outgoing && p.proto == Some(proto) && p.bytes.ends_with(words)
    })
}

#[test]
fn case06_s14_what_the_host_says_by_protocols_without_visible_sockets_is_answered_to_the_host() {
    let topology = Topology::new();
    for key in ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"] {
        topology.h.sysctl(key, "0"); // its errors are what shows that the host got a packet
    }
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        let (inside, outside) = (Wire::to(&a1, net.gateway(family)), Wire::to(&lab.r, H.ip(family)));
        let (r, h, a) = (R.ip(family), H.ip(family), a1.ip(family));
        let ask = |proto, words: &[u8]| {
            inside.socket.send(&inside.frame.ip_payload(a, r, proto, &body(proto, (5000, 9000), words)));
        };
        let answer = |proto, port, words: &[u8]| {
            outside.socket.send(&outside.frame.ip_payload(r, h, proto, &body(proto, (9000, port), words)));
        };
        for proto in [IPIP, SCTP, DCCP] {
            // The sandbox came first: answers are its own.
            ask(proto, b"a1 asks");
            let port = source_port(&arrives(&outside.socket, proto, b"a1 asks"));
            answer(proto, port, b"for a1");
            arrives(&inside.socket, proto, b"for a1");
            // The host speaks, and cannot choose another port: now they are the host's.
            let own = outside.frame.ip_payload(h, r, proto, &body(proto, (port, 9000), b"H asks"));
            host_sends(&lab.h, &own[14..], r);
            assert_eq!(arrives(&outside.socket, proto, b"H asks").src, Some(h));
            inside.socket.take();
            answer(proto, port, b"for H");
            outside.socket.wait(
                &format!("{family:?} protocol {proto}: the host's word about it"),
                PATIENCE,
                |p| !p.outgoing && matches!(p.proto, Some(1 | 58)) && p.bytes.ends_with(b"for H"),
            );
            let stolen = inside.socket.take().into_iter().find(|p| p.bytes.ends_with(b"for H"));
            assert_eq!(stolen, None, "{family:?} protocol {proto}: an answer to the host at a1");
            // The sandbox gets another port, where there are any.
            let conflicts = lab.drops()["natconflict"];
            ask(proto, b"a1 asks again");
            if proto == IPIP {
                eventually("a conflict", || lab.drops()["natconflict"] == conflicts + 1);
                continue;
            }
            let other = source_port(&arrives(&outside.socket, proto, b"a1 asks again"));
            assert_ne!(other, port, "{family:?} protocol {proto}");
            answer(proto, other, b"for a1 again");
            arrives(&inside.socket, proto, b"for a1 again");
        }
    }
}

#[test]
fn case06_an_echo_of_the_host_comes_back_to_it_and_a_sandbox_asks_by_another_identifier() {
    let config = "[flows]\nentries = 4096\n[nat]\nport_range = \"40000-40001\"\n[timeouts]\nicmp = 600\n";
    let lab = Lab::with(&Options { config: config.into(), ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        let (r, seen) = (R.ip(family), Capture::start(&lab.r, "eth0"));
        let ping = |from: &Ns, id: u16, source: IpAddr| {
            seen.take();
            let outcome = from.ping_with(r, id, PATIENCE);
            assert!(matches!(outcome, netd_tests::Outcome::Ok(_)), "{}: {outcome:?}", from.name());
            let echo = seen.wait("the echo request", PATIENCE, |p| {
                !p.outgoing && matches!(p.proto, Some(1 | 58)) && p.src == Some(source) && p.sport.is_some()
            });
            echo.sport.expect("an identifier")
        };
        let h = H.ip(family);
        let first = ping(&a1, 7, h);
        assert!((40_000..=40_001).contains(&first), "{first}");
        assert_eq!(ping(&lab.h, first, h), first, "the host's own identifier stays, and it is answered");
        let second = ping(&a1, 7, h);
        assert_eq!(
            second,
            if first == 40_000 { 40_001 } else { 40_000 },
            "the one that the host does not use"
        );
        assert_eq!(ping(&lab.h, first, h), first);
        assert_eq!(ping(&a1, 7, h), second, "the sandbox goes on with it");
    }
}
