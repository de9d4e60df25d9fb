//! `cargo xtask bench control`: what a person waits for, seen from the command line.

mod dockerd;
mod many;

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::statistics::Samples;
use crate::{
    layout::Layout,
    stage::{Stage, cable::World, daemon::Daemon, netns::Netns},
    ui::{self, Task},
};
use dockerd::{Dockerd, IMAGE};
use many::{Many, Networks, Range};

/// How often to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each operation is done
    #[arg(long, default_value_t = 50)]
    times: usize,
    /// Sandboxes that exist while the daemon's memory is read
    #[arg(long, default_value_t = 100)]
    sandboxes: usize,
    /// Create, list, restart with and delete so many sandboxes, at most 10000; `--objects ''` skips it
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    objects: Vec<String>,
    /// Create, restart with and delete so many networks, at most 4000; `--networks ''` skips it
    #[arg(long, value_delimiter = ',', default_value = "100,500,1000")]
    networks: Vec<String>,
    /// Publish so many ports as one range
    #[arg(long, default_value_t = 60_000)]
    range: u16,
    /// How often dockerd does the same; 0 leaves it out
    #[arg(long, default_value_t = 10)]
    docker_times: usize,
    /// Where Docker is not installed: fetch Debian's packages and unpack them below target/ (65 MB)
    #[arg(long)]
    pub docker: bool,
}

/// Everything that was measured, for `target/bench/control.json`.
#[derive(Debug, Default, Serialize)]
struct Figures {
    operations: Vec<Operation>,
    many: Vec<Many>,
    networks: Vec<Networks>,
    docker_version: Option<String>,
}

/// An operation's times in milliseconds, the whole command.
#[derive(Debug, Serialize)]
struct Operation {
    by: &'static str,
    what: String,
    median: f64,
    lowest: f64,
    highest: f64,
    /// Programs that the daemon ran for it.
    execs: Option<usize>,
}

/// Runs the benchmark, prints its tables, and writes `target/bench/control.json`.
pub fn run(args: &Args, netd: &Path, stage: &Stage, layout: &Layout) -> Result<()> {
    let _world = World::around(Netns::here())?;
    let mut daemon = Daemon::start(netd, stage)?;
    let mut figures = Figures::default();
    println!(
        "{:<52} {:>9}  {:>21}  bar",
        "operation (the whole netd command)", "median", "lowest to highest"
    );
    single(args, &daemon, &mut figures)?;
    memory(&daemon, args.sandboxes)?;
    let Range { publish, unpublish, grown_kib } = many::range(&daemon, "web", args.range)?;
    println!(
        "{:<52} {publish:>6.2} s   (unpublish: {unpublish:.2} s){}; the daemon grew by {:.1} MiB",
        format!("publish a range of {} ports", args.range),
        missed(publish, 2.0),
        mib(grown_kib)
    );
    objects(args, &mut daemon, &mut figures)?;
    networks(args, &mut daemon, &mut figures)?;
    daemon.run(&["down"])?;
    drop(daemon);
    beside_docker(args, stage, layout, &mut figures)?;
    let dir = layout.target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let text = serde_json::to_string_pretty(&figures).context("write JSON")?;
    fs::write(dir.join("control.json"), text).context("write control.json")
}

fn missed(seconds: f64, bar: f64) -> String {
    format!("  under {bar} s{}", if seconds < bar { "" } else { ": missed" })
}

