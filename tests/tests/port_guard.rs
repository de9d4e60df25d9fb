//! Rung: namespaces, truth-table row T85. A published port and a socket of the host exclude each other, in either order.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use netd_tests::{Family, H, H1, Lab, Net, Proto, R, Sandbox, Server, at};
use nix::{errno::Errno, sys::signal::Signal};

fn lab_with_net() -> (Lab, Net) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    (lab, net)
}

/// Tries to bind in a namespace.
fn bind(lab: &Lab, proto: Proto, address: SocketAddr) -> Result<(), Errno> {
    let bound = lab.h.run(|| match proto {
        Proto::Tcp => TcpListener::bind(address).map(drop),
        Proto::Udp => UdpSocket::bind(address).map(drop),
    });
    bound.map_err(|e| e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
}

fn web(lab: &Lab, net: Net, publish: &[&str]) -> Sandbox {
    lab.sandbox("a1", net, 2, publish).serving(&[80])
}

#[test]
fn t85_the_guard_knows_protocol_and_address() {
    let (lab, net) = lab_with_net();
    let _a1 = web(&lab, net, &["-p", "10.0.0.2:8080:80"]);
    assert_eq!(bind(&lab, Proto::Udp, at(H.v4, 8080)), Ok(()));
    assert_eq!(bind(&lab, Proto::Tcp, at(H1.v4, 8080)), Ok(()));
    assert_eq!(bind(&lab, Proto::Tcp, at([127, 0, 0, 1], 8080)), Ok(()));
    assert_eq!(bind(&lab, Proto::Tcp, at(H.v4, 8080)), Err(Errno::EADDRINUSE));
    assert_eq!(bind(&lab, Proto::Tcp, at([0, 0, 0, 0], 8080)), Err(Errno::EADDRINUSE));
    assert_eq!(bind(&lab, Proto::Tcp, at(H.v6, 8080)), Ok(()));
}

#[test]
fn t85_sandboxes_and_other_hosts_bind_what_they_like() {
    let (lab, net) = lab_with_net();
    let a1 = web(&lab, net, &["-p", "8080:80", "-p", "8080:80/udp"]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    for ns in [&*a1, &*a2, &lab.r] {
        drop(Server::start(ns, &[8080]));
    }
}

#[test]
fn t85_a_port_that_a_host_process_uses_cannot_be_published() {
    let (lab, net) = lab_with_net();
    for (proto, spec) in [(Proto::Tcp, "8080:80"), (Proto::Udp, "8080:80/udp")] {
        for address in [at(Family::V4.any(), 8080), at([127, 0, 0, 1], 8080), at(H.v6, 8080)] {
            let before = lab.snapshot();
            let server = Server::bind(&lab.h, &[(proto, address)]);
            let args = ["sandbox", "create", "--network", net.name(), "-p", spec, "a1"];
            let line = lab.netd(&args).refused(4);
            assert!(line.contains("8080") && line.contains("in use"), "{line}");
            lab.netd(&["sandbox", "inspect", "a1"]).refused(3);
            before.assert_unchanged(&lab.snapshot(), "a refused publish");
            let client = if address.ip().is_loopback() { &lab.h } else { &lab.r };
            let to = if address.is_ipv6() {
                at(H.v6, 8080)
            } else if address.ip().is_loopback() {
                address
            } else {
                at(H.v4, 8080)
            };
            assert_eq!(client.reach(proto, to).server, "H", "the host's own server is undisturbed");
            drop(server);
        }
    }
    let a1 = web(&lab, net, &["-p", "8080:80", "-p", "8080:80/udp"]);
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).source.ip(), R.ip(Family::V4));
    drop(a1);
}

#[test]
fn t85_a_port_published_by_another_sandbox_cannot_be_published() {
    let (lab, net) = lab_with_net();
    let _a1 = web(&lab, net, &["-p", "8080:80"]);
    let before = lab.snapshot();
    for spec in ["8080:81", "10.0.0.2:8080:80", "127.0.0.1:8080:80", "8070-8090:70-90"] {
        let args = ["sandbox", "create", "--network", net.name(), "-p", spec, "a2"];
        let line = lab.netd(&args).refused(4);
        assert!(line.contains("8080"), "{line}");
    }
    before.assert_unchanged(&lab.snapshot(), "a refused publish");
    lab.netd(&["sandbox", "create", "--network", net.name(), "-p", "8080:80/udp", "a2"]).ok();
}

#[test]
fn t85_the_guard_holds_while_the_daemon_is_dead_and_ends_with_the_publish() {
    let (mut lab, net) = lab_with_net();
    let a1 = web(&lab, net, &["-p", "8080:80"]);
    lab.daemon.end(Signal::SIGKILL);
    assert_eq!(bind(&lab, Proto::Tcp, at(H.v4, 8080)), Err(Errno::EADDRINUSE));
    lab.daemon.restart();
    assert_eq!(bind(&lab, Proto::Tcp, at(H.v4, 8080)), Err(Errno::EADDRINUSE));
    drop(a1);
    lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    assert_eq!(bind(&lab, Proto::Tcp, at(H.v4, 8080)), Ok(()));
}
