//! Waits for a command as if netd were not between it and the caller: signals go on, stops are shared.

use std::os::fd::AsFd as _;

use nix::{
    errno::Errno,
    libc::SI_KERNEL,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill},
        signalfd::{SfdFlags, SignalFd, siginfo},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{Pid, getpgid, getpgrp},
};

use super::{failure::Failure, instance::Instance};

/// What is passed on to the command.
const PASSED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];
/// What ends `netd run` before its command has started.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The process's signals, from here on read instead of acted upon.
pub(super) struct Signals {
    incoming: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks the signals in this thread and those it will start.
    pub(super) fn block() -> Result<Self, Failure> {
        let mut set: SigSet = PASSED.into_iter().collect();
        set.add(Signal::SIGCHLD);
        set.add(Signal::SIGCONT);
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(failed)?;
        let incoming =
            SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(failed)?;
        Ok(Self { incoming, before })
    }

    /// Returns the signals that were blocked before: the command starts with these.
    pub(super) fn before(&self) -> SigSet {
        self.before
    }

    /// Returns a signal that came before the command started and asks to end.
    pub(super) fn asked_to_end(&self) -> Result<Option<Signal>, Failure> {
        let mut asked = None;
        while let Some(info) = self.incoming.read_signal().map_err(failed)? {
            asked = asked.or_else(|| signal(&info).filter(|signal| ENDING.contains(signal)));
        }
        Ok(asked)
    }

    /// Waits for the command's end and returns its exit code, or 128 and the signal that killed it. The command is not reaped: its number stays its
    /// own. It is killed when the instance that its sandbox belongs to is gone.
    pub(super) fn wait(&self, command: Pid, instance: &Instance) -> Result<u8, Failure> {
        let look = |flags| waitid(Id::Pid(command), flags | WaitPidFlag::WNOHANG).map_err(failed);
        loop {
            let continued = self.pass_on(command)?;
            if instance.is_gone() {
                kill(command, Signal::SIGKILL).map_err(failed)?;
            }
            let looking = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
            match look(looking)? {
                WaitStatus::Exited(_, code) => return Ok(u8::try_from(code).unwrap_or(u8::MAX)),
                WaitStatus::Signaled(_, signal, _) => return Ok(killed_by(signal)),
                WaitStatus::Stopped(..) => {
                    let taken = look(WaitPidFlag::WSTOPPED)?;
                    // The shell must see its job stopped. It continues the job by SIGCONT, which is then passed on.
                    if matches!(taken, WaitStatus::Stopped(..)) && !continued {
                        kill(Pid::this(), Signal::SIGSTOP).map_err(failed)?;
                    }
                }
                WaitStatus::StillAlive => self.sleep(instance)?,
                _ => {}
            }
        }
    }

    /// Passes on what has come; returns whether the job was continued.
    fn pass_on(&self, command: Pid) -> Result<bool, Failure> {
        let mut continued = false;
        while let Some(info) = self.incoming.read_signal().map_err(failed)? {
            let Some(signal) = signal(&info) else { continue };
            continued |= signal == Signal::SIGCONT;
            // The terminal sends to the whole process group: the command has had it already.
            let had = info.ssi_code == SI_KERNEL && getpgid(Some(command)) == Ok(getpgrp());
            if signal == Signal::SIGCONT || (signal != Signal::SIGCHLD && !had) {
                match kill(command, signal) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(continued)
    }

    fn sleep(&self, instance: &Instance) -> Result<(), Failure> {
        let mut files = vec![PollFd::new(self.incoming.as_fd(), PollFlags::POLLIN)];
        files.extend(instance.news().map(|news| PollFd::new(news, PollFlags::POLLIN)));
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Reaps a command that has ended: from now on its number may be another's.
pub(super) fn reap(command: Pid) {
    let _ = waitpid(command, None); // a zombie needs no waiting
}

/// Returns the exit code of a process that a signal ended, as shells report it.
pub(super) fn killed_by(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}

fn signal(info: &siginfo) -> Option<Signal> {
    i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
}

fn failed(error: Errno) -> Failure {
    Failure::io("wait for the command", &error.into())
}
