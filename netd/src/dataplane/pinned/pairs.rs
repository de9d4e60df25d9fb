//! Whether flows have both of their directions.

use std::{
    collections::{BTreeSet, HashSet},
    hash::Hash,
};

use aya::Pod;
use netd_common::{
    family::Address,
    maps::{Flow, Tuple, flow_flags},
    net::{Addr4, Addr6, is_of_a_sandbox},
};

use super::{Difference, Pinned};
use crate::dataplane::{Error, maps::Table};

impl Pinned {
    /// Counts flows without their other direction, and those of interfaces that are gone.
    ///
    /// # Errors
    /// A table cannot be read, or is another netd's.
    pub fn wrong_flows(&self, living: &BTreeSet<u32>) -> Result<Vec<Difference>, Error> {
        self.fit(&["FLOW4", "FLOW6"])?;
        let mut differences = of_table::<Addr4>(&Table::open(&self.dir, "FLOW4")?, "FLOW4", living)?;
        differences.extend(of_table::<Addr6>(&Table::open(&self.dir, "FLOW6")?, "FLOW6", living)?);
        Ok(differences)
    }
}

fn of_table<A: Address + Eq + Hash>(
    table: &Table<Tuple<A>, Flow<A>>,
    name: &str,
    living: &BTreeSet<u32>,
) -> Result<Vec<Difference>, Error>
where
    Tuple<A>: Pod,
    Flow<A>: Pod,
{
    let mut keys: HashSet<Tuple<A>> = HashSet::new();
    table.for_each(|key, _| {
        keys.insert(*key);
    })?;
    let (mut dead, mut alone) = (0_usize, Vec::new());
    table.for_each(|key, flow| {
        let gone = |ifindex: u32| is_of_a_sandbox(ifindex) && !living.contains(&ifindex);
        dead += usize::from(gone(key.zone) || (flow.flags & flow_flags::TO_SANDBOX != 0 && gone(flow.out)));
        // In `FLOW6` the other direction of a mapped flow is in `FLOW4`.
        let mapped = flow.flags & flow_flags::AS_IPV4 != 0;
        if !mapped && !keys.contains(&key.counterpart(flow)) {
            alone.push((*key, key.counterpart(flow)));
        }
    })?;
    // Flows come and go while they are read, a direction at a time.
    let mut lone = 0;
    for (key, other) in alone {
        lone += usize::from(table.get(&key)?.is_some() && table.get(&other)?.is_none());
    }
    let told = [(dead, "are of interfaces that are gone"), (lone, "lack their other direction")];
    let told = told.into_iter().filter(|(count, _)| *count > 0);
    Ok(told
        .map(|(count, what)| Difference::new(format!("map {name}"), format!("{count} flows {what}")))
        .collect())
}
