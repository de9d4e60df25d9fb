//! `cargo xtask bench path`: every path a packet takes, every workload, netd beside the others.

mod awake;
mod chart;
mod check;
mod field;
mod machine;
mod measure;
mod plan;
mod programme;
mod report;
mod results;
mod ticks;
mod turns;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{layout::Layout, stage::Stage, ui};
use awake::Awake;
use field::Kit;
use machine::Machine;
use plan::{Contender, Family, Way, Workload};
use programme::Programme;
use results::Results;
use ticks::Ticks;
use turns::Turns;

pub use field::redirect::compile as build;
pub use machine::install;

/// What to measure, and how long.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// Only this path; may be repeated
    #[arg(long = "path", value_enum, value_name = "PATH")]
    ways: Vec<Way>,
    /// Only this workload; may be repeated
    #[arg(long = "workload", value_enum)]
    workloads: Vec<Workload>,
    /// Only this contender, besides the limit; may be repeated
    #[arg(long = "peer", value_enum)]
    contenders: Vec<Contender>,
    /// Only this family
    #[arg(long = "family", value_enum)]
    families: Vec<Family>,
    /// Rounds of every contender, interleaved, after one that does not count
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of a measurement; iperf3 rounds it up to whole seconds
    #[arg(long)]
    seconds: Option<f64>,
    /// A minute: netd, iptables-nft and the limit, two paths, three rounds
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Everything, both families, all settings: hours rather than minutes
    #[arg(long)]
    full: bool,
    /// Also with so many published ports, such as 1000,60000
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=60_000))]
    ports: Vec<u32>,
    /// Also with so many networks, at most 500
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=500))]
    networks: Vec<u32>,
    /// Also with so many live flows of other clients, at most 1000000
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    flows: Vec<u32>,
    /// Where Docker is not installed: fetch Debian's packages and unpack them below target/, for docker-proxy (65 MB)
    #[arg(long)]
    pub docker: bool,
    /// Compare with the project's bars
    #[arg(long)]
    check: bool,
    /// With --check: fail when a bar is missed
    #[arg(long, requires = "check")]
    strict: bool,
}

impl Args {
    /// Whether nothing was asked for in particular.
    fn is_usual(&self) -> bool {
        let Self { ways, workloads, contenders, families, ports, networks, flows, .. } = self;
        let lists = [ports, networks, flows];
        ways.is_empty()
            && workloads.is_empty()
            && contenders.is_empty()
            && families.is_empty()
            && lists.iter().all(|list| list.is_empty())
            && !self.quick
    }
}

/// Runs the benchmark; fails where something could not be measured at all: prints tables, writes `target/bench/path.json` and `path.svg`.
pub fn run(args: &Args, netd: &Path, stage: &Stage, layout: &Layout) -> Result<ExitCode> {
    let awake = Awake::please();
    let machine = Machine::look(netd, layout, awake.is_ok());
    println!("{machine}");
    if let Err(error) = &awake {
        ui::note(&format!(
            "processors sleep between two packets ({error}): requests and connections will scatter"
        ));
    }
    let programme = Programme::of(args, &machine, layout);
    for line in programme.notes.iter().chain(&ticks::busy()) {
        ui::note(line);
    }
    let started = Ticks::now();
    let kit = Kit { netd, stage, layout, iperf: machine.has("iperf3") };
    let mut results = Results::default();
    let bar = progress(programme.measurements());
    for race in &programme.races {
        let turns = Turns { rounds: programme.rounds, seconds: programme.seconds, bar: &bar };
        turns.run(race, kit, &mut results)?;
        bar.suspend(|| print!("{}", report::tables(race, &results)));
    }
    bar.finish_and_clear();
    for line in results.failures.iter().chain(&started.stolen_until(Ticks::now())) {
        ui::note(line);
    }
    let dir = layout.target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let json = serde_json::json!({ "machine": machine, "programme": programme, "results": results });
    let text = serde_json::to_string_pretty(&json).context("write JSON")?;
    fs::write(dir.join("path.json"), text).context("write path.json")?;
    fs::write(dir.join("path.svg"), chart::draw(&results, &machine)).context("write path.svg")?;
    println!("{} and path.svg beside it", dir.join("path.json").display());
    let mut missed = false;
    if args.check {
        let (text, reached) = check::compare(&results);
        print!("{text}");
        missed = !reached;
    }
    Ok(if missed && args.strict || !results.whole() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn progress(measurements: usize) -> ProgressBar {
    let bar = ProgressBar::new(measurements as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30.cyan} {pos}/{len} {eta} {msg:.dim}") {
        bar.set_style(style);
    }
    bar
}
