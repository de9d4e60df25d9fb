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
    let report = layout.target().join("soak.json");
    let mut test = test::prepare(&layout)?;
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
