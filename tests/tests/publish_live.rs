//! Rung: namespaces, dataplane §12 cases 27, 28. Publishing and unpublishing while traffic runs.

use netd_tests::{Family, H, Lab, Net, Outcome, PATIENCE, Proto, R, Sandbox, Stream, at};

fn lab_with_a1(publish: &[&str]) -> (Lab, Net, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, publish).serving(&[80, 81]);
    (lab, net, a1)
}

#[test]
fn a_port_is_published_and_unpublished_while_the_sandbox_runs() {
    let (lab, _, _a1) = lab_with_a1(&[]);
    for _ in 0..2 {
        lab.netd(&["publish", "a1", "8080:80", "8080:80/udp", "127.0.0.1:8081:81"]).ok();
        let ports = lab.netd(&["port", "a1"]).ok();
        let expected = [
            "80/tcp -> 0.0.0.0:8080",
            "80/tcp -> [::]:8080",
            "80/udp -> 0.0.0.0:8080",
            "80/udp -> [::]:8080",
            "81/tcp -> 127.0.0.1:8081",
        ];
        assert_eq!(ports.lines().collect::<Vec<_>>(), expected);
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family));
                assert_eq!(lab.h.reach(proto, at(family.loopback(), 8080)).server, "a1");
            }
        }
        lab.h.reach(Proto::Tcp, at([127, 0, 0, 1], 8081));
        lab.netd(&["unpublish", "a1", "8080:80", "8080:80/udp", "127.0.0.1:8081:81"]).ok();
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                assert_eq!(
                    lab.r.attempt(proto, at(H.ip(family), 8080)),
                    Outcome::Refused,
                    "{family:?} {proto:?}"
                );
                assert_eq!(lab.h.attempt(proto, at(family.loopback(), 8080)), Outcome::Refused);
            }
        }
    }
}

fn echo_all(streams: &mut [(&str, Stream)], when: &str) {
    for (client, stream) in streams {
        stream.echo(when.as_bytes()).unwrap_or_else(|e| panic!("the stream of {client}, {when}: {e}"));
    }
}

#[test]
fn case28_unpublish_refuses_new_connections_and_lets_established_ones_go_on() {
    let (lab, net, a1) = lab_with_a1(&["-p", "8080:80"]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    for family in Family::BOTH {
        let to = at(H.ip(family), 8080);
        let mut streams = [&lab.r, &*a2, &lab.h].map(|client| (client.name(), client.connect_stream(to).0));
        echo_all(&mut streams, "before");
        lab.netd(&["unpublish", "a1", "8080:80"]).ok();
        echo_all(&mut streams, "after");
        for client in [&lab.r, &*a2, &lab.h] {
            assert_eq!(client.attempt(Proto::Tcp, to), Outcome::Refused, "{} {family:?}", client.name());
        }
        echo_all(&mut streams, "and later");
        lab.netd(&["publish", "a1", "8080:80"]).ok();
    }
    drop(a1);
}

#[test]
fn case28_unpublish_with_kill_resets_both_ends() {
    let (lab, _, _a1) = lab_with_a1(&["-p", "8080:80"]);
    for family in Family::BOTH {
        let to = at(H.ip(family), 8080);
        let (mut stream, _) = lab.r.connect_stream(to);
        stream.echo(b"before").expect("the stream lives");
        lab.netd(&["unpublish", "--kill", "a1", "8080:80"]).ok();
        stream.patience(PATIENCE);
        let error = stream.echo(b"after").expect_err("the connection was killed");
        let told = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
        assert!(told.contains(&error.kind()), "{family:?}: the client was not told: {error}");
        assert_eq!(lab.r.attempt(Proto::Tcp, to), Outcome::Refused);
        lab.netd(&["publish", "a1", "8080:80"]).ok();
    }
}

#[test]
fn a_range_is_published_and_unpublished_as_one() {
    let (lab, _, _a1) = lab_with_a1(&[]);
    // The first published port puts a program on `lo`, which stays.
    lab.netd(&["publish", "a1", "8079:80"]).ok();
    lab.netd(&["unpublish", "a1", "8079:80"]).ok();
    let before = lab.snapshot();
    lab.netd(&["publish", "a1", "20000-20999:80-1079"]).ok();
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 20_000)).server, "a1");
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v6, 20_001)).server, "a1");
    lab.netd(&["unpublish", "a1", "20000-20999:80-1079"]).ok();
    assert_eq!(lab.r.attempt(Proto::Tcp, at(H.v4, 20_000)), Outcome::Refused);
    assert_eq!(lab.netd(&["port", "a1"]).ok(), "");
    before.assert_unchanged(&lab.snapshot(), "publishing and unpublishing a range");
}

#[test]
fn an_ephemeral_port_is_chosen_and_shown() {
    let (lab, _, _a1) = lab_with_a1(&["-p", "80", "-P", "--expose", "81/udp"]);
    for (port, proto) in [(80, Proto::Tcp), (81, Proto::Udp)] {
        let shown = lab.netd(&["port", "a1", &format!("{port}/{}", proto.name())]).ok();
        let host = shown.lines().next().and_then(|line| line.strip_prefix("0.0.0.0:"));
        let host: u16 =
            host.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("netd port: {shown:?}"));
        for family in Family::BOTH {
            assert_eq!(lab.r.reach(proto, at(H.ip(family), host)).server, "a1");
        }
    }
}
