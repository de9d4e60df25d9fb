//! Which races a run consists of: who, in what, how often, how long.

use serde::Serialize;

use super::{
    Args,
    field::{self, docker_proxy, redirect},
    machine::Machine,
    plan::{Contender, Family, Setting, Way, Workload},
    results::{Discipline, Runner},
};
use crate::layout::Layout;

/// Everything a run measures.
#[derive(Debug, Serialize)]
pub struct Programme {
    /// Rounds that count.
    pub rounds: usize,
    /// Length of a measurement.
    pub seconds: f64,
    /// In this order.
    pub races: Vec<Race>,
    /// What is left out, and why.
    pub notes: Vec<String>,
}

/// Fields that stand side by side and take turns.
#[derive(Debug, Serialize)]
pub struct Race {
    /// What tables are called.
    pub title: String,
    /// The one that compares contenders; others compare settings.
    pub main: bool,
    /// Who takes part.
    pub runners: Vec<Runner>,
    /// In what.
    pub disciplines: Vec<Discipline>,
}

const ALL: [Contender; 12] = [
    Contender::Host,
    Contender::Redirect,
    Contender::Route,
    Contender::IptablesLegacy,
    Contender::IptablesNft,
    Contender::DockerNft,
    Contender::Netavark,
    Contender::DockerProxy,
    Contender::Netd,
    Contender::NetdNetkit,
    Contender::NetdClsact,
    Contender::NetdInternal,
];
const PLAIN: [Workload; 4] = [Workload::Stream, Workload::Rr, Workload::Connect, Workload::Udp];
const EVERY: [Workload; 5] =
    [Workload::Stream, Workload::Rr, Workload::Connect, Workload::Udp, Workload::Latency];

impl Programme {
    /// Decides what to measure.
    pub fn of(args: &Args, machine: &Machine, layout: &Layout) -> Self {
        let (rounds, seconds) = match (args.quick, args.full) {
            (true, _) => (3, 0.3),
            (_, true) => (9, 1.0),
            _ => (5, 0.4),
        };
        let mut notes = Vec::new();
        let contenders = contenders(args, machine, layout, &mut notes);
        let mut races = Vec::new();
        for (title, chosen, disciplines) in main(args, &contenders) {
            let mut disciplines = disciplines;
            disciplines.retain(|discipline| machine.has("iperf3") || !needs_iperf(discipline.workload));
            if !disciplines.is_empty() {
                let runners = chosen.iter().map(|contender| least(*contender)).collect();
                races.push(Race { title, main: true, runners, disciplines });
            }
        }
        races.extend(scales(args, &contenders));
        if !machine.has("iperf3") {
            notes.push("iperf3 is not installed: no streams, no latency under load".to_owned());
        }
        Self { rounds: args.rounds.unwrap_or(rounds), seconds: args.seconds.unwrap_or(seconds), races, notes }
    }

    /// How many measurements that is, warm-up included.
    pub fn measurements(&self) -> usize {
        let of = |race: &Race| race.runners.len() * race.disciplines.len();
        self.races.iter().map(of).sum::<usize>() * (self.rounds + 1)
    }
}

fn needs_iperf(workload: Workload) -> bool {
    matches!(workload, Workload::Stream | Workload::Latency)
}

fn least(contender: Contender) -> Runner {
    Runner { contender, setting: Setting::LEAST }
}

/// Those that were asked for and can run here, with the limits that others are compared with.
fn contenders(args: &Args, machine: &Machine, layout: &Layout, notes: &mut Vec<String>) -> Vec<Contender> {
    let quick = [Contender::IptablesNft, Contender::Netd];
    let wanted = |contender: &Contender| match contender {
        Contender::Host => true,
        // The limit of paths that begin in the host.
        Contender::Route => {
            args.contenders.is_empty() && !args.quick
                || args.contenders.contains(contender)
                || args.ways.iter().any(|way| way.reference() == Contender::Route)
        }
        other if !args.contenders.is_empty() => args.contenders.contains(other),
        Contender::NetdNetkit | Contender::NetdClsact | Contender::NetdInternal => false,
        other => !args.quick || quick.contains(other),
    };
    let mut runs = |contender: &Contender| {
        let needs = match contender {
            Contender::NetdNetkit if field::has_netkit() => return true,
            Contender::NetdNetkit => "netkit in the kernel",
            Contender::Redirect if redirect::is_built(layout) => return true,
            Contender::Redirect => "what `cargo xtask bench` builds for it",
            Contender::IptablesLegacy => "iptables-legacy-restore",
            Contender::IptablesNft => "iptables-nft-restore",
            Contender::DockerNft | Contender::Netavark => "nft",
            Contender::DockerProxy => docker_proxy::PROGRAM,
            _ => return true,
        };
        let there = machine.has(needs);
        if !there {
            notes.push(format!("{contender}: skipped, because {needs} is not installed"));
        }
        there
    };
    ALL.into_iter().filter(wanted).filter(|contender| runs(contender)).collect()
}

