//! Rung: namespaces, dataplane §4.7 and §12 cases 64 and 118. Large buffers (UDP GSO, BIG TCP, jumbo frames) cross netd whole, and what a router may not
//! change stays: DSCP and ECN, TTL but for one.

use std::{
    io::{IoSlice, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsRawFd as _,
};

use netd_tests::{Capture, Family, H, Lab, Ns, Options, PATIENCE, R, Sandbox, Topology, Wire, at};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, send,
    sendmsg, socket,
};

fn bind(ns: &Ns, address: SocketAddr) -> UdpSocket {
    let socket = ns.run(|| UdpSocket::bind(address).expect("bind"));
    socket.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    socket
}

/// Sends a buffer that the kernel cuts into datagrams of this size, as late as it can.
fn send_segments(socket: &UdpSocket, to: SocketAddr, bytes: &[u8], size: u16) {
    let (to, parts) = (SockaddrStorage::from(to), [IoSlice::new(bytes)]);
    let sent = sendmsg(
        socket.as_raw_fd(),
        &parts,
        &[ControlMessage::UdpGsoSegments(&size)],
        MsgFlags::empty(),
        Some(&to),
    );
    assert_eq!(sent, Ok(bytes.len()), "a GSO send");
}

/// Expects a buffer as datagrams of this size, from this source.
fn expect_segments(socket: &UdpSocket, bytes: &[u8], size: usize, what: &str) -> SocketAddr {
    let mut buffer = [0; 2048];
    let mut source = None;
    for part in bytes.chunks(size) {
        let (length, from) = socket.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(buffer[..length] == *part, "{what}: other bytes");
        source = Some(from);
    }
    source.expect("at least one datagram")
}

#[test]
fn udp_gso_crosses_netd_in_both_directions() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    let bytes: Vec<u8> = (0..40_500_u32).map(|n| n.to_be_bytes()[2] ^ n.to_be_bytes()[3]).collect();
    for family in Family::BOTH {
        let (server, client) = (bind(&a1, at(a1.ip(family), 80)), bind(&lab.r, at(R.ip(family), 7000)));
        let published = at(H.ip(family), 8080);
        send_segments(&client, published, &bytes, 1000);
        assert_eq!(expect_segments(&server, &bytes, 1000, "to a published port"), at(R.ip(family), 7000));
        send_segments(&server, at(R.ip(family), 7000), &bytes, 1400);
        assert_eq!(expect_segments(&client, &bytes, 1400, "its answer"), published);
        let opener = bind(&a1, at(a1.ip(family), 5000));
        send_segments(&opener, at(R.ip(family), 7000), &bytes, 1200);
        let masqueraded = expect_segments(&client, &bytes, 1200, "masqueraded");
        assert_eq!(masqueraded.ip(), H.ip(family));
        send_segments(&client, masqueraded, &bytes, 900);
        assert_eq!(expect_segments(&opener, &bytes, 900, "its answer"), at(R.ip(family), 7000));
    }
}

/// More than IP's length field can say.
const BIG: usize = 65_536;

/// Sizes of a device's largest buffers (`linux/if_link.h`): GSO and GRO, then the same for IPv4, which not every iproute2 knows.
const SIZES: [u16; 4] = [41, 58, 63, 64];
/// `RTM_SETLINK` of `linux/rtnetlink.h`.
const SET_LINK: u16 = 19;

/// Lets every veth of a namespace send and take buffers that are larger than IP's length field says.
fn allow_big_tcp(ns: &Ns) {
    let links = ns.ip_json(&["link", "show"]);
    for link in links.as_array().expect("a list of links").iter().filter(|link| !link["link_index"].is_null())
    {
        let index = i32::try_from(link["ifindex"].as_i64().expect("an index")).expect("an index");
        let mut message = [&[0; 4][..], &SET_LINK.to_ne_bytes(), &5_u16.to_ne_bytes(), &[0; 8]].concat(); // a request with an answer
        message.extend([&[0; 4][..], &index.to_ne_bytes(), &[0; 8]].concat());
        for size in SIZES {
            message
                .extend([&8_u16.to_ne_bytes()[..], &size.to_ne_bytes(), &196_608_u32.to_ne_bytes()].concat());
        }
        let length = u32::try_from(message.len()).expect("short").to_ne_bytes();
        message[..4].copy_from_slice(&length);
        let mut answer = [0; 64];
        ns.run(|| {
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            );
            let fd = fd.expect("a netlink socket");
            send(fd.as_raw_fd(), &message, MsgFlags::empty()).expect("send to rtnetlink");
            recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("an answer of rtnetlink");
        });
        let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        assert_eq!(error, 0, "{}: larger buffers of {link}", ns.name());
    }
}

/// Reads one connection to its end, and returns what came.
fn drain(listener: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("to its end");
    all
}

#[test]
fn big_tcp_crosses_netd_in_both_directions() {
    // Before the lab looks at what netd has to give back.
    let topology = Topology::new();
    [&topology.r, &topology.h].into_iter().for_each(allow_big_tcp);
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]);
    allow_big_tcp(&a1);
    let data: Vec<u8> =
        (0..48_u32 << 20).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 24).to_be_bytes()[3]).collect();
    for family in Family::BOTH {
        let (inside, outside) = (at(a1.ip(family), 80), at(R.ip(family), 80));
        let ways: [(&Ns, SocketAddr, &Ns, SocketAddr); 2] =
            [(&a1, outside, &lab.r, outside), (&lab.r, at(H.ip(family), 8080), &a1, inside)];
        for (client, to, server, bound) in ways {
            let capture = Capture::start(server, "eth0");
            let listener = server.run(|| TcpListener::bind(bound).expect("listen"));
            let mut stream = client.run(|| netd_tests::connect(to, None, PATIENCE).expect("connect"));
            let arrived = std::thread::scope(|scope| {
                let reader = scope.spawn(|| drain(&listener));
                stream.write_all(&data).expect("send");
                stream.shutdown(Shutdown::Write).expect("end");
                reader.join().expect("the reader")
            });
            assert!(arrived == data, "{} to {to}: other bytes", client.name());
            let big = capture.take().iter().any(|p| !p.outgoing && p.bytes.len() > BIG);
            assert!(big, "{} to {to}: no buffer of more than {BIG} bytes arrived", client.name());
        }
    }
    let unwanted = |reason: &str| lab.drops()[reason];
    assert_eq!((unwanted("malformed"), unwanted("mtu"), unwanted("unknownl4")), (0, 0, 0));
}

