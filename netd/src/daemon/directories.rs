//! The run directory, and who else is at home.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::Group;

use super::start;
use crate::{
    config::Settings,
    controller::{Code, Error},
    failpoint,
    store::{self, Store},
};

const SIDE_BY_SIDE: &str = "give a second one directories of its own: --state-dir, --run-dir, --bpffs";

/// Writing by the group and by everybody.
const OTHERS_WRITE: u32 = 0o022;

/// Returns where the API listens.
pub(super) fn socket(settings: &Settings) -> PathBuf {
    settings.run_dir.join("netd.sock")
}

/// Returns where copies of the state are: they end with the machine's uptime, as what is in the kernel does.
fn copies(settings: &Settings) -> PathBuf {
    settings.run_dir.join("state")
}

/// Returns the process that wrote its id into the run directory, as ` (pid N)`.
fn who(settings: &Settings) -> String {
    fs::read_to_string(pid_file(settings))
        .map_or_else(|_| String::new(), |pid| format!(" (pid {})", pid.trim()))
}

fn pid_file(settings: &Settings) -> PathBuf {
    settings.run_dir.join("netd.pid")
}

/// Sees to it that no other daemon answers at the socket.
///
/// # Errors
/// One does, and it is named.
pub(super) fn is_alone(settings: &Settings) -> Result<(), Error> {
    let socket = socket(settings);
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        let text = format!("another daemon{} answers at {}", who(settings), socket.display());
        return Err(Error::new(Code::Conflict, text).hint(SIDE_BY_SIDE));
    }
    Ok(())
}

/// Makes the run directory, for root and the socket's group.
///
/// # Errors
/// The directory is somebody else's.
pub(super) fn prepare(settings: &Settings) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        let text = format!("start the daemon: uid {} may not change networks", nix::unistd::geteuid());
        return Err(Error::new(Code::Permission, text).hint("run it as root"));
    }
    make(&settings.run_dir, 0o750)?;
    make(&settings.run_dir.join("netns"), 0o755)?;
    make(&settings.run_dir.join("sandboxes"), 0o755)
}

fn make(dir: &Path, mode: u32) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|error| start(&format!("make the directory {}", dir.display()), &error))?;
    take(dir)
}

/// Sees to it that nobody else can write in a directory (reliability S23).
///
/// # Errors
/// It belongs to another user, who could do anything in it.
pub(super) fn take(dir: &Path) -> Result<(), Error> {
    let failed = |error: &io::Error| start(&format!("look at the directory {}", dir.display()), error);
    let present = fs::metadata(dir).map_err(|error| failed(&error))?;
    if present.uid() != nix::unistd::geteuid().as_raw() {
        let text =
            format!("start the daemon: the directory {} belongs to uid {}", dir.display(), present.uid());
        return Err(Error::new(Code::Permission, text).hint("remove it, or give it to root"));
    }
    let mode = present.permissions().mode();
    if mode & OTHERS_WRITE != 0 {
        fs::set_permissions(dir, Permissions::from_mode(mode & !OTHERS_WRITE & 0o777))
            .map_err(|error| failed(&error))?;
        tracing::warn!(path = %dir.display(), "others could write in this directory; not any more");
    }
    Ok(())
}

/// Gives the configured group its part of a directory or socket.
///
/// # Errors
/// There is no such group, or the daemon is neither a member of it nor has `CAP_CHOWN`.
pub(super) fn give_to_group(settings: &Settings, path: &Path) -> Result<(), Error> {
    let Some(name) = &settings.socket_group else { return Ok(()) };
    let group = Group::from_name(name).map_err(|errno| start("look up the socket's group", &errno.into()))?;
    let Some(group) = group else {
        let text = format!("start the daemon: there is no group {name:?} (socket-group)");
        return Err(Error::new(Code::Usage, text).hint(format!("make it: groupadd --system {name}")));
    };
    std::os::unix::fs::chown(path, None, Some(group.gid.as_raw())).map_err(|error| {
        let error = start(&format!("give {} to the group {name}", path.display()), &error);
        error.hint(format!("a service without CAP_CHOWN needs SupplementaryGroups={name}"))
    })
}

/// Opens and locks the state directory.
///
/// # Errors
/// A daemon that has it is named (reliability F27).
pub(super) fn open_store(settings: &Settings) -> Result<Store, Error> {
    let store = Store::open(&settings.state_dir, &copies(settings)).map_err(|error| match error {
        store::Error::Locked { .. } => {
            let text = format!("start the daemon: {error}");
            Error::new(Code::Conflict, text).hint(SIDE_BY_SIDE)
        }
        other => other.into(),
    })?;
    let path = pid_file(settings);
    fs::write(&path, format!("{}\n", std::process::id()))
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)))
        .map_err(|error| start(&format!("write {}", path.display()), &error))?;
    Ok(store)
}

/// Says that no daemon runs any more.
pub(super) fn forget_pid(settings: &Settings) {
    for path in [pid_file(settings), socket(settings)] {
        if let Err(error) = remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "file not removed");
        }
    }
}

/// Removes what the daemon made in the run directory, and the directory itself if nothing else is in it. The socket goes when all else has gone:
/// `netd down` waits for that, and then for the directory.
pub(super) fn erase(settings: &Settings) -> io::Result<()> {
    remove_dir(&settings.run_dir.join("netns"))?;
    remove_dir(&settings.run_dir.join("sandboxes"))?;
    remove_file(&pid_file(settings))?;
    remove_file(&socket(settings))?;
    failpoint::hit(|| "erase.last".to_owned())?;
    remove_dir(&settings.run_dir)
}

/// Removes a directory unless something else is in it, or on it.
fn remove_dir(dir: &Path) -> io::Result<()> {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ResourceBusy};
    match fs::remove_dir(dir) {
        Err(error) if !matches!(error.kind(), NotFound | DirectoryNotEmpty | ResourceBusy) => Err(error),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
