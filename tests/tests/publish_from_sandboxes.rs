//! Rung: namespaces, truth-table rows T37 to T40, T49. Published ports as sandboxes see them, through the host's addresses.

use netd_tests::{Family, H, Lab, Net, Outcome, Proto, Sandbox, at};

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    a1: Sandbox,
    a2: Sandbox,
    b1: Sandbox,
    a: Net,
    b: Net,
    lab: Lab,
}

/// a1 is published as 8080, b1 of another network as 9090; the sandboxes go before the lab.
fn world(publish_a1: &[&str]) -> World {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, publish_a1).serving(&[80]);
    let a2 = lab.sandbox("a2", a, 3, &[]);
    let b1 = lab.sandbox("b1", b, 2, &["-p", "9090:90", "-p", "9090:90/udp"]).serving(&[90]);
    World { a1, a2, b1, a, b, lab }
}

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

#[test]
fn t37_a_sandbox_reaches_another_networks_published_port_at_the_hosts_address() {
    let w = world(&WEB);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = w.a1.reach(proto, at(H.ip(family), 9090));
            assert_eq!(seen.server, "b1");
            // Docker shows the gateway of the server's network; the client's own address is allowed and says more.
            let sources = [w.b.gateway(family), w.a1.ip(family)];
            assert!(sources.contains(&seen.source.ip()), "{family:?} {proto:?}: {}", seen.source);
        }
    }
}

#[test]
fn t38_a_sandbox_reaches_another_networks_published_port_at_any_gateway() {
    let w = world(&WEB);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for gateway in [w.a.gateway(family), w.b.gateway(family)] {
                let seen = w.a1.reach(proto, at(gateway, 9090));
                let sources = [w.b.gateway(family), w.a1.ip(family)];
                assert!(
                    seen.server == "b1" && sources.contains(&seen.source.ip()),
                    "{gateway} {proto:?}: {seen:?}"
                );
            }
        }
    }
}

#[test]
fn t39_a_sandbox_reaches_its_own_published_port_and_sees_the_gateway() {
    let w = world(&WEB);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for host in [H.ip(family), w.a.gateway(family)] {
                let seen = w.a1.reach(proto, at(host, 8080));
                assert_eq!(
                    (seen.server.as_str(), seen.source.ip()),
                    ("a1", w.a.gateway(family)),
                    "{proto:?}"
                );
            }
        }
    }
}

#[test]
fn t40_a_neighbour_reaches_a_published_port_and_is_seen_as_itself() {
    let w = world(&WEB);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for host in [H.ip(family), w.a.gateway(family)] {
                let seen = w.a2.reach(proto, at(host, 8080));
                assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", w.a2.ip(family)), "{proto:?}");
            }
        }
    }
}

#[test]
fn t40_streams_through_the_host_carry_their_data() {
    let w = world(&WEB);
    let chunk = vec![0x5a; 60_000];
    for family in Family::BOTH {
        for (client, port) in [(&w.a1, 8080), (&w.a2, 8080), (&w.a1, 9090)] {
            let (mut stream, _) = client.connect_stream(at(H.ip(family), port));
            for _ in 0..50 {
                stream.echo(&chunk).expect("what was sent comes back");
            }
        }
    }
}

#[test]
fn t49_a_port_published_on_loopback_is_refused_at_every_gateway() {
    let w = world(&["-p", "127.0.0.1:8080:80", "-p", "127.0.0.1:8080:80/udp"]);
    for proto in Proto::BOTH {
        for (client, gateway) in [(&w.a2, w.a), (&w.a2, w.b), (&w.b1, w.b), (&w.b1, w.a)] {
            let outcome = client.probe(proto, at(gateway.gateway(Family::V4), 8080));
            assert_eq!(outcome, Outcome::Refused, "{} {proto:?}", client.name());
        }
        assert_eq!(w.lab.h.reach(proto, at([127, 0, 0, 1], 8080)).server, "a1");
    }
}
