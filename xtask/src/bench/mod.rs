//! `cargo xtask bench`: what netd costs, on a stage of its own.

mod control;
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
}

/// Runs `cargo xtask bench`.
pub fn run(args: &Args) -> Result<ExitCode> {
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
    }
    Ok(ExitCode::SUCCESS)
}
