//! `cargo xtask fuzz`: any bytes through the parsers and the hooks.

use std::process::ExitCode;

use anyhow::Result;

use crate::{build, command, layout::Layout};

/// Feed mutated packets to the parsers and the hooks
///
/// Needs neither root nor a special compiler. What does something new is added to netd-common/tests/fuzz/corpus, what fails is written there and
/// named; commit both.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// headers4, headers6, quote4, quote6, hooks4, hooks6; every one of them if not given
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// What the mutations are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs `cargo xtask fuzz`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut fuzz = build::cargo(&Layout::find());
    fuzz.args(["test", "--locked", "--package", "netd-common", "--features", "fake", "--test", "fuzz"]);
    fuzz.args(["--profile", "fuzz", "--", "--ignored", "--nocapture", "--exact", "fuzz"]);
    fuzz.env("NETD_FUZZ_TARGET", args.target.clone().unwrap_or_default());
    fuzz.env("NETD_FUZZ_SECONDS", args.seconds.to_string()).env("NETD_FUZZ_SEED", args.seed.to_string());
    let status = command::status(&mut fuzz)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
