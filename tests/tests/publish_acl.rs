//! Rung: namespaces, truth-table row T84 and netd's own: who may come to a published port (`-p ...,allow=CIDR`).

use netd_tests::{Family, H, Lab, Outcome, Proto, R, R2, Sandbox, at, denied};
use serde_json::json;

const ALLOW_R: [&str; 4] =
    ["-p", "8080:80,allow=10.0.0.3,allow=fd00:a::/64", "-p", "8080:80/udp,allow=10.0.0.3,allow=fd00:a::/64"];

fn lab_with_a1(publish: &[&str]) -> (Lab, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, publish).serving(&[80]);
    (lab, a1)
}

#[test]
fn t84_a_published_port_with_sources_is_closed_to_everybody_else() {
    let (lab, a1) = lab_with_a1(&ALLOW_R);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family), "{proto:?}");
            denied(&lab, &a1, &["NOT_ALLOWED"], || {
                assert_eq!(
                    lab.r2.probe(proto, at(H.ip(family), 8080)),
                    Outcome::Timeout,
                    "{family:?} {proto:?}"
                );
            });
            for host in [H.ip(family), family.loopback()] {
                assert_eq!(
                    lab.h.reach(proto, at(host, 8080)).server,
                    "a1",
                    "the host itself, {host} {proto:?}"
                );
            }
        }
    }
}

#[test]
fn sandboxes_that_are_not_allowed_do_not_come_by_the_host_either() {
    let (lab, a1) = lab_with_a1(&["-p", "8080:80,allow=172.21.0.0/24,allow=fd00:c:21::/64"]);
    let (b, c) = (lab.network("netB", 21, &[]), lab.network("netC", 22, &[]));
    let (b1, c1) = (lab.sandbox("b1", b, 2, &[]), lab.sandbox("c1", c, 2, &[]));
    for family in Family::BOTH {
        assert_eq!(b1.reach(Proto::Tcp, at(H.ip(family), 8080)).server, "a1");
        denied(&lab, &a1, &["NOT_ALLOWED"], || {
            assert_eq!(c1.probe(Proto::Tcp, at(H.ip(family), 8080)), Outcome::Timeout, "{family:?}");
        });
        denied(&lab, &a1, &["NOT_ALLOWED"], || {
            assert_eq!(lab.r.probe(Proto::Tcp, at(H.ip(family), 8080)), Outcome::Timeout, "{family:?}");
        });
    }
}

#[test]
fn the_sources_are_those_of_each_publish_and_show_in_inspect() {
    let (lab, a1) = lab_with_a1(&["-p", "8080:80,allow=10.0.0.3"]);
    lab.netd(&["publish", "a1", "9090:80,allow=10.0.1.0/24", "7070:80"]).ok();
    let ports = &lab.inspect("a1")["NetworkSettings"]["Ports"]["80/tcp"];
    let shown = |host: &str, port: &str| {
        let all = ports.as_array().expect("an array").iter();
        let mut one =
            all.filter(|b| (b["HostIp"].as_str(), b["HostPort"].as_str()) == (Some(host), Some(port)));
        one.next().expect(port)["Allow"].clone()
    };
    assert_eq!(shown("0.0.0.0", "8080"), json!(["10.0.0.3/32"]));
    assert_eq!(shown("0.0.0.0", "9090"), json!(["10.0.1.0/24"]));
    assert!(shown("0.0.0.0", "7070").is_null(), "everybody");
    lab.r.reach(Proto::Tcp, at(H.v4, 8080));
    lab.r2.reach(Proto::Tcp, at(H.v4, 9090));
    for remote in [&lab.r, &lab.r2] {
        remote.reach(Proto::Tcp, at(H.v4, 7070));
        // Sources of one family allow nobody of the other.
        denied(&lab, &a1, &["NOT_ALLOWED"], || {
            assert_eq!(remote.probe(Proto::Tcp, at(H.v6, 8080)), Outcome::Timeout);
        });
    }
    denied(&lab, &a1, &["NOT_ALLOWED"], || {
        assert_eq!(lab.r.probe(Proto::Tcp, at(H.v4, 9090)), Outcome::Timeout);
    });
    assert_eq!(lab.netd(&["port", "a1", "80"]).ok().lines().count(), 6, "docker's lines stay docker's");
}

#[test]
fn sources_hold_over_a_restart_and_end_with_their_publish() {
    let (mut lab, a1) = lab_with_a1(&ALLOW_R);
    let closed = |lab: &Lab| {
        denied(lab, &a1, &["NOT_ALLOWED"], || {
            assert_eq!(lab.r2.probe(Proto::Tcp, at(H.v4, 8080)), Outcome::Timeout);
        });
        lab.r.reach(Proto::Tcp, at(H.v4, 8080));
    };
    lab.daemon.end(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(lab.r2.probe(Proto::Tcp, at(H.v4, 8080)), Outcome::Timeout, "without a daemon");
    lab.r.reach(Proto::Tcp, at(H.v4, 8080));
    lab.daemon.restart();
    closed(&lab);
    lab.netd(&["unpublish", "a1", "8080:80", "8080:80/udp"]).ok();
    lab.netd(&["publish", "a1", "8080:80"]).ok();
    assert_eq!(lab.r2.reach(Proto::Tcp, at(H.v4, 8080)).source.ip(), R2.ip(Family::V4));
    lab.netd(&["unpublish", "a1", "8080:80"]).ok();
    lab.netd(&["publish", "a1", "8080:80,allow=10.0.0.3"]).ok();
    closed(&lab);
}

#[test]
fn the_ports_of_a_routed_network_have_sources_too() {
    let lab = Lab::new();
    lab.allow_on_uplinks("172.26.0.0/24");
    let net = lab.network("netT", 26, &["-o", "com.docker.network.bridge.gateway_mode_ipv4=routed"]);
    let t1 = lab.sandbox("t1", net, 2, &["-p", "80,allow=10.0.0.0/24"]).serving(&[80]);
    assert_eq!(lab.r.reach(Proto::Tcp, at(t1.ip(Family::V4), 80)).server, "t1");
    denied(&lab, &t1, &["NOT_ALLOWED"], || {
        assert_eq!(lab.r2.probe(Proto::Tcp, at(t1.ip(Family::V4), 80)), Outcome::Timeout);
    });
}