#[test]
fn case64_jumbo_fragments_in_reverse_arrive_too() {
    const MTU: usize = 9000;
    let topology = Topology::new();
    topology.h.ip_batch("link set eth0 mtu 9000");
    topology.r.ip_batch("link set eth0 mtu 9000");
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &["-o", "com.docker.network.driver.mtu=9000"]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    let bytes: Vec<u8> = (0..60_000_u32).map(|n| n.to_be_bytes()[2] ^ n.to_be_bytes()[3]).collect();
    for family in Family::BOTH {
        let (inside, outside) = (bind(&a1, at(a1.ip(family), 80)), bind(&lab.r, at(R.ip(family), 7000)));
        let (out, inward) = (Wire::to(&a1, net.gateway(family)), Wire::to(&lab.r, H.ip(family)));
        let (client, published) = (at(R.ip(family), 7000), at(H.ip(family), 8080));
        inward.send_all(inward.datagram(client, published, &bytes, MTU).iter().rev());
        assert_eq!(whole(&inside, &bytes), client);
        out.send_all(out.datagram(at(a1.ip(family), 80), client, &bytes, MTU).iter().rev());
        assert_eq!(whole(&outside, &bytes), published);
    }
}

/// Expects one datagram, and returns its source.
fn whole(socket: &UdpSocket, bytes: &[u8]) -> SocketAddr {
    let mut buffer = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
    assert!(buffer[..length] == *bytes, "other bytes");
    from
}

/// DSCP expedited forwarding with ECN "congestion experienced".
const CLASS: u8 = 0xbb;

/// Sends a datagram with that class and TTL 64, and expects the class and this TTL behind netd.
fn class_stays(wire: &Wire, from: SocketAddr, to: SocketAddr, capture: &Capture, ttl: u8, what: &str) {
    let mut frame = wire.frame.udp(from, to, what.as_bytes());
    if from.is_ipv4() {
        frame[15] = CLASS;
        netd_tests::fix_header(&mut frame);
    } else {
        (frame[14], frame[15]) = (0x60 | CLASS >> 4, CLASS << 4);
    }
    wire.socket.send(&frame);
    let seen = capture
        .wait(what, PATIENCE, |p| !p.outgoing && p.proto == Some(17) && p.bytes.ends_with(what.as_bytes()));
    let class = if from.is_ipv4() { seen.bytes[15] } else { seen.bytes[14] << 4 | seen.bytes[15] >> 4 };
    let left = seen.bytes[if from.is_ipv4() { 22 } else { 21 }];
    assert_eq!((class, left), (CLASS, ttl), "{what} {from} to {to}: traffic class and TTL");
}

#[test]
fn case118_traffic_class_and_congestion_marks_stay_and_ttl_counts_routers() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let publish = ["-p", "8080:80/udp"];
    let (a1, a2): (Sandbox, Sandbox) = (lab.sandbox("a1", net, 2, &publish), lab.sandbox("a2", net, 3, &[]));
    for family in Family::BOTH {
        let (a, r, h) = (a1.ip(family), R.ip(family), H.ip(family));
        let (out, inward) = (Wire::to(&a1, net.gateway(family)), Wire::to(&lab.r, h));
        let neighbour = Wire::to(&a2, a);
        let hairpin = Wire::to(&a2, net.gateway(family));
        let (inside, outside) = (a1.capture(), Capture::start(&lab.r, "eth0"));
        class_stays(&out, at(a, 5000), at(r, 7000), &outside, 63, "masqueraded");
        class_stays(&inward, at(r, 7001), at(h, 8080), &inside, 63, "to a published port");
        class_stays(&out, at(a, 80), at(r, 7001), &outside, 63, "its answer");
        class_stays(&neighbour, at(a2.ip(family), 5000), at(a, 80), &inside, 64, "to a neighbour");
        class_stays(
            &hairpin,
            at(a2.ip(family), 5001),
            at(h, 8080),
            &inside,
            64,
            "to a neighbour's published port",
        );
    }
}

#[test]
fn tagged_frames_from_outside_are_not_the_untagged_networks() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    for family in Family::BOTH {
        let wire = Wire::to(&lab.r, H.ip(family));
        let inside = a1.capture();
        let plain = wire.frame.udp(at(R.ip(family), 7000), at(H.ip(family), 8080), b"by VLAN");
        let once = [&plain[..12], &[0x81, 0, 0, 7], &plain[12..]].concat();
        let twice = [&plain[..12], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9], &plain[12..]].concat();
        wire.send_all(&[once, twice]);
        // The control, which comes behind them: untagged.
        wire.socket.send(&wire.frame.udp(at(R.ip(family), 7000), at(H.ip(family), 8080), b"untagged"));
        let first = inside.wait("a datagram", PATIENCE, |p| !p.outgoing && p.proto == Some(17));
        assert!(first.bytes.ends_with(b"untagged"), "{first:x?}");
    }
}
