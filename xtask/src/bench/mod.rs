//! `cargo xtask bench`: what netd costs, on a stage of its own.

mod control;
mod docker;
mod path;
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

/// Measure netd: without a subcommand, every path beside the other ways to build it (`bench path`)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Option<Bench>,
    #[command(flatten)]
    path: path::Args,
    /// Skip the build, because the caller did it
    #[arg(long, hide = true, global = true)]
    built: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// Every path and workload, beside host networking, iptables, nftables and docker-proxy
    Path(path::Args),
    /// Creating networks and sandboxes, publishing ports, the daemon's memory
    Control(control::Args),
    /// Connections through a published port, beside iptables and host networking
    Quick(quick::Args),
    /// Nanoseconds per packet of each program for each kind of packet, instructions and stack, beside what is committed
    Program(program::Args),
}

impl Args {
    fn wants_docker(&self) -> bool {
        match &self.bench {
            None => self.path.docker,
            Some(Bench::Path(args)) => args.docker,
            Some(Bench::Control(args)) => args.docker,
            Some(_) => false,
        }
    }
}

/// Runs `cargo xtask bench`.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(Bench::Program(args)) = &args.bench {
        return program::run(args); // it has no stage: nothing is sent
    }
    let layout = Layout::find();
    let Some(stage) = Stage::enter()? else {
        if !args.built {
            build::netd(&layout, true)?;
            if matches!(args.bench, None | Some(Bench::Path(_))) {
                path::install()?;
                path::build(&layout)?;
            }
            if args.wants_docker() {
                docker::unpack(&layout)?;
            }
        }
        return stage::raise();
    };
    let netd = layout.netd(true);
    match &args.bench {
        None => return path::run(&args.path, &netd, &stage, &layout),
        Some(Bench::Path(args)) => return path::run(args, &netd, &stage, &layout),
        Some(Bench::Control(args)) => control::run(args, &netd, &stage, &layout)?,
        Some(Bench::Quick(args)) => quick::run(args, &netd, &stage)?,
        Some(Bench::Program(_)) => {}
    }
    Ok(ExitCode::SUCCESS)
}
