//! Rung: namespaces, dataplane §12 cases 14 and 20. What keeps a flow alive, what ends it, and which port it shows.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use netd_tests::{
    Capture, Family, Frame, H, Lab, Options, Outcome, PATIENCE, Proto, R, SILENCE, Server, Stream, at,
};
use nix::sys::signal::Signal;

/// A lab with these timeouts, and a collector that follows them.
fn lab_with_timeouts(timeouts: &str) -> Lab {
    let config = format!("[flows]\nentries = 4096\n[timeouts]\n{timeouts}");
    Lab::with(&Options { config, ..Options::default() })
}

/// Returns the state of the flows to this port, as `flow ls` has them.
fn states(lab: &Lab, port: u16) -> Vec<String> {
    let flows = lab.flows(&[&format!("port={port}")]);
    flows.iter().map(|flow| flow["State"].as_str().expect("a state").to_owned()).collect()
}

/// Waits until the collector has removed the flow to this port.
fn until_gone(lab: &Lab, port: u16) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !states(lab, port).is_empty() {
        assert!(Instant::now() < deadline, "the flow to port {port} stays: {:?}", states(lab, port));
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn case14_half_a_close_keeps_the_stream_the_other_way() {
    // Every timeout but those of open and half-open connections is a fraction of what the stream takes.
    let lab = lab_with_timeouts("tcp_closed = 0.2\ntcp_reset = 0.2\nudp_replied = 0.5\n");
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[99]);
    for family in Family::BOTH {
        let to = at(R.ip(family), 8000);
        let listener = lab.r.run(|| TcpListener::bind(to).expect("listen"));
        let mut client = a1.run(|| netd_tests::connect(to, None, PATIENCE)).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        client.shutdown(Shutdown::Write).expect("half a close");
        assert_eq!(server.read(&mut [0]).expect("end of stream"), 0);
        for round in 0..3 {
            a1.reach(Proto::Udp, at(R.ip(family), 99));
            until_gone(&lab, 99); // as long as the collector took to remove others
            assert_eq!(states(&lab, 8000), ["closing"], "{family:?} round {round}");
            server.write_all(b"still streaming").expect("the stream goes on");
            client.read_exact(&mut [0; 15]).expect("the stream goes on");
        }
        drop(server);
        assert_eq!(client.read(&mut [0]).expect("end of stream"), 0);
        drop(client);
        until_gone(&lab, 8000);
    }
}

#[test]
fn case20_an_answer_after_the_timeout_is_not_let_in() {
    let lab = lab_with_timeouts("udp = 0.5\nudp_replied = 0.5\n");
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        let server = lab.r.run(|| UdpSocket::bind(at(R.ip(family), 99)).expect("a socket"));
        server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let client = a1.run(|| UdpSocket::bind(at(family.any(), 40_000)).expect("a socket"));
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.send_to(b"question", at(R.ip(family), 99)).expect("sent");
        let (_, from) = server.recv_from(&mut [0; 16]).expect("the question");
        server.send_to(b"answer", from).expect("sent");
        client.recv(&mut [0; 16]).expect("the control: an answer in time");
        until_gone(&lab, 99);
        server.send_to(b"too late", from).expect("sent");
        client.set_read_timeout(Some(SILENCE)).expect("a timeout");
        client.recv(&mut [0; 16]).expect_err("the flow is gone");
    }
}

