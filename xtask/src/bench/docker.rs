//! Debian's Docker, to be measured beside: installed, or unpacked below `target/tools/docker`, where nothing starts it.

use std::path::PathBuf;

use anyhow::Result;

use crate::{command, debian, layout::Layout};

/// What `dockerd` needs to start a container.
const PACKAGES: [&str; 3] = ["docker.io", "containerd", "runc"];
/// Where the packages have programs.
const DIRS: [&str; 3] = ["usr/bin", "usr/sbin", "usr/libexec/docker"];

/// Finds a program of Docker's.
pub fn program(layout: &Layout, name: &str) -> Option<PathBuf> {
    let dirs: Vec<PathBuf> =
        [unpacked(layout), "/".into()].iter().flat_map(|root| DIRS.map(|dir| root.join(dir))).collect();
    dirs.iter()
        .map(|dir| dir.join(name))
        .find(|file| command::is_program(file))
        .or_else(|| command::find(name, &dirs))
}

/// `PATH` with the directories of an unpacked Docker in front.
pub fn path(layout: &Layout) -> String {
    let unpacked = unpacked(layout);
    let dirs: Vec<String> = DIRS.iter().map(|dir| unpacked.join(dir).display().to_string()).collect();
    format!("{}:{}", dirs.join(":"), std::env::var("PATH").unwrap_or_default())
}

fn unpacked(layout: &Layout) -> PathBuf {
    layout.tools().join("docker")
}

/// Unpacks Debian's packages below `target/`.
///
/// # Errors
/// When this is not Debian, or apt cannot fetch one of them.
pub fn unpack(layout: &Layout) -> Result<()> {
    if program(layout, "dockerd").is_some() { Ok(()) } else { debian::unpack(&PACKAGES, &unpacked(layout)) }
}
