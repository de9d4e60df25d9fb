//! Puts the eBPF object that `cargo xtask build` made where `dataplane/` embeds it from, and tells its SHA-256.
//!
//! Compiling it here would need another toolchain on every `cargo check`; so this only copies, checks and warns.

use std::{
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process,
    time::SystemTime,
};

use sha2::{Digest, Sha256};

/// Sources of the object, relative to the workspace; `cargo xtask build` watches the same.
const SOURCES: [&str; 5] = [
    "netd-ebpf/src",
    "netd-ebpf/Cargo.toml",
    "netd-ebpf/Cargo.lock",
    "netd-common/src",
    "netd-common/Cargo.toml",
];

fn main() {
    let workspace = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    let given = env::var_os("NETD_BPF_OBJ").map(PathBuf::from);
    println!("cargo::rerun-if-env-changed=NETD_BPF_OBJ");
    let object = given.clone().unwrap_or_else(|| workspace.join("target/bpf/netd.bpf.o"));
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(_) if given.is_none() => fail("the eBPF object is not built yet: run `cargo xtask build` once"),
        Err(error) => fail(&format!("read {}, named by NETD_BPF_OBJ: {error}", object.display())),
    };
    if !is_bpf(&bytes) {
        fail(&format!(
            "{} is not an eBPF object: `cargo xtask build --object-only` makes one",
            object.display()
        ));
    }
    if given.is_none() {
        warn_if_stale(&workspace, &object);
    }
    let copy = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("netd.bpf.o");
    if let Err(error) = fs::write(&copy, &bytes) {
        fail(&format!("write {}: {error}", copy.display()));
    }
    let mut digest = String::new();
    for byte in Sha256::digest(&bytes) {
        // Writing to a string cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    println!("cargo::rustc-env=NETD_BPF_SHA256={digest}");
}

/// Whether these are the bytes of a 64-bit ELF file for eBPF (`EM_BPF` = 247, in the file's own byte order).
fn is_bpf(bytes: &[u8]) -> bool {
    const EM_BPF: u16 = 247;
    let machine = |little| {
        bytes.get(18..20)?.try_into().ok().map(if little { u16::from_le_bytes } else { u16::from_be_bytes })
    };
    bytes.starts_with(b"\x7fELF\x02") && machine(bytes.get(5) == Some(&1)) == Some(EM_BPF)
}

fn warn_if_stale(workspace: &Path, object: &Path) {
    let built = object.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let sources = SOURCES.map(|source| workspace.join(source)).into_iter().filter(|path| path.exists());
    let sources: Vec<PathBuf> =
        sources.inspect(|path| println!("cargo::rerun-if-changed={}", path.display())).collect();
    if let Some(file) = sources.iter().find_map(|source| newer(source, built)) {
        let file = file.strip_prefix(workspace).unwrap_or(&file).display();
        println!("cargo::warning={file} is newer than the eBPF object: run `cargo xtask build`");
    }
}

/// Returns a file at or below `path` that changed after `built`.
fn newer(path: &Path, built: SystemTime) -> Option<PathBuf> {
    if path.is_dir() {
        return fs::read_dir(path).ok()?.flatten().find_map(|entry| newer(&entry.path(), built));
    }
    let modified = path.metadata().and_then(|meta| meta.modified()).ok()?;
    (modified > built).then(|| path.to_path_buf())
}

/// Ends the build with one line: `cargo::error` fails it, and a script that exits well adds no output of its own.
fn fail(line: &str) -> ! {
    println!("cargo::error={line}");
    process::exit(0)
}
