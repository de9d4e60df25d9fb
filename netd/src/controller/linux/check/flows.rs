//! I5: both directions of a flow are there, and none belongs to an interface that is gone.

use std::collections::BTreeSet;

use super::{Findings, I5};
use crate::dataplane::Pinned;

/// Looks at the flow tables, where these are the host's interfaces.
pub fn check(pinned: &Pinned, living: &BTreeSet<u32>, findings: &mut Findings) {
    match pinned.wrong_flows(living) {
        Ok(differences) => {
            let hint = "the daemon's collection removes them; otherwise `netd flow flush` does";
            for difference in differences {
                findings.add_with(I5, difference.object, difference.problem, hint);
            }
        }
        Err(error) => findings.add(I5, "flow tables", error.to_string()),
    }
}
