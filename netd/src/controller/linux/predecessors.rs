//! Which addresses somebody else had on a bridge before: neighbours may still know that one's Ethernet address.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use crate::model::IfName;

/// So many addresses of a bridge are remembered; beyond, any may have been somebody's.
const REMEMBERED: usize = 4096;

/// Addresses that endpoints gave up, by bridge; none: what was on this bridge, nobody here knows.
#[derive(Debug, Default)]
pub struct Predecessors(HashMap<IfName, Option<HashSet<IpAddr>>>);

impl Predecessors {
    /// Begins with a bridge, unless it is known; only of a new one is known that nobody was on it.
    pub fn begin(&mut self, bridge: &IfName, new: bool) {
        self.0.entry(bridge.clone()).or_insert_with(|| new.then(HashSet::new));
    }

    /// Forgets a bridge that goes.
    pub fn end(&mut self, bridge: &IfName) {
        self.0.remove(bridge);
    }

    /// Remembers addresses that an endpoint gives up.
    pub fn remember(&mut self, bridge: &IfName, addresses: &[IpAddr]) {
        if let Some(known) = self.0.get_mut(bridge) {
            *known = known.take().filter(|all| all.len() + addresses.len() <= REMEMBERED);
            if let Some(all) = known {
                all.extend(addresses);
            }
        }
    }

    /// Whether somebody else may have had one of these addresses.
    pub fn had(&self, bridge: &IfName, addresses: &[IpAddr]) -> bool {
        let known = self.0.get(bridge).and_then(Option::as_ref);
        known.is_none_or(|all| addresses.iter().any(|address| all.contains(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> [IpAddr; 1] {
        [IpAddr::V4(number.into())]
    }

    #[test]
    fn only_on_a_new_bridge_has_an_address_had_no_owner() {
        let (new, old): (IfName, IfName) = ("br-new".parse().expect("name"), "br-old".parse().expect("name"));
        let mut all = Predecessors::default();
        all.begin(&new, true);
        all.begin(&old, false);
        assert!(!all.had(&new, &address(1)));
        assert!(all.had(&old, &address(1)), "an earlier daemon may have given it");
        all.remember(&new, &address(1));
        assert!(all.had(&new, &[address(2), address(1)].concat()) && !all.had(&new, &address(2)));
        // Somebody removed it and it was made again: neighbours remember.
        all.begin(&new, true);
        assert!(all.had(&new, &address(1)));
        all.end(&new);
        assert!(all.had(&new, &address(2)), "of no bridge is known nothing");
    }

    #[test]
    fn more_addresses_than_are_remembered_may_all_have_had_an_owner() {
        let bridge: IfName = "br".parse().expect("name");
        let mut all = Predecessors::default();
        all.begin(&bridge, true);
        for number in 0..u32::try_from(REMEMBERED).expect("small") {
            all.remember(&bridge, &address(number));
        }
        assert!(all.had(&bridge, &address(0)) && !all.had(&bridge, &address(u32::MAX)));
        all.remember(&bridge, &address(u32::MAX - 1));
        assert!(all.had(&bridge, &address(u32::MAX)));
    }
}
