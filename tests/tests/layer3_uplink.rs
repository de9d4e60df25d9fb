//! Rung: namespaces, dataplane 7.14. Uplinks without link addresses (tun here, as `WireGuard` and PPP): masquerade out, published ports in.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

use nix::sys::{
    signal::Signal,
    socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket},
};

use netd_tests::{
    Family, Frame, H, Host, Lab, Net, Ns, Options, Outcome, PATIENCE, Proto, Sandbox, Server, Topology,
    Tunnel, at, shuffle,
};

/// `H` in the tunnel.
const NEAR: Host = Host { v4: Ipv4Addr::new(10, 0, 7, 2), v6: Ipv6Addr::new(0xfd00, 0xa, 7, 0, 0, 0, 0, 2) };
/// The other end.
const FAR: Host = Host { v4: Ipv4Addr::new(10, 0, 7, 3), v6: Ipv6Addr::new(0xfd00, 0xa, 7, 0, 0, 0, 0, 3) };
/// A host behind the other end, reached by the default route.
const BEYOND: Host =
    Host { v4: Ipv4Addr::new(198, 51, 100, 3), v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 3) };

/// A lab whose `H` has its default route through a tunnel to `v`.
struct Vpn {
    lab: Lab,
    v: Ns,
    tunnel: Tunnel,
}

fn open_tunnel(h: &Ns, v: &Ns, offload: bool) -> Tunnel {
    let tunnel = Tunnel::between((h, "tun0"), (v, "tun0"), offload);
    for (ns, host) in [(h, NEAR), (v, FAR)] {
        ns.ip_batch(&format!("addr add {}/24 dev tun0\naddr add {}/64 dev tun0 nodad", host.v4, host.v6));
    }
    h.ip_batch(&format!("route add default via {}\nroute add default via {}", FAR.v4, FAR.v6));
    tunnel
}

fn vpn(offload: bool) -> Vpn {
    narrow_vpn(offload, 1500)
}

fn narrow_vpn(offload: bool, mtu: u32) -> Vpn {
    let topology = Topology::new();
    let v = Ns::new("V");
    let tunnel = open_tunnel(&topology.h, &v, offload);
    v.ip_batch(&format!("addr add {}/32 dev lo\naddr add {}/128 dev lo nodad", BEYOND.v4, BEYOND.v6));
    for ns in [&topology.h, &v] {
        ns.ip_batch(&format!("link set tun0 mtu {mtu}"));
    }
    // To the sandboxes' subnets too, as an attacker on the same link would have it.
    v.ip_batch(&format!("route add default via {}\nroute add default via {}", NEAR.v4, NEAR.v6));
    Vpn { lab: Lab::on(topology, &Options::default()), v, tunnel }
}

impl Vpn {
    fn sandbox(&self) -> (Net, Sandbox) {
        let net = self.lab.network("netA", 20, &[]);
        (net, self.lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]))
    }

    /// Serves the host behind the other end.
    fn serve(&self) -> Server {
        // On that very address: a datagram's answer would leave from another one.
        let both = |family: Family| Proto::BOTH.map(|proto| (proto, at(BEYOND.ip(family), 80)));
        Server::bind(&self.v, &Family::BOTH.map(both).concat())
    }

    /// Fails if a sandbox's address has left by the tunnel.
    fn assert_no_leak(&self) {
        let addresses = self.tunnel.addresses();
        assert!(addresses.contains(&IpAddr::V4(NEAR.v4)), "the tunnel carried nothing");
        let leaked = |ip: &&IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets()[0] == 172,
            IpAddr::V6(ip) => ip.segments()[..2] == [0xfd00, 0xc],
        };
        assert_eq!(addresses.iter().find(leaked), None, "a sandbox's address left by the tunnel");
    }
}

fn works_both_ways(offload: bool) {
    let vpn = vpn(offload);
    let (_, a1) = vpn.sandbox();
    let _server = vpn.serve();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let out = a1.reach(proto, at(BEYOND.ip(family), 80));
            assert_eq!((out.server.as_str(), out.source.ip()), ("V", NEAR.ip(family)), "{proto:?}");
            for host in [NEAR, H] {
                let seen = vpn.v.reach(proto, at(host.ip(family), 8080));
                assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", FAR.ip(family)), "{proto:?}");
            }
        }
        a1.ping(BEYOND.ip(family));
        for (client, to) in [(&*a1, at(BEYOND.ip(family), 80)), (&vpn.v, at(NEAR.ip(family), 8080))] {
            let (mut stream, _) = client.connect_stream(to);
            for _ in 0..5 {
                stream.echo(&vec![0x5a; 200_000]).expect("a stream through the tunnel");
            }
            client.exchange_datagram(to, 8_000);
        }
    }
    vpn.assert_no_leak();
}

#[test]
fn t01_t05_a_tunnel_carries_masqueraded_flows_out_and_published_ports_in() {
    works_both_ways(false);
}

#[test]
fn t01_t05_a_tunnel_with_offloads_does_too() {
    works_both_ways(true);
}

