//! What one user may take of the API, so that others get their share: connections, places among the changes that wait, changes a minute (reliability.md
//! S36). Root is bounded by what there is for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::controller::{Code, Error, Phase};

/// Changes of one user that may wait: a quarter of all places.
const QUEUED: usize = 16;
/// Seconds of a minute.
const MINUTE: f64 = 60.0;

/// What every user but root may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserLimits {
    /// Connections at one time.
    pub connections: usize,
    /// Changes a minute; as many may come at once.
    pub changes_per_minute: u32,
}

impl Default for UserLimits {
    fn default() -> Self {
        Self { connections: 64, changes_per_minute: 1200 }
    }
}

/// Everybody who is connected, or was within the last minute.
pub(super) struct Users {
    limits: UserLimits,
    users: Mutex<HashMap<u32, User>>,
}

#[derive(Debug, Clone, Copy)]
struct User {
    connections: usize,
    queued: usize,
    /// Changes that may come now.
    changes: f64,
    at: Instant,
}

/// Something that a user has taken; given back on drop.
pub(super) struct Share {
    users: Arc<Users>,
    uid: u32,
    what: fn(&mut User) -> &mut usize,
}

impl Users {
    pub(super) fn new(limits: UserLimits) -> Arc<Self> {
        Arc::new(Self { limits, users: Mutex::default() })
    }

    /// Takes a connection; None: root needs no share.
    ///
    /// # Errors
    /// The user has all of theirs.
    pub(super) fn connect(self: &Arc<Self>, uid: u32) -> Result<Option<Share>, Error> {
        self.take(uid, Instant::now(), |user, limits| {
            if user.connections >= limits.connections {
                return Err(format!("uid {uid} has {} connections; try again", limits.connections));
            }
            Ok(|user| &mut user.connections)
        })
    }

    /// Takes a place among the changes that wait; None: root needs no share.
    ///
    /// # Errors
    /// The user has all of theirs, or made too many changes within a minute.
    pub(super) fn change(self: &Arc<Self>, uid: u32) -> Result<Option<Share>, Error> {
        self.change_at(uid, Instant::now())
    }

    fn change_at(self: &Arc<Self>, uid: u32, now: Instant) -> Result<Option<Share>, Error> {
        self.take(uid, now, |user, limits| {
            if user.queued >= QUEUED {
                return Err(format!("{QUEUED} operations of uid {uid} are already waiting; try again"));
            }
            if user.changes < 1.0 {
                let most = limits.changes_per_minute;
                return Err(format!("uid {uid} made {most} changes within a minute; try again"));
            }
            user.changes -= 1.0;
            Ok(|user| &mut user.queued)
        })
    }

    fn take(
        self: &Arc<Self>,
        uid: u32,
        now: Instant,
        choose: impl FnOnce(&mut User, UserLimits) -> Result<fn(&mut User) -> &mut usize, String>,
    ) -> Result<Option<Share>, Error> {
        if uid == 0 {
            return Ok(None);
        }
        let most = f64::from(self.limits.changes_per_minute);
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for user in users.values_mut() {
            let passed = now.saturating_duration_since(user.at).as_secs_f64();
            user.changes = (user.changes + passed * most / MINUTE).min(most);
            user.at = now;
        }
        // Whoever has taken nothing is as good as new.
        users.retain(|_, user| user.connections > 0 || user.queued > 0 || user.changes < most);
        let user = users.entry(uid).or_insert(User { connections: 0, queued: 0, changes: most, at: now });
        let what = choose(user, self.limits)
            .map_err(|why| Error::new(Code::NotReady, why).in_phase(Phase::Request))?;
        *what(user) += 1;
        Ok(Some(Share { users: Arc::clone(self), uid, what }))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut users = self.users.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users.get_mut(&self.uid) {
            let taken = (self.what)(user);
            *taken = taken.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn users(connections: usize, changes_per_minute: u32) -> Arc<Users> {
        Users::new(UserLimits { connections, changes_per_minute })
    }

    #[test]
    fn a_user_has_connections_of_their_own_and_gets_them_back() {
        let users = users(2, 1);
        let held: Vec<_> = (0..2).map(|_| users.connect(1000).expect("room")).collect();
        let error = users.connect(1000).err().expect("no more");
        assert_eq!(error.message, "uid 1000 has 2 connections; try again");
        assert!(error.is_retryable());
        assert!(users.connect(1001).is_ok() && users.connect(0).is_ok());
        drop(held);
        assert!(users.connect(1000).is_ok());
    }

    #[test]
    fn a_users_changes_are_counted_by_the_minute_and_roots_are_not() {
        let users = users(1, 60);
        let start = Instant::now();
        for _ in 0..60 {
            drop(users.change_at(1000, start).expect("within the minute's"));
        }
        assert!(users.change_at(1000, start).is_err());
        assert!(users.change_at(1001, start).is_ok());
        assert!((0..100).all(|_| users.change_at(0, start).is_ok()));
        let later = start + Duration::from_secs(2);
        assert!((0..2).all(|_| users.change_at(1000, later).is_ok()), "one a second comes back");
        assert!(users.change_at(1000, later).is_err());
    }

    #[test]
    fn a_users_changes_take_a_quarter_of_the_queue() {
        let users = users(1, 1000);
        let mut held: Vec<_> = (0..QUEUED).map(|_| users.change(1000).expect("room")).collect();
        assert!(users.change(1000).is_err());
        assert!(users.change(1001).is_ok());
        held.pop();
        assert!(users.change(1000).is_ok());
    }

    #[test]
    fn whoever_left_is_forgotten() {
        let users = users(1, 60);
        let start = Instant::now();
        for uid in 1..1000 {
            drop(users.change_at(uid, start));
        }
        let later = start + Duration::from_secs(2);
        drop(users.change_at(1, later));
        assert_eq!(users.users.lock().expect("unpoisoned").len(), 1);
    }
}
