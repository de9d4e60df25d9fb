//! What the packet path has to know of the host's IPv6 policy routing.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::Ipv6Net;

use crate::{
    dataplane::{RuleEntry, Rules},
    link::{HostRoute, HostRule, HostSnapshot, LOCAL, RuleDoes},
};

/// Returns the rules that the packet path has to follow by itself: none, unless one of them suppresses routes.
pub(super) fn rules(snapshot: &HostSnapshot) -> Rules {
    if snapshot.rules6.iter().all(|rule| rule.suppresses.is_none()) {
        return Rules::Plain;
    }
    let mut entries = Vec::new();
    for rule in &snapshot.rules6 {
        if rule.strange {
            return Rules::Unknown("an IPv6 rule says what netd does not understand");
        }
        entries.extend(entry(rule, snapshot));
    }
    Rules::Listed(entries)
}

/// Returns a rule as the packet path follows it; None: it leads no packet anywhere.
fn entry(rule: &HostRule, snapshot: &HostSnapshot) -> Option<RuleEntry> {
    let table = match rule.does {
        RuleDoes::Nothing => return None,
        // What leaves has no local address for its destination.
        RuleDoes::Ask(LOCAL) if rule.suppresses.is_none() => return None,
        RuleDoes::Ask(table) => Some(table),
        RuleDoes::Forbid => None,
    };
    let device =
        |name: &String| snapshot.links.iter().find(|link| link.name == *name).map(|link| link.ifindex);
    let iif = rule.iif.as_ref().map(device);
    let longer = rule.suppresses.zip(table).map(|(length, table)| longer(&snapshot.routes, table, length));
    let every = RuleEntry {
        src: Ipv6Net::default(),
        dst: Ipv6Net::default(),
        mark: (0, 0),
        iif: 0,
        sports: (0, u16::MAX),
        dports: (0, u16::MAX),
        proto: 0,
        class: 0,
        inverted: false,
        table,
        longer,
    };
    if rule.foreign || iif == Some(None) {
        // It is for no packet that is forwarded, or, turned around, for all.
        return rule.inverted.then_some(every);
    }
    Some(RuleEntry {
        src: rule.src,
        dst: rule.dst,
        mark: (rule.mark.0 & rule.mark.1, rule.mark.1),
        iif: iif.flatten().unwrap_or(0),
        sports: rule.sports.unwrap_or(every.sports),
        dports: rule.dports.unwrap_or(every.dports),
        proto: rule.proto,
        class: rule.class,
        inverted: rule.inverted,
        ..every
    })
}

/// Returns a table's IPv6 routes that are longer than this, each with its device; 0: it has several, or none.
fn longer(routes: &[HostRoute], table: u32, length: u8) -> Vec<(Ipv6Net, u32)> {
    let mut found: BTreeMap<Ipv6Net, u32> = BTreeMap::new();
    for route in routes.iter().filter(|route| route.table == table && route.dst.prefix_len() > length) {
        let IpAddr::V6(network) = route.dst.network() else { continue };
        let Ok(net) = Ipv6Net::new(network, route.dst.prefix_len()) else { continue };
        let device = route.oif.unwrap_or(0);
        found
            .entry(net)
            .and_modify(|known| {
                if *known != device {
                    *known = 0;
                }
            })
            .or_insert(device);
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::HostLink;

    fn rule(does: RuleDoes) -> HostRule {
        HostRule { does, ..HostRule::default() }
    }

    fn route(dst: &str, table: u32, oif: u32) -> HostRoute {
        HostRoute {
            dst: dst.parse().expect("a prefix"),
            gateway: None,
            oif: Some(oif),
            hops: Vec::new(),
            source: None,
            mtu: None,
            table,
            protocol: 3,
            priority: 0,
            unicast: true,
        }
    }

    /// The rules of `wg-quick`, between those that every host has.
    fn vpn() -> HostSnapshot {
        let local = rule(RuleDoes::Ask(LOCAL));
        let main = HostRule { suppresses: Some(0), ..rule(RuleDoes::Ask(254)) };
        let tunnel = HostRule { inverted: true, mark: (51820, u32::MAX), ..rule(RuleDoes::Ask(51820)) };
        let routes = [
            ("::/0", 254, 2),
            ("2001:db8:1::/64", 254, 2),
            ("fe80::/64", 254, 2),
            ("fe80::/64", 254, 3),
            ("fe80::/64", 254, 3),
            ("192.0.2.0/24", 254, 2),
            ("::/0", 51820, 4),
            ("2001:db8:9::/48", 51820, 4),
        ];
        HostSnapshot {
            rules6: vec![local, main, tunnel, rule(RuleDoes::Ask(254))],
            routes: routes.into_iter().map(|(dst, table, oif)| route(dst, table, oif)).collect(),
            ..HostSnapshot::default()
        }
    }

    #[test]
    fn rules_are_listed_while_one_of_them_suppresses_routes() {
        let Rules::Listed(entries) = rules(&vpn()) else { panic!("listed") };
        let tables: Vec<Option<u32>> = entries.iter().map(|entry| entry.table).collect();
        assert_eq!(tables, [Some(254), Some(51820), Some(254)]);
        let net = |text: &str| text.parse::<Ipv6Net>().expect("a prefix");
        let longer = entries[0].longer.clone().expect("it suppresses");
        assert_eq!(longer, [(net("2001:db8:1::/64"), 2), (net("fe80::/64"), 0)]);
        assert!(entries[1].inverted && entries[1].mark == (51820, u32::MAX) && entries[1].longer.is_none());
        let mut without = vpn();
        without.rules6.remove(1);
        assert_eq!(rules(&without), Rules::Plain);
    }

    fn bridge() -> HostLink {
        let (name, kind) = ("br0".to_owned(), Some("bridge".to_owned()));
        HostLink { ifindex: 7, name, kind, mtu: 1500, up: true, running: true, ..HostLink::default() }
    }

    #[test]
    fn a_rule_that_is_not_understood_closes_the_way_and_one_for_others_is_left_out() {
        let with = |other: HostRule| {
            let mut snapshot = vpn();
            snapshot.links = vec![bridge()];
            snapshot.rules6.insert(0, other);
            rules(&snapshot)
        };
        let asks = || rule(RuleDoes::Ask(9));
        assert!(matches!(with(HostRule { strange: true, ..asks() }), Rules::Unknown(_)));
        let listed = |rules: Rules| {
            let Rules::Listed(entries) = rules else { panic!("listed") };
            entries.into_iter().find(|entry| entry.table == Some(9)).map(|entry| (entry.iif, entry.inverted))
        };
        let by = |name: &str| HostRule { iif: Some(name.to_owned()), ..asks() };
        assert_eq!(listed(with(by("br0"))), Some((7, false)));
        assert_eq!(listed(with(HostRule { foreign: true, ..asks() })), None);
        assert_eq!(listed(with(by("gone"))), None);
        assert_eq!(listed(with(HostRule { inverted: true, ..by("gone") })), Some((0, false)));
    }
}
