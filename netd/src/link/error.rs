//! What went wrong, to which object.

use std::io;

use crate::{netns, sysctl};

/// A refused or failed request for a kernel object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused, or did not answer.
    #[error("{doing}")]
    Kernel {
        /// What was being done to which object: "create bridge br-0123", "set eth0 up".
        doing: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An object of that name exists and belongs to somebody else.
    #[error("{name} exists and is not netd's ({owner})")]
    Foreign {
        /// The interface.
        name: String,
        /// Its kind and label, as far as it has them.
        owner: String,
    },
    /// A limit of the kernel; the text names it.
    #[error("{0}")]
    Limit(String),
    /// A namespace could not be opened or entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// A setting below `/proc/sys/net` could not be read or written.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
}

impl Error {
    pub(super) fn kernel(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Kernel { doing: doing.into(), source }
    }

    pub(super) fn no_such_link(doing: impl Into<String>) -> Self {
        Self::kernel(doing, io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Whether the object, or one it depends on, is not there (any more).
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Netns(error) => error.is_not_found(),
            Self::Sysctl(error) => error.is_not_found(),
            // The kernel's words for a missing link, address, route or neighbour.
            _ => matches!(
                self.errno(),
                Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
            ),
        }
    }

    /// Whether such an object is there already.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::Foreign { .. }) || self.errno() == Some(libc::EEXIST)
    }

    /// Whether a dump was disturbed each time it was tried: nothing may be concluded from it, and later it may succeed.
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Kernel { source, .. } if source.kind() == io::ErrorKind::Interrupted)
    }

    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Makes success of the kernel's answer that the object is not there.
pub(super) fn gone_is_success(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
