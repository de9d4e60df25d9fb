//! The command that a sandbox was made for: whether it runs, and its end.

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    controller::{Code, Error},
    model::Sandbox,
    netns::Netns,
};

/// Whether a process runs and is in this sandbox's namespace, `host` being netd's own. A process id alone may be another's by now.
///
/// # Errors
/// When the daemon has run out of something and cannot tell.
pub(super) fn is_running(host: &Netns, sandbox: &Sandbox, pid: u32) -> Result<bool, Error> {
    let theirs = match &sandbox.netns {
        Some(netns) => Netns::open_path(&netns.path).and_then(|netns| netns.inode()),
        None => host.inode(),
    };
    let its = Netns::of_pid(pid).and_then(|netns| netns.inode());
    match (its, theirs) {
        (Ok(its), Ok(theirs)) => Ok(its == theirs),
        (Err(error), _) | (_, Err(error)) if error.is_shortage() => Err(error.into()),
        _ => Ok(false),
    }
}

/// Ends a process at once; one that has ended is fine.
///
/// # Errors
/// Names the process.
pub(super) fn end(pid: u32) -> Result<(), Error> {
    let failed = |why: String| Error::new(Code::Failure, format!("end process {pid}: {why}"));
    let pid = i32::try_from(pid).map_err(|error| failed(error.to_string()))?;
    match kill(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(failed(errno.to_string())),
    }
}

/// Ends the sandbox's command if it runs.
///
/// # Errors
/// Names the process.
pub fn end_command(host: &Netns, sandbox: &Sandbox) -> Result<(), Error> {
    match sandbox.pid {
        Some(pid) if is_running(host, sandbox, pid)? => end(pid),
        _ => Ok(()),
    }
}
