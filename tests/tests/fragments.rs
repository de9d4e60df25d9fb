//! Rung: namespaces, dataplane §12 cases 64 and 87, truth table T72, reliability S31 and A.4. Fragments arrive intact in whatever order they come, in both directions and
//! families; what would evade a policy does not.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use netd_tests::{
    Capture, Family, H, Lab, Ns, PATIENCE, Packet, Part, Proto, R, Sandbox, Server, Wire, at, cut, denied,
    shuffle,
};
use nix::sys::signal::Signal;

/// A socket that says what arrives.
struct Listener(UdpSocket);

impl Listener {
    fn bind(ns: &Ns, address: SocketAddr) -> Self {
        Self(ns.run(|| UdpSocket::bind(address).expect("bind")))
    }

    /// Waits for the next datagram.
    fn next(&self) -> (Vec<u8>, SocketAddr) {
        self.within(PATIENCE).expect("a datagram arrives")
    }

    fn within(&self, limit: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        self.0.set_read_timeout(Some(limit)).expect("set a timeout");
        let mut buffer = vec![0; 65_536];
        let (length, from) = self.0.recv_from(&mut buffer).ok()?;
        buffer.truncate(length);
        Some((buffer, from))
    }

    /// Expects exactly this datagram next.
    fn expect(&self, payload: &[u8], what: &str) -> SocketAddr {
        let (arrived, from) = self.next();
        assert!(
            arrived == payload,
            "{what}: {} bytes arrived, not the {} sent",
            arrived.len(),
            payload.len()
        );
        from
    }
}

/// Bytes that differ from place to place.
fn payload(length: u16, salt: u8) -> Vec<u8> {
    (0..length).map(|n| n.to_be_bytes()[1] ^ n.to_be_bytes()[0].wrapping_mul(31) ^ salt).collect()
}

/// The four ways a datagram takes through netd, each from a wire to a socket.
struct Way {
    name: &'static str,
    wire: Wire,
    from: SocketAddr,
    to: SocketAddr,
    listener: Listener,
    /// The source that the listener sees.
    seen: SocketAddr,
}

const MTU: usize = 1500;

/// A sandbox that publishes 8080/udp, and every way in and out of it.
fn ways(lab: &Lab, family: Family, sandbox: &Sandbox, gateway: std::net::IpAddr) -> [Way; 4] {
    let (inside, outside) = (at(sandbox.ip(family), 5000), at(R.ip(family), 7000));
    let open = |ns: &Ns, neighbour| Wire::to(ns, neighbour);
    let (a, r) = (|| open(sandbox, gateway), || open(&lab.r, H.ip(family)));
    let listener = Listener::bind(&lab.r, outside);
    let first = a();
    first.send_all(&first.datagram(inside, outside, b"which port?", MTU));
    let masqueraded = listener.expect(b"which port?", "the flow opens");
    assert_eq!(masqueraded.ip(), H.ip(family));
    let (client, server) = (at(R.ip(family), 7001), at(sandbox.ip(family), 80));
    let published = at(H.ip(family), 8080);
    [
        Way { name: "out, masqueraded", wire: first, from: inside, to: outside, listener, seen: masqueraded },
        Way {
            name: "in, reply to a masqueraded flow",
            wire: r(),
            from: outside,
            to: masqueraded,
            listener: Listener::bind(sandbox, inside),
            seen: outside,
        },
        Way {
            name: "in, to a published port",
            wire: r(),
            from: client,
            to: published,
            listener: Listener::bind(sandbox, server),
            seen: client,
        },
        Way {
            name: "out, reply from a published port",
            wire: a(),
            from: server,
            to: client,
            listener: Listener::bind(&lab.r, client),
            seen: published,
        },
    ]
}

#[test]
fn t72_case64_case87_datagrams_arrive_intact_whatever_the_order_of_their_fragments() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    let (one, two) = (payload(8000, 1), payload(8000, 2));
    for family in Family::BOTH {
        for way in ways(&lab, family, &a1, net.gateway(family)) {
            let datagram = |bytes: &[u8]| way.wire.datagram(way.from, way.to, bytes, MTU);
            let arrives = |bytes: &[u8], what: &str| {
                let what = format!("{family:?} {} {what}", way.name);
                assert_eq!(way.listener.expect(bytes, &what), way.seen, "{what}");
            };
            way.wire.send_all(&datagram(&one));
            arrives(&one, "in order");
            way.wire.send_all(datagram(&two).iter().rev());
            arrives(&two, "in reverse");
            for seed in 0..40 {
                let mut frames: Vec<_> = datagram(&one).into_iter().chain(datagram(&two)).collect();
                shuffle(&mut frames, seed);
                way.wire.send_all(&frames);
                let (first, _) = way.listener.next();
                let second = if first == one { &two } else { &one };
                assert!(first == one || first == two, "{family:?} {} seed {seed}: other bytes", way.name);
                arrives(second, &format!("interleaved, seed {seed}"));
            }
        }
    }
}