#[test]
fn the_hosts_own_traffic_through_a_tunnel_is_left_alone() {
    let vpn = vpn(false);
    let (_, _a1) = vpn.sandbox();
    let (_far, _near) = (vpn.serve(), Server::start(&vpn.lab.h, &[81]));
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(vpn.lab.h.reach(proto, at(BEYOND.ip(family), 80)).source.ip(), NEAR.ip(family));
            assert_eq!(vpn.v.reach(proto, at(NEAR.ip(family), 81)).server, "H");
            assert_eq!(vpn.v.attempt(proto, at(NEAR.ip(family), 82)), Outcome::Refused);
        }
        vpn.v.ping(NEAR.ip(family));
        vpn.v.exchange_datagram(at(NEAR.ip(family), 81), 8_000);
    }
}

#[test]
fn t09_a_sandbox_is_not_reached_directly_through_a_tunnel() {
    let vpn = vpn(false);
    let (_, a1) = vpn.sandbox();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(vpn.v.probe(proto, at(a1.ip(family), 80)), Outcome::Timeout, "{family:?} {proto:?}");
            vpn.v.reach(proto, at(NEAR.ip(family), 8080));
        }
    }
}

#[test]
fn case57_case76_errors_and_a_narrow_tunnel_reach_the_sandbox() {
    let vpn = narrow_vpn(false, 1400);
    let (_, a1) = vpn.sandbox();
    let _server = vpn.serve();
    for family in Family::BOTH {
        assert_eq!(a1.attempt(Proto::Udp, at(BEYOND.ip(family), 81)), Outcome::Refused, "{family:?}");
        if family == Family::V6 {
            // Routers do not fragment: the first datagram comes to nothing, and the sender is told (RFC 8201 §4).
            let told = a1.try_datagram(at(BEYOND.ip(family), 80), 4_000).expect_err("too big for the tunnel");
            assert_eq!(told.raw_os_error(), Some(libc::EMSGSIZE), "{told}");
        }
        for (client, to) in [(&*a1, at(BEYOND.ip(family), 80)), (&vpn.v, at(NEAR.ip(family), 8080))] {
            let (mut stream, _) = client.connect_stream(to);
            for _ in 0..5 {
                stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the tunnel's MTU");
            }
        }
        a1.exchange_datagram(at(BEYOND.ip(family), 80), 4_000);
    }
    vpn.assert_no_leak();
}

#[test]
fn a_tunnel_that_comes_later_is_served() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    for round in 0..2 {
        let v = Ns::new("V");
        let tunnel = open_tunnel(&lab.h, &v, round == 1);
        let _server = Server::start(&v, &[80]);
        lab.until_uplink("tun0");
        for family in Family::BOTH {
            assert_eq!(a1.reach(Proto::Tcp, at(FAR.ip(family), 80)).source.ip(), NEAR.ip(family));
            assert_eq!(v.reach(Proto::Tcp, at(NEAR.ip(family), 8080)).server, "a1");
        }
        drop(tunnel);
        lab.until_no_uplink("tun0");
    }
}

#[test]
fn a_tunnel_is_served_across_a_restart_of_the_daemon() {
    let mut vpn = vpn(false);
    let (_, a1) = vpn.sandbox();
    let _server = vpn.serve();
    let (mut out, _) = a1.connect_stream(at(BEYOND.v4, 80));
    let (mut inward, _) = vpn.v.connect_stream(at(NEAR.v4, 8080));
    vpn.lab.daemon.end(Signal::SIGTERM);
    vpn.lab.daemon.restart();
    for stream in [&mut out, &mut inward] {
        stream.echo(b"after the restart").expect("the stream goes on");
    }
    a1.reach(Proto::Tcp, at(BEYOND.v6, 80));
    vpn.v.reach(Proto::Tcp, at(NEAR.v6, 8080));
}

#[test]
fn fragments_meet_in_any_order_on_a_tunnel() {
    let vpn = vpn(false);
    let net = vpn.lab.network("netA", 20, &[]);
    let a1 = vpn.lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]);
    let bytes: Vec<u8> = (0..8_000_u16).map(|n| n.to_be_bytes()[1] ^ n.to_be_bytes()[0]).collect();
    let mut buffer = vec![0; 16_384];
    for family in Family::BOTH {
        let server = a1.run(|| UdpSocket::bind(at(a1.ip(family), 80)).expect("bind"));
        let client = vpn.v.run(|| UdpSocket::bind(at(FAR.ip(family), 7000)).expect("bind"));
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        }
        let (from, to) = (at(FAR.ip(family), 7000), at(NEAR.ip(family), 8080));
        let link = Frame { src: [0; 6], dst: [0; 6] };
        let inet = if family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let raw = vpn.v.run(|| socket(inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw));
        let (raw, host) = (raw.expect("a raw socket"), SockaddrStorage::from(at(to.ip(), 0)));
        for seed in 0..10 {
            let mut parts = link.fragments(from, to, &bytes, 1500);
            if seed == 0 {
                parts.reverse();
            } else {
                shuffle(&mut parts, seed);
            }
            for part in &parts {
                // Behind the Ethernet header, which this link has not.
                sendto(raw.as_raw_fd(), &part[14..], &host, MsgFlags::empty()).expect("send a fragment");
            }
            let (length, source) = server.recv_from(&mut buffer).expect("the datagram");
            assert!(buffer[..length] == bytes && source == from, "{family:?}, order {seed}: from {source}");
        }
        // Back by the server's own stack, which cuts it too.
        server.send_to(&bytes, from).expect("send");
        let (length, source) = client.recv_from(&mut buffer).expect("the answer");
        assert!(buffer[..length] == bytes && source == to, "{family:?}: from {source}");
    }
    vpn.assert_no_leak();
}
