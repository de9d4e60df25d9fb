//! Rung: namespaces, dataplane 7.1. The guard of an uplink: denied sources reach nothing of the host, and nobody opens connections too fast.

use std::net::IpAddr;

use netd_tests::{
    Capture, Family, ForeignXdp, Frame, H, H1, Lab, Options, Outcome, PATIENCE, Proto, R, R2, Sandbox,
    Server, at, denied, eventually,
};
use nix::sys::signal::Signal;

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];
/// Whom the guard of `eth0` denies; `R` has addresses there.
const DENIED: [&str; 2] = ["10.0.0.96/28", "fd00:a::60:0/112"];

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    a1: Sandbox,
    _host: Server,
    lab: Lab,
}

fn config(more: &str) -> String {
    format!("[flows]\nentries = 4096\n[guard]\ninterfaces = [\"eth0\"]\ndeny = {DENIED:?}\n{more}")
}

fn world(more: &str) -> World {
    let lab = Lab::with(&Options { config: config(more), ..Options::default() });
    // Deprecated, so that it is the source only where it is asked for.
    lab.r.ip_batch(
        "address add 10.0.0.99/24 dev eth0\naddress add fd00:a::60:99/64 dev eth0 nodad preferred_lft 0",
    );
    // Or the denied address would be the one that asks for the host's, for all addresses of `R`, and fail.
    let mac = lab.r.mac_of(H.ip(Family::V6)).map(|byte| format!("{byte:02x}")).join(":");
    lab.r.ip_batch(&format!("neighbour replace {} lladdr {mac} nud permanent dev eth0", H.v6));
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let host = Server::start(&lab.h, &[8000]);
    World { a1, _host: host, lab }
}

/// An address of `R` that is denied, and a port of it.
fn from_denied(family: Family) -> std::net::SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => "10.0.0.99".parse().expect("an address"),
        Family::V6 => "fd00:a::60:99".parse().expect("an address"),
    };
    at(ip, 0)
}

impl World {
    /// What a denied source comes to: from published ports and from the host itself.
    fn denied_come_to(&self) -> Vec<Outcome> {
        let (r, mut all) = (&self.lab.r, Vec::new());
        for family in Family::BOTH {
            for port in [8080, 8000] {
                for proto in Proto::BOTH {
                    all.push(r.probe_from(proto, at(H.ip(family), port), from_denied(family)));
                }
            }
        }
        all
    }

    /// Others go on, by the guarded uplink and by the other one.
    fn others_come_through(&self) {
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                assert_eq!(
                    self.lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(),
                    R.ip(family),
                    "{proto:?}"
                );
                self.lab.r.reach(proto, at(H.ip(family), 8000));
                assert_eq!(self.lab.r2.reach(proto, at(H1.ip(family), 8080)).source.ip(), R2.ip(family));
            }
            self.lab.r.ping(H.ip(family));
        }
    }

    fn nobody_denied_comes_through(&self) {
        denied(&self.lab, &self.a1, &["DENIED_SOURCE"], || {
            assert!(
                self.denied_come_to().iter().all(|outcome| *outcome == Outcome::Timeout),
                "from a denied source"
            );
        });
    }

    /// What `netd explain` says of a packet to the host's port 8080 by an uplink: the reason of its drop, and the programs that it met.
    fn explained(&self, source: IpAddr, uplink: &str, proto: Proto) -> (Option<String>, Vec<String>) {
        let (from, to) = (source.to_string(), format!("host:8080/{}", proto.name()));
        let run = self.lab.netd(&["explain", "--format", "json", "--via", uplink, &from, &to]);
        let said: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
        let steps = said["Steps"].as_array().expect("steps").iter();
        let programs = steps.map(|step| step["Program"].as_str().expect("a program").to_owned());
        (said["Reason"].as_str().map(str::to_owned), programs.collect())
    }

    /// Whether an interface of the host has an XDP program, by what the kernel says.
    fn is_guarded(&self, ifname: &str) -> bool {
        let link = self.lab.h.ip_json(&["-details", "link", "show", "dev", ifname]);
        link[0]["xdp"]["mode"].as_u64().is_some_and(|mode| mode == XDP_ATTACHED_DRV)
    }
}

/// `enum` of `linux/if_link.h`.
const XDP_ATTACHED_DRV: u64 = 1;

#[test]
fn a_denied_source_reaches_nothing_of_the_host_and_others_all_of_it() {
    let w = world("");
    assert!(w.is_guarded("eth0") && !w.is_guarded("eth1"));
    w.nobody_denied_comes_through();
    w.others_come_through();
}

