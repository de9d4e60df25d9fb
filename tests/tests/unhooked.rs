//! Rung: namespaces, reliability F7, F22, S7, S21. Programs, pins and maps are taken away while nobody can put them back: what is closed stays closed by the
//! programs that are left, and the next daemon takes up what still lives.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
};

use aya::programs::{SchedClassifier, TcAttachType};
use etherparse::ArpOperation;
use netd_tests::{
    Capture, Daemon, Family, Frame, H, Lab, Ns, Options, PATIENCE, Proto, R, Sandbox, Server, at, eventually,
    probe::{Attacker, Kind, Probe, Victim},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};

/// A port that is never published, and that somebody listens on.
const CLOSED: u16 = 7000;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    _remote: Server,
    a1: Sandbox,
    a2: Sandbox,
    a3: Sandbox,
    b1: Sandbox,
    i1: Sandbox,
    lab: Lab,
}

impl World {
    fn new(config: &str) -> Self {
        let config = format!("{config}[flows]\nentries = 4096\n");
        let lab = Lab::with(&Options { config, ..Options::default() });
        let (net, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
        let internal = lab.network("netI", 22, &["--internal"]);
        let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
        let [a2, a3] = [("a2", 3), ("a3", 4)].map(|(name, host)| lab.sandbox(name, net, host, &[]));
        let (b1, i1) = (lab.sandbox("b1", b, 2, &[]), lab.sandbox("i1", internal, 2, &[]));
        let remote = Server::start(&lab.r, &[80]);
        Self { _remote: remote, a1, a2, a3, b1, i1, lab }
    }

    /// The host side of a sandbox's veth.
    fn host_side(&self, sandbox: &str) -> String {
        let networks = self.lab.inspect(sandbox)["NetworkSettings"]["Networks"].clone();
        let mut sides = networks.as_object().expect("networks").values();
        sides.find_map(|network| network["HostInterface"].as_str()).expect("HostInterface").to_owned()
    }

    fn layout(&self) -> PathBuf {
        let mut all = fs::read_dir(self.lab.daemon.dirs().bpffs()).expect("pins").flatten();
        all.next().expect("a layout").path()
    }

    /// Takes every program of netd's off an interface, and waits until the kernel has.
    fn unhook(&self, ifname: &str) {
        let index = self.lab.h.link(ifname).expect("the interface").index;
        drop(self.lab.h.output(Command::new("tc").args(["qdisc", "del", "dev", ifname, "clsact"])));
        for program in ["from_endpoint", "from_uplink", "to_uplink"] {
            drop(fs::remove_file(self.layout().join(format!("links/{index}-{program}"))));
        }
        eventually(&format!("no program on {ifname}"), || programs_on(&self.lab.h, ifname) == 0);
    }

    fn freeze(&self) -> Frozen<'_> {
        self.lab.daemon.signal(Signal::SIGSTOP);
        let status = format!("/proc/{}/status", self.lab.daemon.pid().expect("a daemon"));
        eventually("the daemon to stop", || {
            fs::read_to_string(&status).expect("its status").contains("State:\tT")
        });
        Frozen(&self.lab.daemon)
    }

    /// Everything goes again, and what is closed is closed.
    fn holds(&self, when: &str) {
        for family in Family::BOTH {
            for (client, to) in [
                (&self.lab.r, at(H.ip(family), 8080)),
                (&*self.a1, at(R.ip(family), 80)),
                (&*self.a2, at(self.a1.ip(family), 80)),
                (&self.lab.h, at(family.loopback(), 8080)),
            ] {
                for proto in Proto::BOTH {
                    eventually(&format!("{proto:?} {} to {to}: {when}", client.name()), || {
                        client.probe(proto, to).seen().is_some()
                    });
                }
            }
        }
    }
}

/// A daemon that is stopped; it goes on on drop, also after a failed assertion.
struct Frozen<'a>(&'a Daemon);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGCONT);
    }
}

