//! Getting what the eBPF target needs: looking for `bpf-linker`, installing the Debian way, telling the others.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail};

use super::toolchain;
use crate::{
    command, debian,
    layout::Layout,
    ui::{self, Task},
};

/// The version that was proven with the compilers named here.
const LINKER_VERSION: &str = "0.13.0";
/// LLVM of Debian's rustc-web: the linker must read the bitcode that the compiler writes.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const LINKER_PACKAGES: [&str; 4] = ["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev"];

/// Finds `bpf-linker`: our own, on `PATH`, or where `cargo install` puts it.
pub fn bpf_linker(layout: &Layout) -> Option<PathBuf> {
    let own = layout.tools().join("bin/bpf-linker");
    if command::is_program(&own) { Some(own) } else { command::find("bpf-linker", &[super::cargo_bin()]) }
}

/// Where cargo keeps its binaries and registry.
pub fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME")
        .map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"), Into::into)
}

/// Installs the Debian way, or fails with the commands to type.
pub fn install(layout: &Layout) -> Result<()> {
    if !debian::can_install() {
        bail!("{}", instructions("nothing here can compile eBPF programs"));
    }
    let packages: Vec<&str> = COMPILER_PACKAGES.into_iter().chain(LINKER_PACKAGES).collect();
    let missing = debian::missing(&packages);
    if !debian::available(&missing)? {
        bail!("{}", instructions("this release's package lists lack rustc-web or llvm-22"));
    }
    ui::note(
        "Setting up the eBPF compiler, once. About two minutes; Debian packages, and bpf-linker below target/tools.",
    );
    if !missing.is_empty() {
        debian::install(&missing)?;
    }
    if !toolchain::has_debian() {
        bail!(
            "{}",
            instructions("/usr/bin/rustc is not Debian's rustc-web, or rust-web-src has no core library")
        );
    }
    if bpf_linker(layout).is_none() {
        install_linker(layout)?;
    }
    Ok(())
}

fn install_linker(layout: &Layout) -> Result<()> {
    let task = Task::start(format!("building bpf-linker {LINKER_VERSION} against LLVM 22 (cargo install)"));
    let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut install = toolchain::clean_cargo(&cargo);
    install.env("LLVM_PREFIX", LLVM_PREFIX).arg("install").arg("--root").arg(layout.tools());
    install.args([
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--no-default-features",
        "--features",
        "llvm-22",
    ]);
    command::run_quietly(&task, &mut install).context("install bpf-linker")?;
    task.done();
    Ok(())
}

/// The commands for both ways, after `reason`.
pub fn instructions(reason: &str) -> String {
    format!(
        "{reason}\n\n\
         Do one of these, then run the command again:\n\n\
         1. with rustup, on any distribution\n\
         \x20    rustup toolchain install nightly --profile minimal --component rust-src\n\
         \x20    cargo install cargo-binstall && cargo binstall bpf-linker\n\n\
         2. on Debian 12 and newer, as root (`cargo xtask build` as root does this by itself)\n\
         \x20    apt-get install {} {}\n\
         \x20    LLVM_PREFIX={LLVM_PREFIX} cargo install bpf-linker --version {LINKER_VERSION} --locked \\\n\
         \x20        --no-default-features --features llvm-22\n\n\
         3. with an object built elsewhere\n\
         \x20    NETD_BPF_OBJ=/path/to/netd.bpf.o cargo xtask build",
        COMPILER_PACKAGES.join(" "),
        LINKER_PACKAGES.join(" "),
    )
}
