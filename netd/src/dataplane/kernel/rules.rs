//! Rules of IPv6 policy routing in the maps.

use std::{collections::HashMap, net::Ipv6Addr};

use aya::maps::lpm_trie::Key;
use ipnet::Ipv6Net;
use netd_common::maps::{RouteKey, Rule6, UNKNOWN_RULES, capacity, rule_flags};

use super::{Error, Kernel, RuleEntry, Rules};

/// Bits of a key in front of the address.
pub(super) const RULE_BITS: u32 = 32;

impl Kernel {
    /// Makes the programs follow these rules. While they take the place of others, nothing new leaves by IPv6.
    pub(super) fn write_rules(&mut self, rules: &Rules) -> Result<(), Error> {
        let entries = match rules {
            Rules::Plain => {
                self.count_rules(0)?;
                return self.write_longer(&HashMap::new());
            }
            Rules::Unknown(_) => {
                self.count_rules(UNKNOWN_RULES)?;
                return self.write_longer(&HashMap::new());
            }
            Rules::Listed(entries) => entries,
        };
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let mut longer = HashMap::new();
        for (place, entry) in (0_u32..).zip(entries) {
            longer.extend(entry.longer.iter().flatten().map(|(net, device)| ((place, *net), *device)));
        }
        if count > capacity::RULE6 || longer.len() > capacity::LONGER6 as usize {
            self.count_rules(UNKNOWN_RULES)?;
            return Err(Error::Limit("the host has more IPv6 rules or routes than netd follows".to_owned()));
        }
        let values: Vec<Rule6> = entries.iter().map(value).collect();
        // Rules in force are not changed one by one. Where routes alone are others, or no rule was followed yet, there is nothing to close.
        let old = self.rules()?;
        if !old.is_empty() && old != values {
            self.count_rules(UNKNOWN_RULES)?;
        }
        self.write_longer(&longer)?;
        for (place, rule) in (0_u32..).zip(values) {
            self.maps
                .rule6
                .set(place, rule, 0)
                .map_err(|source| Error::kernel(format!("write rule {place} to map RULE6"), source))?;
        }
        self.count_rules(count)
    }

    fn count_rules(&mut self, count: u32) -> Result<(), Error> {
        if self.config.rules6 == count {
            return Ok(());
        }
        self.config.rules6 = count;
        self.write_config()
    }

    /// Returns the rules in force.
    pub(super) fn rules(&self) -> Result<Vec<Rule6>, Error> {
        let count = if self.config.rules6 > capacity::RULE6 { 0 } else { self.config.rules6 };
        let read = |place| self.maps.rule6.get(&place, 0);
        (0..count)
            .map(|place| read(place).map_err(|source| Error::kernel("read map RULE6".to_owned(), source)))
            .collect()
    }

    /// Makes these the routes that rules let pass, by the rule's place.
    fn write_longer(&mut self, wanted: &HashMap<(u32, Ipv6Net), u32>) -> Result<(), Error> {
        let refused = |source| Error::kernel("write to map LONGER6".to_owned(), source);
        let key = |(rule, net): (u32, Ipv6Net)| {
            Key::new(RULE_BITS + u32::from(net.prefix_len()), RouteKey { rule, addr: net.network().into() })
        };
        let mut present = HashMap::new();
        for entry in &self.maps.longer6 {
            let (key, device) =
                entry.map_err(|source| Error::kernel("list map LONGER6".to_owned(), source))?;
            let length = u8::try_from(key.prefix_len().saturating_sub(RULE_BITS)).unwrap_or(128);
            let net = Ipv6Net::new(Ipv6Addr::from(key.data().addr), length);
            present.extend(net.map(|net| ((key.data().rule, net), device)));
        }
        // What is no longer there goes first: it makes room.
        for gone in present.keys().filter(|route| !wanted.contains_key(route)) {
            self.maps.longer6.remove(&key(*gone)).map_err(refused)?;
        }
        for (route, device) in wanted.iter().filter(|(route, device)| present.get(route) != Some(device)) {
            self.maps.longer6.insert(&key(*route), device, 0).map_err(refused)?;
        }
        Ok(())
    }
}

pub(super) fn value(entry: &RuleEntry) -> Rule6 {
    let mut flags = 0;
    if entry.inverted {
        flags |= rule_flags::INVERT;
    }
    if entry.table.is_none() {
        flags |= rule_flags::FORBIDS;
    }
    if entry.longer.is_some() {
        flags |= rule_flags::SUPPRESSES;
    }
    Rule6 {
        src: entry.src.network().into(),
        src_mask: entry.src.netmask().into(),
        dst: entry.dst.network().into(),
        dst_mask: entry.dst.netmask().into(),
        mark: entry.mark.0,
        mark_mask: entry.mark.1,
        iif: entry.iif,
        table: entry.table.unwrap_or(0),
        sports: [entry.sports.0, entry.sports.1],
        dports: [entry.dports.0, entry.dports.1],
        proto: entry.proto,
        class: entry.class,
        flags,
    }
}
