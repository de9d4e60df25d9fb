//! Sees that somebody else has written to the maps that are netd's alone, and puts it right (reliability S27).
//!
//! Two looks between which netd had no reason to write find the same. Where they do not, everything is brought in step with what is stored, as at a
//! start. What somebody writes in the second after netd itself has written is taken for netd's until the next start.

use std::time::Instant;

use tokio::task::JoinHandle;

use super::{apply::Machine, host::HostView, task::Controller};
use crate::dataplane::{Digesting, Digests, Error};

/// Looks around, of which there is one each second, from one look at the maps to the next, which reads all that they hold.
const PAUSE: u8 = 5;

/// How often the same maps are brought in step before what they hold then counts.
const TRIES: u8 = 3;

/// What the maps held when nobody but netd could have written.
#[derive(Debug, Default)]
pub struct Tampering {
    known: Option<Digests>,
    /// A look that is being made: with tens of thousands of ports it takes its time, and nobody is to wait for it.
    running: Option<JoinHandle<Result<Digests, Error>>>,
    /// Seconds since the last look.
    waited: u8,
    /// Looks that could be compared with the one before.
    looks: u64,
    /// Looks in a row after which maps still differed.
    tries: u8,
    /// Whether the maps cannot be read.
    failing: bool,
}

impl Tampering {
    /// Takes note that netd itself writes.
    pub(super) fn netd_writes(&mut self) {
        self.known = None;
        self.running = None; // it ends by itself, unheard
    }

    /// Returns how many looks could be compared with the one before.
    pub(super) const fn looks(&self) -> u64 {
        self.looks
    }

    /// Whether it is time for a look; to be asked every second. The first one after netd has written is.
    fn is_due(&mut self) -> bool {
        self.waited = if self.known.is_none() { PAUSE } else { self.waited + 1 };
        if self.waited < PAUSE {
            return false;
        }
        self.waited = 0;
        true
    }
}

/// Names the maps that are not what they were.
fn changed(before: &Digests, now: &Digests) -> Vec<&'static str> {
    now.iter().filter(|(name, digest)| before.get(*name) != Some(digest)).map(|(name, _)| *name).collect()
}

impl<M: Machine> Controller<M> {
    /// Compares the maps with what they were; to be called every second.
    pub(super) async fn look_for_tampering(&mut self) {
        let Some(now) = self.look_at_maps().await else { return };
        let Some(before) = self.rounds.tampering.known.take() else {
            self.rounds.tampering.known = Some(now);
            return;
        };
        self.rounds.tampering.looks += 1;
        let maps = changed(&before, &now);
        if maps.is_empty() {
            self.rounds.tampering.tries = 0;
            self.rounds.tampering.known = Some(now);
            return;
        }
        tracing::warn!(?maps, "maps were written by others and are brought in step with what is stored");
        if let Err(error) = self.machine.dataplane(|dataplane| dataplane.write_again()) {
            tracing::error!(%error, "configuration of the programs not written again");
        }
        // As at a start: what is known of the host is told anew.
        self.host = HostView::default();
        if let Err(error) = self.reconcile().await {
            tracing::error!(%error, "maps not brought in step");
            self.unfinished.note(error.message);
        }
        let Some(after) = self.begin_look().and_then(|look| self.told(look())) else { return };
        let maps = changed(&before, &after);
        let tampering = &mut self.rounds.tampering;
        tampering.tries = if maps.is_empty() { 0 } else { tampering.tries + 1 };
        if tampering.tries == TRIES {
            tracing::error!(
                ?maps,
                "maps are not what they were, also after they were brought in step; that counts from now on"
            );
            tampering.tries = 0;
            tampering.known = Some(after);
        } else {
            tampering.known = Some(before);
        }
    }

    /// Returns what a look came to, a second after it began; None: it is not time for one, it is not through, or netd has written meanwhile.
    async fn look_at_maps(&mut self) -> Option<Digests> {
        let tampering = &mut self.rounds.tampering;
        if let Some(running) = tampering.running.take_if(|running| running.is_finished()) {
            // One that panicked says nothing.
            return self.told(running.await.ok()?);
        }
        if tampering.running.is_none() && tampering.is_due() {
            let began = Instant::now();
            let look = self.begin_look()?;
            let held = began.elapsed();
            self.rounds.tampering.running = Some(tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                let digests = look();
                tracing::debug!(?held, elapsed = ?began.elapsed(), "maps looked at");
                digests
            }));
        }
        None
    }

    fn begin_look(&mut self) -> Option<Digesting> {
        let look = self.machine.dataplane(|dataplane| dataplane.begin_digests());
        self.told(look)
    }

    /// Returns what the kernel told; what it does not tell is said once.
    fn told<T>(&mut self, answer: Result<T, Error>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.rounds.tampering.failing = false;
                Some(answer)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.rounds.tampering.failing, true) {
                    tracing::warn!(%error, "whether others have written to maps cannot be seen");
                }
                self.rounds.tampering.netd_writes();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_differ_are_named() {
        let before = Digests::from([("PUBLISH4", 1), ("ENDPOINT", 2)]);
        assert_eq!(changed(&before, &before), Vec::<&str>::new());
        assert_eq!(changed(&before, &Digests::from([("PUBLISH4", 3), ("ENDPOINT", 2)])), ["PUBLISH4"]);
    }

    #[test]
    fn one_look_in_some_is_due() {
        let mut tampering = Tampering::default();
        assert!(tampering.is_due() && tampering.is_due(), "there is nothing to compare with");
        tampering.known = Some(Digests::new());
        let due: Vec<bool> = (0..10).map(|_| tampering.is_due()).collect();
        assert_eq!(due, [false, false, false, false, true, false, false, false, false, true]);
        tampering.netd_writes();
        assert!(tampering.is_due());
    }
}
