//! `cargo xtask bench control`: what a person waits for, seen from the command line.

use std::{path::Path, time::Instant};

use anyhow::Result;

use super::statistics::Samples;
use crate::stage::{Stage, cable::World, daemon::Daemon, netns::Netns};

/// How often to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each operation is done
    #[arg(long, default_value_t = 50)]
    times: usize,
    /// Sandboxes that exist while the daemon's memory is read
    #[arg(long, default_value_t = 100)]
    sandboxes: usize,
}

/// Runs the benchmark and prints its table.
pub fn run(args: &Args, netd: &Path, stage: &Stage) -> Result<()> {
    let _world = World::around(Netns::here())?;
    let daemon = Daemon::start(netd, stage)?;
    let bench = Bench { daemon: &daemon, times: args.times };
    println!(
        "{:<44} {:>9}  {:>21}  bar",
        "operation (the whole netd command)", "median", "lowest to highest"
    );
    bench.row("netd version (what starting the CLI costs)", None, &["version"], None)?;
    bench.row(
        "network create",
        Some(20.0),
        &["network", "create", "bench"],
        Some(&["network", "rm", "bench"]),
    )?;
    daemon.run(&["network", "create", "front"])?;
    let create = ["sandbox", "create", "--network", "front", "-p", "8080:80", "bench"];
    bench.row(
        "sandbox create with one published port",
        Some(30.0),
        &create,
        Some(&["sandbox", "rm", "-f", "bench"]),
    )?;
    daemon.run(&["sandbox", "create", "--network", "front", "web"])?;
    let range = "20000-20999:20000-20999";
    let publish = ["publish", "web", range];
    bench.row("publish a range of 1,000 ports", Some(100.0), &publish, Some(&["unpublish", "web", range]))?;
    memory(&daemon, args.sandboxes)?;
    daemon.run(&["down"])?;
    Ok(())
}

struct Bench<'a> {
    daemon: &'a Daemon,
    times: usize,
}

impl Bench<'_> {
    /// Measures `netd DO`, each time undone by `netd UNDO`, and prints a row; `bar` in milliseconds.
    fn row(&self, name: &str, bar: Option<f64>, r#do: &[&str], undo: Option<&[&str]>) -> Result<()> {
        let mut samples = Samples::default();
        for _ in 0..self.times {
            let started = Instant::now();
            self.daemon.run(r#do)?;
            samples.push(started.elapsed().as_secs_f64() * 1e3);
            undo.map(|undo| self.daemon.run(undo)).transpose()?;
        }
        let (low, high) = samples.range();
        let median = samples.median();
        let bar = bar.map(|bar| format!("under {bar:.0} ms{}", if median < bar { "" } else { ": missed" }));
        let spread = format!("{low:.1} to {high:.1} ms");
        println!("{name:<44} {median:>6.1} ms  {spread:>21}  {}", bar.unwrap_or_default());
        Ok(())
    }
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
    println!("{name:<44} {:>5.1} MiB  (before: {:.1} MiB)  under 30 MB{missed}", mib(after), mib(before));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a process's memory in KiB is far below 2^52")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
