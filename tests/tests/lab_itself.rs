//! Rung: namespaces. The lab without netd: hosts reach each other, peers report sources, watches and snapshots see what they must.

use std::time::Duration;

use netd_common::verdict::{DropReason, tally};
use netd_tests::{
    Capture, Family, Frame, H, H1, Lab, LeakWatch, Ledger, Ns, Outcome, Proto, R, R2, Server, Snapshot,
    Topology, at,
};

#[test]
fn hosts_reach_each_other_and_servers_report_the_source() {
    let lab = Topology::new();
    let _server = Server::start(&lab.h, &[80]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = lab.r.reach_from(proto, at(H.ip(family), 80), family.from_port(40_000));
            assert_eq!((seen.server.as_str(), seen.source), ("H", at(R.ip(family), 40_000)));
            assert_eq!(lab.r2.reach(proto, at(H1.ip(family), 80)).source.ip(), R2.ip(family));
        }
        lab.r.ping(H.ip(family));
        lab.r.ping(R2.ip(family)); // through H
    }
}

#[test]
fn closed_ports_refuse_and_silence_is_a_timeout() {
    let lab = Topology::new();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(lab.r.attempt(proto, at(H.ip(family), 80)), Outcome::Refused, "{family:?} {proto:?}");
        }
    }
    lab.h.ip_batch("route add blackhole 192.0.2.0/24");
    let dark = std::net::IpAddr::from([192, 0, 2, 1]);
    lab.r.ip_batch(&format!("route add 192.0.2.0/24 via {}", H.v4));
    assert_eq!(lab.r.probe(Proto::Tcp, at(dark, 80)), Outcome::Timeout);
    assert_eq!(lab.r.probe_ping(dark), Outcome::Timeout);
    let nowhere = std::net::IpAddr::from([198, 51, 100, 1]);
    assert_eq!(lab.r.attempt(Proto::Udp, at(nowhere, 80)), Outcome::Unreachable);
    assert_eq!(lab.r.probe_ping(nowhere), Outcome::Unreachable);
}

#[test]
fn streams_echo_and_end_with_their_server() {
    let lab = Topology::new();
    let server = Server::start(&lab.h, &[80]);
    let (mut stream, seen) = lab.r.connect_stream(at(H.v4, 80));
    assert_eq!(seen.source.ip(), R.ip(Family::V4));
    let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
    stream.echo(&data[..30_000]).expect("an echo");
    // More than every buffer on the way holds: both ends write and read at once, or wait for each other for ever.
    stream.echo(&data.repeat(100)).expect("an echo of 40 MB");
    drop(server);
    stream.echo(b"late").expect_err("the server is gone");
}

#[test]
fn the_leak_watch_sees_a_planted_packet() {
    let lab = Topology::new();
    let (watch, capture) = (LeakWatch::start(&lab.r, "eth0"), Capture::start(&lab.r, "eth0"));
    let planted = Capture::start(&lab.h, "eth0");
    let frame = Frame { src: [2, 0, 0, 0, 0, 1], dst: lab.r.link("eth0").expect("eth0").mac };
    let sandboxes: [std::net::SocketAddr; 2] =
        ["172.20.0.2:5000".parse().expect("an address"), "[fd00:c:20::2]:5000".parse().expect("an address")];
    for (sandbox, family) in sandboxes.into_iter().zip(Family::BOTH) {
        planted.send(&frame.udp(at(H.ip(family), 5000), at(R.ip(family), 9), b"clean"));
        planted.send(&frame.udp(sandbox, at(R.ip(family), 9), b"leak"));
        capture.wait("the planted packet", Duration::from_secs(5), |p| p.src == Some(sandbox.ip()));
    }
    lab.r.ping(H.v4);
    let (leaks, packets) = watch.finish();
    let sources: Vec<_> = leaks.iter().filter_map(|p| p.src).collect();
    assert_eq!(sources, sandboxes.map(|address| address.ip()), "exactly the planted packets");
    assert!(packets > 4, "the watch saw the other packets too");
}

#[test]
fn the_leak_watch_ignores_excepted_subnets_and_what_the_remote_sends() {
    let lab = Topology::new();
    let watch = LeakWatch::start(&lab.r, "eth0");
    watch.allow("172.26.0.0/24");
    let capture = Capture::start(&lab.h, "eth0");
    let frame = Frame { src: [2, 0, 0, 0, 0, 1], dst: lab.r.link("eth0").expect("eth0").mac };
    capture.send(&frame.udp(at([172, 26, 0, 2], 5000), at(R.v4, 9), b"routed"));
    assert!(lab.r.probe(Proto::Udp, at([172, 20, 0, 2], 80)).seen().is_none(), "there is no such sandbox");
    let (leaks, packets) = watch.finish();
    assert_eq!(leaks, []);
    assert!(packets >= 2, "both packets crossed the watched link");
}

#[test]
fn snapshots_differ_exactly_by_what_changed() {
    let lab = Topology::new();
    let before = Snapshot::of(&lab.h);
    before.assert_unchanged(&Snapshot::of(&lab.h), "nothing");
    lab.h.ip_batch("link add br0 type bridge\naddr add 172.20.0.1/24 dev br0\nlink set br0 alias netd:x");
    lab.h.sysctl("net/ipv4/ip_local_reserved_ports", "10000-10010");
    let diff = before.diff(&Snapshot::of(&lab.h));
    for part in ["ifalias=netd:x", "172.20.0.1", "ip_local_reserved_ports = 10000-10010"] {
        assert!(diff.iter().any(|line| line.starts_with('+') && line.contains(part)), "{part}: {diff:#?}");
    }
    lab.h.ip_batch("link del br0");
    lab.h.sysctl("net/ipv4/ip_local_reserved_ports", "\n");
    before.assert_unchanged(&Snapshot::of(&lab.h), "a change and its undoing");
}

#[test]
fn namespaces_are_separate_and_can_be_opened_by_path() {
    let (a, b) = (Ns::new("a"), Ns::new("b"));
    a.connect("eth0", &b, "eth7");
    assert_eq!((a.links(), b.links()), (vec!["eth0".into(), "lo".into()], vec!["eth7".into(), "lo".into()]));
    let dir = tempfile::tempdir().expect("a directory");
    let mounted = a.bind_at(dir.path().join("a"));
    assert_eq!(Ns::open("a", mounted.path()).links(), a.links());
    assert_eq!(Ns::open("b", b.proc_path()).links(), b.links());
}

#[test]
fn a_packet_without_a_verdict_or_a_reason_is_found_at_the_end() {
    let mut lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    a1.ping(net.gateway(Family::V4));
    let bpffs = lab.daemon.dirs().bpffs().to_owned();
    // Counts that nothing changes while all is well: of drops, and of one reason that nobody gives here.
    let (stopped, reason) = (tally::STOPPED, DropReason::SourceRoute as u32);
    for wrong in [&[reason][..], &[stopped, reason]] {
        assert_eq!(lab.daemon.unaccounted(), Vec::<String>::new(), "the positive control");
        for &slot in wrong {
            Ledger::miscount(&bpffs, slot, true);
        }
        assert_eq!(lab.daemon.unaccounted().len(), 1, "{wrong:?}");
        for &slot in wrong {
            Ledger::miscount(&bpffs, slot, false);
        }
    }
}
