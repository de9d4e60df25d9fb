//! Rung: namespaces, truth-table rows T41, T43 to T48 and Docker semantics 5.4. Clients of every kind reach published ports from the host, and by
//! link-local addresses: bound sockets, mapped ones, those of a device, those that name their source with each datagram.

use std::{
    io::IoSlice,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
};

use netd_tests::{Family, H, H1, Lab, Net, Ns, Outcome, PATIENCE, Proto, R, Sandbox, Server, at, eventually};
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, sendmsg, setsockopt, sockopt,
};

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

fn lab_with_a1(publish: &[&str]) -> (Lab, Net, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, publish).serving(&[80, 81]);
    (lab, net, a1)
}

/// Reads the line in which a server says whom it saw.
fn source(answer: &[u8]) -> IpAddr {
    let line = String::from_utf8_lossy(answer);
    let (_, seen) = line.lines().next().and_then(|line| line.split_once(" sees ")).expect("an answer");
    seen.parse::<SocketAddr>().expect("an address").ip()
}

/// Asks by an unconnected socket, and expects the answer to come from the dialled address.
fn ask(socket: &UdpSocket, to: SocketAddr) -> IpAddr {
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.send_to(b"who?", to).expect("send");
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(from, to, "the answer comes from the dialled address");
    source(&buffer[..length])
}

#[test]
fn t43_t45_clients_that_are_bound_to_a_loopback_address_reach_published_ports() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for family in Family::BOTH {
        let (to, gateway) = (at(family.loopback(), 8080), net.gateway(family));
        for proto in Proto::BOTH {
            let seen = lab.h.reach_from(proto, to, Some(at(family.loopback(), 0)));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", gateway), "{proto:?}");
        }
        let bound = lab.h.run(|| UdpSocket::bind(at(family.loopback(), 0)).expect("a socket"));
        assert_eq!(ask(&bound, to), gateway);
        let (mut stream, _) = lab.h.connect_stream_from(to, Some(at(family.loopback(), 0)));
        for _ in 0..5 {
            stream.echo(&vec![0x5a; 300_000]).expect("a stream through lo");
        }
        assert_eq!(stream.tcp().peer_addr().expect("a peer"), to);
    }
}

#[test]
fn t48_every_loopback_address_may_be_dialled_from_every_other() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for proto in Proto::BOTH {
        let seen = lab.h.reach_from(proto, at([127, 0, 0, 5], 8080), Some(at([127, 0, 0, 9], 0)));
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", net.gateway(Family::V4)), "{proto:?}");
    }
}

#[test]
fn t44_clients_that_are_bound_to_the_hosts_address_keep_it() {
    let (lab, _, _a1) = lab_with_a1(&WEB);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for (from, to) in [(H, H.ip(family)), (H1, H.ip(family)), (H, family.loopback())] {
                let seen = lab.h.reach_from(proto, at(to, 8080), Some(at(from.ip(family), 0)));
                assert_eq!(
                    (seen.server.as_str(), seen.source.ip()),
                    ("a1", from.ip(family)),
                    "{proto:?} {to}"
                );
            }
        }
    }
}

#[test]
fn t44_unconnected_datagrams_show_the_dialled_address() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for family in Family::BOTH {
        let socket = lab.h.run(|| UdpSocket::bind(at(family.any(), 0)).expect("a socket"));
        for (to, seen) in [
            (family.loopback(), net.gateway(family)),
            (H.ip(family), H.ip(family)),
            (H1.ip(family), H1.ip(family)),
            (net.gateway(family), net.gateway(family)),
        ] {
            assert_eq!(ask(&socket, at(to, 8080)), seen, "{to}");
        }
    }
}

