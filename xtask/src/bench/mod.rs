//! `cargo xtask bench`: what netd costs, on a stage of its own.

mod control;
pub mod program;
mod quick;
pub mod race;
mod statistics;

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    build,
    layout::Layout,
    stage::{self, Stage},
};

/// Measure netd
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
    /// Skip the build, because the caller did it
    #[arg(long, hide = true, global = true)]
    built: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// Creating networks and sandboxes, publishing ports, the daemon's memory
    Control(control::Args),
    /// Connections through a published port, beside iptables and host networking
    Quick(quick::Args),
    /// Nanoseconds per packet of each program for each kind of packet, instructions and stack, beside what is committed
    Program(program::Args),
}

/// Runs `cargo xtask bench`.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Bench::Program(args) = &args.bench {
        return program::run(args); // it has no stage: nothing is sent
    }
    let layout = Layout::find();
    let Some(stage) = Stage::enter()? else {
        if !args.built {
            build::netd(&layout, true)?;
        }
        return stage::raise();
    };
    let netd = layout.netd(true);
    match &args.bench {
        Bench::Control(args) => control::run(args, &netd, &stage)?,
        Bench::Quick(args) => quick::run(args, &netd, &stage)?,
        Bench::Program(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}
