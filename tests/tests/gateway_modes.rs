//! Rung: namespaces, truth-table rows T12 to T17, T24, T25, T33 to T36. Gateway modes: who reaches a sandbox by its own address.

use netd_tests::{Family, H, Lab, Net, Outcome, Proto, R, R2, Sandbox, Server, at, denied};
use nix::sys::signal::Signal;
use serde_json::json;

/// The options of a network in one gateway mode, both families.
macro_rules! mode {
    ($mode:literal) => {
        [
            "-o",
            concat!("com.docker.network.bridge.gateway_mode_ipv4=", $mode),
            "-o",
            concat!("com.docker.network.bridge.gateway_mode_ipv6=", $mode),
        ]
    };
}

const PUBLISH_80: [&str; 4] = ["-p", "80", "-p", "80/udp"];

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    a1: Sandbox,
    u1: Sandbox,
    t1: Sandbox,
    u: Net,
    t: Net,
    lab: Lab,
}

/// a1 on a usual network, u1 on an unprotected one (50 published as 5050), t1 on a routed one (80 opened).
fn world() -> World {
    let lab = Lab::new();
    for subnet in ["172.25.0.0/24", "fd00:c:25::/64", "172.26.0.0/24", "fd00:c:26::/64"] {
        lab.allow_on_uplinks(subnet);
    }
    let a = lab.network("netA", 20, &[]);
    let (u, t) =
        (lab.network("netU", 25, &mode!("nat-unprotected")), lab.network("netT", 26, &mode!("routed")));
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80, 81]);
    let u1 = lab.sandbox("u1", u, 2, &["-p", "5050:50", "-p", "5050:50/udp"]).serving(&[50, 51]);
    let t1 = lab.sandbox("t1", t, 2, &PUBLISH_80).serving(&[80, 81]);
    World { a1, u1, t1, u, t, lab }
}

#[test]
fn t12_everything_on_an_unprotected_network_is_reached_from_outside() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for port in [50, 51] {
                let seen = w.lab.r.reach(proto, at(w.u1.ip(family), port));
                assert_eq!(
                    (seen.server.as_str(), seen.source.ip()),
                    ("u1", R.ip(family)),
                    "{proto:?} {port}"
                );
            }
            assert_eq!(w.lab.r2.reach(proto, at(w.u1.ip(family), 51)).source.ip(), R2.ip(family));
            assert_eq!(
                w.lab.r.reach(proto, at(H.ip(family), 5050)).source.ip(),
                R.ip(family),
                "published too"
            );
        }
        w.lab.r.ping(w.u1.ip(family));
    }
}

#[test]
fn errors_about_what_was_addressed_directly_come_back() {
    let w = world();
    w.lab.netd(&["publish", "t1", "82/udp"]).ok();
    for family in Family::BOTH {
        for (sandbox, port) in [(&w.u1, 52), (&w.t1, 82)] {
            // Nobody listens: the sandbox says so by ICMP, from its own address.
            assert_eq!(
                w.lab.r.attempt(Proto::Udp, at(sandbox.ip(family), port)),
                Outcome::Refused,
                "{family:?}"
            );
        }
        assert_eq!(w.a1.attempt(Proto::Udp, at(w.u1.ip(family), 52)), Outcome::Refused, "{family:?}");
        assert_eq!(w.lab.r.attempt(Proto::Tcp, at(w.u1.ip(family), 52)), Outcome::Refused, "a reset as well");
    }
}

#[test]
fn an_unprotected_network_is_masqueraded_on_its_way_out() {
    let w = world();
    let _server = Server::start(&w.lab.r, &[80]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(w.u1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family), "{proto:?}");
        }
    }
}

#[test]
fn t13_t14_t15_a_routed_network_is_reached_at_published_ports_and_by_ping() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = w.lab.r.reach(proto, at(w.t1.ip(family), 80));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("t1", R.ip(family)), "{proto:?}");
            denied(&w.lab, &w.t1, &["UNPUBLISHED"], || {
                assert_eq!(w.lab.r.probe(proto, at(w.t1.ip(family), 81)), Outcome::Timeout, "{proto:?}");
            });
            assert_eq!(w.lab.h.reach(proto, at(w.t1.ip(family), 81)).server, "t1", "the server is there");
        }
        w.lab.r.ping(w.t1.ip(family));
    }
}

