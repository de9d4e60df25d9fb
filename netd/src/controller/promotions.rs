//! When the programs of new endpoints are promoted: one at a time, while nobody waits for the controller (ADR 0028).
//!
//! Each holds the kernel's rtnl lock for a grace period, which the next operation would have to wait for.

use std::time::Duration;

use tokio::time::Instant;

use super::{apply::Machine, error::chain, task::Controller};

/// So long after the last operation nobody is expected to give another.
const QUIET: Duration = Duration::from_millis(500);
/// Where operations never rest, one is promoted so often all the same.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// After one that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// When the next promotion is due, if an endpoint waits for it.
#[derive(Debug)]
pub(super) struct Promotions {
    /// The end of the last operation.
    operated: Instant,
    /// The end of the last promotion.
    promoted: Instant,
    /// How long the lock is left to others after it.
    rest: Duration,
    /// Whether the last one failed.
    failing: bool,
}

impl Promotions {
    pub(super) fn new(now: Instant) -> Self {
        Self { operated: now, promoted: now, rest: Duration::ZERO, failing: false }
    }

    /// Takes note of an operation that has ended.
    pub(super) const fn operated(&mut self, now: Instant) {
        self.operated = now;
    }

    /// Takes note of a promotion: the lock is left to others for as long as it took. Returns whether it is the first that failed.
    fn promoted(&mut self, began: Instant, now: Instant, failed: bool) -> bool {
        self.promoted = now;
        self.rest = if failed { AFTER_FAILURE } else { now - began };
        let known = std::mem::replace(&mut self.failing, failed);
        failed && !known
    }

    /// Returns when the next one is due.
    pub(super) fn due(&self) -> Instant {
        let quiet = self.operated + QUIET;
        quiet.min(self.promoted + AT_LEAST_EVERY).max(self.promoted + self.rest)
    }
}

impl<M: Machine> Controller<M> {
    /// Whether an endpoint waits for a promotion.
    pub(super) fn awaits_promotion(&mut self) -> bool {
        self.machine.dataplane(|dataplane| dataplane.awaits_promotion())
    }

    /// Promotes the program of one endpoint.
    pub(super) fn promote_one(&mut self) {
        let began = Instant::now();
        let result = self.machine.dataplane(|dataplane| dataplane.promote_one());
        let first_failure = self.promotions.promoted(began, Instant::now(), result.is_err());
        if let Err(error) = result
            && first_failure
        {
            tracing::warn!(error = chain(&error), "the program of an endpoint stays a filter for now");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn operations_go_first() {
        let start = Instant::now();
        let mut promotions = Promotions::new(start);
        assert_eq!(promotions.due(), start + QUIET);
        promotions.operated(start + 100 * MS);
        assert_eq!(promotions.due(), start + 100 * MS + QUIET, "each begins the wait anew");
        promotions.operated(start + 900 * MS);
        assert_eq!(promotions.due(), start + AT_LEAST_EVERY, "for ever");
    }

    #[test]
    fn the_lock_is_left_to_others_for_as_long_as_it_was_held() {
        let start = Instant::now();
        let mut promotions = Promotions::new(start);
        let began = start + QUIET;
        assert!(!promotions.promoted(began, began + 12 * MS, false));
        assert_eq!(promotions.due(), began + 24 * MS);
        promotions.operated(began + 15 * MS);
        assert_eq!(promotions.due(), began + 15 * MS + QUIET);
    }

    #[test]
    fn one_that_fails_is_told_once_and_tried_again_later() {
        let start = Instant::now();
        let mut promotions = Promotions::new(start);
        assert!(promotions.promoted(start, start + MS, true));
        assert_eq!(promotions.due(), start + MS + AFTER_FAILURE);
        assert!(!promotions.promoted(start, start + MS, true), "told twice");
        assert!(!promotions.promoted(start, start + MS, false));
        assert!(promotions.promoted(start, start + MS, true));
    }
}
