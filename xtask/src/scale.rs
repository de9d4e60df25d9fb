//! `cargo xtask scale`: how much netd carries, and what it takes for it.

use std::process::ExitCode;

use anyhow::Result;

use crate::{command, layout::Layout, test};

/// Fill netd up to its limits, and print what it took
///
/// A million flows, a thousand networks, a bridge with every port it can have, 60,000 published ports. Takes some minutes, and two gigabytes of memory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the tests whose name has this in it, such as `million`
    filter: Option<String>,
}

/// Runs `cargo xtask scale`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut test = test::prepare(&Layout::find())?;
    test.args(["--quiet", "--package", "netd-tests", "--test", "scale"]);
    test.args(&args.filter);
    test.args(["--", "--include-ignored", "--nocapture", "--test-threads", "1"]);
    Ok(if command::status(&mut test)?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
