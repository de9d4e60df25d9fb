//! Who may come to a published port: everybody, or the sources on its list (truth table T84).

use crate::{env::Env, family::Ip, verdict::DropReason};

/// Refuses a source that the publish's list does not have. List 0 stands for everybody.
///
/// # Errors
/// `NotAllowed`.
#[inline(always)]
pub fn check_allowed<F: Ip, E: Env<F>>(env: &E, list: u32, source: &F::Addr) -> Result<(), DropReason> {
    if list == 0 || env.allows(list, source) { Ok(()) } else { Err(DropReason::NotAllowed) }
}
