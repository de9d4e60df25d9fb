//! Sees that somebody else has written to the maps that are netd's alone, and puts it right (reliability S27).
//!
//! Two looks between which netd had no reason to write find the same. Where they do not, everything is brought in step with what is stored, as at a
//! start. What somebody writes in the second after netd itself has written is taken for netd's until the next start.

use super::{apply::Machine, task::Controller};
use crate::dataplane::Digests;

/// Looks around, of which there is one each second, from one look at the maps to the next, which reads all that they hold.
const PAUSE: u8 = 5;

/// How often the same maps are brought in step before what they hold then counts.
const TRIES: u8 = 3;

/// What the maps held when nobody but netd could have written.
#[derive(Debug, Default)]
pub struct Tampering {
    known: Option<Digests>,
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
        if !self.rounds.tampering.is_due() {
            return;
        }
        let Some(now) = self.digests() else { return };
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
        if let Err(error) = self.reconcile().await {
            tracing::error!(%error, "maps not brought in step");
            self.unfinished.note(error.message);
        }
        let Some(after) = self.digests() else { return };
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

    /// Reads the maps; what the kernel does not tell is said once.
    fn digests(&mut self) -> Option<Digests> {
        match self.machine.dataplane(|dataplane| dataplane.digests()) {
            Ok(digests) => {
                self.rounds.tampering.failing = false;
                Some(digests)
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
