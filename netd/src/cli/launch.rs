//! Starts a command inside a sandbox.

use std::{
    ffi::OsString,
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use nix::{sys::signal::SigSet, unistd::Pid};

use super::{failure::Failure, inside::View, wait::Signals};
use crate::{
    api::dto::Container,
    controller::Code,
    netns::{self, Netns},
};

/// Exit code when the command exists and cannot be executed (POSIX shell, 2.8.2).
const NOT_EXECUTABLE: u8 = 126;
/// Exit code when the command does not exist (POSIX shell, 2.8.2).
const NOT_FOUND: u8 = 127;

/// Where a command's input and output go.
#[derive(Debug)]
pub(super) enum Terminal {
    /// The caller's own: the same files, the same terminal.
    Inherited,
    /// Nothing to read; output into this file.
    Log(File),
}

/// Starts a command in a sandbox's namespaces and returns its process.
///
/// The command stays in the caller's process group, so that pipelines and the shell's job control work as if netd were
/// not there: the terminal itself tells both of Ctrl-C and Ctrl-Z.
///
/// # Errors
/// With exit code 127 or 126 when the command does not exist or cannot be executed.
pub(super) async fn launch(
    sandbox: &Container,
    command: &[OsString],
    terminal: Terminal,
    signals: &Signals,
) -> Result<Pid, Failure> {
    let program = command.first().cloned().unwrap_or_default();
    let doing = format!("run {} in sandbox {}", program.display(), sandbox.name);
    let (netns, other_network) = open(&sandbox.netns).map_err(|error| refused(&doing, &error))?;
    let (view, command, text) = (View::of(sandbox), command.to_vec(), doing.clone());
    let blocked = signals.before();
    netns
        .run_in(move || {
            view.enter(other_network).map_err(|error| {
                let code = if error.is_permission() { Code::Permission } else { Code::Failure };
                Failure::new(code, format!("{text}: {error}"))
            })?;
            spawn(&command, terminal, blocked).map_err(|error| not_started(&text, &error))
        })
        .await
        .map_err(|error| refused(&doing, &error))?
}

/// Opens a namespace, and says whether it is another than the caller's.
fn open(path: &str) -> Result<(Netns, bool), netns::Error> {
    let netns = Netns::open_path(Path::new(path))?;
    let other = netns.inode()? != Netns::current()?.inode()?;
    Ok((netns, other))
}

fn spawn(command: &[OsString], terminal: Terminal, blocked: SigSet) -> io::Result<Pid> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    // What runs in a sandbox has operations of its own.
    let mut command = Command::new(program);
    command.args(arguments).env_remove(super::OPERATION);
    if let Terminal::Log(log) = terminal {
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    }
    // SAFETY: between fork and exec the closure only sets the signal mask, which signal-safety(7) allows there; it owns its data.
    unsafe { command.pre_exec(move || blocked.thread_set_mask().map_err(io::Error::from)) };
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

fn not_started(doing: &str, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    Failure { exit, message: format!("{doing}: {error}"), hint: None }
}

fn refused(doing: &str, error: &netns::Error) -> Failure {
    let why = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let code = match why.map(io::Error::kind) {
        _ if error.is_not_found() => Code::NotFound,
        Some(io::ErrorKind::PermissionDenied) => Code::Permission,
        _ => Code::Failure,
    };
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let failure = Failure::new(code, format!("{doing}: {error}{why}"));
    if code == Code::Permission {
        failure.hint("run as root: entering a namespace needs CAP_SYS_ADMIN")
    } else {
        failure
    }
}

/// Opens the file for a detached command's output; earlier output is kept.
pub(super) fn open_log(sandbox: &Container) -> Result<File, Failure> {
    let path = Path::new(&sandbox.log_path);
    let doing = format!("open log {}", path.display());
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| Failure::io(&doing, &error))?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    file.map_err(|error| Failure::io(&doing, &error))
}
