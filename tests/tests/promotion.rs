//! Rung: namespaces. A new sandbox's program is a filter, and becomes a link while nobody waits: packets meet one of the two at any moment, whatever ends the
//! daemon on the way (ADR 0028).

use std::fs;

use aya::programs::TcAttachType;
use netd_tests::{
    Family, Foreign, ForeignPlace as Place, H, Lab, Options, Outcome, Proto, R, Sandbox, Server, Stream, at,
    eventually, invariants,
    promotion::{Forms, has_links},
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Where a promotion can be broken off, and what is on the interface then.
const POINTS: [(&str, Forms); 3] = [
    ("promotion.marked", Forms::FILTER),
    ("promotion.linked", Forms::BOTH),
    ("promotion.unfiltered", Forms::LINK),
];

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    streams: Vec<Stream>,
    _servers: [Server; 2],
    b1: Sandbox,
    a1: Sandbox,
    lab: Lab,
}

impl World {
    /// A lab whose daemon stops, fails or waits in promotions; none: a kernel without TCX.
    fn new(failpoints: &str) -> Option<Self> {
        let mut lab = Lab::with(&Options::default());
        if !has_links(lab.daemon.dirs()) {
            println!("skipped: no TCX before Linux 6.6");
            return None;
        }
        let (net, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
        let b1 = lab.sandbox("b1", b, 2, &[]).serving(&[80]);
        lab.until_promoted();
        lab.daemon.end(Signal::SIGTERM);
        lab.daemon.restart_with(&[("NETD_FAILPOINTS", failpoints)]);
        let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
        let servers = [&lab.r, &lab.h].map(|ns| Server::start(ns, &[90]));
        let mut w = Self { streams: Vec::new(), _servers: servers, b1, a1, lab };
        for family in Family::BOTH {
            // In from outside, out to the world, and to the host itself, by the only way that passes to other programs.
            let gateway = net.gateway(family);
            let ways = [
                (&w.lab.r, at(H.ip(family), 8080)),
                (&*w.a1, at(R.ip(family), 90)),
                (&*w.a1, at(gateway, 90)),
            ];
            let opened = ways.map(|(from, to)| from.connect_stream(to).0);
            w.streams.extend(opened);
        }
        Some(w)
    }

    /// The host side of the new sandbox's pair.
    fn ifname(&self) -> String {
        host_side(&self.lab, "a1", "netA")
    }

    fn until(&self, ifname: &str, forms: Forms) {
        eventually(&format!("{forms:?}"), || Forms::on(&self.lab.h, ifname) == forms);
    }

    /// Every stream goes on as if nothing had happened.
    fn goes_on(&mut self, when: &str) {
        for stream in &mut self.streams {
            for _ in 0..20 {
                stream.echo(b"still here").unwrap_or_else(|error| panic!("{when}: {error}"));
            }
            assert_eq!(stream.retransmissions(), 0, "{when}");
        }
    }

    /// New flows go where they may, and nowhere else.
    fn holds(&self, when: &str) {
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                assert_eq!(self.lab.r.reach(proto, at(H.ip(family), 8080)).server, "a1", "{when}");
                assert_eq!(self.a1.reach(proto, at(R.ip(family), 90)).source.ip(), H.ip(family), "{when}");
            }
            let closed = at(self.b1.ip(family), 80);
            assert_eq!(self.lab.h.reach(Proto::Tcp, closed).server, "b1", "{when}");
            assert_eq!(self.a1.probe(Proto::Tcp, closed), Outcome::Timeout, "{when}: another network");
        }
    }

    fn violations(&self) -> Vec<String> {
        let daemon = &self.lab.daemon;
        let (dirs, pid) = (daemon.dirs(), daemon.pid());
        invariants::violations(invariants::Instance { ns: &self.lab.h, dirs, pid, held: true })
    }
}

/// The host side of a sandbox's pair on a network.
fn host_side(lab: &Lab, sandbox: &str, network: &str) -> String {
    let inspect = lab.inspect(sandbox);
    let ifname = inspect["NetworkSettings"]["Networks"][network]["HostInterface"].as_str();
    ifname.unwrap_or_else(|| panic!("no HostInterface: {inspect}")).to_owned()
}

/// A daemon that waits at each point until a file is there.
fn gates(dir: &TempDir) -> String {
    let gate = |point: &str| format!("{point}=until:{}", dir.path().join(point).display());
    POINTS.map(|(point, _)| gate(point)).join(";")
}

