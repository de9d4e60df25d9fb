//! What went wrong with the state directory.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

/// A failure of the state directory, naming the file and the reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon holds the lock.
    #[error("another netd daemon{} uses the state directory {}", Holder(*pid), dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The daemon's process, as far as it could write it down.
        pid: Option<u32>,
    },
    /// A system call failed.
    #[error("cannot {doing} {} ({})", path.display(), why(cause))]
    Io {
        /// What was being done, as a verb: "write the journal".
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why not; the message says it, so that it is no source.
        cause: io::Error,
    },
    /// An object cannot be written as JSON.
    #[error("cannot encode the state ({0})")]
    Encode(serde_json::Error),
    /// The kernel gave no random bytes for the instance's id.
    #[error("cannot make an instance id ({0})")]
    Random(getrandom::Error),
}

/// A process in a message.
struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

/// The kernel's words for an error, without its number.
fn why(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

impl Error {
    /// Returns what turns an I/O error into one that says what was being done to which file.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { doing, path, cause }
    }

    /// Returns the system's number for the reason.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { cause, .. } => cause.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the disk or a quota is full.
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io { cause, .. } if matches!(cause.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }
}
