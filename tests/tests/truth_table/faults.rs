//! T76 to T78: other people's traffic, other people's rules, and a daemon that dies.

use std::process::Command;

use netd_tests::{
    Family, H, Lab, Ns, Options, Outcome, Proto, R, Sandbox, Server, Stream, at,
    truth::{Row, Stage, row, story},
};
use nix::sys::signal::Signal;

pub fn rows() -> Vec<Row> {
    vec![
        row(
            76,
            "what the host forwards for others is unaffected",
            [story(
                "tcp udp icmp",
                "R → R2 through H, forwarding on, then off",
                "OK, then off as before",
                Stage::Own(forwarded),
            )],
        ),
        row(
            77,
            "a firewall flush changes nothing",
            [story("all", "iptables -F, nft flush ruleset", "all ways as before", Stage::Own(flushed))],
        ),
        row(
            78,
            "traffic goes on while the daemon is dead",
            [story("all", "kill -9, then the next daemon", "all ways as before", Stage::Own(killed))],
        ),
    ]
}

/// Dropped in this order: what is in namespaces before the lab.
struct Ways {
    _remote: Server,
    a1: Sandbox,
    a2: Sandbox,
    b1: Sandbox,
    lab: Lab,
}

impl Ways {
    fn new() -> Self {
        let lab = Lab::new();
        let (net, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
        let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
        let (a2, b1) = (lab.sandbox("a2", net, 3, &[]), lab.sandbox("b1", b, 2, &[]));
        let remote = Server::start(&lab.r, &[80]);
        Self { _remote: remote, a1, a2, b1, lab }
    }

    /// Every way through the dataplane: client and destination.
    fn all(&self, family: Family) -> [(&Ns, std::net::SocketAddr); 8] {
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
    }

    fn streams(&self, family: Family) -> Vec<Stream> {
        self.all(family).into_iter().map(|(client, to)| client.connect_stream(to).0).collect()
    }

    /// New flows come about, and what was forbidden still is.
    fn hold(&self, family: Family) {
        for (client, to) in self.all(family) {
            client.reach(Proto::Tcp, to);
            client.reach(Proto::Udp, to);
        }
        self.a1.ping(R.ip(family));
        for client in [&self.lab.r, &*self.b1] {
            assert_eq!(
                client.probe(Proto::Tcp, at(self.a1.ip(family), 80)),
                Outcome::Timeout,
                "{}",
                client.name()
            );
        }
    }
}

fn echo_all(streams: &mut [Stream], when: &str) {
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.echo(when.as_bytes()).unwrap_or_else(|e| panic!("stream {index} {when}: {e}"));
    }
}

fn forwarded(family: Family) {
    let lab = Lab::with(&Options { forwarding: false, ..Options::default() });
    let key = match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    };
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]);
    let _servers = (Server::start(&lab.r, &[80]), Server::start(&lab.r2, &[80, 8080]));
    let to = |port| at(netd_tests::R2.ip(family), port);
    // netd lets its own bridges forward, not the host.
    assert_eq!(lab.r.probe(Proto::Udp, to(80)), Outcome::Timeout, "forwarding is off, as it was");
    lab.h.sysctl(key, "1");
    for proto in Proto::BOTH {
        for port in [80, 8080] {
            let seen = lab.r.reach(proto, to(port));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("R2", R.ip(family)), "{proto:?}");
        }
    }
    lab.r.ping(to(0).ip());
    lab.h.sysctl(key, "0");
}

fn flushed(family: Family) {
    let w = Ways::new();
    let mut streams = w.streams(family);
    echo_all(&mut streams, "before");
    let run = |program: &str, args: &[&str]| {
        let out = w.lab.h.output(Command::new(program).args(args));
        assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    for program in ["iptables", "ip6tables"] {
        for table in ["filter", "nat", "mangle", "raw"] {
            run(program, &["-w", "-t", table, "-F"]);
            run(program, &["-w", "-t", table, "-X"]);
        }
    }
    run("nft", &["flush", "ruleset"]);
    echo_all(&mut streams, "after the flush");
    w.hold(family);
}

fn killed(family: Family) {
    let mut w = Ways::new();
    let mut streams = w.streams(family);
    echo_all(&mut streams, "with the daemon");
    w.lab.daemon.end(Signal::SIGKILL);
    echo_all(&mut streams, "without a daemon");
    w.hold(family);
    w.lab.daemon.restart();
    echo_all(&mut streams, "with the next daemon");
    w.hold(family);
    let lost: u32 = streams.iter().map(Stream::retransmissions).sum();
    assert_eq!(lost, 0, "segments were lost on the way");
}
