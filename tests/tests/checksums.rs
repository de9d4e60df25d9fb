//! Rung: namespaces, dataplane §12 cases 70 and 73. Rewritten packets carry checksums that receivers verify, with offloads off everywhere.

use std::time::Duration;

use netd_tests::{Capture, Family, Frame, H, Lab, PATIENCE, Proto, R, Server, at};

#[test]
fn case73_every_path_works_without_offloads() {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let publish = ["-p", "8080:80", "-p", "8080:80/udp"];
    let a1 = lab.sandbox("a1", a, 2, &publish).serving(&[80]);
    let (a2, b1) = (lab.sandbox("a2", a, 3, &[]), lab.sandbox("b1", b, 2, &[]));
    let _r = Server::start(&lab.r, &[80]);
    for ns in [&*a1, &*a2, &*b1, &lab.r, &lab.h] {
        ns.disable_offloads("eth0");
    }
    let data = vec![0xa5; 50_000];
    for family in Family::BOTH {
        let ways = [
            (&*a1, at(R.ip(family), 80)),
            (&lab.r, at(H.ip(family), 8080)),
            (&*a2, at(a1.ip(family), 80)),
            (&*a2, at(H.ip(family), 8080)),
            (&*a1, at(H.ip(family), 8080)),
            (&*b1, at(H.ip(family), 8080)),
            (&lab.h, at(family.loopback(), 8080)),
            (&lab.h, at(H.ip(family), 8080)),
        ];
        for (client, to) in ways {
            client.reach(Proto::Udp, to);
            client.exchange_datagram(to, 1_001); // an odd length
            let (mut stream, _) = client.connect_stream(to);
            stream.echo(&data).expect("what was sent comes back");
            assert_eq!(stream.retransmissions(), 0, "{} to {to}: segments were dropped", client.name());
        }
        a1.ping(R.ip(family));
        a1.ping(a2.ip(family));
        // A port unreachable from inside, translated on its way out, and one from outside on its way in.
        assert_eq!(a1.attempt(Proto::Udp, at(R.ip(family), 81)), netd_tests::Outcome::Refused);
    }
}

#[test]
fn case70_a_datagram_without_checksum_stays_without() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    let (wire, outside) = (a1.capture(), Capture::start(&lab.r, "eth0"));
    let gateway = a1.mac_of(net.gateway(Family::V4));
    let frame = Frame { src: a1.link("eth0").expect("eth0").mac, dst: gateway };
    wire.send(&without_checksum(frame.udp(at(a1.ip(Family::V4), 5000), at(R.v4, 9), b"out")));
    let out = outside.wait("the datagram", PATIENCE, |p| !p.outgoing && p.is_to(Proto::Udp, 9));
    assert_eq!((out.src, &out.bytes[CHECKSUM]), (Some(H.ip(Family::V4)), &[0, 0][..]));

    let frame = Frame { src: lab.r.link("eth0").expect("eth0").mac, dst: lab.r.mac_of(H.ip(Family::V4)) };
    outside.send(&without_checksum(frame.udp(at(R.v4, 5000), at(H.v4, 8080), b"in")));
    let inside =
        wire.wait("the datagram", Duration::from_secs(5), |p| !p.outgoing && p.is_to(Proto::Udp, 80));
    assert_eq!((inside.src, &inside.bytes[CHECKSUM]), (Some(R.ip(Family::V4)), &[0, 0][..]));
}

/// The UDP checksum in an Ethernet frame with an IPv4 header without options.
const CHECKSUM: std::ops::Range<usize> = 14 + 20 + 6..14 + 20 + 8;

fn without_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[CHECKSUM].fill(0);
    frame
}
