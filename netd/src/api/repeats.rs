//! How a client asks again for a change whose answer it did not hear.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// The ids of a client's changes, and how long it waits for a daemon that ended.
#[derive(Debug, Clone, Default)]
pub struct Repeats {
    /// How long to wait for the next daemon; nothing: no change is repeated.
    pub(super) patience: Duration,
    /// The id of the first change, if the caller has one.
    given: Option<String>,
    changes: Arc<AtomicU32>,
}

impl Repeats {
    /// Repeats a change for so long; the first change has this id.
    pub fn new(patience: Duration, given: Option<String>) -> Self {
        Self { patience, given, changes: Arc::default() }
    }

    /// Returns the next change's id; None: there are no random numbers.
    pub(super) fn operation(&self) -> Option<String> {
        let earlier = self.changes.fetch_add(1, Ordering::Relaxed);
        match &self.given {
            Some(id) if earlier == 0 => Some(id.clone()),
            Some(id) => Some(format!("{id}-{}", earlier + 1)),
            None => getrandom::u64().ok().map(|number| format!("{number:016x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_command_has_an_id_of_its_own() {
        let given = Repeats::new(Duration::ZERO, Some("deploy".into()));
        let ids: Vec<_> = (0..3).filter_map(|_| given.clone().operation()).collect();
        assert_eq!(ids, ["deploy", "deploy-2", "deploy-3"]);
        let random = Repeats::default();
        assert_ne!(random.operation(), random.operation());
    }
}
