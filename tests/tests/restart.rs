//! Rung: namespaces, beside truth-table row T78, dataplane §12 cases 100, 101. Traffic outlives the daemon, and the next daemon takes over.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use netd_tests::{Family, H, Lab, Net, Ns, Options, Outcome, Proto, R, Sandbox, Server, Stream, at, denied};
use nix::sys::signal::Signal;

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    _remote: Server,
    a1: Sandbox,
    a2: Sandbox,
    b1: Sandbox,
    net: Net,
    lab: Lab,
}

fn world() -> World {
    world_on(Lab::new())
}

fn world_on(lab: Lab) -> World {
    let (net, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let b1 = lab.sandbox("b1", b, 2, &[]);
    let remote = Server::start(&lab.r, &[80]);
    World { _remote: remote, a1, a2, b1, net, lab }
}

impl World {
    /// Every way through the dataplane: (client, destination).
    fn ways(&self) -> Vec<(&Ns, std::net::SocketAddr)> {
        let of = |family: Family| {
            [
                (&self.lab.r, at(H.ip(family), 8080)),
                (&*self.a1, at(R.ip(family), 80)),
                (&*self.a2, at(self.a1.ip(family), 80)),
                (&*self.a2, at(H.ip(family), 8080)),
                (&*self.a1, at(H.ip(family), 8080)),
                (&*self.b1, at(H.ip(family), 8080)),
                (&self.lab.h, at(family.loopback(), 8080)),
                (&self.lab.h, at(H.ip(family), 8080)),
            ]
        };
        Family::BOTH.into_iter().flat_map(of).collect()
    }

    fn streams(&self) -> Vec<Stream> {
        self.ways().into_iter().map(|(client, to)| client.connect_stream(to).0).collect()
    }

    /// New connections, datagrams and pings come about, and what was forbidden still is.
    fn all_rules_hold(&self) {
        for (client, to) in self.ways() {
            for proto in Proto::BOTH {
                client.reach(proto, to);
            }
        }
        for family in Family::BOTH {
            self.a1.ping(R.ip(family));
            assert_eq!(self.lab.r.probe(Proto::Tcp, at(self.a1.ip(family), 80)), Outcome::Timeout);
            assert_eq!(self.b1.probe(Proto::Tcp, at(self.a1.ip(family), 80)), Outcome::Timeout);
        }
    }
}

fn echo_all(streams: &mut [Stream], when: &str) {
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.echo(when.as_bytes()).unwrap_or_else(|e| panic!("stream {index} {when}: {e}"));
    }
}

fn traffic_outlives(signal: Signal) {
    let mut w = world();
    let mut streams = w.streams();
    echo_all(&mut streams, "with the daemon");
    w.lab.daemon.end(signal);
    echo_all(&mut streams, "without a daemon");
    w.all_rules_hold();
    w.lab.daemon.restart();
    echo_all(&mut streams, "with the next daemon");
    w.all_rules_hold();
    let lost: u32 = streams.iter().map(Stream::retransmissions).sum();
    assert_eq!(lost, 0, "segments were lost on the way");
}

#[test]
fn t78_streams_and_new_connections_survive_an_orderly_stop() {
    traffic_outlives(Signal::SIGTERM);
}

#[test]
fn case100_no_request_fails_while_the_daemon_is_killed_and_started_again() {
    // Tables of the usual size: the clients open thousands of connections.
    let mut w = world_on(Lab::with(&Options { config: String::new(), ..Options::default() }));
    let (stop, requests) = (AtomicBool::new(false), AtomicU32::new(0));
    let clients = [
        (w.lab.r.clone(), at(H.v4, 8080)),
        (w.lab.r.clone(), at(H.v6, 8080)),
        ((*w.a1).clone(), at(R.v4, 80)),
    ];
    thread::scope(|scope| {
        for (client, to) in &clients {
            let (stop, requests) = (&stop, &requests);
            scope.spawn(move || {
                let (mut stream, _) = client.connect_stream(*to);
                while !stop.load(Ordering::Relaxed) {
                    client.reach(Proto::Tcp, *to);
                    client.reach(Proto::Udp, *to);
                    stream.echo(b"a request on the standing stream").expect("an answer");
                    requests.fetch_add(1, Ordering::Relaxed);
                }
                assert_eq!(stream.retransmissions(), 0, "{} to {to}", client.name());
            });
        }
        for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
            w.lab.daemon.end(signal);
            w.lab.daemon.restart();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(requests.load(Ordering::Relaxed) > 30, "the clients were at work");
}

#[test]
fn the_next_daemon_knows_everything_and_changes_nothing() {
    let mut w = world();
    let say = |lab: &Lab| {
        let inspected: Vec<_> = ["a1", "a2", "b1"].iter().map(|name| lab.inspect(name)).collect();
        let ports = lab.netd(&["port", "a1"]).ok();
        (inspected, ports, lab.inspect_network("netA"), lab.netd(&["network", "ls", "-q", "--no-trunc"]).ok())
    };
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let (said, kernel) = (say(&w.lab), w.lab.snapshot());
        w.lab.daemon.end(signal);
        kernel.assert_unchanged(&w.lab.snapshot(), "the end of the daemon");
        w.lab.daemon.restart();
        assert_eq!(say(&w.lab), said);
        kernel.assert_unchanged(&w.lab.snapshot(), "the start of the next daemon");
    }
    // It goes on from there: what is new works, what is old can be changed.
    let a3 = w.lab.sandbox("a3", w.net, 4, &["-p", "8081:80"]).serving(&[80]);
    assert_eq!(w.lab.r.reach(Proto::Tcp, at(H.v4, 8081)).server, "a3");
    assert_eq!(w.a2.reach(Proto::Tcp, at(a3.ip(Family::V6), 80)).server, "a3");
    w.lab.netd(&["unpublish", "a1", "8080:80"]).ok();
    assert_eq!(w.lab.r.attempt(Proto::Tcp, at(H.v4, 8080)), Outcome::Refused);
    denied(&w.lab, &w.a1, &["DIRECT_ACCESS"], || {
        assert_eq!(w.lab.r.probe(Proto::Tcp, at(w.a1.ip(Family::V4), 80)), Outcome::Timeout);
    });
}

#[test]
fn what_vanished_while_no_daemon_ran_is_cleaned_up() {
    let mut w = world();
    let host_side = w.lab.inspect("a2")["NetworkSettings"]["Networks"]["netA"]["HostInterface"].clone();
    w.lab.daemon.end(Signal::SIGKILL);
    w.lab.h.ip_batch(&format!("link del {}", host_side.as_str().expect("HostInterface")));
    w.lab.daemon.restart();
    w.lab.netd(&["sandbox", "rm", "-f", "a2"]).ok();
    let again = w.lab.sandbox("again", w.net, 3, &[]);
    assert_eq!(again.reach(Proto::Tcp, at(w.a1.ip(Family::V4), 80)).server, "a1");
    w.lab.r.reach(Proto::Tcp, at(H.v4, 8080));
}

#[test]
fn a_command_without_a_daemon_says_so() {
    let mut lab = Lab::new();
    lab.daemon.end(Signal::SIGTERM);
    for args in [&["network", "ls"][..], &["ps"], &["sandbox", "create", "x"], &["flow", "ls"], &["status"]] {
        let line = lab.netd(args).refused(5);
        assert!(line.contains("daemon"), "{line}");
    }
    lab.daemon.restart();
    lab.netd(&["network", "ls"]).ok();
}
