//! Rung: namespaces, truth-table rows T31, T61, T62, T63. Sandboxes of one network, with and without traffic between them.

use std::{net::UdpSocket, time::Duration};

use netd_tests::{Family, H, Lab, Net, Outcome, Proto, R, Sandbox, Server, Silence, at, denied};

const NO_ICC: [&str; 2] = ["-o", "com.docker.network.bridge.enable_icc=false"];

#[test]
fn t31_sandboxes_of_a_network_reach_each_other_by_their_own_addresses() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]).serving(&[80, 81]);
    let a2 = lab.sandbox("a2", net, 3, &[]).serving(&[80]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = a1.reach_from(proto, at(a2.ip(family), 80), family.from_port(40_000));
            assert_eq!((seen.server.as_str(), seen.source), ("a2", at(a1.ip(family), 40_000)), "{proto:?}");
            assert_eq!(a2.reach(proto, at(a1.ip(family), 81)).source.ip(), a2.ip(family));
        }
        a1.ping(a2.ip(family));
        a2.ping(a1.ip(family));
    }
}

#[test]
fn t31_a_stream_between_sandboxes_carries_its_data() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]).serving(&[80]));
    let chunk: Vec<u8> = (0..16_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for family in Family::BOTH {
        let (mut stream, _) = a1.connect_stream(at(a2.ip(family), 80));
        for _ in 0..200 {
            stream.echo(&chunk).expect("what was sent comes back");
        }
    }
}

#[test]
fn t31_broadcast_and_multicast_stay_on_the_bridge() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    let (inside, outside) = (a2.capture(), netd_tests::Capture::start(&lab.r, "eth0"));
    for to in [
        "172.20.0.255:5353",
        "255.255.255.255:5353",
        "224.0.0.251:5353",
        "239.1.1.1:5353",
        "[ff02::fb%2]:5353",
    ] {
        a1.run(|| {
            let socket =
                UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).expect("a socket");
            socket.set_broadcast(true).expect("SO_BROADCAST");
            let index = a1.link("eth0").expect("eth0").index;
            let to = to.replace("%2", &format!("%{index}"));
            socket.send_to(b"to all", to).expect("send");
        });
        inside.wait(to, Duration::from_secs(5), |p| !p.outgoing && p.is_to(Proto::Udp, 5353));
    }
    lab.r.ping(H.v4);
    let leaked: Vec<_> = outside.take().into_iter().filter(|p| p.is_to(Proto::Udp, 5353)).collect();
    assert_eq!(leaked, [], "group traffic of a sandbox on the uplink");
}

fn lab_without_icc() -> (Lab, Net, Sandbox, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netC", 22, &NO_ICC);
    let c1 = lab.sandbox("c1", net, 2, &["-p", "7070:70", "-p", "7070:70/udp"]).serving(&[70]);
    let c2 = lab.sandbox("c2", net, 3, &[]).serving(&[70]);
    (lab, net, c1, c2)
}

#[test]
fn t61_without_icc_sandboxes_do_not_reach_each_other() {
    let (lab, _, c1, c2) = lab_without_icc();
    for family in Family::BOTH {
        for (client, victim) in [(&c1, &c2), (&c2, &c1)] {
            let silence = Silence::watch(victim);
            for proto in Proto::BOTH {
                assert_eq!(
                    client.probe(proto, at(victim.ip(family), 70)),
                    Outcome::Timeout,
                    "{family:?} {proto:?}"
                );
            }
            assert_eq!(client.probe_ping(victim.ip(family)), Outcome::Timeout);
            silence.assert(victim.name());
            assert_eq!(lab.h.reach(Proto::Tcp, at(victim.ip(family), 70)).server, victim.name());
        }
    }
}

#[test]
fn t63_layer_two_tricks_do_not_pass_icc() {
    let (lab, _, c1, c2) = lab_without_icc();
    let mac = c2.link("eth0").expect("eth0").mac;
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    for family in Family::BOTH {
        c1.ip_batch(&format!("neigh replace {} lladdr {mac} nud permanent dev eth0", c2.ip(family)));
        denied(&lab, &c2, &["ICC"], || {
            assert_eq!(c1.probe(Proto::Tcp, at(c2.ip(family), 70)), Outcome::Timeout);
            assert_eq!(c1.probe_ping(c2.ip(family)), Outcome::Timeout);
        });
    }
}

#[test]
fn t62_without_icc_the_host_and_the_world_are_reached() {
    let (lab, net, c1, _c2) = lab_without_icc();
    let _servers = (Server::start(&lab.r, &[80]), Server::start(&lab.h, &[2222]));
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(c1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
            assert_eq!(c1.reach(proto, at(net.gateway(family), 2222)).source.ip(), c1.ip(family));
        }
        assert_eq!(c1.reach(Proto::Tcp, at(H.ip(family), 2222)).source.ip(), c1.ip(family));
        for to in [R.ip(family), H.ip(family), net.gateway(family)] {
            c1.ping(to);
        }
    }
}

#[test]
fn t64_without_icc_a_published_port_is_reached_through_the_host() {
    let (lab, net, _c1, c2) = lab_without_icc();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = c2.reach(proto, at(H.ip(family), 7070));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("c1", c2.ip(family)), "{proto:?}");
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 7070)).server, "c1");
        }
    }
    assert_eq!(net.name(), "netC");
}
