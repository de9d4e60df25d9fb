//! Where log lines go and which.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};

use crate::config::LogFormat;

/// Environment variable with a filter in tracing's syntax, such as `netd=debug,netd::audit=off`.
const FILTER: &str = "NETD_LOG";

/// Logs of a command: warnings on stderr, with -v what it does.
pub(super) fn to_stderr(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let colored = std::io::stderr().is_terminal();
    let subscriber = fmt().with_env_filter(filter(level)).with_writer(std::io::stderr).with_ansi(colored);
    let _ = subscriber.without_time().with_target(false).try_init(); // set once; a second subscriber is no error
}

/// Logs of the daemon: info on stderr, with -v more.
pub(super) fn of_daemon(verbose: u8, format: LogFormat) {
    let level = match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let subscriber = fmt().with_env_filter(filter(level)).with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}

/// The variable wins over the default; netd's own crates follow the level, others only say what is wrong.
fn filter(level: LevelFilter) -> EnvFilter {
    match std::env::var(FILTER) {
        Ok(text) if !text.is_empty() => EnvFilter::new(text),
        _ => EnvFilter::new(format!("warn,netd={level}")),
    }
}
