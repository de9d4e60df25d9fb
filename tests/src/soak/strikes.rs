//! What happens to the daemon.

use std::{collections::BTreeMap, thread, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{Daemon, Random};

/// How often each thing has happened.
#[derive(Debug, Default)]
pub struct Strikes(BTreeMap<&'static str, u64>);

impl Strikes {
    /// Ends or stops the daemon in some way; it runs again when this returns.
    pub fn strike(&mut self, daemon: &mut Daemon, random: &mut Random) {
        match random.between(0, 9) {
            0..=3 => self.end(daemon, random, Signal::SIGKILL),
            4 | 5 => self.end(daemon, random, Signal::SIGTERM),
            6 => self.end(daemon, random, Signal::SIGABRT),
            7 => {
                daemon.end(Signal::SIGKILL);
                daemon.launch(&[]);
                // Somewhere in its start, or just behind it.
                wait(random, 700);
                self.end(daemon, random, Signal::SIGKILL);
                self.count("SIGKILL in its start");
            }
            _ => self.pause(daemon, random),
        }
    }

    /// Stops the daemon for a while, and lets it go on.
    pub fn pause(&mut self, daemon: &Daemon, random: &mut Random) {
        daemon.signal(Signal::SIGSTOP);
        wait(random, 1500);
        daemon.signal(Signal::SIGCONT);
        self.count("SIGSTOP");
    }

    fn end(&mut self, daemon: &mut Daemon, random: &mut Random, signal: Signal) {
        daemon.end(signal);
        wait(random, 300);
        daemon.restart();
        self.count(signal.as_str());
    }

    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn json(&self) -> Value {
        json!(self.0)
    }
}

fn wait(random: &mut Random, at_most: u64) {
    thread::sleep(Duration::from_millis(random.between(0, at_most)));
}