#[test]
fn s31_a_ping_of_65_000_bytes_works() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    for family in Family::BOTH {
        for to in [R.ip(family), a2.ip(family), net.gateway(family)] {
            let ping =
                a1.output(Command::new("busybox").args(["ping", "-c", "1", "-s", "65000", &to.to_string()]));
            assert!(ping.status.success(), "{to}: {}", String::from_utf8_lossy(&ping.stdout));
        }
    }
}

#[test]
fn case87_an_atomic_fragment_is_translated_as_what_it_carries() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let wire = Wire::to(&a1, net.gateway(Family::V6));
    let (from, to) = (at(a1.ip(Family::V6), 5000), at(R.v6, 7000));
    let listener = Listener::bind(&lab.r, to);
    let whole = wire.frame.udp(from, to, b"atomic");
    let atomic = cut(&whole, &[Part { start: 0, length: whole.len() - 54, more: false }]);
    wire.send_all(&atomic);
    assert_eq!(listener.expect(b"atomic", "an atomic fragment").ip(), H.ip(Family::V6));
}

#[test]
fn the_hosts_own_fragments_reach_it_in_any_order() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    let bytes = payload(8000, 3);
    for family in Family::BOTH {
        let wire = Wire::to(&lab.r, H.ip(family));
        let (from, to) = (at(R.ip(family), 7000), at(H.ip(family), 9000));
        let listener = Listener::bind(&lab.h, to);
        for seed in 0..10 {
            let mut frames = wire.datagram(from, to, &bytes, MTU);
            shuffle(&mut frames, seed);
            wire.send_all(&frames);
            assert_eq!(listener.expect(&bytes, "for the host"), from);
        }
    }
}

#[test]
fn fragments_meet_in_any_order_also_while_the_daemon_is_dead() {
    let mut lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    let bytes = payload(8000, 4);
    lab.daemon.end(Signal::SIGKILL);
    for family in Family::BOTH {
        for way in ways(&lab, family, &a1, net.gateway(family)) {
            way.wire.send_all(way.wire.datagram(way.from, way.to, &bytes, MTU).iter().rev());
            assert_eq!(way.listener.expect(&bytes, way.name), way.seen);
        }
    }
    lab.daemon.restart();
}

#[test]
fn fragments_to_a_published_port_of_ones_own_network_and_another_meet_in_any_order() {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80/udp"]);
    let (a2, b1) = (lab.sandbox("a2", a, 3, &[]), lab.sandbox("b1", b, 2, &[]));
    let bytes = payload(8000, 5);
    for family in Family::BOTH {
        let server = Listener::bind(&a1, at(a1.ip(family), 80));
        let back = Wire::to(&a1, a.gateway(family));
        for (client, gateway) in [(&a2, a.gateway(family)), (&b1, b.gateway(family))] {
            let (from, to) = (at(client.ip(family), 5000), at(H.ip(family), 8080));
            let wire = Wire::to(client, gateway);
            wire.send_all(wire.datagram(from, to, &bytes, MTU).iter().rev());
            let seen = server.expect(&bytes, "to the published port");
            // The answer, in reverse too: sent as the server's own stack would, to whom it saw.
            let socket = Listener::bind(client, from);
            let wire = if seen.ip() == from.ip() {
                Wire::to(&a1, from.ip())
            } else {
                Wire::to(&a1, a.gateway(family))
            };
            wire.send_all(wire.datagram(at(a1.ip(family), 80), seen, &bytes, MTU).iter().rev());
            assert_eq!(socket.expect(&bytes, "the answer"), to);
        }
        drop(back);
    }
}

