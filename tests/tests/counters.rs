//! Rung: namespaces, dataplane §12 case 125. What the counters say is what happened.

use netd_tests::{Capture, Family, Frame, Lab, Proto, R, at, eventually};

/// As many as were sent are counted, forwarded or dropped, and none twice. Every lab ends with the same comparison.
#[test]
fn case125_packets_in_are_packets_forwarded_or_dropped_by_reason() {
    const EACH: usize = 50;
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let gateway = net.gateway(Family::V4);
    a1.ping(gateway);
    let frame = Frame {
        src: a1.link("eth0").expect("eth0").mac,
        dst: a1.neighbour(gateway).expect("the gateway answered"),
    };
    let (wire, outside) = (a1.capture(), Capture::start(&lab.r, "eth0"));
    for family in Family::BOTH {
        let stranger = if family == Family::V4 { "192.0.2.9" } else { "2001:db8:9::9" };
        let stranger: std::net::IpAddr = stranger.parse().expect("an address");
        let to = at(R.ip(family), 9);
        let before = lab.drops();
        for _ in 0..EACH {
            wire.send(&frame.udp(at(stranger, 5000), to, b"spoofed"));
            wire.send(&frame.udp(at(a1.ip(family), 5000), to, b"honest"));
        }
        let mut arrived = 0;
        eventually("every honest datagram to arrive", || {
            arrived += outside.take().iter().filter(|p| !p.outgoing && p.is_to(Proto::Udp, 9)).count();
            arrived >= EACH
        });
        assert_eq!(arrived, EACH, "{family:?}");
        let counted = |drops: &std::collections::BTreeMap<String, u64>| drops["spoofip"];
        assert_eq!(counted(&lab.drops()) - counted(&before), EACH as u64, "{family:?}");
    }
}
