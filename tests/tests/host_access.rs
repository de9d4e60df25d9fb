//! Rung: namespaces, truth-table rows T42 to T48. Processes of the host reach sandboxes and published ports, loopback included.

use std::net::{SocketAddr, TcpStream, UdpSocket};

use netd_tests::{Family, H, H1, Lab, Net, Outcome, PATIENCE, Proto, Sandbox, at};

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

fn lab_with_a1(publish: &[&str]) -> (Lab, Net, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, publish).serving(&[80, 81]);
    (lab, net, a1)
}

fn host_reaches_sandboxes(options: &[&str]) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, options);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80, 81]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for port in [80, 81] {
                let seen = lab.h.reach(proto, at(a1.ip(family), port));
                assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", net.gateway(family)));
            }
        }
        lab.h.ping(a1.ip(family));
    }
}

#[test]
fn t42_the_host_reaches_every_port_of_a_sandbox() {
    host_reaches_sandboxes(&[]);
}

#[test]
fn t42_the_host_reaches_sandboxes_without_icc_too() {
    host_reaches_sandboxes(&["-o", "com.docker.network.bridge.enable_icc=false"]);
}

#[test]
fn t43_the_host_reaches_a_published_port_at_loopback() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for proto in Proto::BOTH {
        let seen = lab.h.reach(proto, at([127, 0, 0, 1], 8080));
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", net.gateway(Family::V4)), "{proto:?}");
    }
}

#[test]
fn t44_the_host_reaches_a_published_port_at_its_own_address() {
    let (lab, _, _a1) = lab_with_a1(&WEB);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for host in [H, H1] {
                let seen = lab.h.reach(proto, at(host.ip(family), 8080));
                assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", host.ip(family)), "{proto:?}");
            }
        }
    }
}

#[test]
fn t45_the_host_reaches_a_published_port_at_ipv6_loopback() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for proto in Proto::BOTH {
        let seen = lab.h.reach(proto, at(Family::V6.loopback(), 8080));
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", net.gateway(Family::V6)), "{proto:?}");
    }
}

#[test]
fn t45_an_ipv4_only_sandbox_is_reached_at_ipv6_loopback() {
    let lab = Lab::new();
    lab.netd(&["network", "create", "--subnet", "172.20.0.0/24", "netA"]).ok();
    let _a1 = lab.sandbox_with("a1", &["--network", "netA,ip=172.20.0.2", "-p", "8080:80"]).serving(&[80]);
    let seen = lab.h.reach(Proto::Tcp, at(Family::V6.loopback(), 8080));
    assert_eq!((seen.server.as_str(), seen.source.ip().to_string()), ("a1", "172.20.0.1".into()));
}

#[test]
fn t46_the_host_reaches_a_published_port_at_the_gateway() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = lab.h.reach(proto, at(net.gateway(family), 8080));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", net.gateway(family)), "{proto:?}");
        }
    }
}

#[test]
fn t47_loopback_is_refused_when_another_address_is_published() {
    let publish =
        ["10.0.0.2:8080:80", "10.0.0.2:8080:80/udp", "[fd00:a::2]:8080:80", "[fd00:a::2]:8080:80/udp"];
    let (lab, _, _a1) = lab_with_a1(&publish.map(|spec| ["-p", spec]).concat());
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let outcome = lab.h.probe(proto, at(family.loopback(), 8080));
            assert_eq!(outcome, Outcome::Refused, "{family:?} {proto:?}");
            assert_eq!(lab.h.reach(proto, at(H.ip(family), 8080)).server, "a1");
        }
    }
}

#[test]
fn t48_every_loopback_address_leads_to_a_port_published_everywhere() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for proto in Proto::BOTH {
        let seen = lab.h.reach(proto, at([127, 0, 0, 5], 8080));
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", net.gateway(Family::V4)), "{proto:?}");
    }
}

#[test]
fn case35_the_client_sees_the_address_that_it_dialled() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for family in Family::BOTH {
        for ip in [family.loopback(), H.ip(family), net.gateway(family)] {
            let to = at(ip, 8080);
            let peers = lab.h.run(|| {
                let tcp = TcpStream::connect_timeout(&to, PATIENCE).expect("connect");
                let udp = UdpSocket::bind(SocketAddr::new(family.any(), 0)).expect("a socket");
                udp.connect(to).expect("connect");
                (tcp.peer_addr().expect("a peer"), udp.peer_addr().expect("a peer"))
            });
            assert_eq!(peers, (to, to));
        }
    }
}

#[test]
fn case37_answers_to_unconnected_datagrams_come_from_the_dialled_address() {
    let (lab, net, _a1) = lab_with_a1(&WEB);
    for family in Family::BOTH {
        for ip in [family.loopback(), H.ip(family), net.gateway(family)] {
            let to = at(ip, 8080);
            let from = lab.h.run(|| {
                let socket = UdpSocket::bind(SocketAddr::new(family.any(), 0)).expect("a socket");
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                socket.send_to(b"who?", to).expect("send");
                socket.recv_from(&mut [0; 512]).expect("an answer").1
            });
            assert_eq!(from, to);
        }
    }
}

#[test]
fn one_socket_talks_to_a_published_port_and_to_others_at_once() {
    let (lab, _, _a1) = lab_with_a1(&WEB);
    let _r = netd_tests::Server::start(&lab.r, &[80]);
    lab.h.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        for to in [at([127, 0, 0, 1], 8080), at(netd_tests::R.v4, 80), at([127, 0, 0, 1], 8080)] {
            socket.send_to(b"who?", to).expect("send");
            assert_eq!(socket.recv_from(&mut [0; 512]).expect("an answer").1, to);
        }
    });
}