#[test]
fn ipv6_sockets_reach_published_ports_by_mapped_addresses() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    let mapped = |ip: Ipv4Addr| at(ip.to_ipv6_mapped(), 8080);
    for (dialled, seen) in [
        (Ipv4Addr::LOCALHOST, net.gateway(Family::V4)),
        (H.v4, H.ip(Family::V4)),
        (Ipv4Addr::new(127, 0, 0, 5), net.gateway(Family::V4)),
    ] {
        for proto in Proto::BOTH {
            let answer = lab.h.reach(proto, mapped(dialled));
            assert_eq!((answer.server.as_str(), answer.source.ip()), ("a1", seen), "{proto:?} {dialled}");
        }
        lab.h.run(|| {
            let tcp = TcpStream::connect_timeout(&mapped(dialled), PATIENCE).expect("connect");
            assert_eq!(tcp.peer_addr().expect("a peer"), mapped(dialled));
            let socket = UdpSocket::bind("[::]:0").expect("a socket");
            assert_eq!(ask(&socket, mapped(dialled)), seen);
        });
    }
    // Bound to a mapped loopback address too.
    let from = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), 0);
    for proto in Proto::BOTH {
        let answer = lab.h.reach_from(proto, mapped(Ipv4Addr::LOCALHOST), Some(from));
        assert_eq!(answer.source.ip(), net.gateway(Family::V4), "{proto:?}");
    }
}

#[test]
fn clients_that_are_bound_to_lo_reach_published_ports() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for (device, to, seen) in [
        ("lo", Family::V4.loopback(), net.gateway(Family::V4)),
        ("lo", Family::V6.loopback(), net.gateway(Family::V6)),
    ] {
        let answer = lab.h.run(|| {
            let socket =
                UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("a socket");
            setsockopt(&socket, sockopt::BindToDevice, &device.into()).expect("SO_BINDTODEVICE");
            ask(&socket, at(to, 8080))
        });
        assert_eq!(answer, seen, "{device} {to}");
    }
}

#[test]
fn datagrams_that_name_their_source_and_batches_reach_published_ports() {
    let (lab, net, _a1) = lab_with_a1(&["-p", "8080:80/udp", "-p", "8081:81/udp"]);
    lab.h.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let to = SockaddrIn::new(127, 0, 0, 1, 8080);
        for (named, seen) in [(Ipv4Addr::LOCALHOST, net.gateway(Family::V4)), (H.v4, H.ip(Family::V4))] {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(named.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            let payload = [IoSlice::new(b"who?")];
            sendmsg(socket.as_raw_fd(), &payload, &control, MsgFlags::empty(), Some(&to)).expect("sendmsg");
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
            assert_eq!((from, source(&buffer[..length])), (at([127, 0, 0, 1], 8080), seen), "{named}");
        }
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(2, None);
        let payloads = [[IoSlice::new(b"one")], [IoSlice::new(b"two")]];
        // Two names of one port of a sandbox: `host_sockets.rs`.
        let targets = [Some(to), Some(SockaddrIn::from(SocketAddrV4::new(H.v4, 8081)))];
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &payloads, targets, [], MsgFlags::empty());
        assert_eq!(sent.expect("sendmmsg").count(), 2);
        let mut from: Vec<SocketAddr> =
            (0..2).map(|_| socket.recv_from(&mut [0; 512]).expect("an answer").1).collect();
        from.sort();
        assert_eq!(from, [at(H.v4, 8081), at([127, 0, 0, 1], 8080)]);
    });
}

#[test]
fn a_closed_port_refuses_clients_that_are_bound_to_loopback() {
    let (lab, _, _a1) = lab_with_a1(&["-p", "8080:82", "-p", "8080:82/udp"]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let from = Some(at(family.loopback(), 0));
            let outcome = lab.h.dial(proto, at(family.loopback(), 8080), from, PATIENCE);
            assert_eq!(outcome, Outcome::Refused, "{family:?} {proto:?}");
        }
    }
}

#[test]
fn t47_the_hosts_own_service_at_loopback_is_left_alone() {
    let publish = ["-p", "10.0.0.2:8080:80", "-p", "10.0.0.2:8080:80/udp"];
    let (lab, _, _a1) = lab_with_a1(&publish);
    let _own = Server::bind(&lab.h, &Proto::BOTH.map(|proto| (proto, at([127, 0, 0, 1], 8080))));
    for proto in Proto::BOTH {
        for from in [None, Some(at([127, 0, 0, 1], 0))] {
            let seen = lab.h.reach_from(proto, at([127, 0, 0, 1], 8080), from);
            assert_eq!(seen.server, "H", "{proto:?} {from:?}");
        }
        assert_eq!(lab.h.reach(proto, at(H.v4, 8080)).server, "a1");
    }
}

