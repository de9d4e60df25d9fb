//! Where things lie in the source tree and below `target/`.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Paths of the workspace; every one is absolute.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Returns the layout of the workspace that this xtask belongs to.
    pub fn find() -> Self {
        // `cargo run` sets the variable for a binary too; a binary called by hand falls back on where it was compiled.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf);
        Self { root }
    }

    /// The top of the source tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The eBPF crate, a workspace of its own.
    pub fn ebpf(&self) -> PathBuf {
        self.root.join("netd-ebpf")
    }

    /// What the eBPF object is made of: a change in any of these makes it stale. `netd/build.rs` watches the same.
    pub fn object_sources(&self) -> [PathBuf; 5] {
        [
            "netd-ebpf/src",
            "netd-ebpf/Cargo.toml",
            "netd-ebpf/Cargo.lock",
            "netd-common/src",
            "netd-common/Cargo.toml",
        ]
        .map(|path| self.root.join(path))
    }

    /// The eBPF object, at the path where `netd/build.rs` looks for it.
    pub fn object(&self) -> PathBuf {
        self.root.join("target/bpf/netd.bpf.o")
    }

    /// The programs that netd's are compared with, beside it.
    pub fn redirect_object(&self) -> PathBuf {
        self.root.join("target/bpf/redirect.bpf.o")
    }

    /// What attaches them.
    pub fn redirect(&self) -> PathBuf {
        self.target().join("debug/redirect")
    }

    /// The inner cargo's target directory.
    pub fn object_target(&self) -> PathBuf {
        self.root.join("target/bpf-build")
    }

    /// Root of the tools that `cargo xtask` installs: nothing outside the tree changes.
    pub fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    /// Target directory of the outer cargo.
    pub fn target(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), |dir| self.root.join(dir))
    }

    /// The `netd` binary of a profile.
    pub fn netd(&self, release: bool) -> PathBuf {
        self.target().join(if release { "release" } else { "debug" }).join("netd")
    }
}