#[test]
fn a_stream_to_a_routed_sandbox_carries_its_data_and_survives_the_daemon() {
    let mut w = world();
    let chunk: Vec<u8> = (0..16_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let mut streams = Family::BOTH.map(|family| w.lab.r.connect_stream(at(w.t1.ip(family), 80)).0);
    for stream in &mut streams {
        for _ in 0..50 {
            stream.echo(&chunk).expect("what was sent comes back");
        }
    }
    w.lab.daemon.end(Signal::SIGKILL);
    for stream in &mut streams {
        stream.echo(&chunk).expect("also without a daemon");
    }
    w.lab.daemon.restart();
    for stream in &mut streams {
        stream.echo(&chunk).expect("also after a restart of the daemon");
    }
    for family in Family::BOTH {
        assert_eq!(w.lab.r.reach(Proto::Tcp, at(w.t1.ip(family), 80)).server, "t1", "and new ones come in");
        assert_eq!(w.lab.r.probe(Proto::Tcp, at(w.t1.ip(family), 81)), Outcome::Timeout);
    }
}

#[test]
fn t16_a_routed_network_takes_no_port_of_the_host() {
    let w = world();
    let shown = json!([{"HostIp": "0.0.0.0", "HostPort": ""}, {"HostIp": "::", "HostPort": ""}]);
    assert_eq!(w.lab.inspect("t1")["NetworkSettings"]["Ports"]["80/tcp"], shown);
    assert_eq!(
        w.lab.netd(&["port", "t1"]).ok(),
        "80/tcp -> 0.0.0.0:\n80/tcp -> [::]:\n80/udp -> 0.0.0.0:\n80/udp -> [::]:"
    );
    for family in Family::BOTH {
        for from in [&w.lab.r, &w.lab.h] {
            assert_eq!(from.attempt(Proto::Tcp, at(H.ip(family), 80)), Outcome::Refused, "{}", from.name());
        }
    }
    let _host = Server::start(&w.lab.h, &[80]);
    for family in Family::BOTH {
        assert_eq!(w.lab.r.reach(Proto::Tcp, at(H.ip(family), 80)).server, "H", "the port is the host's own");
    }
}

#[test]
fn t17_a_routed_network_keeps_its_addresses_on_the_way_out() {
    let w = world();
    let _server = Server::start(&w.lab.r, &[80]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(w.t1.reach(proto, at(R.ip(family), 80)).source.ip(), w.t1.ip(family), "{proto:?}");
        }
        w.t1.ping(R.ip(family));
    }
}

#[test]
fn t33_t34_another_networks_sandbox_reaches_what_is_open_as_that_networks_gateway() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = w.a1.reach(proto, at(w.t1.ip(family), 80));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("t1", w.t.gateway(family)), "{proto:?}");
            denied(&w.lab, &w.t1, &["UNPUBLISHED"], || {
                assert_eq!(w.a1.probe(proto, at(w.t1.ip(family), 81)), Outcome::Timeout, "{proto:?}");
            });
        }
        w.a1.ping(w.t1.ip(family));
    }
}

#[test]
fn t35_a_routed_networks_sandbox_reaches_nothing_on_a_nat_network() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for port in [80, 81] {
                denied(&w.lab, &w.a1, &["ISOLATION"], || {
                    assert_eq!(w.t1.probe(proto, at(w.a1.ip(family), port)), Outcome::Timeout, "{proto:?}");
                });
            }
            assert_eq!(w.t1.reach(proto, at(H.ip(family), 8080)).server, "a1", "published, through the host");
        }
        denied(&w.lab, &w.a1, &["ISOLATION"], || {
            assert_eq!(w.t1.probe_ping(w.a1.ip(family)), Outcome::Timeout);
        });
    }
}

#[test]
fn t36_another_networks_sandbox_reaches_everything_on_an_unprotected_network() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for port in [50, 51] {
                let seen = w.a1.reach(proto, at(w.u1.ip(family), port));
                assert_eq!(
                    (seen.server.as_str(), seen.source.ip()),
                    ("u1", w.u.gateway(family)),
                    "{proto:?}"
                );
                let seen = w.t1.reach(proto, at(w.u1.ip(family), port));
                assert_eq!(seen.source.ip(), w.t1.ip(family), "nobody masquerades a routed network");
            }
        }
        w.a1.ping(w.u1.ip(family));
    }
}

