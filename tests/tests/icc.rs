//! Rung: namespaces. Streams between sandboxes of one network, and what does not pass where they may not talk (who reaches whom: the truth table).

use std::net::{SocketAddrV6, UdpSocket};

use netd_tests::{Capture, Family, Frame, Lab, PATIENCE, Proto, Sandbox, at, denied, eventually};

#[test]
fn t31_a_stream_between_sandboxes_carries_its_data() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]).serving(&[80]));
    let chunk: Vec<u8> = (0..16_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for family in Family::BOTH {
        let (mut stream, _) = a1.connect_stream(at(a2.ip(family), 80));
        for _ in 0..200 {
            stream.echo(&chunk).expect("what was sent comes back");
        }
    }
}

/// Its link-local address on `eth0`, once it is found to be nobody else's.
fn link_local(sandbox: &Sandbox, scope: u32) -> SocketAddrV6 {
    let mut found = None;
    eventually("a link-local address", || {
        let shown = sandbox.ip_json(&["-6", "addr", "show", "dev", "eth0"]);
        let all = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
        let settled = all.iter().find(|one| one["scope"] == "link" && one["tentative"].is_null());
        found = settled.and_then(|one| one["local"].as_str()?.parse().ok());
        found.is_some()
    });
    SocketAddrV6::new(found.expect("an address"), 70, 0, scope)
}

#[test]
fn case46_without_icc_neither_link_local_packets_nor_other_frames_pass() {
    for icc in [true, false] {
        let lab = Lab::new();
        let option = format!("com.docker.network.bridge.enable_icc={icc}");
        let net = lab.network("netC", 22, &["-o", &option]);
        let (c1, c2) = (lab.sandbox("c1", net, 2, &[]), lab.sandbox("c2", net, 3, &[]).serving(&[70]));
        let to = link_local(&c2, c1.link("eth0").expect("eth0").index);
        let datagram = || {
            c1.run(|| {
                let socket = UdpSocket::bind("[::]:0").expect("a socket");
                for _ in 0..3 {
                    let _ = socket.send_to(b"by fe80", to); // without a neighbour the kernel may say so
                }
            });
        };
        // A protocol of its own between the two (an ethertype for experiments, IEEE 802).
        let frame =
            Frame { src: c1.link("eth0").expect("eth0").mac, dst: c2.link("eth0").expect("eth0").mac };
        let other = [&frame.dst[..], &frame.src[..], &[0x88, 0xb5], &[0x5a; 60][..]].concat();
        let wire = Capture::start(&c1, "eth0");
        let arrives = |what: &str, wanted: &dyn Fn(&netd_tests::Packet) -> bool, send: &dyn Fn()| {
            let inside = c2.capture();
            send();
            inside.wait(what, PATIENCE, |p| !p.outgoing && wanted(p));
        };
        if icc {
            arrives("a datagram by link-local addresses", &|p| p.is_to(Proto::Udp, 70), &datagram);
            arrives("a frame of another protocol", &|p| p.bytes == other, &|| wire.send(&other));
        } else {
            denied(&lab, &c2, &["ICC"], || {
                let before = lab.drops()["icc"];
                // The first ones wait for the neighbour to be found, which it may.
                eventually("a datagram to be refused", || {
                    datagram();
                    lab.drops()["icc"] > before
                });
            });
            let inside = c2.capture();
            denied(&lab, &c2, &["UNKNOWN_L3"], || wire.send(&other));
            assert!(!inside.take().iter().any(|p| !p.outgoing && p.bytes == other), "the frame passed");
            assert_eq!(lab.h.reach(Proto::Tcp, at(c2.ip(Family::V6), 70)).server, "c2");
        }
    }
}
