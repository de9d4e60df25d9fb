//! Debian's Docker, to be measured beside: installed, or unpacked below `target/tools/docker`, where nothing starts it.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{command, debian, layout::Layout, ui::Task};

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
    layout.root().join("target/tools/docker")
}

/// Fetches Debian's packages and unpacks them below `target/`: installing them would start a daemon on this machine.
pub fn unpack(layout: &Layout) -> Result<()> {
    if program(layout, "dockerd").is_some() {
        return Ok(());
    }
    ensure!(debian::is_debian(), "only Debian's Docker can be unpacked; install docker.io by hand");
    let root = unpacked(layout);
    let debs = root.with_extension("debs");
    fs::create_dir_all(&debs).with_context(|| format!("create {}", debs.display()))?;
    ensure!(debian::available(&PACKAGES)?, "apt knows no {}", PACKAGES.join(", "));
    let task = Task::start("unpacking Debian's docker.io, containerd and runc below target/tools");
    let mut download = Command::new("apt-get");
    command::run_quietly(&task, download.arg("download").args(PACKAGES).current_dir(&debs))?;
    for deb in fs::read_dir(&debs).context("list packages")? {
        let mut extract = Command::new("dpkg-deb");
        command::run_quietly(&task, extract.arg("-x").arg(deb.context("list packages")?.path()).arg(&root))?;
    }
    task.done();
    Ok(())
}
