//! Rung: namespaces, truth-table row T30 and netd's own: by which interfaces of the host a published port is reached (`-p ...,via=IFACE`).

use netd_tests::{Family, H, H1, Lab, Outcome, Proto, R, R2, SILENCE, Sandbox, at, denied, eventually};
use serde_json::json;

/// a1 with a port on the second uplink's address of each family, reached by that uplink alone.
fn lab_with_a1(via: &str) -> (Lab, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let specs: Vec<String> = [format!("{}:8080:80", H1.v4), format!("[{}]:8080:80", H1.v6)]
        .iter()
        .flat_map(|port| {
            Proto::BOTH.map(|proto| format!("{port}/{},{via}", format!("{proto:?}").to_lowercase()))
        })
        .collect();
    let options: Vec<&str> = specs.iter().flat_map(|spec| ["-p", spec]).collect();
    let a1 = lab.sandbox("a1", net, 2, &options).serving(&[80]);
    (lab, a1)
}

fn closed_to_r(lab: &Lab, a1: &Sandbox) {
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            denied(lab, a1, &["NOT_ALLOWED"], || {
                assert_eq!(
                    lab.r.probe(proto, at(H1.ip(family), 8080)),
                    Outcome::Timeout,
                    "{family:?} {proto:?}"
                );
            });
        }
    }
}

fn open_to_r2(lab: &Lab) {
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = lab.r2.reach(proto, at(H1.ip(family), 8080));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", R2.ip(family)), "{proto:?}");
        }
    }
}

#[test]
fn t30_a_port_with_interfaces_is_reached_from_outside_by_them_alone() {
    let (mut lab, a1) = lab_with_a1("via=eth1");
    let other = lab.network("netB", 21, &[]);
    let b1 = lab.sandbox("b1", other, 2, &[]);
    // The control: without the list the host answers at this address by every uplink.
    lab.netd(&["publish", "a1", "10.0.1.2:9090:80", "[fd00:b::2]:9090:80"]).ok();
    for family in Family::BOTH {
        assert_eq!(lab.r.reach(Proto::Tcp, at(H1.ip(family), 9090)).source.ip(), R.ip(family));
    }
    closed_to_r(&lab, &a1);
    open_to_r2(&lab);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(
                lab.h.reach(proto, at(H1.ip(family), 8080)).server,
                "a1",
                "the host itself, {proto:?}"
            );
            assert_eq!(b1.reach(proto, at(H1.ip(family), 8080)).server, "a1", "a sandbox, {proto:?}");
        }
    }
    let ports = &lab.inspect("a1")["NetworkSettings"]["Ports"]["80/tcp"];
    let shown = |port: &str| ports.as_array()?.iter().find(|binding| binding["HostPort"] == port);
    assert_eq!(shown("8080").expect("8080")["Via"], json!(["eth1"]));
    assert!(shown("9090").expect("9090")["Via"].is_null(), "by all");
    // Without a daemon, and with the next one.
    lab.daemon.end(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(lab.r.probe(Proto::Tcp, at(H1.v4, 8080)), Outcome::Timeout, "without a daemon");
    open_to_r2(&lab);
    lab.daemon.restart();
    closed_to_r(&lab, &a1);
    open_to_r2(&lab);
    // The list goes with its publish.
    lab.netd(&["unpublish", "a1", "10.0.1.2:8080:80"]).ok();
    lab.netd(&["publish", "a1", "10.0.1.2:8080:80"]).ok();
    assert_eq!(lab.r.reach(Proto::Tcp, at(H1.v4, 8080)).server, "a1");
}

#[test]
fn t30_the_list_follows_interfaces_by_their_names_and_adds_to_the_sources() {
    let (lab, a1) = lab_with_a1("via=wan*,allow=10.0.1.0/24,allow=fd00:b::/64");
    closed_to_r(&lab, &a1);
    for family in Family::BOTH {
        denied(&lab, &a1, &["NOT_ALLOWED"], || {
            let to = at(H1.ip(family), 8080);
            assert_eq!(lab.r2.probe(Proto::Tcp, to), Outcome::Timeout, "no interface has such a name yet");
        });
    }
    let reaches =
        |proto, family| matches!(lab.r2.dial(proto, at(H1.ip(family), 8080), None, SILENCE), Outcome::Ok(_));
    lab.h.ip_batch("link set eth1 name wan1");
    for family in Family::BOTH {
        eventually("the list to follow the name", || reaches(Proto::Tcp, family));
    }
    open_to_r2(&lab);
    closed_to_r(&lab, &a1);
    // The sources count beside the interfaces.
    lab.netd(&["publish", "a1", "7070:80,via=wan1,allow=10.0.0.0/8", "6060:80,via=wan1,allow=10.0.0.3"]).ok();
    assert_eq!(lab.r2.reach(Proto::Tcp, at(H1.v4, 7070)).server, "a1");
    for port in [6060, 7070] {
        denied(&lab, &a1, &["NOT_ALLOWED"], || {
            assert_eq!(lab.r.probe(Proto::Tcp, at(H.v4, port)), Outcome::Timeout, "by the other interface");
        });
    }
    denied(&lab, &a1, &["NOT_ALLOWED"], || {
        assert_eq!(lab.r2.probe(Proto::Tcp, at(H1.v4, 6060)), Outcome::Timeout, "from another source");
    });
    lab.h.ip_batch("link set wan1 name eth1");
    for family in Family::BOTH {
        eventually("the list to let go of the name", || !reaches(Proto::Tcp, family));
    }
}

#[test]
fn t30_the_open_ports_of_a_routed_network_have_interfaces_too() {
    let lab = Lab::new();
    lab.allow_on_uplinks("172.26.0.0/24");
    lab.allow_on_uplinks("fd00:c:26::/64");
    let mode = |family| format!("com.docker.network.bridge.gateway_mode_ipv{family}=routed");
    let net = lab.network("netT", 26, &["-o", &mode(4), "-o", &mode(6)]);
    let other = lab.network("netA", 20, &[]);
    let t1 = lab.sandbox("t1", net, 2, &["-p", "80,via=eth1"]).serving(&[80]);
    let a1 = lab.sandbox("a1", other, 2, &[]);
    for family in Family::BOTH {
        let to = at(t1.ip(family), 80);
        assert_eq!(lab.r2.reach(Proto::Tcp, to).server, "t1");
        denied(&lab, &t1, &["NOT_ALLOWED"], || assert_eq!(lab.r.probe(Proto::Tcp, to), Outcome::Timeout));
        assert_eq!(a1.reach(Proto::Tcp, to).server, "t1", "another network's sandbox");
    }
}

#[test]
fn t30_a_list_that_names_no_interface_is_refused_in_one_line() {
    let (lab, _a1) = lab_with_a1("via=eth1");
    for bad in ["9090:80,via=", "9090:80,via=a/b", "9090:80,by=eth1"] {
        let said = lab.netd(&["publish", "a1", bad]).refused(2);
        assert!(said.contains("invalid option"), "{bad}: {said}");
    }
}