impl World {
    /// A sandbox without programs speaks as its neighbours: the one that it speaks to does not hear it.
    fn nobody_is_taken_in(&self) {
        let (wire, seen) = (self.a1.capture(), self.a2.capture());
        let [own, mac, other] = [&self.a1, &self.a2, &self.a3].map(|ns| ns.link("eth0").expect("eth0").mac);
        let honest = Frame { src: own, dst: mac };
        let forged = Frame { src: other, ..honest };
        let IpAddr::V4(claimed) = self.a3.ip(Family::V4) else { panic!("IPv4") };
        let mut lies = vec![honest.arp(ArpOperation::REPLY, claimed, claimed)];
        let mut words = Vec::new();
        for family in Family::BOTH {
            let to = at(self.a2.ip(family), 9);
            lies.push(honest.udp(at(self.a3.ip(family), 5000), to, b"in another's name"));
            lies.push(forged.udp(at(self.a1.ip(family), 5000), to, b"by another's card"));
            words.push(honest.udp(at(self.a1.ip(family), 5000), to, b"honest"));
        }
        lies.push(advertisement(&self.a1, "eth0"));
        for frame in lies.iter().chain(&words) {
            wire.send(frame);
        }
        let last = words.pop().expect("an honest one");
        let heard = seen.until("the honest datagrams", PATIENCE, |p| !p.outgoing && p.bytes == last);
        let arrived = |frame: &Vec<u8>| heard.iter().any(|p| !p.outgoing && p.bytes == *frame);
        assert!(words.iter().all(arrived), "what is honest arrives");
        let believed: Vec<_> = lies.iter().filter(|frame| arrived(frame)).collect();
        assert!(believed.is_empty(), "{believed:x?}");
    }

    /// A sandbox without programs says that it is a router, on the bridge and off it.
    fn no_router_is_believed(&self, side: &str) {
        let (host, wire) = (&self.lab.h, self.a1.capture());
        let lie = advertisement(&self.a1, "eth0");
        wire.send(&lie);
        self.a1.ping(self.a2.ip(Family::V6)); // behind it on the bridge
        let seen = Capture::start(host, side);
        host.ip_batch(&format!("link set {side} nomaster"));
        wire.send(&lie);
        seen.wait("the advertisement, off the bridge", PATIENCE, |p| !p.outgoing && p.bytes == lie);
        // A router that the host is told to believe is believed.
        let before = host.sysctl_get("net/ipv6/conf/eth1/accept_ra");
        host.sysctl("net/ipv6/conf/eth1/accept_ra", "2");
        let router = Capture::start(&self.lab.r2, "eth0");
        let word = advertisement(&self.lab.r2, "eth0");
        eventually("the host to believe a router", || {
            router.send(&word);
            !routers(host).is_empty()
        });
        host.sysctl("net/ipv6/conf/eth1/accept_ra", &before);
        let believed = routers(host);
        assert!(believed.iter().all(|dev| dev == "eth1"), "the host believes a sandbox: {believed:?}");
        assert!(
            host.output(Command::new("ip").args(["-6", "route", "flush", "proto", "ra"])).status.success()
        );
    }
}

/// Programs on an interface, in whatever way they are attached.
fn programs_on(ns: &Ns, ifname: &str) -> usize {
    let filters: usize = ["ingress", "egress"]
        .iter()
        .map(|side| {
            let shown = ns.output(Command::new("tc").args(["filter", "show", "dev", ifname, side]));
            String::from_utf8_lossy(&shown.stdout).lines().filter(|line| line.contains("handle")).count()
        })
        .sum();
    let links = |side| SchedClassifier::query_tcx(ifname, side).map_or(0, |(_, programs)| programs.len());
    filters + ns.run(|| links(TcAttachType::Ingress) + links(TcAttachType::Egress))
}

/// Attackers of every kind, at work until this is finished.
struct Siege {
    victims: Vec<Victim>,
    attackers: Vec<Attacker>,
}

