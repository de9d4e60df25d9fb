//! Which addresses somebody else had on a bridge before: neighbours may still know that one's Ethernet address.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use crate::{link::Haste, model::IfName};

/// So many addresses of a bridge are remembered; beyond, nobody knows any more whose they were.
const REMEMBERED: usize = 4096;

/// What was on each bridge before.
#[derive(Debug, Default)]
pub struct Predecessors(HashMap<IfName, Before>);

#[derive(Debug)]
struct Before {
    /// Addresses that endpoints gave up; none: nobody here knows.
    known: Option<HashSet<IpAddr>>,
    /// Whether the bridge is netd's own: then all neighbours are sandboxes.
    own: bool,
}

impl Predecessors {
    /// Begins with a bridge, unless it is known; only of a new one is known that nobody was on it.
    pub fn begin(&mut self, bridge: &IfName, new: bool, own: bool) {
        self.0.entry(bridge.clone()).or_insert_with(|| Before { known: new.then(HashSet::new), own });
    }

    /// Forgets a bridge that goes.
    pub fn end(&mut self, bridge: &IfName) {
        self.0.remove(bridge);
    }

    /// Remembers addresses that an endpoint gives up.
    pub fn remember(&mut self, bridge: &IfName, addresses: &[IpAddr]) {
        if let Some(Before { known, .. }) = self.0.get_mut(bridge) {
            *known = known.take().filter(|all| all.len() + addresses.len() <= REMEMBERED);
            if let Some(all) = known {
                all.extend(addresses);
            }
        }
    }

    /// How soon neighbours must learn who has these addresses now: at once where somebody else had one of them. Where nobody knows, a daemon that has just
    /// started would tell thousands; the packet path leads sandboxes to who has an address, whatever Ethernet address they know, and hosts behind an adopted
    /// bridge not.
    pub fn haste(&self, bridge: &IfName, addresses: &[IpAddr]) -> Haste {
        let at_once = self.0.get(bridge).is_none_or(|Before { known, own }| match known {
            Some(known) => addresses.iter().any(|address| known.contains(address)),
            None => !own,
        });
        if at_once { Haste::AtOnce } else { Haste::InTurn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> [IpAddr; 1] {
        [IpAddr::V4(number.into())]
    }

    #[test]
    fn only_on_a_new_bridge_is_known_who_had_an_address() {
        let [new, old, adopted] =
            ["br-new", "br-old", "br-adopted"].map(|name| name.parse::<IfName>().expect("name"));
        let mut all = Predecessors::default();
        all.begin(&new, true, true);
        all.begin(&old, false, true);
        all.begin(&adopted, false, false);
        assert_eq!(all.haste(&new, &address(1)), Haste::InTurn);
        assert_eq!(all.haste(&old, &address(1)), Haste::InTurn, "neighbours are sandboxes");
        assert_eq!(all.haste(&adopted, &address(1)), Haste::AtOnce, "an earlier daemon may have given it");
        all.remember(&new, &address(1));
        assert_eq!(all.haste(&new, &[address(2), address(1)].concat()), Haste::AtOnce);
        assert_eq!(all.haste(&new, &address(2)), Haste::InTurn);
        // Somebody removed it and it was made again: neighbours remember.
        all.begin(&new, true, true);
        assert_eq!(all.haste(&new, &address(1)), Haste::AtOnce);
        all.end(&new);
        assert_eq!(all.haste(&new, &address(2)), Haste::AtOnce, "of no bridge is known nothing");
    }

    #[test]
    fn more_addresses_than_are_remembered_are_forgotten() {
        let bridge: IfName = "br".parse().expect("name");
        let mut all = Predecessors::default();
        all.begin(&bridge, true, true);
        for number in 0..u32::try_from(REMEMBERED).expect("small") {
            all.remember(&bridge, &address(number));
        }
        assert_eq!(all.haste(&bridge, &address(0)), Haste::AtOnce);
        assert_eq!(all.haste(&bridge, &address(u32::MAX)), Haste::InTurn);
        all.remember(&bridge, &address(u32::MAX - 1));
        assert_eq!(all.haste(&bridge, &address(0)), Haste::InTurn);
    }
}
