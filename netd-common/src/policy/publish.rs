//! Who may come to a published port, and by which way: everybody, or the sources and the interfaces on its lists (truth table T30, T84).

use crate::{env::Env, family::Ip, net::IfIndex, verdict::DropReason};

/// Refuses a source that the publish's list does not have. List 0 stands for everybody.
///
/// # Errors
/// `NotAllowed`.
#[inline(always)]
pub fn check_allowed<F: Ip, E: Env<F>>(env: &E, list: u32, source: &F::Addr) -> Result<(), DropReason> {
    if list == 0 || env.allows(list, source) { Ok(()) } else { Err(DropReason::NotAllowed) }
}

/// Refuses what comes from outside by an interface that the publish's list does not name. List 0 stands for all of them.
///
/// # Errors
/// `NotAllowed`.
#[inline(always)]
pub fn check_way<F: Ip, E: Env<F>>(env: &E, list: u32, device: IfIndex) -> Result<(), DropReason> {
    if list == 0 || env.names(list, device) { Ok(()) } else { Err(DropReason::NotAllowed) }
}
