//! Rung: namespaces, dataplane §12 cases 4, 5, 6, 9, 10, 12, 16, 18. Ports of masqueraded flows: chosen, shared, exhausted, given back.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

use netd_tests::{
    Capture, Family, H, Lab, Ns, Options, Outcome, PATIENCE, Proto, R, SILENCE, Server, at, denied,
    eventually,
};
use nix::sys::socket::{setsockopt, sockopt};

/// A lab that has these ports for masquerade.
fn lab_with_ports(range: &str) -> Lab {
    let config = format!("[flows]\nentries = 4096\n[nat]\nport_range = \"{range}\"\n");
    Lab::with(&Options { config, ..Options::default() })
}

#[test]
fn case04_one_source_port_of_two_sandboxes_leaves_as_two() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let (to, from) = (at(R.ip(family), 80), family.from_port(40_000));
        let (mut one, seen1) = a1.connect_stream_from(to, from);
        let (mut two, seen2) = a2.connect_stream_from(to, from);
        assert_ne!(seen1.source.port(), seen2.source.port(), "replies could not be told apart");
        one.echo(b"of a1").expect("the first stream lives");
        two.echo(b"of a2").expect("the second stream lives");
        let (udp1, udp2) = (a1.reach_from(Proto::Udp, to, from), a2.reach_from(Proto::Udp, to, from));
        assert_ne!(udp1.source.port(), udp2.source.port(), "{family:?}");
    }
}

#[test]
fn case05_one_endpoint_keeps_its_port_towards_every_destination() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80, 81, 82]);
    for family in Family::BOTH {
        let ports = [80, 81, 82].map(|port| {
            a1.reach_from(Proto::Udp, at(R.ip(family), port), family.from_port(40_000)).source.port()
        });
        assert!(ports.iter().all(|&port| port == ports[0]), "{ports:?}");
    }
}

#[test]
fn case06_a_flow_of_the_host_is_left_alone() {
    let lab = lab_with_ports("40000-40001");
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let to = at(R.ip(family), 80);
        let (mut host, seen_host) = lab.h.connect_stream_from(to, family.from_port(40_000));
        let (mut sandbox, seen_sandbox) = a1.connect_stream_from(to, family.from_port(40_000));
        assert_eq!(seen_host.source, at(H.ip(family), 40_000));
        assert_eq!(seen_sandbox.source, at(H.ip(family), 40_001), "the one port that the host does not use");
        host.echo(b"host").expect("the host's stream lives");
        sandbox.echo(b"sandbox").expect("the sandbox's stream lives");
    }
}

#[test]
fn case09_a_published_port_is_never_the_source_of_a_flow() {
    let lab = lab_with_ports("20000-20015");
    let net = lab.network("netA", 20, &[]);
    let publish = ["-p", "20000-20007:9000-9007", "-p", "20000-20007:9000-9007/udp"];
    let a1 = lab.sandbox("a1", net, 2, &publish).serving(&[9000, 9007]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let streams: Vec<_> = (0..8).map(|_| a1.connect_stream(at(R.ip(family), 80))).collect();
        let ports: BTreeSet<_> = streams.iter().map(|(_, seen)| seen.source.port()).collect();
        assert_eq!(ports, (20_008..=20_015).collect(), "all that are left, and none twice");
        lab.r.reach(Proto::Tcp, at(H.ip(family), 20_000));
        lab.r.reach(Proto::Udp, at(H.ip(family), 20_007));
    }
}

#[test]
fn case10_an_exhausted_range_drops_new_flows_alone_and_recovers() {
    let lab = lab_with_ports("20000-20015");
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80, 81]);
    for family in Family::BOTH {
        let to = at(R.ip(family), 80);
        let mut streams: Vec<_> = (0..16).map(|_| a1.connect_stream(to).0).collect();
        denied(&lab, &lab.r, &["NAT_EXHAUSTED"], || assert_eq!(a1.probe(Proto::Tcp, to), Outcome::Timeout));
        a1.reach(Proto::Tcp, at(R.ip(family), 81));
        for stream in &mut streams {
            stream.echo(b"still here").expect("the others go on");
        }
        for stream in &streams {
            reset(stream.tcp());
        }
        drop(streams);
        lab.netd(&["flow", "flush", "--filter", "port=80"]).ok();
        a1.reach(Proto::Tcp, to);
        lab.netd(&["flow", "flush"]).ok();
    }
}

/// Makes a stream end with RST.
fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &linger).expect("SO_LINGER");
}

#[test]
fn case12_the_same_five_tuple_opens_again_right_after_its_close() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &["-o", "com.docker.network.bridge.enable_icc=true"]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        let to = at(R.ip(family), 8000);
        let listener = lab.r.run(|| TcpListener::bind(to).expect("listen"));
        for round in 0..200 {
            let mut client = a1.run(|| again(to, family.from_port(40_000), round));
            // The server closes first: the next SYN meets its TIME-WAIT.
            drop(listener.accept().expect("accept"));
            assert_eq!(client.read(&mut [0]).expect("end of stream"), 0);
        }
    }
}

