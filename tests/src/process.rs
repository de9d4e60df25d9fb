//! Child processes that end with the test, and that hold nothing of another's.

use std::{
    io,
    ops::{Deref, DerefMut},
    process::{Command, ExitStatus},
    sync::{PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Held while a program is started: until then the child has every descriptor of this process, also those that are about to be closed.
static STARTING: RwLock<()> = RwLock::new(());

/// Starts a command; behind it the child holds what it was given alone.
pub fn spawn(command: &mut Command) -> io::Result<std::process::Child> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Waits until what this thread has closed is closed: no child that is just being started holds it any more.
pub fn wait_for_starts() {
    drop(STARTING.write().unwrap_or_else(PoisonError::into_inner));
}

/// A process that is killed and reaped on drop.
#[derive(Debug)]
pub struct Child(std::process::Child);

impl Child {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        kill(pid, signal).unwrap_or_else(|e| panic!("send {signal} to {pid}: {e}"));
    }

    /// Waits for the end at most this long.
    pub fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait().expect("wait for a child") {
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl From<std::process::Child> for Child {
    fn from(child: std::process::Child) -> Self {
        Self(child)
    }
}

impl Deref for Child {
    type Target = std::process::Child;
    fn deref(&self) -> &std::process::Child {
        &self.0
    }
}

impl DerefMut for Child {
    fn deref_mut(&mut self) -> &mut std::process::Child {
        &mut self.0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
