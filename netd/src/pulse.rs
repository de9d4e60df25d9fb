//! Counts what the controller gets done, so that somebody else can see whether it hangs.

use std::sync::atomic::{AtomicU64, Ordering};

/// A process has one controller.
static BEATS: AtomicU64 = AtomicU64::new(0);

/// Notes that a step is done, or a turn of the controller's loop.
pub fn beat() {
    BEATS.fetch_add(1, Ordering::Relaxed);
}

/// Returns how many there were.
pub fn beats() -> u64 {
    BEATS.load(Ordering::Relaxed)
}
