//! `cargo xtask oracle`: as many packet sequences through netd and the kernel's own NAT as wanted.

use std::process::ExitCode;

use anyhow::Result;

use crate::{command, layout::Layout, test};

/// Compare netd with the kernel's NAT under Docker's rules
///
/// Sends generated packet sequences through both and compares what arrives. A difference that is not in the list of intended ones
/// (tests/tests/oracle/intended.rs) is shrunk, printed and fails.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many sequences; 100,000 take about a minute
    #[arg(long, default_value_t = 100_000)]
    sequences: u64,
    /// What they are generated from; one seed, one list of sequences
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of the first sequence
    #[arg(long, default_value_t = 0)]
    first: u64,
}

/// Runs `cargo xtask oracle`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut test = test::prepare(&Layout::find())?;
    test.args(["--package", "netd-tests", "--test", "oracle", "netd_delivers", "--", "--nocapture"]);
    for (name, value) in [("SEQUENCES", args.sequences), ("SEED", args.seed), ("FIRST", args.first)] {
        test.env(format!("NETD_ORACLE_{name}"), value.to_string());
    }
    let status = command::status(&mut test)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