#[test]
fn the_guard_stands_without_a_daemon_and_follows_the_configuration_and_goes_with_netd() {
    let mut w = world("");
    w.lab.daemon.end(Signal::SIGKILL);
    assert!(w.denied_come_to().iter().all(|outcome| *outcome == Outcome::Timeout), "no daemon is needed");
    w.others_come_through();
    w.lab.daemon.restart();
    w.nobody_denied_comes_through();
    // Who takes it away is not the last to speak.
    let pin = w.lab.daemon.dirs().bpffs().read_dir().expect("the pins").flatten().find_map(|layout| {
        let links = layout.path().join("links").read_dir().ok()?.flatten();
        links.map(|link| link.path()).find(|path| path.to_string_lossy().ends_with("-guard"))
    });
    let pin = pin.expect("the guard's pin");
    std::fs::remove_file(&pin).expect("removed");
    eventually("the guard to be back", || pin.exists() && w.is_guarded("eth0"));
    w.nobody_denied_comes_through();
    // Off the list, one by one; then no guard at all.
    w.lab.daemon.end(Signal::SIGTERM);
    w.lab
        .daemon
        .configure("[flows]\nentries = 4096\n[guard]\ninterfaces = [\"eth0\"]\ndeny = [\"fd00:a::60:99\"]\n");
    w.lab.daemon.restart();
    let outcomes = w.denied_come_to();
    assert!(outcomes[..4].iter().all(|outcome| matches!(outcome, Outcome::Ok(_))), "{outcomes:?}");
    assert!(outcomes[4..].iter().all(|outcome| *outcome == Outcome::Timeout), "{outcomes:?}");
    w.lab.daemon.end(Signal::SIGTERM);
    w.lab.daemon.configure("[flows]\nentries = 4096\n");
    w.lab.daemon.restart();
    assert!(!w.is_guarded("eth0"));
    assert!(w.denied_come_to().iter().all(|outcome| matches!(outcome, Outcome::Ok(_))), "nobody is denied");
}

#[test]
fn an_explanation_asks_the_guard_and_counts_nothing() {
    let w = world("");
    for family in Family::BOTH {
        let denied = from_denied(family).ip();
        let counted = || w.lab.drops()["deniedsource"];
        let before = counted();
        for proto in Proto::BOTH {
            let said = |reason: Option<&str>, programs: &[&str]| {
                (reason.map(str::to_owned), programs.iter().map(|program| (*program).to_owned()).collect())
            };
            assert_eq!(w.explained(denied, "eth0", proto), said(Some("DENIED_SOURCE"), &["guard"]));
            assert_eq!(w.explained(denied, "eth1", proto), said(None, &["from_uplink"]), "nobody guards it");
            assert_eq!(w.explained(R.ip(family), "eth0", proto), said(None, &["guard", "from_uplink"]));
        }
        assert_eq!(counted(), before, "nothing came but explanations");
        w.nobody_denied_comes_through();
        assert!(counted() > before);
    }
    w.others_come_through();
}

#[test]
fn netd_down_takes_the_guard_away() {
    let w = world("");
    assert!(w.is_guarded("eth0"));
    w.lab.netd(&["sandbox", "rm", "--force", "a1"]).ok();
    w.lab.netd(&["network", "rm", "netA"]).ok();
    w.lab.daemon.down().ok();
    assert!(!w.is_guarded("eth0"));
}

#[test]
fn a_source_that_opens_connections_too_fast_loses_them_and_nobody_else_does() {
    const OPENINGS: u16 = 500;
    let w = world("connections_per_second = 2\n");
    let lab = &w.lab;
    for family in Family::BOTH {
        let to = at(H.ip(family), 8080);
        let (mut open, _) = lab.r.connect_stream(to);
        let frame = Frame { src: lab.r.link("eth0").expect("eth0").mac, dst: lab.r.mac_of(H.ip(family)) };
        let (wire, inside) = (Capture::start(&lab.r, "eth0"), Capture::start(&w.a1, "eth0"));
        let before = lab.drops()["toofast"];
        let explained = || w.explained(R.ip(family), "eth0", Proto::Tcp);
        for port in 0..OPENINGS {
            wire.send(&frame.tcp_syn(at(R.ip(family), 20_000 + port), to));
        }
        eventually("openings to be dropped", || lab.drops()["toofast"] > before);
        open.echo(b"open before").expect("what is open goes on");
        lab.r.reach(Proto::Udp, to);
        lab.r2.reach(Proto::Tcp, at(H1.ip(family), 8080));
        inside.wait("an opening that was let in", PATIENCE, |p| {
            p.is_to(Proto::Tcp, 80) && p.src == Some(R.ip(family))
        });
        let dropped = lab.drops()["toofast"] - before;
        assert!(dropped < u64::from(OPENINGS), "some are let in: {dropped}");
        eventually("an explanation that finds nothing left to open", || {
            wire.send(&frame.tcp_syn(at(R.ip(family), 19_999), to));
            explained() == (Some("TOO_FAST".to_owned()), vec!["guard".to_owned()])
        });
        eventually("an explanation that finds something to open again", || explained().0.is_none());
    }
}

#[test]
fn where_another_program_is_netd_says_so_and_serves_on_until_it_may_guard() {
    let mut lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    lab.daemon.end(Signal::SIGTERM);
    let foreign = ForeignXdp::attach(&lab.h, "eth0");
    lab.daemon.configure(&config(""));
    lab.daemon.restart();
    for family in Family::BOTH {
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).source.ip(), R.ip(family));
    }
    let log = lab.daemon.log();
    assert!(log.contains("guard eth0 (another XDP program is on it)"), "{log}");
    drop(foreign);
    eventually("the guard", || lab.daemon.log().contains("guard attached"));
}
