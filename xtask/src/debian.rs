//! Packages on Debian and Ubuntu: which are missing, installing them, and unpacking those that must not be installed.

use std::{fs, io::ErrorKind, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

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

/// Unpacks `packages`, with what they need and this machine lacks, as `root`: installing them would start daemons on this machine.
///
/// # Errors
/// When this is not Debian, or apt cannot fetch one of them; `root` is then as it was.
pub fn unpack(packages: &[&str], root: &Path) -> Result<()> {
    let list = packages.join(" ");
    ensure!(is_debian(), "only Debian's packages can be unpacked; install by hand: {list}");
    ensure!(available(packages)?, "apt knows no version of one of: {list}");
    let task = Task::start(format!("unpacking Debian packages below {}: {list}", root.display()));
    let (debs, unpacked) = (root.with_extension("debs"), root.with_extension("new"));
    for dir in [&debs, &unpacked] {
        remove_dir(dir)?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let mut simulate = apt_get(&["install", "--simulate", "--no-install-recommends"]);
    let plan = command::capture(simulate.args(packages)).with_context(|| format!("plan {list}"))?;
    let wanted = to_install(&plan);
    if !wanted.is_empty() {
        command::run_quietly(&task, apt_get(&["download"]).args(&wanted).current_dir(&debs))?;
    }
    for deb in fs::read_dir(&debs).with_context(|| format!("list {}", debs.display()))? {
        let deb = deb.with_context(|| format!("list {}", debs.display()))?.path();
        command::run_quietly(&task, Command::new("dpkg-deb").arg("-x").arg(deb).arg(&unpacked))?;
    }
    remove_dir(&debs)?;
    remove_dir(root)?;
    fs::rename(&unpacked, root).with_context(|| format!("name {}", root.display()))?;
    task.done();
    Ok(())
}

/// Lists the packages that `apt-get install --simulate` says it would install.
fn to_install(plan: &str) -> Vec<&str> {
    plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next()).collect()
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn known(packages: &[&str]) -> bool {
    packages.iter().all(|package| command::capture(Command::new("apt-cache").args(["show", package])).is_ok())
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=120"]).args(args);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_lists_what_is_not_there_yet() {
        let plan = "Reading package lists...\n\
            Inst libnm0 (1.42.4-1+deb12u1 Debian:12.15/oldstable [amd64])\n\
            Inst dbus [1.14.8-2] (1.14.10-1 Debian:12.15/oldstable [amd64])\n\
            Conf libnm0 (1.42.4-1+deb12u1 Debian:12.15/oldstable [amd64])\n";
        assert_eq!(to_install(plan), ["libnm0", "dbus"]);
    }
}