impl Siege {
    fn begin(w: &World) -> Self {
        let all: [&Ns; 5] = [&w.a1, &w.a2, &w.b1, &w.i1, &w.lab.r];
        let victims = all.map(|ns| Victim::start(ns, CLOSED));
        let mut attackers = Vec::new();
        for family in Family::BOTH {
            let port = |ns: &Sandbox| at(ns.ip(family), CLOSED);
            let remote = at(R.ip(family), CLOSED);
            victims[0].hears(&w.a2, port(&w.a1));
            victims[1].hears(&w.a3, port(&w.a2));
            victims[2].hears(&w.lab.h, port(&w.b1));
            victims[3].hears(&w.lab.h, port(&w.i1));
            victims[4].hears(&w.lab.h, remote);
            let ways = [
                (&w.lab.r, port(&w.a1)),
                (&w.lab.r, port(&w.i1)),
                (&*w.b1, port(&w.a1)),
                (&*w.b1, port(&w.i1)),
                (&*w.a1, port(&w.b1)),
                (&*w.a1, port(&w.i1)),
                (&*w.i1, port(&w.a1)),
                (&*w.i1, remote),
            ];
            attackers.extend(ways.map(|(ns, to)| Attacker::start(ns, to)));
        }
        Self { victims: victims.into(), attackers }
    }

    /// Waits until everybody has knocked some more.
    fn beat(&self) {
        let goals: Vec<u64> = self.attackers.iter().map(|attacker| attacker.knocks() + 9).collect();
        eventually("knocks at every door", || {
            self.attackers.iter().zip(&goals).all(|(attacker, goal)| attacker.knocks() >= *goal)
        });
    }

    /// Ends it. Nobody was heard.
    fn end(self, when: &str) {
        self.beat();
        drop(self.attackers);
        let hits: Vec<u64> = self.victims.iter().map(Victim::hits).collect();
        assert_eq!(hits, [0; 5], "{when}: somebody got in");
    }
}

