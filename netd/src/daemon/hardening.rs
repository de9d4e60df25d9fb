//! What the daemon gives up by itself, whoever starts it (reliability.md 8.1).

use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};

use super::start;
use crate::controller::Error;

/// Gives up new privileges for this process and all that comes of it, and keeps its memory from core dumps and from other processes of its user. Threads
/// that are there already keep theirs: it is to be called before there are any.
///
/// # Errors
/// The kernel refuses.
pub fn harden() -> Result<(), Error> {
    prctl::set_no_new_privs().map_err(|errno| start("give up new privileges", &errno.into()))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|errno| start("forbid core dumps", &errno.into()))?;
    prctl::set_dumpable(false).map_err(|errno| start("forbid core dumps", &errno.into()))
}
