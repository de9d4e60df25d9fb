//! Rung: namespaces, dataplane §12 cases 55, 57, 59 to 61. Errors about translated flows reach whom they concern.

use std::{net::IpAddr, time::Duration};

use netd_tests::{
    Capture, Family, H, Lab, Options, Outcome, PATIENCE, Proto, R, Server, Topology, at,
    far::{X, lab_with_a_far_host, quoted},
};

#[test]
fn case57_a_closed_port_outside_refuses_the_sandboxs_datagrams() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        assert_eq!(a1.probe(Proto::Udp, at(R.ip(family), 81)), Outcome::Refused, "{family:?}");
    }
}

#[test]
fn case61_a_closed_port_inside_refuses_in_the_hosts_name() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:81/udp"]);
    let wire = Capture::start(&lab.r, "eth0");
    for family in Family::BOTH {
        assert_eq!(lab.r.probe(Proto::Udp, at(H.ip(family), 8080)), Outcome::Refused, "{family:?}");
        let expected = if family == Family::V4 { 3 } else { 1 };
        let error = wire.wait("port unreachable", Duration::from_secs(5), |p| {
            !p.outgoing && quoted(p).is_some_and(|q| q.0 == expected)
        });
        assert_eq!(error.src, Some(H.ip(family)));
        assert_eq!(quoted(&error), Some((expected, R.ip(family), H.ip(family))));
    }
}

#[test]
fn case59_a_stream_out_finds_the_narrow_link() {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&x, &[80]);
    for family in Family::BOTH {
        let (mut stream, seen) = a1.connect_stream(at(X.ip(family), 80));
        assert_eq!(seen.source.ip(), H.ip(family));
        for _ in 0..5 {
            stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
        }
    }
}

#[test]
fn case60_a_published_server_finds_the_narrow_link() {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    for family in Family::BOTH {
        let (mut stream, seen) = x.connect_stream(at(H.ip(family), 8080));
        assert_eq!(seen.source.ip(), X.ip(family));
        for _ in 0..5 {
            stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
        }
    }
}

#[test]
fn case60_an_ipv4_only_server_finds_the_narrow_link_to_an_ipv6_client() {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    lab.netd(&["network", "create", "--subnet", "172.20.0.0/24", "netV"]).ok();
    let v1 = lab.sandbox_with("v1", &["--network", "netV,ip=172.20.0.2", "-p", "8080:80"]).serving(&[80]);
    let (mut stream, seen) = x.connect_stream(at(H.v6, 8080));
    assert_eq!(seen.source.ip(), IpAddr::from([172, 20, 0, 1]));
    let errors = Capture::start(&v1, "eth0");
    for _ in 0..5 {
        stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
    }
    // Fragmentation needed, in IPv4, about the sandbox's own packet to its gateway.
    let own = (3, IpAddr::from([172, 20, 0, 2]), IpAddr::from([172, 20, 0, 1]));
    errors.wait("fragmentation needed", PATIENCE, |packet| quoted(packet) == Some(own));
}

#[test]
fn case76_a_narrow_uplink_is_told_to_the_sandbox() {
    let topology = Topology::new();
    topology.h.ip_batch("link set eth0 mtu 1400");
    topology.r.ip_batch("link set eth0 mtu 1400");
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        if family == Family::V6 {
            // Routers do not fragment: the first datagram comes to nothing, and the sender is told (RFC 8201 §4).
            let told = a1.try_datagram(at(R.ip(family), 80), 4_000).expect_err("too big for the uplink");
            assert_eq!(told.raw_os_error(), Some(libc::EMSGSIZE), "{told}");
        }
        for (client, to) in [(&*a1, at(R.ip(family), 80)), (&lab.r, at(H.ip(family), 8080))] {
            let (mut stream, _) = client.connect_stream(to);
            for _ in 0..5 {
                stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the uplink's MTU");
            }
            client.exchange_datagram(to, 4_000);
        }
    }
}
