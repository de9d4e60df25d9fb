//! What could not be put right for now: a machine that was short of memory, descriptors or disk recovers, and netd with it, without a restart.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{apply::Machine, task::Controller};

/// First pause before the next try; each one doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
const LONGEST: Duration = Duration::from_mins(5);

/// What is still to be put right, in words, and when to try again.
#[derive(Debug, Default)]
pub struct Unfinished {
    left: BTreeSet<String>,
    /// What was said already: not again at every try.
    told: BTreeSet<String>,
    pause: Duration,
    due: Option<Instant>,
}

impl Unfinished {
    /// Begins a try: what fails in it is noted anew.
    pub fn begin(&mut self) {
        self.left.clear();
    }

    /// Notes a failure. Returns whether it is news.
    pub fn note(&mut self, what: impl Into<String>) -> bool {
        let what = what.into();
        let is_news = self.told.insert(what.clone());
        self.left.insert(what);
        self.due.get_or_insert_with(|| Instant::now() + FIRST);
        is_news
    }

    /// Ends a try: the next one comes after a longer pause, and none where nothing is left.
    pub fn end(&mut self) {
        if self.left.is_empty() {
            *self = Self::default();
            return;
        }
        self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
        self.due = Some(Instant::now() + self.pause);
    }

    /// The first thing that is left, for `status`.
    pub fn why(&self) -> Option<&str> {
        self.left.first().map(String::as_str)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

impl<M: Machine> Controller<M> {
    /// Tries again what is left, when it is time; to be called every second.
    pub(super) async fn finish(&mut self) {
        if !self.unfinished.is_due(Instant::now()) {
            return;
        }
        self.rounds.tampering.netd_writes();
        if let Err(error) = self.reconcile().await {
            self.unfinished.note(error.message);
        }
        self.unfinished.end();
        if self.unfinished.why().is_none() {
            tracing::info!("what could not be put right before is in order now");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_tried_again_after_longer_and_longer_pauses() {
        let mut unfinished = Unfinished::default();
        assert!(!unfinished.is_due(Instant::now() + LONGEST));
        assert!(unfinished.note("bridge a") && !unfinished.note("bridge a"));
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            unfinished.end();
            let (early, late) = (Duration::from_millis(seconds * 1000 - 500), Duration::from_secs(seconds));
            let now = Instant::now();
            assert!(!unfinished.is_due(now + early) && unfinished.is_due(now + late), "{seconds}");
            unfinished.begin();
            assert!(!unfinished.note("bridge a"), "told already");
        }
        assert_eq!(unfinished.why(), Some("bridge a"));
        unfinished.begin();
        unfinished.end();
        assert!(unfinished.why().is_none() && !unfinished.is_due(Instant::now() + LONGEST));
        assert!(unfinished.note("bridge a"), "news again");
    }
}
