//! What a refused or failed operation says: one line, a code that scripts can rely on, and a hint where one helps.

use std::{fmt, io};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::{dataplane, link, netns, sysctl};

/// Classes of failure, with the exit code of the CLI and the HTTP status of the API (spec: cli.md, Global).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Something went wrong on the way.
    Failure,
    /// The request itself is wrong.
    Usage,
    /// No such object.
    NotFound,
    /// It exists, is in use or overlaps.
    Conflict,
    /// Docker's 403: a predefined network, active endpoints.
    Forbidden,
    /// The caller may not.
    Permission,
    /// The kernel lacks a feature, or a limit of the kernel is reached.
    Unsupported,
    /// A limit of netd's own is reached: a map is full, a bridge has all its ports.
    Limit,
    /// The disk that keeps the state is full.
    NoSpace,
    /// The daemon is stopping: the next one will do it.
    NotReady,
}

impl Code {
    /// Returns the CLI's exit code.
    pub const fn exit(self) -> u8 {
        match self {
            Self::Failure | Self::Limit | Self::NoSpace | Self::NotReady => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict | Self::Forbidden => 4,
            Self::Permission => 6,
            Self::Unsupported => 7,
        }
    }

    /// Returns the HTTP status, as Docker's API has it.
    pub const fn status(self) -> u16 {
        match self {
            Self::Failure => 500,
            Self::Usage => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Forbidden | Self::Permission => 403,
            Self::Unsupported => 501,
            Self::Limit | Self::NoSpace => 507,
            Self::NotReady => 503,
        }
    }
}

/// How far an operation came before it failed (reliability.md, appendix B). Whatever had been done by then has been undone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The request was read.
    Request,
    /// It was decided what to do.
    #[default]
    Plan,
    /// The intent was written down.
    Journal,
    /// The kernel was changed.
    Apply,
    /// The result was written down.
    Commit,
}

/// Errors of the kernel that pass by themselves.
const PASSING: [i32; 8] = [
    libc::EAGAIN,
    libc::EBUSY,
    libc::EINTR,
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::ETIMEDOUT,
];

/// A refused or failed operation. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Its class.
    pub code: Code,
    /// What was being done, to which object, and why not: one line.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
    /// The system's number for the reason, where it is the system's (errno(3)).
    pub errno: Option<i32>,
    /// What the operation was about, such as `network app`.
    pub object: Option<String>,
    /// How far it came.
    pub phase: Phase,
}

impl Error {
    /// Makes an error without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (hint, errno, object, phase) = (None, None, None, Phase::default());
        Self { code, message: message.into(), hint, errno, object, phase }
    }

    /// Makes an error of one that has causes.
    fn of(code: Code, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { errno: errno(error), ..Self::new(code, chain(error)) }
    }

    /// Says what the operation was about, unless that has been said.
    #[must_use]
    pub fn about(mut self, object: impl FnOnce() -> String) -> Self {
        self.object = self.object.or_else(|| Some(object()));
        self
    }

    /// Says how far the operation came.
    #[must_use]
    pub fn in_phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// Whether the same request may succeed a moment later, without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        let passes = self.errno.is_some_and(|errno| PASSING.contains(&errno));
        self.code == Code::NotReady || (self.code == Code::Failure && passes)
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Returns the system's number for the reason at the bottom of an error.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let next = error.source().and_then(errno);
    next.or_else(|| error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error))
        .or_else(|| error.downcast_ref::<Errno>().map(|errno| *errno as i32))
}

/// Returns an error and everything that caused it as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let reason = next.to_string();
        // Some errors repeat their cause.
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = next.source();
    }
    text
}

impl From<link::Error> for Error {
    fn from(error: link::Error) -> Self {
        let code = match &error {
            link::Error::Foreign { .. } => Code::Conflict,
            link::Error::Limit(_) => Code::Limit,
            _ => Code::Failure,
        };
        Self::of(code, &error)
    }
}

impl From<netns::Error> for Error {
    fn from(error: netns::Error) -> Self {
        let code = if error.is_not_found() { Code::NotFound } else { Code::Failure };
        Self::of(code, &error)
    }
}

impl From<sysctl::Error> for Error {
    fn from(error: sysctl::Error) -> Self {
        Self::of(Code::Failure, &error)
    }
}

impl From<dataplane::Error> for Error {
    fn from(error: dataplane::Error) -> Self {
        let code = match &error {
            dataplane::Error::Unsupported(_) => Code::Unsupported,
            dataplane::Error::Kernel { .. } => Code::Failure,
            dataplane::Error::Limit(_) => Code::Limit,
        };
        Self::of(code, &error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_by_itself_is_worth_another_try() {
        let busy = |number| {
            let error = netns::Error::new("open namespace x", io::Error::from_raw_os_error(number));
            Error::from(error)
        };
        for (error, number, retryable) in [
            (busy(libc::EMFILE), Some(libc::EMFILE), true),
            (busy(libc::ENOENT), Some(libc::ENOENT), false),
            (busy(libc::EPERM), Some(libc::EPERM), false),
            (Error::new(Code::NotReady, "the daemon is stopping"), None, true),
            (Error::new(Code::Conflict, "a network with this name exists"), None, false),
            (Error::new(Code::Failure, "lost"), None, false),
        ] {
            assert_eq!((error.errno, error.is_retryable()), (number, retryable), "{error:?}");
        }
    }
}
