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
/// Debian's compiler, and core's source for it.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// LLVM of Debian's compiler.
const DEBIAN_LLVM: &str = "22";
/// The LLVMs that this bpf-linker can be built against.
const LINKER_LLVMS: [&str; 3] = ["21", "22", "23"];

/// What bpf-linker is built against: the linker must read the bitcode that the compiler writes.
fn linker_packages(llvm: &str) -> [String; 4] {
    [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"), "zlib1g-dev".into(), "libzstd-dev".into()]
}

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

/// Installs a compiler and, where there is none or the one there is failed, a linker; or fails with the commands to type.
pub fn install(layout: &Layout, linker_failed: bool) -> Result<()> {
    if !debian::can_install() {
        bail!("{}", instructions("nothing here can compile eBPF programs"));
    }
    let debian_linker = linker_packages(DEBIAN_LLVM);
    let packages: Vec<&str> =
        COMPILER_PACKAGES.into_iter().chain(debian_linker.iter().map(String::as_str)).collect();
    ui::note(
        "Setting up the eBPF compiler, once. About two minutes; Debian packages, and bpf-linker below target/tools.",
    );
    let llvm = if debian::available(&debian::missing(&packages))? {
        debian::install(&debian::missing(&COMPILER_PACKAGES))?;
        DEBIAN_LLVM.to_owned()
    } else {
        nightly()?
    };
    if linker_failed || bpf_linker(layout).is_none() {
        install_linker(layout, &llvm)?;
    }
    Ok(())
}

/// Installs rustup's nightly with core's source, and returns the number of its LLVM.
fn nightly() -> Result<String> {
    let Some(rustup) = toolchain::rustup() else {
        bail!("{}", instructions("this release has no rustc-web, and there is no rustup"));
    };
    let task = Task::start("installing Rust nightly with rust-src (rustup)");
    let mut install = toolchain::clean_cargo(&rustup);
    install.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    command::run_quietly(&task, install.arg("--no-self-update")).context("install Rust nightly")?;
    task.done();
    let llvm = toolchain::nightly_llvm().context("ask rustup's nightly for its LLVM")?;
    if !LINKER_LLVMS.contains(&llvm.as_str()) {
        bail!(
            "{}",
            instructions(&format!(
                "bpf-linker {LINKER_VERSION} cannot read what nightly's LLVM {llvm} writes"
            ))
        );
    }
    Ok(llvm)
}

fn install_linker(layout: &Layout, llvm: &str) -> Result<()> {
    let packages = linker_packages(llvm);
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let missing = debian::missing(&packages);
    if !debian::available(&missing)? {
        bail!("{}", instructions(&format!("this release has no LLVM {llvm} to build bpf-linker against")));
    }
    debian::install(&missing)?;
    let task =
        Task::start(format!("building bpf-linker {LINKER_VERSION} against LLVM {llvm} (cargo install)"));
    let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut install = toolchain::clean_cargo(&cargo);
    install.env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    install.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    install.args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"]);
    command::run_quietly(&task, install.arg(layout.tools())).context("install bpf-linker")?;
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
         \x20    LLVM_PREFIX=/usr/lib/llvm-{DEBIAN_LLVM} cargo install bpf-linker --version {LINKER_VERSION} --locked \\\n\
         \x20        --no-default-features --features llvm-{DEBIAN_LLVM}\n\n\
         3. with an object built elsewhere\n\
         \x20    NETD_BPF_OBJ=/path/to/netd.bpf.o cargo xtask build",
        COMPILER_PACKAGES.join(" "),
        linker_packages(DEBIAN_LLVM).join(" "),
    )
}
