//! Rung: namespaces, rows T43 to T48, cases 35 and 37. What sockets of the host see of published ports: the name they dialled, whatever way the packets take,
//! and whoever is behind it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::atomic::{AtomicU16, Ordering},
};

use netd_tests::{Family, H, H1, Lab, Net, PATIENCE, Proto, Sandbox, at, connect};
use nix::sys::socket::{setsockopt, sockopt};

const WEB: [&str; 8] = ["-p", "8080:80", "-p", "8080:80/udp", "-p", "8081:80", "-p", "8081:80/udp"];

fn lab_with_a1() -> (Lab, Net, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    (lab, net, a1)
}

/// Reads an answer: from where, and whom the server saw.
fn answer(socket: &UdpSocket) -> (SocketAddr, IpAddr) {
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
    let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let (_, seen) = line.lines().next().and_then(|line| line.split_once(" sees ")).expect("an answer");
    (from, seen.parse::<SocketAddr>().expect("an address").ip())
}

fn unconnected(lab: &Lab, bind: SocketAddr) -> UdpSocket {
    let socket = lab.h.run(|| UdpSocket::bind(bind).expect("a socket"));
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// Every name of a1's port 80 in a family: whom it is dialled as, and as whom a1 sees the client.
fn names(net: Net, family: Family) -> Vec<(SocketAddr, IpAddr)> {
    let hosts = [
        (family.loopback(), net.gateway(family)),
        (H.ip(family), H.ip(family)),
        (H1.ip(family), H1.ip(family)),
        (net.gateway(family), net.gateway(family)),
    ];
    hosts.into_iter().flat_map(|(ip, seen)| [8080, 8081].map(|port| (at(ip, port), seen))).collect()
}

fn mapped(ip: SocketAddr) -> SocketAddr {
    match ip {
        SocketAddr::V4(v4) => at(v4.ip().to_ipv6_mapped(), v4.port()),
        SocketAddr::V6(_) => ip,
    }
}

#[test]
fn case37_t44_one_socket_that_asks_a_sandbox_by_many_names_hears_from_each() {
    let (lab, net, _a1) = lab_with_a1();
    for (family, wide) in [(Family::V4, false), (Family::V6, false), (Family::V4, true)] {
        let bind = at(if wide { Family::V6.any() } else { family.any() }, 0);
        let socket = unconnected(&lab, bind);
        for round in 0..3 {
            for (name, seen) in names(net, family) {
                let to = if wide { mapped(name) } else { name };
                socket.send_to(b"who?", to).expect("send");
                let (from, source) = answer(&socket);
                // Two ports of one address: seen from the sandbox they would be one flow, so the second comes from the gateway.
                let fits = source == seen || source == net.gateway(family);
                assert!(from == to && fits, "{name}: {from}, as {source}, round {round}, mapped: {wide}");
            }
        }
        // All questions before the first answer.
        let mut asked: Vec<SocketAddr> =
            names(net, family).into_iter().map(|(name, _)| if wide { mapped(name) } else { name }).collect();
        for to in &asked {
            socket.send_to(b"who?", to).expect("send");
        }
        let mut heard: Vec<SocketAddr> = asked.iter().map(|_| answer(&socket).0).collect();
        asked.sort();
        heard.sort();
        assert_eq!(heard, asked, "mapped: {wide}");
    }
}

#[test]
fn case37_the_second_name_of_a_sandbox_may_be_asked_while_the_first_has_not_answered() {
    let (lab, net, _a1) = lab_with_a1();
    for family in Family::BOTH {
        for pair in [
            [family.loopback(), H.ip(family)],
            [H.ip(family), H1.ip(family)],
            [H.ip(family), net.gateway(family)],
        ] {
            let socket = unconnected(&lab, at(family.any(), 0));
            let mut asked = pair.map(|ip| at(ip, 8080));
            for to in asked {
                socket.send_to(b"who?", to).expect("send");
            }
            let mut heard = asked.map(|_| answer(&socket).0);
            asked.sort();
            heard.sort();
            assert_eq!(heard, asked);
        }
    }
}

#[test]
fn t44_a_client_that_chose_its_port_alone_is_seen_as_the_address_that_it_dialled() {
    let (lab, net, _a1) = lab_with_a1();
    for family in Family::BOTH {
        for (port, (to, seen)) in (40_000..).zip(names(net, family)) {
            for proto in Proto::BOTH {
                let answer = lab.h.reach_from(proto, to, family.from_port(port));
                assert_eq!((answer.server.as_str(), answer.source.ip()), ("a1", seen), "{proto:?} {to}");
            }
            let (mut stream, _) = lab.h.connect_stream_from(to, family.from_port(port + 100));
            stream.echo(&vec![0x5a; 200_000]).expect("a stream");
            assert_eq!(stream.tcp().peer_addr().expect("a peer"), to);
            assert_eq!(stream.tcp().local_addr().expect("its own").port(), port + 100);
        }
    }
}

/// A way in which a client of the host can dial: what its socket is bound to.
#[derive(Debug, Clone, Copy)]
enum Bound {
    Nothing,
    Port,
    Loopback,
    HostAddress,
    Lo,
}

impl Bound {
    const ALL: [Self; 5] = [Self::Nothing, Self::Port, Self::Loopback, Self::HostAddress, Self::Lo];

    fn address(self, family: Family) -> Option<SocketAddr> {
        match self {
            Self::Nothing | Self::Lo => None,
            Self::Port => {
                static NEXT: AtomicU16 = AtomicU16::new(41_000);
                family.from_port(NEXT.fetch_add(1, Ordering::Relaxed)) // two names are one server to the kernel, too
            }
            Self::Loopback => Some(at(family.loopback(), 0)),
            Self::HostAddress => Some(at(H.ip(family), 0)),
        }
    }

    fn apply<F: AsFd>(self, socket: &F) {
        if matches!(self, Self::Lo) {
            setsockopt(socket, sockopt::BindToDevice, &"lo".into()).expect("SO_BINDTODEVICE");
        }
    }
}

/// Returns the peers that a connected TCP and a connected UDP socket show; the UDP one has got an answer.
fn peers(bound: Bound, family: Family, to: SocketAddr) -> [SocketAddr; 2] {
    let tcp = connect(to, bound.address(family), PATIENCE).expect("connect");
    let udp = UdpSocket::bind(bound.address(family).unwrap_or(at(family.any(), 0))).expect("a socket");
    bound.apply(&udp);
    udp.connect(to).expect("connect");
    udp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // By its name too: some programs do.
    udp.send_to(b"who?", to).expect("send");
    assert_eq!(answer(&udp).0, to, "{bound:?}");
    udp.send(b"who?").expect("send");
    assert_eq!(answer(&udp).0, to, "{bound:?}");
    [tcp.peer_addr().expect("a peer"), udp.peer_addr().expect("a peer")]
}

#[test]
fn case35_every_kind_of_client_sees_the_address_that_it_dialled() {
    let (lab, net, _a1) = lab_with_a1();
    for family in Family::BOTH {
        for bound in Bound::ALL {
            for (to, _) in names(net, family) {
                if matches!(bound, Bound::Loopback | Bound::Lo) && !to.ip().is_loopback() {
                    continue; // a loopback source is no source for another address, and `lo` leads to none
                }
                assert_eq!(lab.h.run(|| peers(bound, family, to)), [to, to], "{bound:?}");
            }
        }
    }
    // IPv4 by an IPv6 socket.
    for (name, _) in names(net, Family::V4) {
        let to = mapped(name);
        assert_eq!(lab.h.run(|| peers(Bound::Nothing, Family::V6, to)), [to, to]);
    }
}

#[test]
fn case35_who_dials_an_ipv4_only_sandbox_at_ipv6_loopback_sees_that() {
    let lab = Lab::new();
    lab.netd(&["network", "create", "--subnet", "172.20.0.0/24", "netA"]).ok();
    let network = ["--network", "netA,ip=172.20.0.2"];
    let _a1 = lab.sandbox_with("a1", &[&network[..], &WEB[..]].concat()).serving(&[80]);
    for bound in [Bound::Nothing, Bound::Port, Bound::Loopback] {
        let to = at(Family::V6.loopback(), 8080);
        assert_eq!(lab.h.run(|| peers(bound, Family::V6, to)), [to, to], "{bound:?}");
    }
}

#[test]
fn who_dials_the_sandbox_itself_sees_the_sandbox() {
    let (lab, _, a1) = lab_with_a1();
    for family in Family::BOTH {
        let to = at(a1.ip(family), 80);
        assert_eq!(lab.h.run(|| peers(Bound::Nothing, family, to)), [to, to]);
        // Also where the same socket knows it by other names, whichever came first.
        for first in [at(H.ip(family), 8080), to] {
            let socket = unconnected(&lab, at(family.any(), 0));
            for to in [first, to, at(H.ip(family), 8080), at(family.loopback(), 8080), to] {
                socket.send_to(b"who?", to).expect("send");
                assert_eq!(answer(&socket).0, to, "after {first}");
            }
            lab.h.run(|| socket.connect(to)).expect("connect");
            assert_eq!(socket.peer_addr().expect("a peer"), to);
            lab.h.run(|| socket.connect(at(H.ip(family), 8080))).expect("connect");
            assert_eq!(socket.peer_addr().expect("a peer"), at(H.ip(family), 8080));
        }
    }
}

#[test]
fn case35_a_dialled_name_ends_with_its_socket() {
    let (lab, _, a1) = lab_with_a1();
    let (to, direct) = (at(Ipv4Addr::LOCALHOST, 8080), at(a1.ip(Family::V4), 80));
    lab.h.run(|| {
        for _ in 0..50 {
            let dialled = TcpStream::connect_timeout(&to, PATIENCE).expect("connect");
            assert_eq!(dialled.peer_addr().expect("a peer"), to);
            drop(dialled);
            let other = TcpStream::connect_timeout(&direct, PATIENCE).expect("connect");
            assert_eq!(other.peer_addr().expect("a peer"), direct);
        }
    });
}
