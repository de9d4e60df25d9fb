//! The eBPF object: is it fresh, and building it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

use super::{toolchain::Toolchain, tools};
use crate::{
    command,
    layout::Layout,
    ui::{self, Task},
};

/// Brings the object up to date; does nothing when no source is newer.
pub fn ensure(layout: &Layout) -> Result<()> {
    if is_fresh(layout) { Ok(()) } else { rebuild(layout) }
}

/// Builds the object with the first toolchain that can, installing one when there is none.
pub fn rebuild(layout: &Layout) -> Result<()> {
    if let Some(given) = env::var_os("NETD_BPF_OBJ") {
        let given = PathBuf::from(given);
        if !given.is_file() {
            bail!("use the eBPF object at {}, named by NETD_BPF_OBJ: no such file", given.display());
        }
        return Ok(());
    }
    let toolchains = Toolchain::detect(layout);
    if let Some(outcome) = first_that_links(layout, &toolchains) {
        return outcome;
    }
    tools::install(layout, !toolchains.is_empty())?;
    first_that_links(layout, &Toolchain::detect(layout)).unwrap_or_else(|| {
        bail!("{}", tools::instructions("what was just installed cannot compile eBPF programs"))
    })
}

/// Compiles with each toolchain in turn, until one has a linker that can read its bitcode.
fn first_that_links(layout: &Layout, toolchains: &[Toolchain]) -> Option<Result<()>> {
    for toolchain in toolchains {
        match compile(layout, toolchain) {
            Err(error) if is_linkers_fault(&format!("{error:#}")) => {
                ui::note(&format!("{} cannot link what {toolchain} writes", toolchain.linker.display()));
            }
            Ok(()) => {
                toolchain.remember(layout);
                return Some(Ok(()));
            }
            failed => return Some(failed),
        }
    }
    None
}

/// Whether the linker failed before it came to the programs: its LLVM is older than the compiler's, or is gone. Errors
/// in the programs come later, from code generation.
fn is_linkers_fault(output: &str) -> bool {
    output.contains("failure linking module") || output.contains("error while loading shared libraries")
}

fn compile(layout: &Layout, toolchain: &Toolchain) -> Result<()> {
    // The object is as old as the sources it was made of: an edit during the build makes it stale.
    let started = SystemTime::now();
    let task = Task::start(format!("compiling the eBPF programs with {toolchain}"));
    let mut cargo = toolchain.cargo();
    cargo.current_dir(layout.ebpf()).env("CARGO_ENCODED_RUSTFLAGS", flags(layout, toolchain));
    cargo.args(["build", "--release", "--target", "bpfel-unknown-none", "-Z", "build-std=core"]);
    if layout.ebpf().join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    cargo.arg("--target-dir").arg(layout.object_target());
    command::run_quietly(&task, &mut cargo)?;
    for (program, object) in [("redirect", layout.redirect_object()), ("netd", layout.object())] {
        let built = layout.object_target().join("bpfel-unknown-none/release").join(program);
        install(&built, &object, started)?;
    }
    task.done();
    Ok(())
}

/// Flags as `CARGO_ENCODED_RUSTFLAGS` wants them: separated by 0x1f, so that paths may hold blanks.
fn flags(layout: &Layout, toolchain: &Toolchain) -> String {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // By its default bpf-linker makes LLVM call `memset`, a loop over bytes, even to clear three of them: slow, and a frame more.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
        // Whoever builds it wherever gets the same bytes.
        remap(layout.root(), "/netd"),
        remap(&tools::cargo_home(), "/cargo"),
    ]
    .join("\x1f")
}

/// Puts the object in place in one step, so that no build ever reads half of it.
fn install(built: &Path, object: &Path, modified: SystemTime) -> Result<()> {
    let dir = object.parent().context("the object's path has no directory")?;
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let partial = object.with_extension("partial");
    fs::copy(built, &partial)
        .with_context(|| format!("copy {} to {}", built.display(), partial.display()))?;
    fs::File::options().append(true).open(&partial)?.set_modified(modified)?;
    fs::rename(&partial, object).with_context(|| format!("rename {}", partial.display()))
}

fn is_fresh(layout: &Layout) -> bool {
    let built = layout.object().metadata().and_then(|meta| meta.modified());
    let sources = layout.object_sources().into_iter().filter_map(|path| newest(&path)).max();
    env::var_os("NETD_BPF_OBJ").is_none()
        && built.is_ok_and(|built| sources.is_none_or(|newest| newest < built))
}

/// When a file, or the newest file below a directory, changed last.
fn newest(path: &Path) -> Option<SystemTime> {
    let own = path.metadata().and_then(|meta| meta.modified()).ok();
    let below = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| newest(&entry.path()));
    below.chain(own).max()
}
