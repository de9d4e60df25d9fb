//! Rung: namespaces, truth-table rows T51 to T58. Internal networks: all inside and the host, nothing beyond.

use netd_tests::{Family, H, Lab, Net, Outcome, Proto, R, Sandbox, Server, at, denied};

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    i1: Sandbox,
    i2: Sandbox,
    a1: Sandbox,
    b1: Sandbox,
    net: Net,
    b: Net,
    lab: Lab,
}

/// i1 and i2 on an internal network, a1 (published as 8080) and b1 (as 9090) on usual ones.
fn world() -> World {
    let lab = Lab::new();
    let net = lab.network("netI", 23, &["--internal"]);
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let i1 = lab.sandbox("i1", net, 2, &["-p", "6060:60"]).serving(&[60]);
    let i2 = lab.sandbox("i2", net, 3, &[]).serving(&[60]);
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let b1 = lab.sandbox("b1", b, 2, &["-p", "9090:90", "-p", "9090:90/udp"]).serving(&[90]);
    World { i1, i2, a1, b1, net, b, lab }
}

/// What a process with `NET_ADMIN` inside could do.
fn default_route_by_hand(w: &World) {
    for family in Family::BOTH {
        w.i1.ip_batch(&format!("route add default via {}", w.net.gateway(family)));
    }
}

#[test]
fn t51_sandboxes_of_an_internal_network_reach_each_other() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = w.i1.reach(proto, at(w.i2.ip(family), 60));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("i2", w.i1.ip(family)));
        }
        w.i1.ping(w.i2.ip(family));
    }
}

#[test]
fn t52_the_host_serves_an_internal_network_at_its_gateway() {
    let w = world();
    let _host = Server::start(&w.lab.h, &[2222]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(w.i1.reach(proto, at(w.net.gateway(family), 2222)).source.ip(), w.i1.ip(family));
        }
        w.i1.ping(w.net.gateway(family));
    }
}

#[test]
fn t53_an_internal_network_knows_no_way_out() {
    let w = world();
    let _server = Server::start(&w.lab.r, &[80]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(w.i1.probe(proto, at(R.ip(family), 80)), Outcome::Unreachable, "{family:?} {proto:?}");
            w.a1.reach(proto, at(R.ip(family), 80));
        }
        assert_eq!(w.i1.probe_ping(R.ip(family)), Outcome::Unreachable);
    }
    assert_eq!(w.i1.probe_ping(std::net::IpAddr::from([8, 8, 8, 8])), Outcome::Unreachable);
}

#[test]
fn t54_a_route_by_hand_does_not_lead_out_of_an_internal_network() {
    let w = world();
    let _server = Server::start(&w.lab.r, &[80]);
    default_route_by_hand(&w);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            denied(&w.lab, &w.lab.r, &["INTERNAL"], || {
                assert_eq!(w.i1.probe(proto, at(R.ip(family), 80)), Outcome::Timeout, "{family:?} {proto:?}");
            });
            w.a1.reach(proto, at(R.ip(family), 80));
        }
        denied(&w.lab, &w.lab.r, &["INTERNAL"], || {
            assert_eq!(w.i1.probe_ping(R.ip(family)), Outcome::Timeout);
        });
    }
}

#[test]
fn t55_an_internal_network_reaches_no_other_sandbox_direct_or_published() {
    let w = world();
    default_route_by_hand(&w);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            denied(&w.lab, &w.a1, &["INTERNAL", "ISOLATION"], || {
                assert_eq!(w.i1.probe(proto, at(w.a1.ip(family), 80)), Outcome::Timeout, "direct, {proto:?}");
            });
            denied(&w.lab, &w.a1, &["INTERNAL"], || {
                assert_eq!(
                    w.i1.probe(proto, at(H.ip(family), 8080)),
                    Outcome::Timeout,
                    "host address, {proto:?}"
                );
            });
            denied(&w.lab, &w.b1, &["INTERNAL"], || {
                assert_eq!(
                    w.i1.probe(proto, at(w.net.gateway(family), 9090)),
                    Outcome::Timeout,
                    "gateway, {proto:?}"
                );
            });
            assert_eq!(w.b1.reach(proto, at(H.ip(family), 8080)).server, "a1");
            assert_eq!(w.a1.reach(proto, at(w.b.gateway(family), 9090)).server, "b1");
        }
    }
}

#[test]
fn t56_the_host_reaches_every_port_of_an_internal_network() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = w.lab.h.reach(proto, at(w.i1.ip(family), 60));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("i1", w.net.gateway(family)));
        }
        w.lab.h.ping(w.i1.ip(family));
    }
}

#[test]
fn t57_nobody_else_reaches_an_internal_network() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let to = at(w.i1.ip(family), 60);
            denied(&w.lab, &w.i1, &["INTERNAL", "DIRECT_ACCESS"], || {
                assert_eq!(w.lab.r.probe(proto, to), Outcome::Timeout, "R {proto:?}");
            });
            denied(&w.lab, &w.i1, &["INTERNAL", "ISOLATION"], || {
                assert_eq!(w.a1.probe(proto, to), Outcome::Timeout, "a1 {proto:?}");
            });
            assert_eq!(w.i2.reach(proto, to).server, "i1");
        }
        denied(&w.lab, &w.i1, &["INTERNAL", "DIRECT_ACCESS"], || {
            assert_eq!(w.lab.r.probe_ping(w.i1.ip(family)), Outcome::Timeout);
        });
        denied(&w.lab, &w.i1, &["INTERNAL", "ISOLATION"], || {
            assert_eq!(w.a1.probe_ping(w.i1.ip(family)), Outcome::Timeout);
        });
    }
}

#[test]
fn t58_a_publish_on_an_internal_network_has_no_effect() {
    let w = world();
    for family in Family::BOTH {
        assert_eq!(w.lab.r.probe(Proto::Tcp, at(H.ip(family), 6060)), Outcome::Refused);
        assert_eq!(w.lab.h.probe(Proto::Tcp, at(family.loopback(), 6060)), Outcome::Refused);
    }
    let ports = &w.lab.inspect("i1")["NetworkSettings"]["Ports"];
    let bound = ports
        .as_object()
        .is_some_and(|all| all.values().any(|b| b.as_array().is_some_and(|b| !b.is_empty())));
    assert!(!bound, "Ports of a sandbox on an internal network: {ports}");
}
