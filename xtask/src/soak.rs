//! `cargo xtask soak`: churn, kills, probes and attackers for minutes, and everything counted.

use std::{
    fs,
    process::{ExitCode, Stdio},
    time::SystemTime,
};

use anyhow::{Context, Result};

use crate::{command, layout::Layout, test, ui};

/// Let networks, sandboxes, ports and jobs come and go while the daemon is killed and stopped at random
///
/// Stamped probes and attackers work all the time. After each cycle everything is as it was: kernel objects, maps, programs, links,
/// mounts, files, descriptors; in the last third of the time the daemon lives on, and its memory must not grow.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// What all that happens comes from
    #[arg(long)]
    seed: Option<u64>,
    /// Instead: only so many starts, each killed at a random moment, under the same probes and attackers
    #[arg(long, value_name = "STARTS")]
    restarts: Option<u32>,
    /// The seconds that these take together
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "restarts")]
    within: u32,
    /// What goes to stdout in the end; cycles are told on stderr as they come
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Nothing more
    Table,
    /// Every cycle and the summary, as in target/soak.json
    Json,
}

/// Runs `cargo xtask soak`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let layout = Layout::find();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = args.seed.unwrap_or(u64::from(now.subsec_nanos()));
    let mut test = test::prepare(&layout)?;
    if let Some(restarts) = args.restarts {
        let name = "f3_a_hundred_restarts_in_a_minute_lose_nothing_and_let_nobody_in";
        test.args(["--quiet", "--package", "netd-tests", "--test", "hitless", name]);
        test.args(["--", "--include-ignored", "--nocapture"]);
        test.env("NETD_RESTARTS", restarts.to_string()).env("NETD_RESTARTS_WITHIN", args.within.to_string());
        test.env("NETD_SOAK_SEED", seed.to_string());
        ui::note(&format!("{restarts} starts within {} s, seed {seed}", args.within));
        return Ok(if command::status(&mut test)?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let report = layout.target().join("soak.json");
    test.args([
        "--quiet",
        "--package",
        "netd-tests",
        "--test",
        "soak",
        "--",
        "--include-ignored",
        "--nocapture",
    ]);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "minutes of a person")]
    test.env("NETD_SOAK_SECONDS", ((args.minutes * 60.0) as u64).to_string());
    test.env("NETD_SOAK_SEED", seed.to_string()).env("NETD_SOAK_REPORT", &report);
    if args.format == Format::Json {
        test.stdout(Stdio::null());
    }
    ui::note(&format!("{} minutes, seed {seed}", args.minutes));
    let status = command::status(&mut test)?;
    if args.format == Format::Json {
        print!("{}", fs::read_to_string(&report).with_context(|| format!("read {}", report.display()))?);
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
