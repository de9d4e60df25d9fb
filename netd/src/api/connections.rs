//! Counts connections, and lets the oldest silent one go when a new one needs its place.
//!
//! So a client that only opens connections can never keep others out: whoever sends a request at once is served.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

/// Connections at one time (reliability.md 8.3).
pub(super) const MAX: usize = 256;

/// Every open connection, the oldest first.
#[derive(Default)]
pub(super) struct Connections {
    open: Arc<Mutex<VecDeque<Arc<State>>>>,
}

#[derive(Default)]
struct State {
    requests: AtomicUsize,
    close: Notify,
}

/// The place of one connection; the last clone gives it back.
#[derive(Clone)]
pub(super) struct Slot(Arc<Place>);

struct Place {
    state: Arc<State>,
    open: Arc<Mutex<VecDeque<Arc<State>>>>,
}

/// Keeps a connection from being closed for another's sake while it lives.
pub(super) struct Busy(Arc<State>);

impl Connections {
    /// Takes a place for a new connection; None: all are taken by requests in flight.
    pub(super) fn open(&self) -> Option<Slot> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX {
            let oldest_silent = open.iter().position(|state| !state.is_busy())?;
            if let Some(state) = open.remove(oldest_silent) {
                state.close.notify_one();
            }
        }
        let state = Arc::new(State::default());
        open.push_back(Arc::clone(&state));
        Some(Slot(Arc::new(Place { state, open: Arc::clone(&self.open) })))
    }

    /// Tells every connection to close once its request is answered.
    pub(super) fn stop(&self) {
        for state in self.open.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            state.close.notify_one();
        }
    }
}

impl State {
    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }
}

impl Slot {
    /// Marks a request as in flight.
    pub(super) fn busy(&self) -> Busy {
        self.0.state.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(&self.0.state))
    }

    /// Whether a request is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.0.state.is_busy()
    }

    /// Waits until the connection shall close.
    pub(super) async fn told_to_close(&self) {
        self.0.state.close.notified().await;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|state| !Arc::ptr_eq(state, &self.state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_silent_connection_makes_room() {
        let connections = Connections::default();
        let slots: Vec<Slot> = (0..MAX).filter_map(|_| connections.open()).collect();
        let busy = slots[0].busy();
        let new = connections.open().expect("a silent one goes");
        slots[1].told_to_close().await;
        drop((busy, new));
    }

    #[test]
    fn requests_in_flight_are_never_dropped_for_a_new_connection() {
        let connections = Connections::default();
        let slots: Vec<Slot> = (0..MAX).filter_map(|_| connections.open()).collect();
        let busy: Vec<Busy> = slots.iter().map(Slot::busy).collect();
        assert!(connections.open().is_none());
        drop(busy);
        assert!(connections.open().is_some());
    }

    #[test]
    fn a_closed_connection_gives_its_place_back() {
        let connections = Connections::default();
        for _ in 0..2 * MAX {
            drop(connections.open().expect("room"));
        }
        assert!(connections.open.lock().expect("unpoisoned").is_empty());
    }
}
