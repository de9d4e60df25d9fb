//! A process under ptrace, whose n-th changing system call ends it or fails.
//!
//! A thread of its own starts the process and follows it to its end: ptrace answers to the thread that attached alone.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::calls::{self, Call, Caller};
use crate::{Ns, process};

/// What happens at a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// The process is killed before the call with this number is made.
    Kill(usize),
    /// The call with this number fails with this error; calls that need a descriptor count too.
    Fail(usize, Errno),
}

impl Trap {
    /// Whether calls that need a descriptor count too.
    pub const fn opens(self) -> bool {
        matches!(self, Self::Fail(..))
    }
}

/// A process that is followed.
#[derive(Debug)]
pub struct Traced {
    pid: Pid,
    state: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    trap: Option<Trap>,
    /// Whether calls are counted and recorded.
    counting: bool,
    /// Whether calls that need a descriptor count too.
    opens: bool,
    calls: Vec<Call>,
    hit: Option<Call>,
    ended: Option<i32>,
}

impl Traced {
    /// Starts a program in a namespace. With a trap, calls are counted from the first one on; with `opens`, also those that need a descriptor.
    #[expect(clippy::zombie_processes, reason = "`follow` waits for it")]
    pub fn start(ns: &Ns, mut command: Command, opens: bool, trap: Option<Trap>) -> Self {
        let state = State { trap, counting: trap.is_some(), opens, ..State::default() };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let (sender, receiver) = mpsc::channel();
        let (shared, ns) = (Arc::clone(&state), ns.clone());
        let thread = std::thread::spawn(move || {
            ns.run_here();
            command.stdin(Stdio::null());
            let filter = calls::filter(opens);
            // SAFETY: between fork and exec the closure makes system calls and touches no memory but the filter, which it owns.
            unsafe {
                command.pre_exec(move || {
                    ptrace::traceme()?;
                    seccompiler::apply_filter(&filter).map_err(|_| Errno::EINVAL.into())
                });
            }
            let child = process::spawn(&mut command).unwrap_or_else(|e| panic!("start {command:?}: {e}"));
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
            waitpid(pid, Some(WaitPidFlag::__WALL)).expect("the program's first stop");
            let options =
                Options::PTRACE_O_TRACESECCOMP | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
            ptrace::setoptions(pid, options).expect("ptrace options");
            sender.send(pid).expect("whoever started this waits");
            follow(pid, &shared);
        });
        let pid = receiver.recv().expect("the program starts");
        Self { pid, state, thread: Some(thread) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Counts from the next call on, and does this at the call with that number; None: counts only.
    pub fn set(&self, trap: Option<Trap>) {
        let mut state = self.lock();
        *state = State { trap, counting: true, opens: state.opens, ended: state.ended, ..State::default() };
    }

    /// Stops counting; returns the calls since the trap was set, and the one that it sprang at.
    pub fn unset(&self) -> (Vec<Call>, Option<Call>) {
        let mut state = self.lock();
        state.counting = false;
        state.trap = None;
        (std::mem::take(&mut state.calls), state.hit.clone())
    }

    /// The exit code, or 128 and the signal's number, once it has ended.
    pub fn ended(&self) -> Option<i32> {
        self.lock().ended
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.ended().is_none() {
            let _ = kill(self.pid, signal); // it may end just now
        }
    }

    /// Waits for its end at most this long; returns as `ended`.
    pub fn wait(&self, limit: Duration) -> Option<i32> {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while state.ended.is_none() {
            let left = end.checked_duration_since(Instant::now())?;
            state = self.state.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.ended
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Follows a process and its threads until it has ended.
fn follow(leader: Pid, shared: &(Mutex<State>, Condvar)) {
    let _ = ptrace::cont(leader, None);
    let flags = Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD);
    let code = loop {
        match waitpid(None, flags) {
            Ok(WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_SECCOMP)) => {
                at_call(leader, thread, shared);
                let _ = ptrace::cont(thread, None);
            }
            Ok(WaitStatus::Exited(pid, code)) if pid == leader => break code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == leader => break 128 + signal as i32,
            // A new thread stops once before its first instruction.
            Ok(
                WaitStatus::PtraceEvent(thread, ..)
                | WaitStatus::Stopped(thread, Signal::SIGSTOP | Signal::SIGTRAP),
            ) => {
                let _ = ptrace::cont(thread, None);
            }
            Ok(WaitStatus::Stopped(thread, signal)) => {
                let _ = ptrace::cont(thread, signal);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break -1,
        }
    };
    let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    state.ended = Some(code);
    shared.1.notify_all();
}

/// A thread is about to make a call that the filter knows.
fn at_call(leader: Pid, thread: Pid, shared: &(Mutex<State>, Condvar)) {
    let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    if !state.counting {
        return;
    }
    let Ok(info) = ptrace::syscall_info(thread) else { return };
    if info.op != libc::PTRACE_SYSCALL_INFO_SECCOMP {
        return;
    }
    // SAFETY: `op` says that the kernel filled in the part for a filter's stop.
    let entry = unsafe { info.u.seccomp };
    let caller = Caller { pid: leader.as_raw(), nr: entry.nr.cast_signed(), args: entry.args };
    let Some(call) = caller.call(state.opens) else { return };
    state.calls.push(call.clone());
    let number = state.calls.len();
    match state.trap {
        Some(Trap::Kill(at)) if at == number => {
            state.hit = Some(call);
            let _ = kill(leader, Signal::SIGKILL);
        }
        Some(Trap::Fail(at, errno)) if at == number => {
            state.hit = Some(call);
            refuse(thread, errno);
        }
        _ => {}
    }
}

/// Lets a call fail that a thread is about to make: the kernel skips a call without a number, and answers what stands in the register.
#[cfg(target_arch = "x86_64")]
fn refuse(thread: Pid, errno: Errno) {
    if let Ok(mut registers) = ptrace::getregs(thread) {
        registers.orig_rax = u64::MAX;
        registers.rax = (-i64::from(errno as i32)).cast_unsigned();
        let _ = ptrace::setregs(thread, registers);
    }
}

/// Kills alone are possible where nobody has written down which register a call's number is in.
#[cfg(not(target_arch = "x86_64"))]
fn refuse(_: Pid, _: Errno) {}