/// One object at a time.
fn single(args: &Args, daemon: &Daemon, figures: &mut Figures) -> Result<()> {
    let mut row = |name: &str, bar: Option<f64>, r#do: &[&str], undo: Option<&[&str]>| {
        let run = |args: &[&str]| daemon.run(args).map(drop);
        let operation =
            Operation::measure("netd", name, args.times, || run(r#do), || undo.map_or(Ok(()), run))?;
        operation.print(bar);
        figures.operations.push(operation);
        anyhow::Ok(())
    };
    row("netd version (what starting the CLI costs)", None, &["version"], None)?;
    let (create, rm) = (["network", "create", "bench"], ["network", "rm", "bench"]);
    row("network create", Some(20.0), &create, Some(&rm))?;
    daemon.run(&["network", "create", "front"])?;
    let create = ["sandbox", "create", "--network", "front", "-p", "8080:80", "bench"];
    let rm = ["sandbox", "rm", "-f", "bench"];
    row("sandbox create with one published port", Some(30.0), &create, Some(&rm))?;
    let create =
        ["run", "-d", "--name", "bench", "--network", "front", "-p", "8080:80", "--", "sleep", "1000"];
    row("run -d with one published port", None, &create, Some(&rm))?;
    let ports = "20000-20099:20000-20099";
    let create = ["run", "-d", "--name", "bench", "--network", "front", "-p", ports, "--", "sleep", "1000"];
    row("run -d with a range of 100 published ports", None, &create, Some(&rm))?;
    daemon.run(&["sandbox", "create", "--network", "front", "web"])?;
    let range = "20000-20999:20000-20999";
    let (publish, unpublish) = (["publish", "web", range], ["unpublish", "web", range]);
    row("publish a range of 1,000 ports", Some(100.0), &publish, Some(&unpublish))
}

impl Operation {
    /// Measures `do` so many times, each time undone by `undo`.
    fn measure(
        by: &'static str,
        what: &str,
        times: usize,
        r#do: impl Fn() -> Result<()>,
        undo: impl Fn() -> Result<()>,
    ) -> Result<Self> {
        let mut samples = Samples::default();
        for _ in 0..times {
            let started = Instant::now();
            r#do()?;
            samples.push(started.elapsed().as_secs_f64() * 1e3);
            undo()?;
        }
        let (lowest, highest) = samples.range();
        Ok(Self { by, what: what.to_owned(), median: samples.median(), lowest, highest, execs: None })
    }

    /// Prints a row; `bar` in milliseconds.
    fn print(&self, bar: Option<f64>) {
        let Self { what, median, lowest, highest, .. } = self;
        let bar = bar.map(|bar| format!("under {bar:.0} ms{}", if *median < bar { "" } else { ": missed" }));
        let spread = format!("{lowest:.1} to {highest:.1} ms");
        let execs = self.execs.map(|execs| format!("runs {execs} programs"));
        let note = bar.or(execs).unwrap_or_default();
        println!("{what:<52} {median:>6.1} ms  {spread:>21}  {note}");
    }
}

/// Many at once.
fn objects(args: &Args, daemon: &mut Daemon, figures: &mut Figures) -> Result<()> {
    let counts = counts(&args.objects).context("--objects")?;
    if counts.is_empty() {
        return Ok(());
    }
    println!(
        "\nsandboxes     create  ready again       list  one port more  10 % deleted     delete  daemon's memory each"
    );
    for count in counts {
        let task = Task::start(format!("{count} sandboxes"));
        let many = many::measure(daemon, count, |n| task.detail(&format!("{n} created")))?;
        task.done();
        let Many { create, ready_again, list, publish, reconcile, delete, kib_each, .. } = many;
        let bars = if count == 1000 {
            format!("{} to create,{} to be ready", missed(create, 20.0), missed(ready_again, 2.0))
        } else {
            String::new()
        };
        println!(
            "{count:>9} {create:>8.2} s  {ready_again:>9.2} s {list:>8.2} s {publish:>13.3} s {reconcile:>11.2} s {delete:>8.2} s  {kib_each:>12.1} KiB{bars}"
        );
        figures.many.push(many);
    }
    Ok(())
}

/// Many networks.
fn networks(args: &Args, daemon: &mut Daemon, figures: &mut Figures) -> Result<()> {
    let counts = counts(&args.networks).context("--networks")?;
    if counts.is_empty() {
        return Ok(());
    }
    println!("\n networks     create  ready again     delete  daemon's memory each");
    for count in counts {
        let task = Task::start(format!("{count} networks"));
        let networks = many::networks(daemon, count, |n| task.detail(&format!("{n} created")))?;
        task.done();
        let Networks { create, ready_again, delete, kib_each, .. } = networks;
        println!("{count:>9} {create:>8.2} s  {ready_again:>9.2} s {delete:>8.2} s  {kib_each:>12.1} KiB");
        figures.networks.push(networks);
    }
    Ok(())
}

/// Reads a list of numbers; an empty one has an empty text in it.
fn counts(texts: &[String]) -> Result<Vec<usize>, std::num::ParseIntError> {
    texts.iter().filter(|text| !text.is_empty()).map(|text| text.parse()).collect()
}

/// The same operations by a real dockerd: first for their times, then once traced, for the programs it runs.
fn beside_docker(args: &Args, stage: &Stage, layout: &Layout, figures: &mut Figures) -> Result<()> {
    if args.docker_times == 0 {
        return Ok(());
    }
    let Some(docker) = Dockerd::start(layout, stage, false)? else {
        ui::note(
            "dockerd is not installed: nothing to compare with (--docker unpacks Debian's below target/)",
        );
        return Ok(());
    };
    let version = docker.version()?;
    println!("\ndockerd {version} (the whole docker command; a bridge network, a busybox image)");
    docker.run(&["network", "create", "front"])?;
    let run = [
        "run",
        "-d",
        "--name",
        "bench",
        "--network",
        "front",
        "-p",
        "8080:80",
        IMAGE,
        "/busybox",
        "sleep",
        "1000",
    ];
    let many = [
        "run",
        "-d",
        "--name",
        "bench",
        "--network",
        "front",
        "-p",
        "20000-20099:20000-20099",
        IMAGE,
        "/busybox",
        "sleep",
        "1000",
    ];
    let rm = ["rm", "-f", "bench"];
    let rows: [(&str, &[&str], &[&str]); 3] = [
        ("network create", &["network", "create", "bench"], &["network", "rm", "bench"]),
        ("run -d with one published port", &run, &rm),
        ("run -d with a range of 100 published ports", &many, &rm),
    ];
    let mut operations = Vec::new();
    for (name, r#do, undo) in rows {
        let times = if name.contains("range") { args.docker_times.min(3) } else { args.docker_times };
        let run = |args: &[&str]| docker.run(args).map(drop);
        operations.push(Operation::measure("dockerd", name, times, || run(r#do), || run(undo))?);
    }
    drop(docker);
    let traced = Dockerd::start(layout, stage, true)?;
    if let Some(traced) = &traced {
        traced.run(&["network", "create", "front"])?;
        for (operation, (_, r#do, undo)) in operations.iter_mut().zip(rows) {
            let before = traced.execs();
            traced.run(r#do)?;
            operation.execs = before.zip(traced.execs()).map(|(before, after)| after - before);
            traced.run(undo)?;
        }
    }
    for operation in operations {
        operation.print(None);
        figures.operations.push(operation);
    }
    figures.docker_version = Some(version);
    Ok(())
}

fn memory(daemon: &Daemon, sandboxes: usize) -> Result<()> {
    const BAR_KIB: u64 = 30 * 1024;
    let before = daemon.resident_kib()?;
    for n in 0..sandboxes {
        daemon.run(&["sandbox", "create", "--network", "front", &format!("box{n}")])?;
    }
    let after = daemon.resident_kib()?;
    let missed = if after < BAR_KIB { "" } else { ": missed" };
    let name = format!("daemon's memory with {sandboxes} sandboxes");
    println!("{name:<52} {:>5.1} MiB  (before: {:.1} MiB)  under 30 MB{missed}", mib(after), mib(before));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a process's memory in KiB is far below 2^52")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
