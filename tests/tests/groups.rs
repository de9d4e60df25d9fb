//! Rung: namespaces. What sandboxes say of the multicast groups that they belong to: groups of the link are told to the host, all others to every port.

use std::net::{Ipv6Addr, UdpSocket};

use netd_tests::{Capture, Family, Lab, PATIENCE, Packet, Sandbox, at};

/// Where an `MLDv2` report lies in a frame: behind Ethernet, IPv6, and the hop-by-hop options that it has (RFC 3810 §5).
const REPORT: usize = 14 + 40 + 8;
const LISTENER_REPORT: u8 = 143;
const OF_THE_LINK: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x1234);
const OF_THE_SITE: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x1234);

/// Returns the groups that a report of this sandbox names; empty: it is none. The host reports groups of its own by the bridge, too.
fn groups(packet: &Packet, of: &Sandbox) -> Vec<Ipv6Addr> {
    let Some([LISTENER_REPORT, _, _, _, _, _, high, low, records @ ..]) = packet.bytes.get(REPORT..) else {
        return Vec::new();
    };
    let group = |record: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(&record[4..20]).expect("an address"));
    let count = usize::from(u16::from_be_bytes([*high, *low]));
    let is_its = packet.bytes[6..12] == of.link("eth0").expect("eth0").mac;
    if is_its { records.chunks_exact(20).take(count).map(group).collect() } else { Vec::new() }
}

fn is_of_the_link_alone(groups: &[Ipv6Addr]) -> bool {
    !groups.is_empty() && groups.iter().all(|group| group.segments()[0] == 0xff02)
}

fn join(sandbox: &Sandbox, group: Ipv6Addr) -> UdpSocket {
    let index = sandbox.link("eth0").expect("eth0").index;
    sandbox.run(|| {
        let socket = UdpSocket::bind(at(Family::V6.any(), 0)).expect("a socket");
        socket.join_multicast_v6(&group, index).expect("joins");
        socket
    })
}

#[test]
fn groups_of_the_link_are_told_to_the_host_alone() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let (host, neighbour) = (Capture::start(&lab.h, &lab.bridge("netA")), Capture::start(&a2, "eth0"));
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let said = |packet: &Packet| groups(packet, &a1);
    host.wait("what a new interface says", PATIENCE, |packet| is_of_the_link_alone(&said(packet)));
    let _member = join(&a1, OF_THE_LINK);
    host.wait("a group of the link", PATIENCE, |packet| said(packet).contains(&OF_THE_LINK));
    let _member = join(&a1, OF_THE_SITE);
    let is_forwarded = |packet: &Packet| said(packet).contains(&OF_THE_SITE);
    let heard = neighbour.until("a group that routers forward", PATIENCE, is_forwarded);
    let spared: Vec<_> = heard.iter().map(said).filter(|groups| is_of_the_link_alone(groups)).collect();
    assert!(spared.is_empty(), "{spared:?}");
}

#[test]
fn a_bridge_that_may_look_into_reports_gets_them_all() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &["-o", "com.docker.network.bridge.name=netd-a"]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let neighbour = Capture::start(&a2, "eth0");
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let said = |packet: &Packet| groups(packet, &a1);
    neighbour.wait("what a new interface says", PATIENCE, |packet| is_of_the_link_alone(&said(packet)));
    let _member = join(&a1, OF_THE_LINK);
    neighbour.wait("a group of the link", PATIENCE, |packet| said(packet).contains(&OF_THE_LINK));
}
