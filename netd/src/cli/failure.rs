//! How a command fails: one line, a hint where one helps, an exit code (spec: cli.md, Global).

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::error::ErrorKind;

use crate::{
    api::ClientError,
    config,
    controller::{Code, Error},
};

/// Exit code when the daemon does not answer.
const UNREACHABLE: u8 = 5;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) exit: u8,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { exit: code.exit(), message: message.into(), hint: None }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what was being done when the system refused.
    pub(super) fn io(doing: &str, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => Code::NotFound,
            io::ErrorKind::PermissionDenied => Code::Permission,
            _ => Code::Failure,
        };
        Self::new(code, format!("{doing}: {error}"))
    }

    /// Says that the daemon could not be asked.
    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self { exit: UNREACHABLE, message: message.into(), hint: None }
    }

    /// Says what was being done when the configuration turned out to be wrong.
    pub(super) fn configuration(doing: &str, error: &config::Error) -> Self {
        let message = format!("{doing}: {error}");
        match error {
            config::Error::Read { source, .. } => Self { message, ..Self::io(doing, source) },
            config::Error::Invalid { .. } | config::Error::Value(_) => Self::usage(message),
            config::Error::NoCgroup => Self::new(Code::Unsupported, message),
        }
    }

    /// Prints the failure to stderr. A reader that has gone is no failure of its own.
    pub(super) fn print(&self, colored: bool) {
        let paint = |word: &str, color: &str| {
            if colored { format!("\x1b[1;{color}m{word}\x1b[0m") } else { word.to_owned() }
        };
        let mut stderr = io::stderr().lock();
        let _ = writeln!(stderr, "{} {}", paint("error:", "31"), one_line(&self.message));
        if let Some(hint) = &self.hint {
            let _ = writeln!(stderr, "{} {}", paint("hint:", "36"), one_line(hint));
        }
    }

    /// Prints the failure and returns its exit code.
    pub(super) fn report(&self, colored: bool) -> ExitCode {
        self.print(colored);
        ExitCode::from(self.exit)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit: error.code.exit(), message: error.message, hint: error.hint }
    }
}

/// Adds what was being done to errors that do not say it themselves.
pub(super) trait Doing<T> {
    /// Names the operation, such as `list networks`.
    fn doing(self, what: &str) -> Result<T, Failure>;
}

impl<T> Doing<T> for Result<T, ClientError> {
    fn doing(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| {
            let text = error.to_string();
            // The daemon may have said it without the object.
            let verb = what.rsplit_once(' ').map_or(what, |(verb, _)| verb);
            let why = text.strip_prefix(verb).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text);
            let message = format!("{what}: {why}");
            match error {
                ClientError::Refused(error) if names_object(&error.message, what) => error.into(),
                ClientError::Refused(error) => Failure { message, ..error.into() },
                ClientError::Unreachable { .. } => Failure::unreachable(message)
                    .hint("start it with `netd daemon` as root, or name its socket with -H or NETD_HOST"),
                ClientError::Permission { .. } => Failure::new(Code::Permission, message)
                    .hint("run as root, or as a member of the socket's group"),
                ClientError::NoAnswer { .. } => Failure::unreachable(message),
            }
        })
    }
}

/// Whether a message already speaks of the object, the last word of what was being done.
fn names_object(message: &str, what: &str) -> bool {
    let object = what.rsplit(' ').next().unwrap_or_default();
    let part_of_name = |character: char| character.is_alphanumeric() || "_.-".contains(character);
    message.split(|character| !part_of_name(character)).any(|word| word == object)
}

/// Prints clap's help, version or complaint; a complaint takes one line and a hint.
pub(super) fn usage(error: &clap::Error, colored: bool) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print(); // a closed pipe: the reader has seen enough
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(Code::Usage.exit())
        }
        _ => complaint(&error.to_string()).report(colored),
    }
}

/// Turns clap's paragraphs into a message and a hint.
fn complaint(text: &str) -> Failure {
    let mut paragraphs = text.split("\n\n").map(one_line);
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    let rest: Vec<String> = paragraphs.collect();
    let tip = rest.iter().find_map(|paragraph| paragraph.strip_prefix("tip: ").map(str::to_owned));
    let usage = rest.iter().find_map(|paragraph| paragraph.strip_prefix("Usage: ").map(str::to_owned));
    let hint = tip.or_else(|| usage.map(|usage| format!("usage: {usage}")));
    Failure::usage(message).hint(hint.unwrap_or_else(|| "see `netd --help`".to_owned()))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_said_where_the_daemon_does_not_say_it() {
        for (message, what, said) in [
            ("network app has active endpoints", "remove network app", true),
            ("Pool overlaps with other one", "create network over", false),
            ("No such sandbox: web", "inspect sandbox web", true),
            ("network nope not found", "create sandbox web", false),
        ] {
            assert_eq!(names_object(message, what), said, "{message}");
        }
    }

    #[test]
    fn claps_paragraphs_become_one_line_and_a_hint() {
        let failure = complaint(
            "error: the following required arguments were not provided:\n  <NAME>\n\nUsage: netd network create <NAME>\n\nFor more information, try '--help'.\n",
        );
        assert_eq!(failure.message, "the following required arguments were not provided: <NAME>");
        assert_eq!(failure.hint.as_deref(), Some("usage: netd network create <NAME>"));
        assert_eq!(failure.exit, 2);
        let failure = complaint(
            "error: unrecognized subcommand 'netwrk'\n\n  tip: a similar subcommand exists: 'network'\n\nUsage: netd [OPTIONS] <COMMAND>\n",
        );
        assert_eq!(failure.hint.as_deref(), Some("a similar subcommand exists: 'network'"));
    }
}
