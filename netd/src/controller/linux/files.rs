//! The files of sandboxes in the run directory.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use super::Linux;
use crate::{
    controller::{Code, Error, object::Files},
    model::Id,
};

impl Linux {
    /// Writes the files in place: processes have them mounted. A `resolv.conf` that somebody edited stays (Docker semantics
    /// F12).
    pub(super) fn put_files(&self, old: Option<&Files>, files: &Files) -> Result<(), Error> {
        let dir = self.sandboxes_dir.join(files.sandbox.as_str());
        let failed = |error: io::Error| {
            Error::new(Code::Failure, format!("write files of sandbox below {}: {error}", dir.display()))
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(failed)?;
        write(&dir.join("hosts"), &files.hosts).map_err(failed)?;
        let resolv = dir.join("resolv.conf");
        let present = std::fs::read_to_string(&resolv).ok();
        // An empty one is what a kill left between its making and its writing.
        let untouched =
            |present: &String| present.is_empty() || old.is_some_and(|old| *present == old.resolv);
        if present.as_ref().is_none_or(untouched) {
            write(&resolv, &files.resolv).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn remove_files(&self, sandbox: &Id) -> Result<(), Error> {
        remove_dir(&self.sandboxes_dir.join(sandbox.as_str()))
    }
}

/// Writes a file unless it holds the text already.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    std::fs::write(path, text)?;
    // Every user of the sandbox reads them, whatever the daemon's umask.
    std::fs::set_permissions(path, Permissions::from_mode(0o644))
}

pub(super) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::new(Code::Failure, format!("remove {}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}