/// A router advertisement with a lifetime of half an hour, from the link-local address of whoever sends it.
fn advertisement(from: &Ns, ifname: &str) -> Vec<u8> {
    let mac = from.link(ifname).expect("the interface").mac;
    let mut own = [0; 16];
    own[..2].copy_from_slice(&[0xfe, 0x80]);
    own[8..11].copy_from_slice(&[mac[0] ^ 2, mac[1], mac[2]]);
    own[11..13].copy_from_slice(&[0xff, 0xfe]);
    own[13..].copy_from_slice(&mac[3..]);
    let (own, frame) = (Ipv6Addr::from(own), Frame { src: mac, dst: [0x33, 0x33, 0, 0, 0, 1] });
    frame.icmpv6(own, ALL_NODES, &[134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// The interfaces that lead to routers whose word the host believed.
fn routers(host: &Ns) -> Vec<String> {
    let routes = host.ip_json(&["-6", "route", "show", "proto", "ra"]);
    let routes = routes.as_array().map(Vec::as_slice).unwrap_or_default();
    routes.iter().filter_map(|route| route["dev"].as_str()).map(str::to_owned).collect()
}

fn without_the_programs_of(sandbox: &str, config: &str) {
    let w = World::new(config);
    w.holds("the beginning");
    let side = w.host_side(sandbox);
    let siege = Siege::begin(&w);
    let frozen = w.freeze();
    w.unhook(&side);
    siege.beat();
    if sandbox == "a1" {
        w.nobody_is_taken_in();
        w.no_router_is_believed(&side);
    }
    siege.end(&format!("without the programs of {sandbox}"));
    drop(frozen);
    eventually(&format!("programs on {side}"), || programs_on(&w.lab.h, &side) == 2);
    w.holds("with the programs back");
}

#[test]
fn s21_f22_without_its_own_programs_a_sandbox_is_kept_by_those_of_the_others() {
    without_the_programs_of("a1", "");
}

#[test]
fn s21_f22_without_its_own_filters_an_internal_sandbox_is_kept_by_those_of_the_others() {
    without_the_programs_of("i1", "attach = \"tc\"\n");
}

#[test]
fn s21_f22_without_the_programs_of_an_uplink_the_sandboxes_are_kept_by_their_own() {
    let w = World::new("");
    w.holds("the beginning");
    let siege = Siege::begin(&w);
    let frozen = w.freeze();
    w.unhook("eth0");
    siege.end("without the programs of an uplink");
    drop(frozen);
    eventually("programs on eth0", || programs_on(&w.lab.h, "eth0") == 2);
    w.holds("with the programs back");
}

/// Removes every pin while no daemon runs, and starts one.
fn with_every_pin_gone(config: &str) {
    let mut w = World::new(config);
    let siege = Siege::begin(&w);
    let mut streams: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(|family| [(&w.lab.r, at(H.ip(family), 8080)), (&*w.a1, at(R.ip(family), 80))])
        .map(|(client, to)| client.connect_stream(to).0)
        .collect();
    w.lab.daemon.end(Signal::SIGKILL);
    // Nobody speaks meanwhile: where programs are links, none is left to translate.
    fs::remove_dir_all(w.layout()).expect("the pins");
    siege.beat();
    w.lab.daemon.restart();
    assert!(w.lab.daemon.log().contains("map FLOW4"), "{}", w.lab.daemon.log());
    for stream in &mut streams {
        stream.echo(b"still here").expect("the flow is kept");
    }
    w.holds("with the pins back");
    siege.end("without pins");
    w.lab.daemon.end(Signal::SIGKILL);
    w.lab.daemon.restart();
    for stream in &mut streams {
        stream.echo(b"and at the next start").expect("the flow is kept");
    }
}

#[test]
fn f7_the_next_daemon_takes_up_the_maps_of_what_lives_without_pins() {
    with_every_pin_gone("");
}

#[test]
fn f7_the_next_daemon_takes_up_the_maps_of_filters_without_pins() {
    with_every_pin_gone("attach = \"tc\"\n");
}

/// A second bpffs upon the instance's directory; unmounted on drop.
struct Hidden(PathBuf);

impl Hidden {
    fn mount(at: &Path) -> Self {
        mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), Some("mode=0700")).expect("a bpffs");
        Self(at.to_owned())
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn f7_the_next_daemon_takes_up_maps_and_links_whose_pins_it_cannot_see() {
    let mut w = World::new("");
    let siege = Siege::begin(&w);
    let mut probes = Vec::new();
    for family in Family::BOTH {
        for (client, to) in [
            (&w.lab.r, at(H.ip(family), 8080)),
            (&*w.a1, at(R.ip(family), 80)),
            (&*w.a2, at(w.a1.ip(family), 80)),
            (&w.lab.h, at(family.loopback(), 8080)),
        ] {
            probes.extend([Kind::Stream, Kind::Datagrams].map(|kind| Probe::start(client, kind, to)));
        }
    }
    let bpffs = w.lab.daemon.dirs().bpffs().to_owned();
    let side = w.host_side("a1");
    let programs = programs_on(&w.lab.h, &side);
    w.lab.daemon.end(Signal::SIGKILL);
    let hidden = Hidden::mount(&bpffs);
    w.lab.daemon.restart();
    for probe in &probes {
        probe.beat(3);
    }
    assert_eq!(programs_on(&w.lab.h, &side), programs, "no program twice");
    w.lab.netd(&["publish", "a1", "8081:80"]).ok();
    w.lab.r.reach(Proto::Tcp, at(H.v4, 8081));
    for probe in probes {
        let report = probe.finish();
        assert!(report.is_clean(), "{report:#?}");
    }
    siege.end("beside hidden pins");
    drop(w);
    drop(hidden);
}

#[test]
fn s27_pins_that_are_no_map_of_netds_are_removed_and_what_lives_is_taken_up() {
    let mut w = World::new("");
    let mut stream = w.lab.r.connect_stream(at(H.v4, 8080)).0;
    w.lab.daemon.end(Signal::SIGKILL);
    let layout = w.layout();
    // A map of another shape in the place of the flows, and none in the place of the published ports.
    fs::remove_file(layout.join("FLOW4")).expect("the pin");
    let other = aya::maps::MapData::from_pin(layout.join("CONFIG")).expect("a map");
    other.pin(layout.join("FLOW4")).expect("another map in its place");
    fs::remove_file(layout.join("PUBLISH4")).expect("the pin");
    w.lab.daemon.restart();
    let log = w.lab.daemon.log();
    assert!(log.contains("FLOW4") && log.contains("not netd's map"), "{log}");
    stream.echo(b"still here").expect("the flow is kept");
    w.holds("with the right pins");
}
