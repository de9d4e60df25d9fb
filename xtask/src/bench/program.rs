//! `cargo xtask bench program`: what every program costs the verifier and each kind of packet, beside what is committed.

use std::process::ExitCode;

use anyhow::Result;

use crate::{command, layout::Layout, test, verify};

/// How long to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds over every kind of packet, interleaved
    #[arg(long, default_value_t = 25)]
    rounds: usize,
    /// Packets of each kind in each round
    #[arg(long, default_value_t = 400)]
    packets: u32,
    /// Only programs and kinds of packets whose name contains this, such as `IPv4 TCP to the outside`
    #[arg(long)]
    only: Option<String>,
    /// Write the times to netd-ebpf/times.json; instructions and stack are `cargo xtask verify --update`'s
    #[arg(long)]
    update: bool,
}

impl Args {
    /// A glance, for CI: the times there are read by people alone.
    pub fn glance() -> Self {
        Self { rounds: 5, packets: 200, only: None, update: false }
    }
}

/// Prints instructions and stack of every program, then nanoseconds per packet. Fails past the budget of the former, never on time.
pub fn run(args: &Args) -> Result<ExitCode> {
    let layout = Layout::find();
    let within = verify::check(&layout)?;
    println!();
    let mut bench = test::prepare(&layout)?;
    bench.args(["--quiet", "--package", "netd-tests", "--bench", "program", "--"]);
    bench.args(["--rounds", &args.rounds.to_string(), "--packets", &args.packets.to_string()]);
    bench.arg("--times").arg(layout.ebpf().join("times.json"));
    bench.args(args.update.then_some("--update"));
    if let Some(only) = &args.only {
        bench.args(["--only", only]);
    }
    let status = command::status(&mut bench)?;
    within?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