/// The races between contenders, a family each.
fn main(args: &Args, contenders: &[Contender]) -> Vec<(String, Vec<Contender>, Vec<Discipline>)> {
    let chosen = !args.ways.is_empty() || !args.workloads.is_empty() || !args.families.is_empty();
    let mut races = Vec::new();
    for family in [Family::V4, Family::V6] {
        let asked = args.families.contains(&family)
            || args.families.is_empty() && (args.full || family == Family::V4);
        // A default run looks at IPv6 with fewer contenders and on fewer paths.
        let short = !asked && args.families.is_empty() && !chosen && !args.quick;
        if !asked && !short {
            continue;
        }
        let disciplines = disciplines(args, family, short);
        let few = [Contender::Host, Contender::Redirect, Contender::IptablesNft, Contender::Netd];
        let runners = contenders.iter().copied().filter(|c| !short || few.contains(c)).collect();
        races.push((family.title().to_owned(), runners, disciplines));
    }
    races
}

fn disciplines(args: &Args, family: Family, short: bool) -> Vec<Discipline> {
    let mut all = Vec::new();
    for way in [Way::Published, Way::Egress, Way::Sandbox, Way::Loopback, Way::Hairpin, Way::Direct] {
        for workload in EVERY {
            let wanted_way = match (&args.ways[..], args.quick, args.full) {
                ([], true, _) => matches!(way, Way::Published | Way::Egress),
                ([], _, true) => true,
                ([], ..) if short => matches!(way, Way::Published | Way::Egress | Way::Sandbox),
                ([], ..) => way != Way::Direct,
                (ways, ..) => ways.contains(&way),
            };
            let wanted_workload = match &args.workloads[..] {
                [] if args.full => true,
                [] => {
                    PLAIN.contains(&workload)
                        && (way != Way::Hairpin || !args.ways.is_empty() || !needs_iperf(workload))
                        || workload == Workload::Latency && way == Way::Published && !short && !args.quick
                }
                workloads => workloads.contains(&workload),
            };
            if wanted_way && wanted_workload {
                all.push(Discipline { family, way, workload });
            }
        }
    }
    all
}

/// The races between settings: the same contenders with 1 and with many ports, networks, flows.
fn scales(args: &Args, contenders: &[Contender]) -> Vec<Race> {
    let pick = |given: &[u32], full: &[u32], usual: &[u32]| match (given, args.full) {
        ([], true) => full.to_vec(),
        ([], false) if args.is_usual() => usual.to_vec(),
        (given, _) => given.to_vec(),
    };
    let least = Setting::LEAST;
    let ports = pick(&args.ports, &[1_000, 60_000], &[1_000]);
    let networks = pick(&args.networks, &[10, 100, 500], &[]);
    let flows = pick(&args.flows, &[10, 100_000, 1_000_000], &[]);
    let lists: [(&str, Vec<Setting>); 3] = [
        ("published ports", ports.into_iter().map(|ports| Setting { ports, ..least }).collect()),
        ("networks", networks.into_iter().map(|networks| Setting { networks, ..least }).collect()),
        ("live flows", flows.into_iter().map(|flows| Setting { flows, ..least }).collect()),
    ];
    let mut races = Vec::new();
    for (what, settings) in lists.into_iter().filter(|(_, settings)| !settings.is_empty()) {
        for family in asked(&args.families, args.full, Family::V4, &[Family::V4, Family::V6]) {
            races.push(Race {
                title: format!("{}, many {what}", family.title()),
                main: false,
                runners: runners(contenders, &settings),
                disciplines: scaled(args, family),
            });
        }
    }
    races
}

/// What many of something may slow down.
fn scaled(args: &Args, family: Family) -> Vec<Discipline> {
    let workloads = [Workload::Rr, Workload::Connect, Workload::Udp];
    let given = |workload: &Workload| args.workloads.is_empty() || args.workloads.contains(workload);
    asked(&args.ways, args.full, Way::Published, &[Way::Published, Way::Egress])
        .into_iter()
        .flat_map(|way| {
            let workloads = workloads.iter().filter(|workload| given(workload));
            workloads.map(move |workload| Discipline { family, way, workload: *workload })
        })
        .collect()
}

/// What was asked for; else all of it in a full run, and one in others.
fn asked<T: Copy>(given: &[T], full: bool, usual: T, all: &[T]) -> Vec<T> {
    match given {
        [] if full => all.to_vec(),
        [] => vec![usual],
        given => given.to_vec(),
    }
}

fn runners(contenders: &[Contender], settings: &[Setting]) -> Vec<Runner> {
    let without = [Contender::Host, Contender::Route, Contender::DockerProxy, Contender::Redirect];
    let mut runners = vec![least(Contender::Host)];
    for contender in contenders.iter().filter(|contender| !without.contains(contender)) {
        runners.push(least(*contender));
        runners.extend(settings.iter().map(|setting| Runner { contender: *contender, setting: *setting }));
    }
    runners
}
