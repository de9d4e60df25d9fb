//! What went wrong with the state directory.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A failure of the state directory, naming the file and the reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon holds the lock.
    #[error("another netd daemon uses the state directory {}", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// A newer netd wrote the file.
    #[error(
        "{} has schema {found}, and this netd knows schemas up to {known}: start the netd that wrote it",
        path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema that this netd reads.
        known: u32,
    },
    /// A system call failed.
    #[error("cannot {doing} {} ({source})", path.display())]
    Io {
        /// What was being done, as a verb: "write the journal".
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An object cannot be written as JSON.
    #[error("cannot encode the state ({0})")]
    Encode(serde_json::Error),
    /// The kernel gave no random bytes for the instance's id.
    #[error("cannot make an instance id ({0})")]
    Random(getrandom::Error),
}

impl Error {
    /// Returns what turns an I/O error into one that says what was being done to which file.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// Whether the disk or a quota is full.
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }
}
