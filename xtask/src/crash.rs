//! `cargo xtask crash`: the daemon is killed at every system call of its operations, or the calls fail.

use std::process::ExitCode;

use anyhow::Result;
use clap::builder::PossibleValuesParser;

use crate::{command, layout::Layout, test};

/// Break operations off at their system calls, and look whether anything is lost or left
///
/// At each call that changes something the daemon is killed, started again, and compared with what must be; then the same command is
/// given again, and all of it taken back. With --errno the call fails instead; with --twice the start that follows is killed as well.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Every call, and not a spread sample
    #[arg(long)]
    all: bool,
    /// Only this one
    #[arg(long, value_parser = PossibleValuesParser::new(OPERATIONS))]
    operation: Option<String>,
    /// Let calls fail with this error, such as ENOSPC; "any": with each one that they can meet
    #[arg(long)]
    errno: Option<String>,
    /// Kill the start after the kill too, at so many of its calls for each of the operation's
    #[arg(long, value_name = "CALLS", num_args = 0..=1, default_missing_value = "3", conflicts_with = "errno")]
    twice: Option<usize>,
    /// Calls of each operation that are tried
    #[arg(long, default_value_t = 10, conflicts_with = "all")]
    points: usize,
}

/// Every operation, in the order in which it is tried.
const OPERATIONS: [&str; 14] = [
    "network-create",
    "network-rm",
    "sandbox-create",
    "sandbox-rm",
    "connect",
    "disconnect",
    "disconnect-gateway",
    "publish",
    "unpublish",
    "run",
    "start",
    "first-start",
    "down",
    "down-alone",
];

/// Runs `cargo xtask crash`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let wanted = |name: &&&str| args.operation.as_ref().is_none_or(|asked| asked == **name);
    let mut outcome = ExitCode::SUCCESS;
    for operation in OPERATIONS.iter().filter(wanted) {
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
        test.env("NETD_CRASH_OPERATION", operation);
        test.env("NETD_CRASH_POINTS", if args.all { "all".to_owned() } else { args.points.to_string() });
        test.env("NETD_CRASH_SECONDS", args.twice.unwrap_or_default().to_string());
        test.env("NETD_CRASH_ERRNO", args.errno.clone().unwrap_or_default());
        if !command::status(&mut test)?.success() {
            outcome = ExitCode::FAILURE;
        }
    }
    Ok(outcome)
}