#[test]
fn streams_lose_nothing_while_a_filter_becomes_a_link_and_no_packet_is_seen_twice() {
    let dir = TempDir::new().expect("a directory");
    let Some(mut w) = World::new(&gates(&dir)) else { return };
    let ifname = w.ifname();
    for (point, forms) in POINTS {
        w.until(&ifname, forms);
        w.goes_on(point);
        w.holds(point);
        fs::write(dir.path().join(point), "").expect("open the gate");
    }
    w.until(&ifname, Forms::LINK);
    w.goes_on("promoted");
    assert_eq!(w.violations(), Vec::<String>::new());
}

#[test]
fn a_filter_of_others_sees_what_passes_once_before_and_after() {
    let Some(mut w) = World::new("") else { return };
    let ifname = w.ifname();
    let foreign = Foreign::attach(&w.lab.h, &ifname, TcAttachType::Ingress, Place::Filter(0x7000));
    for when in ["at first", "as a link"] {
        let before = foreign.runs();
        w.goes_on(when);
        assert!(foreign.runs() > before, "{when}");
        w.lab.until_promoted();
    }
    assert_eq!(Forms::on(&w.lab.h, &ifname), Forms::LINK);
}

#[test]
fn a_daemon_that_is_killed_on_the_way_leaves_one_program_and_the_next_goes_on() {
    let dir = TempDir::new().expect("a directory");
    for (point, forms) in POINTS {
        let never = dir.path().join("never");
        let Some(mut w) = World::new(&format!("{point}=until:{}", never.display())) else { return };
        let ifname = w.ifname();
        eventually(point, || w.lab.daemon.log().contains(point));
        w.lab.daemon.end(Signal::SIGKILL);
        assert_eq!(Forms::on(&w.lab.h, &ifname), forms, "{point}");
        w.goes_on(point);
        w.holds(point);
        w.lab.daemon.restart();
        w.goes_on("with the next daemon");
        w.until(&ifname, Forms::LINK);
        w.goes_on("promoted by the next daemon");
        w.holds("promoted by the next daemon");
        assert_eq!(w.violations(), Vec::<String>::new(), "{point}");
    }
}

#[test]
fn what_fails_leaves_one_program_and_goes_away_with_its_sandbox() {
    for (point, _) in POINTS {
        let Some(mut w) = World::new(&format!("{point}=return:ENOMEM")) else { return };
        let told = "the program of an endpoint stays a filter for now";
        eventually("a failure", || w.lab.daemon.log().contains(told));
        let ifname = w.ifname();
        // A filter that could not be removed for sure may be gone, or be there behind the link.
        let forms = Forms::on(&w.lab.h, &ifname);
        assert!(forms.links + forms.filters > 0, "{point}: {forms:?}");
        w.goes_on(point);
        w.holds(point);
        w.streams.clear();
        w.lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
        assert_eq!(w.violations(), Vec::<String>::new(), "{point}");
    }
}

#[test]
fn filters_of_an_earlier_daemon_that_wanted_no_links_become_links() {
    const FLOWS: &str = "[flows]\nentries = 4096\n";
    let config = format!("attach = \"tc\"\n{FLOWS}");
    let mut lab = Lab::with(&Options { config, ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let ifnames = ["a1", "a2"].map(|sandbox| host_side(&lab, sandbox, "netA"));
    let forms = |lab: &Lab| [0, 1].map(|n: usize| Forms::on(&lab.h, &ifnames[n]));
    let mut stream = a2.connect_stream(at(a1.ip(Family::V4), 80)).0;
    lab.daemon.end(Signal::SIGKILL);
    lab.daemon.restart();
    assert_eq!(forms(&lab), [Forms::FILTER; 2]);
    lab.daemon.end(Signal::SIGKILL);
    lab.daemon.configure(FLOWS);
    lab.daemon.restart();
    if !has_links(lab.daemon.dirs()) {
        println!("skipped: no TCX before Linux 6.6");
        return;
    }
    eventually("links", || forms(&lab) == [Forms::LINK; 2]);
    stream.echo(b"still here").expect("an answer");
    assert_eq!(stream.retransmissions(), 0);
}

#[test]
fn a_sandbox_that_goes_as_soon_as_it_has_come_leaves_nothing() {
    let Some(w) = World::new("") else { return };
    for _ in 0..3 {
        w.lab.netd(&["sandbox", "create", "--network", "netB", "b2"]).ok();
        w.lab.netd(&["sandbox", "rm", "-f", "b2"]).ok();
    }
    assert_eq!(w.violations(), Vec::<String>::new());
    // The lab's end takes everything down at once behind this one.
    w.lab.netd(&["sandbox", "create", "--network", "netB", "b3"]).ok();
}