/// Waits until a reason has counted this many more drops.
fn wait_for_drops(lab: &Lab, reason: &str, before: u64, more: u64) {
    let end = Instant::now() + PATIENCE;
    let counted = || lab.drops()[reason];
    while counted() < before + more {
        assert!(Instant::now() < end, "{reason}: {} and not {more} more than {before}", counted());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_flood_of_fragments_without_a_first_harms_nobody_and_is_counted() {
    const FLOOD: u64 = 2_000;
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    let bytes = payload(8000, 6);
    for family in Family::BOTH {
        let ways = ways(&lab, family, &a1, net.gateway(family));
        let (inward, outward) = (&ways[2], &ways[0]);
        // Outside and inside wait on shelves of their own: each direction is flooded while a reversed datagram of the other is under way.
        for (flooded, other) in [(inward, outward), (outward, inward)] {
            let before = lab.drops()["fragnofirst"];
            let frames = other.wire.datagram(other.from, other.to, &bytes, MTU);
            let (first, later) = frames.split_first().expect("several fragments");
            other.wire.send_all(later.iter().rev());
            for _ in 0..FLOOD / 5 {
                let flood = flooded.wire.datagram(flooded.from, flooded.to, &bytes, MTU);
                flooded.wire.send_all(&flood[1..6]);
            }
            other.wire.send_all([first]);
            assert_eq!(other.listener.expect(&bytes, other.name), other.seen);
            flooded.wire.send_all(flooded.wire.datagram(flooded.from, flooded.to, &bytes, MTU).iter().rev());
            assert_eq!(flooded.listener.expect(&bytes, flooded.name), flooded.seen, "the newest have room");
            wait_for_drops(&lab, "fragnofirst", before, FLOOD);
            assert_eq!(lab.drops()["fragnofirst"], before + FLOOD, "each is counted once, and no other");
        }
    }
}

#[test]
fn a_fragment_that_comes_twice_waits_in_vain_and_goes_round_nowhere() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    for family in Family::BOTH {
        let before = lab.drops()["fragnofirst"];
        for way in ways(&lab, family, &a1, net.gateway(family)) {
            let datagram = payload(4000, 3);
            let frames = way.wire.datagram(way.from, way.to, &datagram, MTU);
            way.wire.send_all(&frames);
            assert_eq!(way.listener.expect(&datagram, way.name), way.seen, "the positive control");
            way.wire.send_all(&frames[2..]);
        }
        wait_for_drops(&lab, "fragnofirst", before, 4);
    }
}

#[test]
fn s31_overlapping_fragments_are_dropped_and_the_datagram_arrives_as_it_was_judged() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    let bytes = payload(4000, 7);
    for family in Family::BOTH {
        for way in ways(&lab, family, &a1, net.gateway(family)) {
            let whole = way.wire.frame.udp(way.from, way.to, &bytes);
            let part = |start: usize, length: usize| Part { start, length, more: start + length < 4008 };
            // Rewrites part of the first; part of the second; repeats the first with another content.
            let parts = [
                part(0, 1400),
                part(1200, 800),
                part(1400, 1400),
                part(2600, 400),
                part(0, 1400),
                part(2800, 1208),
            ];
            let mut frames = cut(&whole, &parts);
            for evil in [1, 3, 4] {
                let last = frames[evil].len() - 1;
                frames[evil][last] ^= 0xff;
            }
            let before = lab.drops()["fragoverlap"];
            way.wire.send_all(&frames);
            assert_eq!(way.listener.expect(&bytes, way.name), way.seen);
            assert_eq!(lab.drops()["fragoverlap"], before + 3, "{family:?} {}", way.name);
        }
    }
}

/// The error of `ICMPv6` about a header (RFC 4443 §3.4).
const PARAMETER_PROBLEM: u8 = 4;

/// A SYN whose flags lie in its second fragment.
fn split_syn(wire: &Wire, from: SocketAddr, to: SocketAddr) -> Vec<Vec<u8>> {
    let whole = wire.frame.tcp_syn(from, to);
    cut(&whole, &[Part { start: 0, length: 8, more: true }, Part { start: 8, length: 12, more: false }])
}

#[test]
fn s31_fragments_that_split_the_tcp_header_open_nothing() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let out = Wire::to(&a1, net.gateway(family));
        let (from, to) = (at(a1.ip(family), 40_000), at(R.ip(family), 80));
        denied(&lab, &lab.r, &["FRAG_TINY"], || out.send_all(&split_syn(&out, from, to)));
        // From outside: never to the sandbox; and to the host, whose own stack answers, in IPv4 as if it were whole, in IPv6 by an error (RFC 7112).
        let inward = Wire::to(&lab.r, H.ip(family));
        let inside = a1.capture();
        let client = at(R.ip(family), 40_000);
        inward.send_all(&split_syn(&inward, client, at(H.ip(family), 9999)));
        inward.send_all(&split_syn(&inward, client, at(H.ip(family), 8080)));
        let answers = Capture::start(&lab.r, "eth0");
        inward.send_all(&split_syn(&inward, client, at(H.ip(family), 9998)));
        let answer = |p: &Packet| match family {
            Family::V4 => p.is_reset() && p.sport == Some(9998),
            Family::V6 => p.proto == Some(58) && p.bytes.get(54) == Some(&PARAMETER_PROBLEM),
        };
        answers.wait("the host's answer", PATIENCE, |p| !p.outgoing && answer(p));
        let arrived: Vec<_> = inside.take().into_iter().filter(|p| p.proto == Some(6)).collect();
        assert_eq!(arrived, [], "a split SYN reached the sandbox");
        // The control: unsplit ones open connections.
        a1.reach(Proto::Tcp, to);
        lab.r.reach(Proto::Tcp, at(H.ip(family), 8080));
    }
}
