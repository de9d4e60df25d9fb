//! Rung: namespaces, truth-table row T83 with `respect_host_firewall`: a published port is open to the outside where the host's own rules are (ADR 0020).

use std::{process::Command, thread};

use netd_tests::{
    Capture, Family, H, Lab, Options, Outcome, Packet, Proto, R, Sandbox, Server, at, denied, eventually,
};
use nix::sys::signal::Signal;

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];
const ASKS: &str = "[flows]\nentries = 4096\n[publish]\nrespect_host_firewall = true\n";
/// What ufw's "default deny incoming" comes to.
const DENY: &str = "add table inet fw
add chain inet fw input { type filter hook input priority 0; policy drop; }
add rule inet fw input ct state established,related accept
add rule inet fw input iif lo accept
add rule inet fw input meta l4proto { icmp, ipv6-icmp } accept
add chain inet fw ports
add rule inet fw input jump ports
";
const ALLOW: &str = "add rule inet fw ports meta l4proto { tcp, udp } th dport 8080 counter accept\n";

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    a1: Sandbox,
    a2: Sandbox,
    lab: Lab,
}

fn world(config: &str) -> World {
    let lab = Lab::with(&Options { config: config.into(), ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    World { a1, a2, lab }
}

fn both() -> impl Iterator<Item = (Family, Proto)> {
    Family::BOTH.into_iter().flat_map(|family| Proto::BOTH.map(|proto| (family, proto)))
}

impl World {
    /// Runs lines of `nft` on the host.
    fn rules(&self, lines: &str) {
        for line in lines.lines() {
            let out = self.lab.h.output(Command::new("nft").arg(line));
            assert!(out.status.success(), "nft {line}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }

    fn open(&self) {
        for (family, proto) in both() {
            let seen = self.lab.r.reach(proto, at(H.ip(family), 8080));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", R.ip(family)), "{proto:?}");
        }
    }

    fn closed(&self) {
        denied(&self.lab, &self.a1, &["HOST_FIREWALL"], || self.silent());
    }

    /// Nobody answers outside; all at once, since each waits for a while.
    fn silent(&self) {
        let r = &self.lab.r;
        thread::scope(|scope| {
            for (family, proto) in both() {
                scope.spawn(move || {
                    let outcome = r.probe(proto, at(H.ip(family), 8080));
                    assert_eq!(outcome, Outcome::Timeout, "{family:?} {proto:?}");
                });
            }
        });
    }

    /// Packets that the rule for the port has counted.
    fn counted(&self) -> u64 {
        let out = self.lab.h.output(Command::new("nft").args(["list", "chain", "inet", "fw", "ports"]));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        words.next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no counter in {text}"))
    }
}

/// Whether it says that nobody listens.
fn refuses(packet: &Packet) -> bool {
    let ip = usize::from(packet.bytes.get(14).is_some_and(|byte| byte >> 4 == 4));
    let l4 = if ip == 1 { 34 } else { 54 };
    match packet.proto {
        Some(6) => {
            packet.sport == Some(8080) && packet.bytes.get(l4 + 13).is_some_and(|flags| flags & 4 != 0)
        }
        Some(1 | 58) => packet.bytes.get(l4).is_some_and(|kind| matches!((ip, kind), (1, 3) | (0, 1))),
        _ => false,
    }
}

#[test]
fn t83_with_the_hosts_rules_asked_a_published_port_is_open_where_they_are() {
    let w = world(ASKS);
    w.open();
    w.rules(DENY);
    w.closed();
    w.rules(ALLOW);
    let wire = Capture::start(&w.lab.r, "eth0");
    w.open();
    assert!(w.counted() >= 4, "the host's rule has seen a packet of each: {}", w.counted());
    let refused: Vec<Packet> = wire.take().into_iter().filter(refuses).collect();
    assert!(refused.is_empty(), "what the stack says to a packet it has no socket for: {refused:x?}");

    let mut streams = Family::BOTH.map(|family| w.lab.r.connect_stream(at(H.ip(family), 8080)).0);
    w.rules("flush chain inet fw ports");
    w.closed();
    for stream in &mut streams {
        stream.echo(b"what is open goes on").expect("an echo");
    }
    // Nobody else is asked: the host, sandboxes, and what they open to the outside.
    let _remote = Server::start(&w.lab.r, &[80]);
    for (family, proto) in both() {
        for host in [H.ip(family), family.loopback()] {
            assert_eq!(w.lab.h.reach(proto, at(host, 8080)).server, "a1", "{host} {proto:?}");
        }
        assert_eq!(w.a2.reach(proto, at(H.ip(family), 8080)).server, "a1");
        assert_eq!(w.a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
    }
    w.rules(ALLOW);
    w.open();
}

#[test]
fn t83_without_being_asked_the_hosts_rules_do_not_count() {
    let w = world("[flows]\nentries = 4096\n");
    w.rules(DENY);
    w.open();
}

#[test]
fn what_the_hosts_rules_answer_themselves_reaches_the_client() {
    let w = world(ASKS);
    w.rules(DENY);
    w.rules(
        "add rule inet fw ports tcp dport 8080 reject with tcp reset
add rule inet fw ports udp dport 8080 reject with icmpx type port-unreachable",
    );
    for (family, proto) in both() {
        assert_eq!(w.lab.r.attempt(proto, at(H.ip(family), 8080)), Outcome::Refused, "{family:?} {proto:?}");
    }
    w.rules("flush chain inet fw ports");
    w.rules(ALLOW);
    w.open();
}

#[test]
fn the_hosts_rules_are_asked_without_a_daemon_and_no_more_when_that_is_switched_off() {
    let mut w = world(ASKS);
    w.rules(DENY);
    w.lab.daemon.end(Signal::SIGKILL);
    w.silent();
    w.rules(ALLOW);
    w.open();
    w.lab.daemon.restart();
    w.open();
    w.rules("flush chain inet fw ports");
    w.closed();
    // Who takes the program away closes the ports, until the daemon has put it back.
    let pin = bpffs_file(&w, "host_input").expect("the program's link");
    std::fs::remove_file(&pin).expect("remove the pin");
    eventually("the program to be back", || pin.exists());
    w.closed();
    w.lab.daemon.end(Signal::SIGTERM);
    w.lab.daemon.configure("[flows]\nentries = 4096\n");
    w.lab.daemon.restart();
    assert!(bpffs_file(&w, "host_input").is_none(), "it is not needed any more");
    w.open();
}

/// Finds a pin of the instance by its name.
fn bpffs_file(w: &World, name: &str) -> Option<std::path::PathBuf> {
    let layouts = std::fs::read_dir(w.lab.daemon.dirs().bpffs()).expect("the pins").flatten();
    layouts.map(|layout| layout.path().join("links").join(name)).find(|path| path.exists())
}

#[test]
fn t83_an_explanation_says_that_the_hosts_rules_decide_and_does_not_ask_them() {
    let w = world(ASKS);
    w.rules(DENY);
    w.rules(ALLOW);
    for (family, proto) in both() {
        let kind = if proto == Proto::Udp { "/udp" } else { "" };
        let to = format!("{}{kind}", at(H.ip(family), 8080));
        let asked = w.counted();
        let explained = w.lab.netd(&["explain", "--format", "json", &R.ip(family).to_string(), &to]).json();
        assert_eq!(explained["Passes"], true, "{explained}");
        let found = explained["Steps"][0]["Matched"].as_array().expect("an array");
        let says = |words: &str| found.iter().any(|it| it.as_str().is_some_and(|it| it.contains(words)));
        assert!(says("published 8080") && says("respect_host_firewall"), "{explained}");
        assert_eq!(w.counted(), asked, "{family:?} {proto:?}: the rules have seen a packet");
    }
    let asked = w.counted();
    w.open();
    assert!(w.counted() > asked, "real packets are judged");
}
