//! Rung: namespaces, rows T8, T42, T50 and T85. Sandboxes on the host's network: their sockets are the host's.

use std::net::TcpListener;

use netd_tests::{Family, H, Lab, Proto, R, Server, at};

#[test]
fn a_server_on_the_hosts_network_is_reached_as_the_hosts_own() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    lab.netd(&["sandbox", "create", "--network", "host", "h1"]).ok();
    // Its namespace is the host's: what runs in it is in the host's, published ports included.
    let listing = lab.netd(&["exec", "h1", "--", "ip", "-o", "link"]).ok();
    assert!(listing.contains("eth0") && listing.contains("eth1"), "{listing}");
    let _server = Server::start(&lab.h, &[2222]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 2222)).source.ip(), R.ip(family), "{proto:?}");
            // A datagram server on every address answers from the one next to the client: it has to be asked there.
            let hosts = [net.gateway(family), H.ip(family)];
            for host in hosts.into_iter().take(if proto == Proto::Tcp { 2 } else { 1 }) {
                assert_eq!(a1.reach(proto, at(host, 2222)).source.ip(), a1.ip(family), "{proto:?} {host}");
            }
        }
    }
    // The guard keeps published ports from it, as from every process of the host.
    let refused = lab.h.run(|| TcpListener::bind((H.ip(Family::V4), 8080))).expect_err("a published port");
    assert_eq!(refused.raw_os_error(), Some(libc::EADDRINUSE), "{refused}");
    // Its clients are the host's, too.
    for (to, seen) in [
        ("127.0.0.1", net.gateway(Family::V4)),
        ("10.0.0.2", H.ip(Family::V4)),
        ("::1", net.gateway(Family::V6)),
    ] {
        let script = format!("exec 3<>/dev/tcp/{to}/8080 && head -n 1 <&3");
        let line = lab.netd(&["exec", "h1", "--", "bash", "-c", &script]).ok();
        assert!(
            line.starts_with(&format!("a1 sees {}", at(seen, 0).to_string().trim_end_matches(":0"))),
            "{to}: {line}"
        );
    }
}
