//! Rung: namespaces. Every path of a packet once, over one daemon: what an unknown kernel has to show first (`cargo xtask vm`).

use std::net::TcpListener;

use netd_tests::{Family, H, Lab, Net, Ns, Outcome, Proto, R, Sandbox, Server, at};
use nix::sys::signal::Signal;

/// Two networks, `netA` with the published `a1` and with `a2`, `netB` with `b1`; servers on `a1` and on `R`.
struct World {
    lab: Lab,
    a: Net,
    a1: Sandbox,
    a2: Sandbox,
    b1: Sandbox,
    _remote: Server,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
        let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
        let (a2, b1) = (lab.sandbox("a2", a, 3, &[]), lab.sandbox("b1", b, 2, &[]));
        let remote = Server::start(&lab.r, &[80]);
        Self { lab, a, a1, a2, b1, _remote: remote }
    }

    /// Whom each client sees, and as whom the server sees it.
    fn packets_arrive(&self, family: Family, proto: Proto) {
        let Self { lab, a, a1, a2, b1, .. } = self;
        let (host, published) = (H.ip(family), at(H.ip(family), 8080));
        let arrives = |client: &Ns, ip| {
            let seen = client.reach(proto, published);
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", ip), "{} {proto:?}", client.name());
        };
        arrives(&lab.r, R.ip(family));
        arrives(a2, a2.ip(family));
        arrives(b1, a.gateway(family));
        arrives(a1, a.gateway(family));
        assert_eq!(a1.reach(proto, at(R.ip(family), 80)).source.ip(), host, "{proto:?} outwards");
        assert_eq!(a2.reach(proto, at(a1.ip(family), 80)).source.ip(), a2.ip(family), "{proto:?} inside");
        for ip in [a1.ip(family), family.loopback(), host, a.gateway(family)] {
            let port = if ip == a1.ip(family) { 80 } else { 8080 };
            assert_eq!(lab.h.reach(proto, at(ip, port)).server, "a1", "the host's {proto:?} to {ip}");
        }
    }

    /// Who gets nowhere.
    fn walls_stand(&self, family: Family, proto: Proto) {
        let inside = at(self.a1.ip(family), 80);
        assert_eq!(self.lab.r.probe(proto, inside), Outcome::Timeout, "{proto:?} from R straight to a1");
        assert_eq!(self.b1.probe(proto, inside), Outcome::Timeout, "{proto:?} from b1 straight to a1");
    }

    /// What belongs to the protocols around: echo, errors, fragments.
    fn signals_arrive(&self, family: Family) {
        let (a1, r) = (&self.a1, R.ip(family));
        a1.ping(r);
        self.a2.ping(a1.ip(family));
        a1.exchange_datagram(at(r, 80), 8000);
        self.lab.r.exchange_datagram(at(H.ip(family), 8080), 8000);
        assert_eq!(a1.attempt(Proto::Udp, at(r, 81)), Outcome::Refused, "a closed port outside");
    }

    /// A socket of the host cannot take a published port.
    fn guard_stands(&self) {
        let bind = |port| self.lab.h.run(|| TcpListener::bind((Family::V4.any(), port)));
        bind(8081).expect("a free port");
        let refusal = bind(8080).expect_err("a published port");
        assert_eq!(refusal.raw_os_error(), Some(libc::EADDRINUSE));
    }

    fn all_holds(&self) {
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                self.packets_arrive(family, proto);
                self.walls_stand(family, proto);
            }
            self.signals_arrive(family);
        }
        self.guard_stands();
    }
}

#[test]
fn every_path_holds_with_a_daemon_without_and_with_the_next() {
    let mut world = World::new();
    world.all_holds();
    let (mut inwards, _) = world.lab.r.connect_stream(at(H.v4, 8080));
    let (mut outwards, _) = world.a1.connect_stream(at(R.v6, 80));
    let mut streams_live = |when: &str| {
        for stream in [&mut inwards, &mut outwards] {
            stream.echo(&vec![0x5a; 60_000]).unwrap_or_else(|error| panic!("a stream {when}: {error}"));
        }
    };
    streams_live("with a daemon");
    world.lab.daemon.end(Signal::SIGKILL);
    streams_live("without a daemon");
    world.packets_arrive(Family::V4, Proto::Tcp);
    world.guard_stands();
    world.lab.daemon.restart();
    streams_live("with the next daemon");
    world.all_holds();
    world.lab.netd(&["sandbox", "rm", "--force", "a1"]).ok();
    assert_eq!(world.lab.r.attempt(Proto::Tcp, at(H.v4, 8080)), Outcome::Refused);
}
