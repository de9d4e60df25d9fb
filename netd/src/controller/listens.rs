//! Sets of host ports that cost as much as they have runs of neighbours: 60,000 published ports are one.

use std::{collections::BTreeMap, net::IpAddr};

use super::object::Listen;
use crate::model::Protocol;

/// A set of [`Listen`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listens {
    /// The last port of each run, by its first; runs of one address and protocol don't touch.
    runs: BTreeMap<(Protocol, IpAddr, u16), u16>,
}

impl Listens {
    /// Whether the set has it.
    pub fn contains(&self, listen: &Listen) -> bool {
        self.run_of(listen).is_some()
    }

    /// Adds it. False: it was there.
    pub fn insert(&mut self, listen: &Listen) -> bool {
        let Listen { protocol, ip, port } = *listen;
        if self.contains(listen) {
            return false;
        }
        let before = port.checked_sub(1).and_then(|port| self.run_of(&Listen { port, ..*listen }));
        let first = before.map_or(port, |(first, _)| first);
        let after = port.checked_add(1).and_then(|next| self.runs.remove(&(protocol, ip, next)));
        self.runs.insert((protocol, ip, first), after.unwrap_or(port));
        true
    }

    /// Takes it away. False: it was not there.
    pub fn remove(&mut self, listen: &Listen) -> bool {
        let Listen { protocol, ip, port } = *listen;
        let Some((first, last)) = self.run_of(listen) else { return false };
        self.runs.remove(&(protocol, ip, first));
        if first < port {
            self.runs.insert((protocol, ip, first), port - 1);
        }
        if port < last {
            self.runs.insert((protocol, ip, port + 1), last);
        }
        true
    }

    /// Returns the runs as first and last port, whatever address and protocol they have.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        self.runs.iter().map(|((_, _, first), last)| (*first, *last)).collect()
    }

    /// Returns first and last port of the run that it lies in.
    fn run_of(&self, listen: &Listen) -> Option<(u16, u16)> {
        let Listen { protocol, ip, port } = *listen;
        let (&(_, _, first), &last) =
            self.runs.range((protocol, ip, 0)..=(protocol, ip, port)).next_back()?;
        (port <= last).then_some((first, last))
    }
}

impl FromIterator<Listen> for Listens {
    fn from_iter<I: IntoIterator<Item = Listen>>(listens: I) -> Self {
        let mut set = Self::default();
        set.extend(listens);
        set
    }
}

impl Extend<Listen> for Listens {
    fn extend<I: IntoIterator<Item = Listen>>(&mut self, listens: I) {
        for listen in listens {
            self.insert(&listen);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn listen() -> impl Strategy<Value = Listen> {
        let port = prop_oneof![0..8_u16, u16::MAX - 7..=u16::MAX];
        let ip = prop_oneof![Just("0.0.0.0"), Just("192.0.2.1"), Just("::")];
        (port, ip, any::<bool>()).prop_map(|(port, ip, tcp)| Listen {
            protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
            port,
            ip: ip.parse().expect("an address"),
        })
    }

    proptest! {
        #[test]
        fn it_has_what_a_plain_set_has(steps in prop::collection::vec((any::<bool>(), listen()), 0..200)) {
            let (mut set, mut plain) = (Listens::default(), BTreeSet::new());
            for (add, listen) in steps {
                if add {
                    prop_assert_eq!(set.insert(&listen), plain.insert(listen));
                } else {
                    prop_assert_eq!(set.remove(&listen), plain.remove(&listen));
                }
                prop_assert_eq!(set.contains(&listen), plain.contains(&listen));
            }
            let ports: usize = set.ranges().iter().map(|(first, last)| usize::from(last - first) + 1).sum();
            prop_assert_eq!(ports, plain.len());
            prop_assert_eq!(plain.into_iter().collect::<Listens>(), set, "neighbours are one run");
        }
    }

    #[test]
    fn many_neighbours_are_one_run() {
        let ip = "::".parse().expect("an address");
        let all = (0..=u16::MAX).map(|port| Listen { protocol: Protocol::Tcp, port, ip });
        assert_eq!(all.collect::<Listens>().ranges(), [(0, u16::MAX)]);
    }
}