#[test]
fn f15_a_daemon_in_another_time_namespace_ends_no_live_flow() {
    /// The daemon's clock, in seconds ahead of the kernel's: every timeout is shorter.
    const AHEAD: &str = "1000000";
    let launcher = ["unshare", "--time", "--monotonic", AHEAD];
    if !Command::new(launcher[0])
        .args(&launcher[1..])
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("skipped: there are no time namespaces");
        return;
    }
    let config = "[flows]\nentries = 4096\n[timeouts]\nudp = 0.5\nudp_replied = 0.5\n".to_owned();
    let launcher = launcher.map(str::to_owned).to_vec();
    let lab = Lab::with(&Options { config, launcher, ..Options::default() });
    let offsets = format!("/proc/{}/timens_offsets", lab.daemon.pid().expect("a daemon"));
    let offsets = fs::read_to_string(offsets).expect("the daemon's clocks");
    assert!(offsets.contains(AHEAD), "{offsets}");
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80, 99]);
    for family in Family::BOTH {
        let (mut stream, _) = a1.connect_stream(at(R.ip(family), 80));
        stream.echo(b"before").expect("the stream lives");
        for _ in 0..2 {
            a1.reach(Proto::Udp, at(R.ip(family), 99));
            until_gone(&lab, 99); // the control: what has expired is collected
        }
        assert_eq!(states(&lab, 80), ["established"], "{family:?}");
        stream.echo(b"after").expect("the stream lives");
        drop(stream);
        lab.netd(&["flow", "flush"]).ok();
    }
}

#[test]
fn a_forged_reset_does_not_end_an_idle_connection_and_a_true_one_does() {
    let lab = lab_with_timeouts("tcp_reset = 0.5\nudp_replied = 0.5\n");
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80, 99]);
    for family in Family::BOTH {
        let wire = Capture::start(&lab.r, "eth0");
        let (mut stream, seen) = a1.connect_stream(at(R.ip(family), 80));
        stream.echo(b"before").expect("the stream lives");
        stream.patience(SILENCE);
        let expected = acknowledged(&wire, &mut stream);
        let frame = Frame { src: lab.r.link("eth0").expect("eth0").mac, dst: lab.r.mac_of(H.ip(family)) };
        let reset = |sequence| wire.send(&frame.tcp_rst_at(at(R.ip(family), 80), seen.source, sequence));
        // Far away, out of the window, and in the window but not exact (RFC 5961: a challenge).
        for forged in
            [expected.wrapping_add(1 << 31), expected.wrapping_sub(1 << 28), expected.wrapping_add(1000)]
        {
            reset(forged);
            a1.reach(Proto::Udp, at(R.ip(family), 99));
            until_gone(&lab, 99); // longer than `tcp_reset`
            assert_eq!(
                states(&lab, 80),
                ["established"],
                "{family:?}: a reset at {forged:#x}, {expected:#x} expected"
            );
        }
        stream.echo(b"after").expect("the stream lives");
        reset(acknowledged(&wire, &mut stream));
        until_gone(&lab, 80);
        stream.echo(b"gone").expect_err("the sandbox believed it too");
    }
}

/// Returns what the sandbox has acknowledged last: the next sequence number that it expects.
fn acknowledged(wire: &Capture, stream: &mut Stream) -> u32 {
    wire.take();
    stream.echo(b"x").expect("the stream lives");
    // What was sent and echoed is acknowledged by a segment of its own, since nothing follows.
    let is_ack = |p: &netd_tests::Packet| !p.outgoing && p.is_to(Proto::Tcp, 80);
    let mut last = wire.wait("the data", PATIENCE, is_ack);
    last = wire.take().into_iter().rfind(is_ack).unwrap_or(last);
    thread::sleep(Duration::from_millis(100)); // a delayed acknowledgement takes 40 ms
    last = wire.take().into_iter().rfind(is_ack).unwrap_or(last);
    let tcp = 14 + if last.src.is_some_and(|ip| ip.is_ipv4()) { 20 } else { 40 };
    let field = last.bytes.get(tcp + 8..tcp + 12).and_then(|bytes| bytes.try_into().ok());
    field.map(u32::from_be_bytes).expect("a whole TCP header")
}

