//! Rung: namespaces, truth-table rows T65 to T68. `--link` where sandboxes may not talk: the target's exposed ports, one way, for as long as it lasts.

use netd_tests::{
    Capture, Family, Frame, Lab, Options, Outcome, PATIENCE, Proto, Sandbox, at, denied, eventually,
};

/// A lab whose default network has no ICC.
fn lab() -> Lab {
    lab_with("")
}

/// The same with more configuration.
fn lab_with(more: &str) -> Lab {
    let defaults = Options::default();
    let config =
        format!("icc = false\nipv6 = true\nfixed-cidr-v6 = \"fd00:c:17::/64\"\n{}{more}", defaults.config);
    Lab::with(&Options { config, ..defaults })
}

/// d2 exposes 70 (where nothing listens) and 80 by `--expose`, and 90 by `-p`.
fn target(lab: &Lab) -> Sandbox {
    let options = ["--expose", "70", "--expose", "80", "--expose", "80/udp", "-p", "9090:90"];
    lab.sandbox_with("d2", &options).serving(&[80, 81, 90])
}

fn is_denied(lab: &Lab, from: &Sandbox, to: &Sandbox, proto: Proto, port: u16) {
    for family in Family::BOTH {
        denied(lab, to, &["ICC"], || {
            assert_eq!(
                from.probe(proto, at(to.ip(family), port)),
                Outcome::Timeout,
                "{family:?} {proto:?} {port}"
            );
        });
    }
}

#[test]
fn t65_a_link_opens_the_exposed_ports_and_nothing_else() {
    let lab = lab();
    let d2 = target(&lab);
    let d1 = lab.sandbox_with("d1", &["--link", "d2:db"]);
    let d3 = lab.sandbox_with("d3", &[]);
    for family in Family::BOTH {
        for (proto, port) in [(Proto::Tcp, 80), (Proto::Udp, 80), (Proto::Tcp, 90)] {
            let seen = d1.reach(proto, at(d2.ip(family), port));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("d2", d1.ip(family)), "{proto:?} {port}");
        }
        denied(&lab, &d2, &["ICC"], || {
            assert_eq!(d1.probe_ping(d2.ip(family)), Outcome::Timeout);
        });
    }
    for (proto, port) in [(Proto::Tcp, 81), (Proto::Udp, 81), (Proto::Udp, 90)] {
        is_denied(&lab, &d1, &d2, proto, port);
    }
    is_denied(&lab, &d3, &d2, Proto::Tcp, 80);
    // At last: its late acknowledgements would break the silence of the checks above.
    for family in Family::BOTH {
        let (mut stream, _) = d1.connect_stream(at(d2.ip(family), 80));
        stream.echo(&vec![1; 1 << 20]).expect("a stream carries its data");
    }
}

#[test]
fn t66_the_target_opens_nothing_back() {
    let lab = lab();
    let d2 = target(&lab);
    let d1 = lab.sandbox_with("d1", &["--link", "d2"]).serving(&[80]);
    for family in Family::BOTH {
        assert_eq!(d1.reach(Proto::Tcp, at(d2.ip(family), 80)).server, "d2");
        for from in [None, Some(at(d2.ip(family), 70))] {
            // From an exposed port too: Docker's rule would let that pass, for it knows no state.
            denied(&lab, &d1, &["ICC"], || {
                let outcome = d2.dial(Proto::Tcp, at(d1.ip(family), 80), from, netd_tests::SILENCE);
                assert_eq!(outcome, Outcome::Timeout, "{family:?} from {from:?}");
            });
        }
    }
    is_denied(&lab, &d2, &d1, Proto::Udp, 80);
}

#[test]
fn t66_a_connection_that_is_over_is_no_way_back_for_its_target() {
    // It lingers for as long as the test may take.
    let lab = lab_with("[timeouts]\ntcp_closed = 600\n");
    let d2 = target(&lab);
    let d1 = lab.sandbox_with("d1", &["--link", "d2"]);
    for family in Family::BOTH {
        let seen = d1.reach(Proto::Tcp, at(d2.ip(family), 80));
        let (from, to) = (at(d2.ip(family), 80), seen.source);
        let port = format!("port={}", to.port());
        eventually("the connection to be over", || {
            lab.flows(&[&port]).iter().all(|flow| flow["State"] == "closed")
        });
        assert!(!lab.flows(&[&port]).is_empty(), "it lingers");
        let mac = |sandbox: &Sandbox| sandbox.link("eth0").expect("eth0").mac;
        let frame = Frame { src: mac(&d2), dst: mac(&d1) };
        let (wire, inside) = (Capture::start(&d2, "eth0"), d1.capture());
        // The control: what belongs to the connection still comes by it.
        wire.send(&frame.tcp_ack(from, to));
        let acknowledges = |p: &netd_tests::Packet| p.sport == Some(80) && p.dport == Some(to.port());
        inside.wait("a late acknowledgement", PATIENCE, acknowledges);
        denied(&lab, &d1, &["ICC"], || {
            let before = lab.drops();
            wire.send(&frame.tcp_syn(from, to));
            eventually("the SYN to be dropped", || lab.drops() != before);
        });
        assert_eq!(d1.reach(Proto::Tcp, at(d2.ip(family), 80)).server, "d2", "one way as before");
    }
}

