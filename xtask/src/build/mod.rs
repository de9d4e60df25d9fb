//! `cargo xtask build`: the eBPF object, then the `netd` binary that embeds it.

mod object;
mod toolchain;
mod tools;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{command, layout::Layout, ui};

/// Build the eBPF object and the netd binary that embeds it
///
/// Whatever the eBPF target needs (a nightly toolchain or Debian's rustc-web, and bpf-linker) is found, or installed on
/// Debian and Ubuntu as root. Afterwards plain `cargo build`, `cargo test` and `cargo clippy` work on stable.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Build netd with the release profile
    #[arg(long)]
    release: bool,
    /// Build only the eBPF object, even if it is up to date
    #[arg(long)]
    object_only: bool,
}

/// Runs `cargo xtask build`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let layout = Layout::find();
    if args.object_only {
        object::rebuild(&layout)?;
        return Ok(ExitCode::SUCCESS);
    }
    let binary = netd(&layout, args.release)?;
    ui::note(&format!("{} {}", ui::paint("32", "✓"), binary.display()));
    Ok(ExitCode::SUCCESS)
}

/// Brings the eBPF object up to date.
pub fn ebpf_object(layout: &Layout) -> Result<()> {
    object::ensure(layout)
}

/// Builds the object and `netd`, and returns the path of the binary.
pub fn netd(layout: &Layout, release: bool) -> Result<PathBuf> {
    ebpf_object(layout)?;
    let mut build = cargo(layout);
    build.args(["build", "--locked", "--package", "netd"]);
    if release {
        build.arg("--release");
    }
    command::run(&mut build)?;
    Ok(layout.netd(release))
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> PathBuf {
    tools::cargo_home().join("bin")
}

/// The outer cargo, at the workspace's root.
pub fn cargo(layout: &Layout) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(layout.root());
    cargo
}
