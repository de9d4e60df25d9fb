//! What a refused or failed operation says: one line, a code that scripts can rely on, and a hint where one helps.

use std::fmt;

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

/// A refused or failed operation. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Its class.
    pub code: Code,
    /// What was being done, to which object, and why not: one line.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl Error {
    /// Makes an error without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
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
        Self::new(code, chain(&error))
    }
}

impl From<netns::Error> for Error {
    fn from(error: netns::Error) -> Self {
        let code = if error.is_not_found() { Code::NotFound } else { Code::Failure };
        Self::new(code, chain(&error))
    }
}

impl From<sysctl::Error> for Error {
    fn from(error: sysctl::Error) -> Self {
        Self::new(Code::Failure, chain(&error))
    }
}

impl From<dataplane::Error> for Error {
    fn from(error: dataplane::Error) -> Self {
        let code = match &error {
            dataplane::Error::Unsupported(_) => Code::Unsupported,
            dataplane::Error::Kernel { .. } => Code::Failure,
            dataplane::Error::Limit(_) => Code::Limit,
        };
        Self::new(code, chain(&error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
