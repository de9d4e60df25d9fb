//! Running other programs, with errors that name the command and show its output.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::ui::{self, Task};

/// Runs a command with this terminal and fails when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed with {status}", line(command));
    }
    Ok(())
}

/// Runs a command with this terminal and returns how it ended.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("run `{}`", line(command)))
}

/// Runs a command and returns what it wrote to stdout; the error carries its stderr.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run `{}`", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed with {}: {}", line(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end with a text as its input.
pub fn feed(command: &mut Command, text: &str) -> Result<()> {
    let mut child =
        command.stdin(Stdio::piped()).spawn().with_context(|| format!("run `{}`", line(command)))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).with_context(|| format!("write to `{}`", line(command)))?;
    }
    let status = child.wait().with_context(|| format!("wait for `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed with {status}", line(command));
    }
    Ok(())
}

/// Runs a command under a task's spinner; its output is shown only when it fails, as part of the error.
pub fn run_quietly(task: &Task, command: &mut Command) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    command.stdout(writer.try_clone().context("clone a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("run `{}`", line(command)))?;
    // The command keeps the pipe's other end: without this, reading would never come to an end.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut output = Vec::new();
    for read in BufReader::new(reader).split(b'\n') {
        let text = String::from_utf8_lossy(&read.context("read a command's output")?).into_owned();
        task.detail(&text);
        output.push(text);
    }
    let status = child.wait().context("wait for a command")?;
    if !status.success() {
        bail!("`{}` failed with {status}:\n{}", line(command), output.join("\n"));
    }
    Ok(())
}

/// Returns a command that does the same as root: itself, or through `sudo -E`, saying so.
pub fn as_root(plain: Command) -> Result<Command> {
    if is_root() {
        return Ok(plain);
    }
    let Some(sudo) = find("sudo", &[]) else {
        bail!("`{}` needs root: run this as root, or install sudo", line(&plain));
    };
    ui::note(&format!("`{}` needs root: running it through sudo -E", line(&plain)));
    let mut command = Command::new(sudo);
    command.arg("-E").arg(plain.get_program()).args(plain.get_args());
    Ok(command)
}

/// Where administrators' programs lie when `PATH` is an ordinary user's.
pub fn sbin() -> [PathBuf; 2] {
    ["/usr/sbin".into(), "/sbin".into()]
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Finds a program on `PATH`, then in the directories of `more`.
pub fn find(program: &str, more: &[PathBuf]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = env::split_paths(&path).chain(more.iter().cloned()).collect();
    dirs.iter().map(|dir| dir.join(program)).find(|file| is_program(file))
}

/// Whether there is an executable file at `path`.
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