#[test]
fn a_sandbox_on_the_hosts_network_reaches_published_ports_as_the_host_does() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    let fetch = |to: &str| {
        let script = format!("exec 3<>/dev/tcp/{to}/8080 && head -n 1 <&3");
        let run = lab.netd(&["run", "--rm", "--network", "host", "--", "bash", "-c", &script]);
        source(run.ok().as_bytes())
    };
    assert_eq!(fetch("127.0.0.1"), net.gateway(Family::V4));
    assert_eq!(fetch("10.0.0.2"), H.ip(Family::V4));
    assert_eq!(fetch("::1"), net.gateway(Family::V6));
}

/// Returns the link-local address of an interface, once it is found to be nobody else's (RFC 4862 §5.4).
fn link_local(ns: &Ns, ifname: &str) -> Ipv6Addr {
    let mut found = None;
    eventually(&format!("a link-local address on {ifname}"), || {
        let links = ns.ip_json(&["-6", "addr", "show", "dev", ifname]);
        let all = links[0]["addr_info"].as_array().cloned().unwrap_or_default();
        let settled = all.iter().filter(|one| one["tentative"].is_null());
        found = settled
            .filter_map(|one| one["local"].as_str()?.parse().ok())
            .find(Ipv6Addr::is_unicast_link_local);
        found.is_some()
    });
    found.expect("an address")
}

fn scoped(ns: &Ns, ifname: &str, ip: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(ip, port, 0, ns.link(ifname).expect("a link").index).into()
}

#[test]
fn t41_a_sandbox_reaches_a_published_port_at_its_bridges_link_local_address() {
    let (lab, net, a1) = lab_with_a1(&WEB);
    let other = lab.network("netB", 21, &[]);
    let b1 = lab.sandbox("b1", other, 2, &[]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    for (client, network) in [(&a1, "netA"), (&a2, "netA"), (&b1, "netB")] {
        let to = scoped(client, "eth0", link_local(&lab.h, &lab.bridge(network)), 8080);
        for proto in Proto::BOTH {
            let seen = client.reach(proto, to);
            let expected = ("a1", net.gateway(Family::V6));
            assert_eq!((seen.server.as_str(), seen.source.ip()), expected, "{proto:?} of {}", client.name());
        }
    }
}

#[test]
fn a_neighbour_of_the_uplink_reaches_a_published_port_at_the_hosts_link_local_address() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    let to = scoped(&lab.r, "eth0", link_local(&lab.h, "eth0"), 8080);
    for proto in Proto::BOTH {
        let seen = lab.r.reach(proto, to);
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", net.gateway(Family::V6)), "{proto:?}");
    }
    let (mut stream, _) = lab.r.connect_stream(to);
    stream.echo(&vec![0x5a; 200_000]).expect("a stream between link-local addresses");
    // And the other way: the published port at a global address, from a link-local one.
    let from = scoped(&lab.r, "eth0", link_local(&lab.r, "eth0"), 0);
    let seen = lab.r.reach_from(Proto::Tcp, at(H.v6, 8080), Some(from));
    assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", net.gateway(Family::V6)));
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v6, 8080)).source.ip(), R.ip(Family::V6));
}

#[test]
fn t45_every_kind_of_client_reaches_an_ipv4_only_sandbox_at_ipv6_loopback() {
    let lab = Lab::new();
    lab.netd(&["network", "create", "--subnet", "172.20.0.0/24", "netA"]).ok();
    let network = ["--network", "netA,ip=172.20.0.2"];
    let _a1 = lab.sandbox_with("a1", &[&network[..], &WEB[..]].concat()).serving(&[80]);
    let (to, gateway) = (at(Family::V6.loopback(), 8080), IpAddr::from([172, 20, 0, 1]));
    for from in [None, Some(at(Family::V6.loopback(), 0))] {
        for proto in Proto::BOTH {
            assert_eq!(lab.h.reach_from(proto, to, from).source.ip(), gateway, "{proto:?} {from:?}");
        }
        let socket =
            lab.h.run(|| UdpSocket::bind(from.unwrap_or(at(Family::V6.any(), 0))).expect("a socket"));
        assert_eq!(ask(&socket, to), gateway, "{from:?}");
    }
}
