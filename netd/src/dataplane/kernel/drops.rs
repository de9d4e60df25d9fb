//! What was dropped, by reason, and what else the programs count.

use std::collections::BTreeMap;

use netd_common::{
    conntrack::fragment,
    maps::{capacity, held},
    verdict::{DropReason, tries},
};

use super::Kernel;
use crate::dataplane::{Error, PortTries, flows};

impl Kernel {
    /// Returns the drops by reason.
    ///
    /// # Errors
    /// When the kernel does not let a map be read.
    pub(super) fn count_drops(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        let mut drops = Vec::with_capacity(DropReason::ALL.len());
        for reason in DropReason::ALL {
            let given_up = if *reason == DropReason::FragNoFirst { self.given_up()? } else { 0 };
            drops.push((reason.as_str(), self.counted(*reason as u32)? + given_up));
        }
        Ok(drops)
    }

    /// Returns how many ports were tried for masqueraded flows.
    ///
    /// # Errors
    /// When the kernel does not let the map be read.
    pub(super) fn port_tries(&self) -> Result<PortTries, Error> {
        let mut flows = BTreeMap::new();
        for (slot, most) in (tries::FIRST..).zip(tries::AT_MOST) {
            flows.insert(most, self.counted(slot)?);
        }
        Ok(PortTries { flows, tries: self.counted(tries::SUM)? })
    }

    /// Returns what all processors have counted in a slot.
    fn counted(&self, slot: u32) -> Result<u64, Error> {
        let counts = self.maps.drops.get(&slot, 0);
        let counts = counts.map_err(|source| Error::kernel("read map DROPS".to_owned(), source))?;
        Ok(counts.iter().sum())
    }

    /// Returns how many fragments have waited for their first in vain: a program counts them only when it comes by.
    fn given_up(&self) -> Result<u64, Error> {
        let now = flows::now();
        let mut count = 0;
        for place in 0..capacity::HELD {
            let held = self.maps.held.get(&place, 0);
            let held = held.map_err(|source| Error::kernel("read map HELD".to_owned(), source))?;
            count += u64::from(held.state == held::READY && fragment::is_forgotten(held.since, now));
        }
        Ok(count)
    }
}
