//! What was dropped, by reason, and what else the programs count.

use std::collections::BTreeMap;

use aya::maps::{Array, MapData, PerCpuArray};
use netd_common::{
    conntrack::fragment,
    maps::{Held, capacity, held},
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
        of(&self.maps.drops, &self.maps.held)
    }

    /// Returns how many ports were tried for masqueraded flows.
    ///
    /// # Errors
    /// When the kernel does not let the map be read.
    pub(super) fn port_tries(&self) -> Result<PortTries, Error> {
        let mut flows = BTreeMap::new();
        for (slot, most) in (tries::FIRST..).zip(tries::AT_MOST) {
            flows.insert(most, counted(&self.maps.drops, slot)?);
        }
        Ok(PortTries { flows, tries: counted(&self.maps.drops, tries::SUM)? })
    }
}

/// Returns the drops by reason, as the programs count them and as waiting fragments tell.
///
/// # Errors
/// When the kernel does not let a map be read.
pub fn of(
    drops: &PerCpuArray<MapData, u64>,
    waiting: &Array<MapData, Held>,
) -> Result<Vec<(&'static str, u64)>, Error> {
    let mut counts = Vec::with_capacity(DropReason::ALL.len());
    for reason in DropReason::ALL {
        let given_up = if *reason == DropReason::FragNoFirst { given_up(waiting)? } else { 0 };
        counts.push((reason.as_str(), counted(drops, *reason as u32)? + given_up));
    }
    Ok(counts)
}

/// Returns what all processors have counted in a slot.
fn counted(drops: &PerCpuArray<MapData, u64>, slot: u32) -> Result<u64, Error> {
    let counts = drops.get(&slot, 0);
    let counts = counts.map_err(|source| Error::kernel("read map DROPS".to_owned(), source))?;
    Ok(counts.iter().sum())
}

/// Returns how many fragments have waited for their first in vain: a program counts them only when it comes by.
fn given_up(waiting: &Array<MapData, Held>) -> Result<u64, Error> {
    let now = flows::now();
    let mut count = 0;
    for place in 0..capacity::HELD {
        let held = waiting.get(&place, 0);
        let held = held.map_err(|source| Error::kernel("read map HELD".to_owned(), source))?;
        count += u64::from(held.state == held::READY && fragment::is_forgotten(held.since, now));
    }
    Ok(count)
}