/// Where two ports of a client shared one port of the host in turn, one would meet the server's TIME-WAIT of the other: the server acknowledges
/// what the other said, the client resets that, and sends its SYN again a second later (RFC 9293 3.5.1). [`netd_tests::connect`] takes none that did.
#[test]
fn case12_connections_of_one_client_never_meet_the_time_wait_of_its_others() {
    // Flows that are over go with their place from 64 flows on over IPv4, from 16 on over IPv6.
    let config =
        "[flows]\nentries = 4096\nper_endpoint = 256\n[nat]\nport_range = \"20000-20999\"\n".to_owned();
    let lab = Lab::with(&Options { config, ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        let to = at(R.ip(family), 8000);
        let listener = lab.r.run(|| TcpListener::bind(to).expect("listen"));
        for round in 0..4 {
            for port in 40_000..40_400 {
                let mut client = a1.run(|| again(to, family.from_port(port), round));
                drop(listener.accept().expect("accept")); // the server closes first
                assert_eq!(client.read(&mut [0]).expect("end of stream"), 0);
            }
        }
        assert_eq!(openings_repeated(&a1), 0, "{family:?}");
    }
    let to = at(R.ip(Family::V4), 8001);
    let _listener = lab.r.run(|| TcpListener::bind(to).expect("listen"));
    lab.r.ip_batch(&format!("route add blackhole {}", H.v4));
    thread::scope(|scope| {
        let client = scope.spawn(|| a1.run(|| again(to, None, 0)));
        eventually("a SYN is sent again", || openings_repeated(&a1) > 0);
        lab.r.ip_batch(&format!("route del blackhole {}", H.v4));
        client.join().expect_err("control: the connection counts as one whose SYN was lost");
    });
}

/// SYNs that a namespace has sent once more, over both families (Linux, `TCPSynRetrans`).
fn openings_repeated(ns: &Ns) -> u64 {
    let counters =
        ns.run(|| fs::read_to_string("/proc/thread-self/net/netstat")).expect("the namespace's counters");
    let mut lines =
        counters.lines().filter_map(|line| line.strip_prefix("TcpExt: ")).map(str::split_whitespace);
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let (_, repeats) = names.zip(values).find(|(name, _)| *name == "TCPSynRetrans").expect("the counter");
    repeats.parse().expect("a number")
}

/// Connects from a port as soon as the sandbox's own kernel has taken leave of the connection before: the last answer may be on its way,
/// or a child process of this test program may hold the socket for the moment until it is executed.
fn again(to: SocketAddr, from: Option<SocketAddr>, round: u32) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match netd_tests::connect(to, from, PATIENCE) {
            Err(e) if e.kind() == ErrorKind::AddrNotAvailable && Instant::now() < end => {}
            done => return done.unwrap_or_else(|e| panic!("{from:?} to {to} round {round}: {e}")),
        }
    }
}

#[test]
fn case16_a_reset_flow_opens_again_at_once() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        let to = at(R.ip(family), 8000);
        let listener = lab.r.run(|| TcpListener::bind(to).expect("listen"));
        for round in 0..50 {
            let client = a1.run(|| again(to, family.from_port(40_000), round));
            let (mut server, _) = listener.accept().expect("accept");
            server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            reset(&client);
            drop(client);
            // A SYN that overtakes the reset, or comes while the server's program has its socket in hand, is sent again by TCP.
            let end = server.read(&mut [0]).expect_err("a reset");
            assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{family:?} round {round}: {end}");
        }
    }
}

#[test]
fn case18_a_stream_without_its_flow_ends_and_nothing_leaves_untranslated() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let (mut stream, _) = a1.connect_stream(at(R.ip(family), 80));
        stream.echo(b"before").expect("the stream lives");
        let capture = Capture::start(&lab.r, "eth0");
        let before = lab.drops();
        lab.netd(&["flow", "flush"]).ok();
        capture.take(); // a late acknowledgement may have gone out before
        stream.patience(SILENCE);
        stream.echo(b"after").expect_err("the flow is gone");
        // The host's own RST may come: it answers what the remote sends to a port without a flow.
        let of_a1 = |p: &netd_tests::Packet| !p.outgoing && p.is_to(Proto::Tcp, 80) && !p.is_reset();
        let segments: Vec<_> = capture.take().into_iter().filter(of_a1).collect();
        assert_eq!(segments, [], "a segment without a flow reached the remote");
        assert!(lab.drops()["ctinvalid"] > before["ctinvalid"], "{family:?}: CT_INVALID is counted");
    }
}
