//! The ways to compile for `bpfel-unknown-none`, and which of them this machine has.
//!
//! `build-std=core` is unstable, so it takes either a nightly or a stable compiler with `RUSTC_BOOTSTRAP=1`; and both need
//! core's source. rustup alone proves nothing: without `rust-src` its nightly cannot build core.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::tools;
use crate::{command, layout::Layout};

/// One way to build the object: a compiler with core's source, and a linker.
#[derive(Debug)]
pub struct Toolchain {
    kind: Kind,
    cargo: PathBuf,
    rustc: PathBuf,
    /// Path of `bpf-linker`.
    pub linker: PathBuf,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Nightly,
    Debian,
}

impl Toolchain {
    /// Returns what this machine has: what worked last time, then in the order of preference.
    pub fn detect(layout: &Layout) -> Vec<Self> {
        let Some(linker) = tools::bpf_linker(layout) else { return Vec::new() };
        let compilers = [(Kind::Nightly, nightly()), (Kind::Debian, debian())];
        let usable = compilers.into_iter().filter_map(|(kind, found)| Some((kind, found?)));
        let mut all: Vec<Self> = usable
            .map(|(kind, (cargo, rustc))| Self { kind, cargo, rustc, linker: linker.clone() })
            .collect();
        let worked = fs::read_to_string(worked_file(layout)).unwrap_or_default();
        all.sort_by_key(|toolchain| toolchain.to_string() != worked);
        all
    }

    /// Makes this the first to be tried next time. Without the note, the order is the usual one.
    pub fn remember(&self, layout: &Layout) {
        let _ = fs::write(worked_file(layout), self.to_string());
    }

    /// Returns the inner cargo, free of what the outer one left in the environment.
    pub fn cargo(&self) -> Command {
        let mut cargo = clean_cargo(&self.cargo);
        cargo.env("RUSTC", &self.rustc);
        if matches!(self.kind, Kind::Debian) {
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        cargo
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Nightly => out.write_str("rustup's nightly"),
            Kind::Debian => write!(out, "Debian's {}", self.rustc.display()),
        }
    }
}

fn worked_file(layout: &Layout) -> PathBuf {
    layout.object().with_file_name("built-with")
}

/// Returns a cargo that sees neither the outer cargo's settings nor the libraries of rustup's toolchain.
pub fn clean_cargo(program: &Path) -> Command {
    const OUTER: [&str; 14] = [
        "CARGO",
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTC_WRAPPER",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        // Compiled in pieces, the programs come out otherwise, and the verifier may not take them.
        "CARGO_INCREMENTAL",
        "CARGO_MANIFEST_DIR",
        "CARGO_TARGET_DIR",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    let mut cargo = Command::new(program);
    for name in OUTER {
        cargo.env_remove(name);
    }
    match env::var_os("LD_LIBRARY_PATH").map(|paths| without_cargos_own(&paths)) {
        Some(rest) if !rest.is_empty() => cargo.env("LD_LIBRARY_PATH", rest),
        _ => cargo.env_remove("LD_LIBRARY_PATH"),
    };
    cargo
}

/// Drops the directories that `cargo run` and rustup's proxies add.
fn without_cargos_own(paths: &OsStr) -> std::ffi::OsString {
    let foreign = |dir: &PathBuf| {
        !dir.ancestors().any(|part| part.ends_with("target") || part.ends_with(".rustup/toolchains"))
    };
    env::join_paths(env::split_paths(paths).filter(foreign)).unwrap_or_default()
}

/// Finds rustup.
pub fn rustup() -> Option<PathBuf> {
    command::find("rustup", &[super::cargo_bin()])
}

/// Returns the major version of the LLVM in rustup's nightly.
pub fn nightly_llvm() -> Option<String> {
    let (_, rustc) = nightly()?;
    let version = command::capture(clean_cargo(&rustc).arg("-vV")).ok()?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next().map(str::to_owned)
}

fn nightly() -> Option<(PathBuf, PathBuf)> {
    let rustup = rustup()?;
    let which = |program| {
        let mut which = clean_cargo(&rustup);
        let path = command::capture(which.args(["which", "--toolchain", "nightly", program])).ok()?;
        Some(PathBuf::from(path.trim()))
    };
    let (cargo, rustc) = (which("cargo")?, which("rustc")?);
    has_core_source(&rustc).then_some((cargo, rustc))
}

fn debian() -> Option<(PathBuf, PathBuf)> {
    let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    let installed = command::is_program(&cargo) && command::is_program(&rustc);
    // rustup can be installed there as a proxy; a proxy's sysroot lies elsewhere and was looked at above.
    (installed && sysroot(&rustc)? == Path::new("/usr") && has_core_source(&rustc)).then_some((cargo, rustc))
}

fn has_core_source(rustc: &Path) -> bool {
    sysroot(rustc).is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let root = command::capture(clean_cargo(rustc).args(["--print", "sysroot"])).ok()?;
    Some(PathBuf::from(root.trim()))
}
