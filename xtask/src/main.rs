//! `cargo xtask`: builds, runs, tests and measures netd.

mod bench;
mod build;
mod ci;
mod command;
mod crash;
mod debian;
mod fuzz;
mod layout;
mod oracle;
mod peer;
mod quickstart;
mod scale;
mod soak;
mod stage;
mod test;
mod ui;
mod verify;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs, tests and measures netd.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Args),
    #[command(visible_alias = "run")]
    Quickstart(quickstart::Args),
    Test(test::Args),
    Verify(verify::Args),
    Oracle(oracle::Args),
    Fuzz(fuzz::Args),
    Crash(crash::Args),
    Scale(scale::Args),
    Soak(soak::Args),
    Bench(Box<bench::Args>),
    Vm(vm::Args),
    Ci(ci::Args),
    #[command(hide = true)]
    Peer(peer::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Build(args) => build::run(&args),
        Command::Quickstart(args) => quickstart::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Oracle(args) => oracle::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Crash(args) => crash::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Peer(args) => peer::run(args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            ui::error(&error);
            ExitCode::FAILURE
        }
    }
}
