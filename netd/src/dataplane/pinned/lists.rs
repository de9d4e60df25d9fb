//! Lists of sources and of interfaces, known by what is on them: the numbers that the daemon gave them mean nothing by themselves.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::model::Sources;

/// Lists by content, each with a number of its own here; 0 stands for everybody, or every way.
#[derive(Debug, Default)]
pub struct Lists {
    sources: Vec<BTreeSet<IpNet>>,
    ways: Vec<BTreeSet<u32>>,
}

impl Lists {
    /// Returns the numbers of both lists of a port, on a host with these interfaces.
    pub fn of(&mut self, sources: &Sources, interfaces: &BTreeMap<String, u32>) -> (u32, u32) {
        let allow = if sources.prefixes().is_empty() {
            0
        } else {
            self.sources(sources.prefixes().iter().copied().collect())
        };
        if sources.via().is_empty() {
            return (allow, 0);
        }
        let named =
            interfaces.iter().filter(|(name, _)| sources.via().iter().any(|pattern| pattern.matches(name)));
        (allow, self.ways(named.map(|(_, ifindex)| *ifindex).collect()))
    }

    /// Returns the number of a list of sources.
    pub fn sources(&mut self, list: BTreeSet<IpNet>) -> u32 {
        number(&mut self.sources, list)
    }

    /// Returns the number of a list of interfaces.
    pub fn ways(&mut self, list: BTreeSet<u32>) -> u32 {
        number(&mut self.ways, list)
    }

    /// Returns what is on a list of sources.
    pub fn sources_in_words(&self, number: u32) -> String {
        match at(&self.sources, number) {
            Some(list) => words(list),
            None => "everybody".to_owned(),
        }
    }

    /// Returns what is on a list of interfaces.
    pub fn ways_in_words(&self, number: u32) -> String {
        match at(&self.ways, number) {
            Some(list) => words(list),
            None => "every way".to_owned(),
        }
    }
}

fn number<T: PartialEq>(lists: &mut Vec<T>, list: T) -> u32 {
    let at = lists.iter().position(|known| *known == list).unwrap_or_else(|| {
        lists.push(list);
        lists.len() - 1
    });
    u32::try_from(at).map_or(u32::MAX, |at| at.saturating_add(1))
}

fn at<T>(lists: &[T], number: u32) -> Option<&T> {
    lists.get(number.checked_sub(1)? as usize)
}

fn words<T: ToString>(list: &BTreeSet<T>) -> String {
    let all: Vec<String> = list.iter().map(ToString::to_string).collect();
    if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
}
