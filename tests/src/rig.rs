//! Everything that goes on while something happens to netd: probes in every direction, victims who must not be reached, and attackers who try.

use crate::{
    Family, H, Lab, Options, R, Sandbox, Server, at,
    probe::{Attacker, Kind, Probe, Report, Victim},
};

/// A port that is never published, and that somebody listens on.
const CLOSED: u16 = 7000;

/// Networks and sandboxes that probes and attackers work on. Dropped in this order: what is in namespaces before the lab.
#[derive(Debug)]
pub struct World {
    _remote: Server,
    /// On `netA`, publishes 8080 for its port 80, TCP and UDP.
    pub a1: Sandbox,
    /// On `netA` too.
    pub a2: Sandbox,
    /// On `netB`.
    pub b1: Sandbox,
    /// On `netI`, which is internal.
    pub i1: Sandbox,
    /// All around it.
    pub lab: Lab,
}

impl World {
    /// Builds it in a new lab.
    pub fn new(options: &Options) -> Self {
        let lab = Lab::with(options);
        let (net, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
        let internal = lab.network("netI", 22, &["--internal"]);
        let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
        let (a2, b1) = (lab.sandbox("a2", net, 3, &[]), lab.sandbox("b1", b, 2, &[]));
        let i1 = lab.sandbox("i1", internal, 2, &[]);
        let remote = Server::start(&lab.r, &[80]);
        Self { _remote: remote, a1, a2, b1, i1, lab }
    }
}

/// Probes, victims and attackers at work.
#[derive(Debug)]
pub struct Rig {
    probes: Vec<Probe>,
    victims: [Victim; 3],
    attackers: Vec<Attacker>,
}

/// What they have seen.
#[derive(Debug)]
pub struct Sightings {
    /// Of each probe.
    pub reports: Vec<Report>,
    /// Knocks that arrived at each victim.
    pub hits: [u64; 3],
    /// Knocks of each attacker.
    pub knocks: Vec<u64>,
}

impl Rig {
    /// Starts everything; probes for new connections are of this kind.
    pub fn start(w: &World, new: Kind) -> Self {
        let victims = [&*w.a1, &w.lab.r, &*w.i1].map(|ns| Victim::start(ns, CLOSED));
        let (mut probes, mut attackers) = (Vec::new(), Vec::new());
        for family in Family::BOTH {
            let ways = [
                (&w.lab.r, at(H.ip(family), 8080)),
                (&*w.a1, at(R.ip(family), 80)),
                (&*w.a2, at(w.a1.ip(family), 80)),
                (&w.lab.h, at(family.loopback(), 8080)),
            ];
            for &(client, to) in &ways {
                probes.extend([Kind::Stream, Kind::Datagrams].map(|kind| Probe::start(client, kind, to)));
            }
            probes.extend(ways[..2].iter().map(|(client, to)| Probe::start(client, new, *to)));
            victims[0].hears(&w.a2, at(w.a1.ip(family), CLOSED));
            victims[1].hears(&w.a2, at(R.ip(family), CLOSED));
            victims[2].hears(&w.lab.h, at(w.i1.ip(family), CLOSED));
            attackers.extend(
                [
                    (&w.lab.r, at(w.a1.ip(family), CLOSED)),
                    (&w.lab.r, at(H.ip(family), CLOSED)),
                    (&*w.b1, at(w.a1.ip(family), CLOSED)),
                    (&*w.i1, at(R.ip(family), CLOSED)),
                    (&w.lab.r, at(w.i1.ip(family), CLOSED)),
                    (&*w.a2, at(w.i1.ip(family), CLOSED)),
                ]
                .map(|(ns, to)| Attacker::start(ns, to)),
            );
        }
        Self { probes, victims, attackers }
    }

    /// Waits until every probe has had some more answers.
    pub fn beat(&self) {
        self.probes.iter().for_each(|probe| probe.beat(3));
    }

    /// Ends everything and tells what was seen.
    pub fn end(self) -> Sightings {
        let knocks = self.attackers.iter().map(Attacker::knocks).collect();
        let hits = self.victims.each_ref().map(Victim::hits);
        drop(self.attackers);
        Sightings { reports: self.probes.into_iter().map(Probe::finish).collect(), hits, knocks }
    }

    /// Ends everything. Nothing was lost, reset or let in.
    pub fn finish(self, what: &str) {
        let seen = self.end();
        println!("{what}: {}", seen.summary());
        let faults = seen.faults();
        assert!(faults.is_empty(), "{what}: {faults:#?}");
    }
}

impl Sightings {
    /// Figures in a line.
    pub fn summary(&self) -> String {
        let answered: u64 = self.reports.iter().map(|report| report.answered).sum();
        let gap = self.reports.iter().map(|report| report.gap).max().unwrap_or_default();
        format!("{answered} answers, longest gap {gap:?}, {} knocks", self.knocks.iter().sum::<u64>())
    }

    /// Lists what was lost, reset, odd or let in, and attackers who did nothing.
    pub fn faults(&self) -> Vec<String> {
        let bad = self.reports.iter().filter(|report| !report.is_clean()).map(|report| format!("{report:?}"));
        let hits = self.hits.iter().filter(|hits| **hits > 0).map(|hits| format!("{hits} knocks got in"));
        let idle = self.knocks.iter().filter(|knocks| **knocks == 0);
        bad.chain(hits).chain(idle.map(|_| "an attacker was not at work".to_owned())).collect()
    }
}