#[test]
fn t24_a_nat_endpoint_that_is_not_the_gateway_is_closed_and_t25_a_routed_one_is_open() {
    let w = world();
    // The network with the highest priority is the gateway: netA publishes, the routed one opens all the same.
    let join = |name, net: &str, priority| {
        w.lab.netd(&["network", "connect", "--gw-priority", priority, net, name]).ok();
    };
    let options =
        ["--network", "netA,gw-priority=9", "-p", "7080:80", "-p", "7080:80/udp", "-p", "7081:81/udp"];
    let multi = w.lab.sandbox_with("multi", &options).serving(&[80]);
    join("multi", "netT", "1");
    let inspect = w.lab.inspect("multi");
    let ip = |net: &str, family| {
        let key = if family == Family::V4 { "IPAddress" } else { "GlobalIPv6Address" };
        inspect["NetworkSettings"]["Networks"][net][key]
            .as_str()
            .expect(key)
            .parse::<std::net::IpAddr>()
            .expect(key)
    };
    // A datagram's answer has the address of its socket; those of sockets without one have the gateway's network's.
    let bound = Family::BOTH.map(|family| (Proto::Udp, at(ip("netT", family), 81)));
    let _bound = Server::bind(&multi, &bound);
    for family in Family::BOTH {
        for (proto, port) in [(Proto::Tcp, 80), (Proto::Udp, 81)] {
            let seen = w.lab.r.reach(proto, at(ip("netT", family), port));
            assert_eq!(seen.server, "multi", "{family:?} {proto:?}");
        }
        denied(&w.lab, &multi, &["DIRECT_ACCESS"], || {
            assert_eq!(w.lab.r.probe(Proto::Tcp, at(ip("netA", family), 80)), Outcome::Timeout, "{family:?}");
        });
    }
}

#[test]
fn a_routed_port_is_opened_and_closed_while_the_sandbox_runs() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(w.lab.r.probe(proto, at(w.t1.ip(family), 81)), Outcome::Timeout);
        }
    }
    assert_eq!(w.lab.netd(&["publish", "t1", "81", "9081:81/udp"]).ok().lines().count(), 4);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(w.lab.r.reach(proto, at(w.t1.ip(family), 81)).server, "t1", "{family:?} {proto:?}");
        }
    }
    w.lab.netd(&["unpublish", "t1", "81", "9081:81/udp"]).ok();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            denied(&w.lab, &w.t1, &["UNPUBLISHED"], || {
                assert_eq!(w.lab.r.probe(proto, at(w.t1.ip(family), 81)), Outcome::Timeout);
            });
            assert_eq!(w.lab.r.reach(proto, at(w.t1.ip(family), 80)).server, "t1", "the others stay");
        }
    }
}

#[test]
fn one_family_is_routed_and_the_other_translated() {
    let lab = Lab::new();
    lab.allow_on_uplinks("fd00:c:20::/64");
    let mixed = lab.network("netA", 20, &["-o", "com.docker.network.bridge.gateway_mode_ipv6=routed"]);
    let a1 = lab.sandbox("a1", mixed, 2, &["-p", "8080:80"]).serving(&[80]);
    let shown = json!([{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": ""}]);
    assert_eq!(lab.inspect("a1")["NetworkSettings"]["Ports"]["80/tcp"], shown);
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).server, "a1");
    assert_eq!(lab.r.probe(Proto::Tcp, at(a1.ip(Family::V4), 80)), Outcome::Timeout);
    assert_eq!(lab.r.reach(Proto::Tcp, at(a1.ip(Family::V6), 80)).source.ip(), R.ip(Family::V6));
    assert_eq!(lab.r.attempt(Proto::Tcp, at(H.v6, 8080)), Outcome::Refused);
    let _server = Server::start(&lab.r, &[80]);
    assert_eq!(a1.reach(Proto::Tcp, at(R.v4, 80)).source.ip(), H.ip(Family::V4));
    assert_eq!(a1.reach(Proto::Tcp, at(R.v6, 80)).source.ip(), a1.ip(Family::V6));
}
