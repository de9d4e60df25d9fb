//! `cargo xtask crash`: the daemon is killed at every system call of its operations, or the calls fail.

use std::process::ExitCode;

use crate::{command, layout::Layout, test};
use anyhow::Result;

/// Break operations off at their system calls, and look whether anything is lost or left
///
/// At each call that changes something the daemon is killed, started again, and compared with what must be; then the same command is
/// given again, and all of it taken back. With --errno the call fails instead; with --twice the start that follows is killed as well.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Every call, and not a spread sample
    #[arg(long)]
    all: bool,
    /// Every call from this one to that one, to go through many in parts
    #[arg(long, value_name = "FIRST-LAST", conflicts_with = "all")]
    range: Option<String>,
    /// Only this one of the operations, which `tests/src/crash/operation.rs` names
    #[arg(long, default_value = "all")]
    operation: String,
    /// Let calls fail with this error, such as ENOSPC; "any": with each one that they can meet
    #[arg(long)]
    errno: Option<String>,
    /// Kill the start after the kill too, at so many of its calls for each of the operation's
    #[arg(long, value_name = "CALLS", num_args = 0..=1, default_missing_value = "3", conflicts_with = "errno")]
    twice: Option<usize>,
    /// Calls of each operation that are tried
    #[arg(long, default_value_t = 10, conflicts_with_all = ["all", "range"])]
    points: usize,
}

/// Runs `cargo xtask crash`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut test = test::prepare(&Layout::find())?;
    let name = if args.errno.is_some() {
        "a_call_that_fails_fails_one_operation_and_leaves_nothing"
    } else if args.twice.is_some() {
        "a_second_kill_in_the_start_after_the_first_leaves_nothing_either"
    } else {
        "operations_on_ports_survive_being_killed"
    };
    test.args([
        "--quiet",
        "--package",
        "netd-tests",
        "--test",
        "crash",
        name,
        "--",
        "--include-ignored",
        "--nocapture",
    ]);
    let points = if args.all { "all".to_owned() } else { args.points.to_string() };
    test.env("NETD_CRASH_OPERATION", &args.operation);
    test.env("NETD_CRASH_POINTS", args.range.clone().unwrap_or(points));
    test.env("NETD_CRASH_SECONDS", args.twice.unwrap_or_default().to_string());
    test.env("NETD_CRASH_ERRNO", args.errno.clone().unwrap_or_default());
    Ok(if command::status(&mut test)?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
