//! Rung: namespaces, beside truth-table rows T42 to T48. Processes of the host reach sandboxes and published ports, loopback included.

use std::net::{SocketAddr, TcpStream, UdpSocket};

use netd_tests::{Family, H, Lab, Net, PATIENCE, Sandbox, at};

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

fn lab_with_a1(publish: &[&str]) -> (Lab, Net, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, publish).serving(&[80, 81]);
    (lab, net, a1)
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
