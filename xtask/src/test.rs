//! `cargo xtask test`: set-up, then every test. The truth table comes last: its matrix of expected and seen, then the runner's summary.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail, ensure};

use crate::{build, command, debian, layout::Layout, ui};

/// What the namespace tests call, and the Debian package it comes in.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("setsid", "util-linux"),
    ("iptables", "iptables"),
    ("ip6tables", "iptables"),
    ("nft", "nftables"),
    ("tar", "tar"),
];
/// A firewall of the host's, which a test runs in its own namespaces; the packages it comes in.
const FIREWALLD: [(&str, &str); 2] = [("firewalld", "firewalld"), ("dbus-daemon", "dbus-daemon")];

/// Run every test, after setting up what they need
///
/// Unit and property tests, packet vectors through the kernel, and real traffic in network namespaces of their own. The
/// last two need root: without it, the tests are compiled as you and run through `sudo -E`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
    /// Arguments for the test binaries, such as --nocapture or --test-threads 1
    #[arg(last = true)]
    rest: Vec<String>,
}

impl Args {
    /// Every test, without a filter.
    pub fn everything() -> Self {
        Self { filter: None, rest: Vec::new() }
    }
}

/// Runs `cargo xtask test`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let layout = Layout::find();
    let tests = |what: &[&str]| {
        let mut tests = prepare(&layout)?;
        tests.arg("--no-fail-fast").args(what).args(&args.filter).arg("--").args(&args.rest);
        anyhow::Ok(tests)
    };
    let mut others = tests(&["--workspace"])?;
    others.env("NETD_TESTS_TABLE_LATER", "1");
    let mut table = tests(&["--package", "netd-tests", "--test", "truth_table"])?;
    let (others, table) = (command::status(&mut others)?, command::status(&mut table)?);
    if !others.success() {
        ui::note("Tests failed before the truth table: see above.");
    }
    Ok(if others.success() && table.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns `cargo test`, without arguments of its own yet, with what the tests need in place.
pub fn prepare(layout: &Layout) -> Result<Command> {
    install_programs()?;
    unpack_firewalld(layout)?;
    let netd = build::netd(layout, false)?;
    let mut tests = build::cargo(layout);
    // So that the lab does not ask cargo for it, as another user perhaps.
    tests.env("NETD_BIN", netd);
    tests.args(["test", "--locked"]);
    if !command::is_root() {
        through_sudo(&mut tests)?;
    }
    Ok(tests)
}

fn install_programs() -> Result<()> {
    let dirs = command::sbin();
    let missing = PROGRAMS.into_iter().filter(|(program, _)| command::find(program, &dirs).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    ensure!(
        debian::can_install(),
        "the tests need: {}; install them, or run this as root on Debian",
        packages.join(" ")
    );
    debian::install(&packages)
}

/// Unpacks firewalld where the test looks for it; elsewhere than on Debian it has to be installed.
fn unpack_firewalld(layout: &Layout) -> Result<()> {
    let (root, packages) = (layout.tools().join("firewalld"), FIREWALLD.map(|(_, package)| package));
    let dirs = command::sbin();
    let installed = FIREWALLD.iter().all(|(program, _)| command::find(program, &dirs).is_some());
    if installed || root.is_dir() {
        return Ok(());
    }
    ensure!(debian::is_debian(), "the tests need: {}; install them", packages.join(" "));
    debian::unpack(&packages, &root)
}

/// Lets cargo start the test binaries as root, though it compiles as this user: `target/` stays theirs.
fn through_sudo(test: &mut Command) -> Result<()> {
    let Some(sudo) = command::find("sudo", &[]) else {
        bail!("network namespaces and eBPF need root: run this as root, or install sudo");
    };
    ui::note("Network namespaces and eBPF need root: running the test binaries through sudo -E.");
    let runner = format!("{} -E", sudo.display());
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let name = format!("CARGO_TARGET_{}_RUNNER", triple.to_uppercase().replace('-', "_"));
    test.env(name, runner);
    Ok(())
}