#[test]
fn privileged_source_ports_are_kept_and_excluded_ones_are_not_chosen() {
    let config =
        "[flows]\nentries = 4096\n[nat]\nport_range = \"20000-20003\"\nexclude_ports = \"20001-20002\"\n";
    let lab = Lab::with(&Options { config: config.into(), ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let to = at(R.ip(family), 80);
        for proto in Proto::BOTH {
            let port = |client: &netd_tests::Sandbox, from| {
                client.reach_from(proto, to, family.from_port(from)).source.port()
            };
            assert_eq!(port(&a1, 123), 123, "{proto:?}");
            assert!([20_000, 20_003].contains(&port(&a2, 123)), "taken towards this remote");
            assert!([20_000, 20_003].contains(&port(&a1, 40_000)));
        }
        lab.netd(&["flow", "flush"]).ok();
        // A socket of the host has the port: it is left alone.
        let _host = lab.h.run(|| UdpSocket::bind(at(H.ip(family), 500)).expect("a socket"));
        assert_ne!(a1.reach_from(Proto::Udp, to, family.from_port(500)).source.port(), 500);
        assert_eq!(a1.reach_from(Proto::Udp, to, family.from_port(501)).source.port(), 501);
        lab.netd(&["flow", "flush"]).ok();
    }
}

#[test]
fn expired_flows_make_room_while_the_daemon_is_dead() {
    const UDP_TIMEOUT: Duration = Duration::from_secs(1);
    let seconds = UDP_TIMEOUT.as_secs();
    let config = format!(
        "[flows]\nentries = 4096\nper_endpoint = 512\n[timeouts]\nudp = {seconds}\nudp_replied = {seconds}\n"
    );
    let mut lab = Lab::with(&Options { config, ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    let to = at(R.v4, 80);
    a1.reach(Proto::Udp, to);
    lab.daemon.end(Signal::SIGKILL);
    let spent = (0..600).find(|port| {
        a1.dial(Proto::Udp, to, Family::V4.from_port(20_000 + port), SILENCE) == Outcome::Timeout
    });
    assert!(spent.is_some(), "256 flows are its quota");
    // Nobody collects and nobody can be asked: only the clock tells that every flow has expired.
    thread::sleep(2 * UDP_TIMEOUT);
    (0..100).for_each(|port| drop(a1.reach_from(Proto::Udp, to, Family::V4.from_port(31_000 + port))));
    lab.daemon.restart();
    a1.reach(Proto::Udp, to);
}

#[test]
fn short_connections_follow_each_other_over_a_small_table_without_a_refusal() {
    // 32 IPv4 flows a sandbox, 8 IPv6 ones, and what is over lingers for as long as the test may take.
    let config = "[flows]\nentries = 4096\nper_endpoint = 64\n[timeouts]\ntcp_closed = 600\n".to_owned();
    let lab = Lab::with(&Options { config, ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    let refused = |lab: &Lab| lab.drops().get("overquota").copied().unwrap_or(0);
    for (family, quota) in [(Family::V4, 32), (Family::V6, 8)] {
        let to = at(R.ip(family), 80);
        let before = refused(&lab);
        for _ in 0..10 * quota {
            let (stream, _) = a1.connect_stream(to);
            let mut tcp = stream.tcp();
            tcp.shutdown(Shutdown::Write).expect("a close");
            tcp.read_to_end(&mut Vec::new()).expect("the other side closes too");
        }
        assert_eq!(refused(&lab), before, "{family:?}: every one found room");
        // The control: open ones make no room, and the quota holds.
        let mut held = Vec::new();
        while let Ok(stream) = a1.run(|| netd_tests::connect(to, None, SILENCE)) {
            held.push(stream);
            assert!(held.len() <= quota, "{family:?}: {} are open", held.len());
        }
        assert!(held.len() >= quota / 2, "{family:?}: {} are open", held.len());
        assert!(refused(&lab) > before, "{family:?}");
        for stream in &mut held {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.write_all(b"!").expect("an open one lives");
            let mut byte = [0];
            while byte != *b"!" {
                stream.read_exact(&mut byte).expect("the server's line, then the echo");
            }
        }
    }
}