#[test]
fn t67_a_link_follows_the_targets_new_address_and_ends_with_the_target() {
    let lab = lab();
    let d2 = target(&lab);
    let d1 = lab.sandbox_with("d1", &["--link", "d2"]);
    assert_eq!(d1.reach(Proto::Tcp, at(d2.ip(Family::V4), 80)).server, "d2");
    let old = Family::BOTH.map(|family| d2.ip(family));
    drop(d2);
    lab.netd(&["network", "disconnect", "bridge", "d2"]).ok();
    let d3 = lab.sandbox_with("d3", &[]).serving(&[80, 90]); // takes the lowest free address
    assert_eq!(Family::BOTH.map(|family| d3.ip(family)), old);
    is_denied(&lab, &d1, &d3, Proto::Tcp, 80);
    lab.netd(&["network", "connect", "bridge", "d2"]).ok();
    let d2 = lab.open("d2").serving(&[80, 81, 90]);
    for family in Family::BOTH {
        assert!(!old.contains(&d2.ip(family)), "{family:?}");
        assert_eq!(d1.reach(Proto::Tcp, at(d2.ip(family), 80)).server, "d2", "at its new address");
    }
    is_denied(&lab, &d1, &d2, Proto::Tcp, 81);
    drop(d2);
    lab.netd(&["sandbox", "rm", "-f", "d2"]).ok();
    let d4 = lab.sandbox_with("d4", &["--expose", "80"]).serving(&[80]);
    is_denied(&lab, &d1, &d4, Proto::Tcp, 80);
    assert_eq!(lab.h.reach(Proto::Tcp, at(d4.ip(Family::V4), 80)).server, "d4", "the server is there");
    let d2 = target(&lab);
    assert_eq!(d1.reach(Proto::Tcp, at(d2.ip(Family::V4), 80)).server, "d2", "made anew under its name");
}

#[test]
fn t67_a_link_ends_when_it_is_removed() {
    let lab = lab();
    let d2 = target(&lab);
    let d1 = lab.sandbox_with("d1", &["--link", "d2:db", "--link", "d2:other"]);
    let hosts = || {
        let path = lab.inspect("d1")["HostsPath"].as_str().expect("a path").to_owned();
        std::fs::read_to_string(path).expect("the hosts file")
    };
    assert!(hosts().contains("\tdb "), "{}", hosts());
    assert_eq!(lab.netd(&["sandbox", "rm", "--link", "d1/other"]).ok(), "d1/other");
    assert_eq!(d1.reach(Proto::Tcp, at(d2.ip(Family::V4), 80)).server, "d2", "the other link stays");
    lab.netd(&["sandbox", "rm", "--link", "/d1/db"]).ok();
    is_denied(&lab, &d1, &d2, Proto::Tcp, 80);
    is_denied(&lab, &d1, &d2, Proto::Udp, 80);
    assert!(!hosts().contains("\tdb "), "the name goes too: {}", hosts());
    assert!(lab.netd(&["sandbox", "rm", "--link", "d1/db"]).refused(3).contains("d1"));
    lab.netd(&["sandbox", "rm", "--link", "d1"]).refused(2);
    lab.netd(&["sandbox", "inspect", "d1"]).ok();
}

#[test]
fn a_link_holds_over_a_restart_of_the_daemon() {
    let mut lab = lab();
    let d2 = target(&lab);
    let d1 = lab.sandbox_with("d1", &["--link", "d2"]);
    lab.daemon.end(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(d1.reach(Proto::Tcp, at(d2.ip(Family::V4), 80)).server, "d2");
    lab.daemon.restart();
    for family in Family::BOTH {
        assert_eq!(d1.reach(Proto::Tcp, at(d2.ip(family), 80)).server, "d2");
    }
    is_denied(&lab, &d1, &d2, Proto::Tcp, 81);
}

#[test]
fn t68_on_a_network_of_the_users_own_a_link_opens_nothing() {
    let lab = Lab::new();
    let net = lab.network("netC", 22, &["-o", "com.docker.network.bridge.enable_icc=false"]);
    let c2 = lab.sandbox("c2", net, 3, &["--expose", "80"]).serving(&[80]);
    let c1 = lab.sandbox("c1", net, 2, &["--link", "c2"]);
    is_denied(&lab, &c1, &c2, Proto::Tcp, 80);
    assert_eq!(lab.h.reach(Proto::Tcp, at(c2.ip(Family::V4), 80)).server, "c2");
}
