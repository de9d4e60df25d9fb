//! The start after a kill, which can be broken off in its turn.

use super::{
    calls::Call,
    point::{Wrong, tail},
    subject::Subject,
    tracer::Trap,
};

/// How the start after a kill goes.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// The start is killed before this of its calls, and there is one more.
    pub trap: Option<Trap>,
    /// Calls of the last start that had a trap.
    pub calls: Vec<Call>,
    /// The call at which it was killed.
    pub hit: Option<Call>,
}

impl Recovery {
    /// Whether the start is to be broken off.
    pub const fn is_broken_off(&self) -> bool {
        self.trap.is_some()
    }

    /// Starts the daemon; after a second kill once more. Whether one runs then.
    pub fn run(&mut self, subject: &mut Subject, wrong: &mut Wrong) -> bool {
        if self.trap.is_some() {
            let ended = subject.try_start(self.trap);
            // The trap may have sprung just when the daemon was ready.
            (self.calls, self.hit) = subject.daemon().unset();
            if ended.is_none() && self.hit.is_none() {
                return true;
            }
            subject.bury();
        }
        let Some(code) = subject.try_start(None) else { return true };
        wrong.add("the next start", vec![format!("exit code {code}"), tail(&subject.log())]);
        subject.bury();
        false
    }
}
