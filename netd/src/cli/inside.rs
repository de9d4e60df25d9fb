//! What a command sees of the host's files: its own `/etc/hosts` and `/etc/resolv.conf`, host name and `/sys`.
//!
//! All of it happens in a mount and a UTS namespace of the calling thread, from which the command is then started; the
//! host's mounts stay as they are.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::sethostname,
};

use crate::api::dto::Container;

const NONE: Option<&str> = None;

/// What a command in a sandbox shall see.
#[derive(Debug, Clone)]
pub(super) struct View {
    hostname: Option<String>,
    hosts: PathBuf,
    resolv_conf: PathBuf,
}

/// Something that could not be arranged.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub(super) struct Error {
    doing: String,
    source: io::Error,
}

impl Error {
    fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { doing: doing.into(), source: source.into() }
    }

    /// Whether the caller lacks a capability.
    pub(super) fn is_permission(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

impl View {
    pub(super) fn of(sandbox: &Container) -> Self {
        let hostname = &sandbox.config.hostname;
        Self {
            hostname: (!hostname.is_empty()).then(|| hostname.clone()),
            hosts: sandbox.hosts_path.clone().into(),
            resolv_conf: sandbox.resolv_conf_path.clone().into(),
        }
    }

    /// Arranges the view for the calling thread, which has already entered the sandbox's network namespace; `/sys` shows that
    /// network if it is another than the caller's.
    ///
    /// # Errors
    /// When the kernel refuses; what is merely missing on this host is logged and left out.
    pub(super) fn enter(&self, other_network: bool) -> Result<(), Error> {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
            .map_err(|error| Error::new("make a mount namespace", error))?;
        // Mounts of the host still arrive here, nothing goes back.
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)
            .map_err(|error| Error::new("separate the mounts from the host's", error))?;
        if let Some(hostname) = &self.hostname {
            sethostname(hostname).map_err(|error| Error::new(format!("set host name {hostname}"), error))?;
        }
        if other_network && let Err(error) = remount_sys() {
            tracing::warn!(%error, "/sys shows the host's network");
        }
        self.bind_files()
    }

    fn bind_files(&self) -> Result<(), Error> {
        let mut files = Vec::new();
        for (source, target) in [(&self.hosts, "/etc/hosts"), (&self.resolv_conf, "/etc/resolv.conf")] {
            match open_path(source) {
                Ok(file) => files.push((file, Path::new(target))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::debug!(file = %source.display(), "the sandbox has no file of its own");
                }
                Err(error) => return Err(Error::new(format!("open {}", source.display()), error)),
            }
        }
        // A target may be a symbolic link: the mount goes upon what it leads to. Where that is missing, /etc gets a layer.
        let missing: Vec<&Path> =
            files.iter().map(|(_, target)| *target).filter(|target| !target.exists()).collect();
        if !missing.is_empty()
            && let Some(scratch) = self.hosts.parent()
        {
            let names: Vec<_> = missing.iter().map(|path| path.display().to_string()).collect();
            let doing = || format!("put a layer over /etc for the missing {}", names.join(" and "));
            layer_over_etc(scratch, &missing).map_err(|error| Error::new(doing(), error))?;
        }
        for (file, target) in files {
            bind(&file, target).map_err(|error| Error::new(format!("mount {}", target.display()), error))?;
        }
        Ok(())
    }
}

fn open_path(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
}

fn bind(file: &File, target: &Path) -> Result<(), Errno> {
    let source = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
    mount(Some(source.as_str()), target, NONE, MsFlags::MS_BIND, NONE)
}

/// Mounts a sysfs of this network namespace over `/sys`, and what was mounted below it back into its place.
fn remount_sys() -> Result<(), Errno> {
    let below = mounts_below_sys();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, NONE)?;
    for (path, file) in below {
        if let Err(error) = bind(&file, &path) {
            tracing::debug!(path = %path.display(), %error, "mount not carried over");
        }
    }
    Ok(())
}

fn mounts_below_sys() -> Vec<(PathBuf, File)> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    mount_points(&table)
        .filter(|point| point.starts_with("/sys/"))
        .filter_map(|point| Some((PathBuf::from(point), open_path(Path::new(point)).ok()?)))
        .collect()
}

/// Returns the mount points of a mountinfo table, in the order of mounting (proc(5): the fifth field).
fn mount_points(mountinfo: &str) -> impl Iterator<Item = &str> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4))
}

/// Mounts an overlay over `/etc` in which the given files exist, empty, without touching the host's `/etc`.
fn layer_over_etc(scratch: &Path, missing: &[&Path]) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), scratch, Some("tmpfs"), flags, Some("mode=0755,size=1m"))?;
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    for directory in [&upper, &work] {
        DirBuilder::new().create(directory)?;
    }
    for target in missing {
        File::create(upper.join(target.file_name().unwrap_or_default()))?;
    }
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), "/etc", Some("overlay"), flags, Some(options.as_str())).map_err(
        |errno| match errno {
            Errno::ENODEV => {
                io::Error::new(io::ErrorKind::Unsupported, "this kernel has no overlay file system")
            }
            errno => errno.into(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_the_fifth_field() {
        let table = "24 1 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n25 24 0:26 / /sys/fs/bpf rw - bpf bpf rw\n";
        assert_eq!(mount_points(table).collect::<Vec<_>>(), ["/sys", "/sys/fs/bpf"]);
    }
}
