//! Packages on Debian and Ubuntu: which are missing, and installing them.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{command, ui::Task};

/// Whether packages can be installed here: Debian or a child of it, and this process is root.
pub fn can_install() -> bool {
    is_debian() && command::is_root() && command::find("apt-get", &[]).is_some()
}

/// Whether this is Debian, Ubuntu or another child of Debian.
pub fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .any(|ids| ids.trim_matches('"').split(' ').any(|id| id == "debian" || id == "ubuntu"))
}

/// Returns those of `packages` that are not installed.
pub fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let installed = |package: &&str| {
        let mut query = Command::new("dpkg-query");
        let status = command::capture(query.args(["--show", "--showformat=${db:Status-Status}", package]));
        status.is_ok_and(|status| status == "installed")
    };
    packages.iter().copied().filter(|package| !installed(package)).collect()
}

/// Returns whether apt knows a version of every one of `packages`, refreshing its lists if not.
pub fn available(packages: &[&str]) -> Result<bool> {
    if known(packages) {
        return Ok(true);
    }
    let task = Task::start("refreshing apt's package lists (apt-get update)");
    command::run_quietly(&task, &mut apt_get(&["update"]))?;
    task.done();
    Ok(known(packages))
}

/// Installs `packages`, saying so; of none, nothing.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !available(packages)? {
        anyhow::bail!("apt knows no version of one of: {list}");
    }
    let task = Task::start(format!("installing Debian packages: {list}"));
    let mut install = apt_get(&["install", "--yes", "--no-install-recommends"]);
    command::run_quietly(&task, install.args(packages)).with_context(|| format!("install {list}"))?;
    task.done();
    Ok(())
}

fn known(packages: &[&str]) -> bool {
    packages.iter().all(|package| command::capture(Command::new("apt-cache").args(["show", package])).is_ok())
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=120"]).args(args);
    command
}
