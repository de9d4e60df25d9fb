//! `cargo xtask ci`: everything that must hold before a change is merged.

mod arrows;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{
    bench, build, command,
    layout::Layout,
    test,
    ui::{self, Task},
};

/// Check format, lints, imports and dependencies, then run the quickstart and every test
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop after the checks that need neither root nor the kernel
    #[arg(long)]
    checks_only: bool,
}

/// Runs `cargo xtask ci`. The tests come last, so that the output ends in their summary.
pub fn run(args: &Args) -> Result<ExitCode> {
    let layout = Layout::find();
    build::ebpf_object(&layout)?;
    // All of them, so that one run shows everything there is to mend.
    let failed: Vec<anyhow::Error> =
        [format, imports, dependencies, lints].iter().filter_map(|check| check(&layout).err()).collect();
    if !failed.is_empty() {
        failed.iter().for_each(ui::error);
        return Ok(ExitCode::FAILURE);
    }
    if args.checks_only {
        return Ok(ExitCode::SUCCESS);
    }
    quickstart()?;
    bench::program::run(&bench::program::Args::glance())?;
    test::run(&test::Args::everything())
}

fn format(layout: &Layout) -> Result<()> {
    let task = Task::start("format (cargo fmt --check)");
    for dir in [layout.root().to_path_buf(), layout.ebpf()] {
        command::run_quietly(
            &task,
            build::cargo(layout).current_dir(dir).args(["fmt", "--all", "--check", "--", "-l"]),
        )?;
    }
    task.done();
    Ok(())
}

fn lints(layout: &Layout) -> Result<()> {
    let task = Task::start("lints (cargo clippy, warnings denied)");
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    command::run_quietly(&task, build::cargo(layout).args(args))?;
    task.done();
    Ok(())
}

fn imports(layout: &Layout) -> Result<()> {
    let task = Task::start("imports (who may know whom)");
    let broken = arrows::check(layout.root())?;
    if !broken.is_empty() {
        bail!("an arrow runs where none may (see xtask/src/ci/arrows.rs):\n{}", broken.join("\n"));
    }
    task.done();
    Ok(())
}

fn dependencies(layout: &Layout) -> Result<()> {
    if command::find("cargo-deny", &[build::cargo_bin()]).is_none() {
        ui::note("- dependencies: cargo-deny is not installed (cargo install cargo-deny), skipped");
        return Ok(());
    }
    let config = layout.root().join("deny.toml");
    let deny = |dir: PathBuf, checks: &[&str]| {
        let mut deny = build::cargo(layout);
        deny.current_dir(dir).args(["deny", "--config"]).arg(&config).arg("check").args(checks);
        deny
    };
    let task = Task::start("dependencies (cargo deny)");
    for dir in [layout.root().to_path_buf(), layout.ebpf()] {
        command::run_quietly(&task, &mut deny(dir, &["bans", "licenses", "sources"]))?;
    }
    match command::run_quietly(&task, &mut deny(layout.root().to_path_buf(), &["advisories"])) {
        Err(error) if format!("{error:#}").contains("failed to fetch advisory database") => {
            ui::note("- advisories: the database cannot be fetched from here, skipped");
        }
        outcome => outcome?,
    }
    task.done();
    Ok(())
}

/// As a process of its own, because it leaves this one's namespaces.
fn quickstart() -> Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    command::run(Command::new(program).arg("quickstart"))
}
