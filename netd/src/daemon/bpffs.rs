//! Makes sure that pins have a file system to live in.

use std::path::Path;

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::{
    controller::{Code, Error},
    netns,
};

/// Where every distribution mounts it.
const USUAL: &str = "/sys/fs/bpf";

/// Mounts a bpffs where the pins go unless one is there: at the usual place if the pins go below it, else at their directory.
///
/// # Errors
/// When it can't be mounted.
pub(super) fn ensure(pins: &Path) -> Result<(), Error> {
    let failed = |at: &Path, why: &dyn std::fmt::Display| {
        let text = format!("start the daemon: mount a bpffs at {}: {why}", at.display());
        Error::new(Code::Failure, text).hint(format!("mount one: mount -t bpf bpf {}", at.display()))
    };
    if !is_bpffs(pins) {
        let at = if pins.starts_with(USUAL) { Path::new(USUAL) } else { pins };
        std::fs::create_dir_all(at).map_err(|error| failed(at, &error))?;
        mount(
            Some("bpf"),
            at,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(|errno| failed(at, &errno))?;
        tracing::info!(path = %at.display(), "bpffs mounted");
    }
    let parent = nearest(pins);
    if netns::mounts_are_private(parent).unwrap_or(false) {
        // Invisible to the rest of the host, and gone with the last process of this mount namespace (reliability F7).
        tracing::warn!(path = %parent.display(), "pins are in a private mount namespace and end with it");
    }
    Ok(())
}

fn is_bpffs(path: &Path) -> bool {
    statfs(nearest(path)).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// Returns the path itself, or the nearest directory above it that exists.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}
