//! `cargo xtask bench quick`: connections per second through a published port.

use std::{path::Path, time::Duration};

use anyhow::Result;

use super::race::{Contender, Race};
use crate::stage::{Stage, cable::World, daemon::Daemon, netns::Netns};

/// How long to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds of every contender, interleaved
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Length of a round in milliseconds
    #[arg(long, default_value_t = 500)]
    round_ms: u64,
    /// Ports published beside the one measured, on netd's side
    #[arg(long, default_value_t = 0)]
    more_ports: u16,
}

/// Runs the benchmark and prints its table.
pub fn run(args: &Args, netd: &Path, stage: &Stage) -> Result<()> {
    let world = World::around(Netns::here())?;
    let daemon = Daemon::start(netd, stage)?;
    daemon.run(&["network", "create", "front"])?;
    daemon.run(&["sandbox", "create", "--network", "front", "web"])?;
    if let Some(last) = args.more_ports.checked_sub(1) {
        let range = format!("20000-{}", 20000_u16.saturating_add(last));
        daemon.run(&["publish", "web", &format!("{range}:{range}")])?;
    }
    let mut race = Race::default();
    race.enter(Contender::netd(&daemon, "web", &world)?);
    race.enter(Contender::host(&world)?);
    if let Some(twin) = Contender::iptables()? {
        race.enter(twin);
    }
    let results = race.run(args.rounds, Duration::from_millis(args.round_ms))?;
    println!(
        "Connections per second through a published port; median of {} rounds (lowest to highest)",
        args.rounds
    );
    print!("{}", results.table());
    match results.ratio("netd", "iptables") {
        Some(ratio) => println!("netd / iptables: {ratio:.2}"),
        None => println!("iptables is not installed: nothing to compare with"),
    }
    daemon.run(&["down"])?;
    Ok(())
}
