//! Default routes by source address: a rule leads what is sent from an address to a table of its interface's own.
//!
//! What the main table says of a destination comes first, but for its default routes. Rules come before routes and go after them, so that
//! whoever finds no rule of netd's knows that there is no such route either; a rule whose table is empty is passed over.

use std::{collections::BTreeSet, net::IpAddr};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{
    Error, HostRoute, Links, MAIN, Mode, PROTOCOL,
    error::gone_is_success,
    route::{default_route, family},
};

/// Where what is sent from an address leaves by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRoute {
    /// The address.
    pub source: IpAddr,
    /// The interface it leaves by.
    pub ifindex: u32,
    /// The router behind that.
    pub gateway: IpAddr,
}

/// Places of the two rules, the last ones before the main table's (32766): what somebody adds without a place later comes before them.
const SPECIFIC: u32 = 32_764;
const DEFAULT: u32 = 32_765;
/// The table of an interface is this and its index ...
const TABLES: u32 = 110_000;
/// ... and this, as often as it takes to find one that nobody else uses.
const NEXT_TABLES: u32 = 1_000_003;

/// A rule by source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    source: IpAddr,
    priority: u32,
    table: u32,
}

impl Rule {
    fn of(route: &SourceRoute, table: u32) -> [Self; 2] {
        let rule = |priority, table| Self { source: route.source, priority, table };
        [rule(SPECIFIC, MAIN), rule(DEFAULT, table)]
    }

    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(self.source.is_ipv6());
        message.header.src_len = if self.source.is_ipv6() { 128 } else { 32 };
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Source(self.source),
            RuleAttribute::Table(self.table),
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
        ];
        if self.priority == SPECIFIC {
            message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
        }
        message
    }
}

/// The rules of a namespace.
#[derive(Default)]
struct Rules {
    ours: Vec<Rule>,
    /// What the rules of others lead to.
    tables: BTreeSet<u32>,
}

impl Rules {
    fn note(&mut self, message: &RuleMessage) {
        let (mut source, mut priority, mut ours) = (None, 0, false);
        let mut table = u32::from(message.header.table);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Source(ip) => source = Some(*ip),
                RuleAttribute::Priority(place) => priority = *place,
                RuleAttribute::Table(number) => table = *number,
                RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
                _ => {}
            }
        }
        match source.filter(|_| ours) {
            Some(source) => self.ours.push(Rule { source, priority, table }),
            None => drop(self.tables.insert(table)),
        }
    }
}

/// Returns the table of an interface.
fn table(ifindex: u32, taken: &BTreeSet<u32>) -> u32 {
    let mut table = TABLES.wrapping_add(ifindex);
    while taken.contains(&table) {
        table = table.wrapping_add(NEXT_TABLES);
    }
    table
}

/// Whether a route is a default route of an interface's own table, made by netd.
fn is_ours(route: &HostRoute) -> bool {
    route.protocol == PROTOCOL && route.table != MAIN && route.is_default()
}

impl Links {
    /// Makes these netd's default routes by source address in this namespace, a sandbox's; leaves the rules and routes of others alone.
    ///
    /// A kernel without policy routing has none.
    pub async fn ensure_source_routes(&self, wanted: &[SourceRoute]) -> Result<(), Error> {
        let rules = self.source_rules().await?;
        if wanted.is_empty() && rules.ours.is_empty() {
            return Ok(());
        }
        let present = self.routes().await?;
        let mut taken = rules.tables;
        taken.extend(present.iter().filter(|route| !is_ours(route)).map(|route| route.table));
        let tables: Vec<(SourceRoute, u32)> =
            wanted.iter().map(|route| (*route, table(route.ifindex, &taken))).collect();
        let lasting: Vec<Rule> = tables.iter().flat_map(|(route, table)| Rule::of(route, *table)).collect();
        for rule in lasting.iter().filter(|rule| !rules.ours.contains(rule)) {
            match self.add_rule(*rule).await {
                Err(error) if matches!(error.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                    tracing::warn!(source = %rule.source, "the kernel has no rules by source address: answers may leave by another network");
                    return Ok(());
                }
                added => added?,
            }
        }
        self.change_source_routes(&tables, &present).await?;
        for rule in rules.ours.into_iter().filter(|rule| !lasting.contains(rule)) {
            let doing = format!("remove rule {} for {}", rule.priority, rule.source);
            let message = RouteNetlinkMessage::DelRule(rule.message());
            gone_is_success(self.socket.send(&doing, Mode::Change, message).await)?;
        }
        Ok(())
    }

    async fn add_rule(&self, rule: Rule) -> Result<(), Error> {
        let doing = format!("add rule {} for {}", rule.priority, rule.source);
        let message = RouteNetlinkMessage::NewRule(rule.message());
        match self.socket.send(&doing, Mode::Create, message).await {
            Err(error) if error.is_exists() => Ok(()),
            other => other,
        }
    }

    async fn change_source_routes(
        &self,
        wanted: &[(SourceRoute, u32)],
        present: &[HostRoute],
    ) -> Result<(), Error> {
        let same = |route: &HostRoute, (wanted, table): &(SourceRoute, u32)| {
            (route.gateway, route.oif, route.table) == (Some(wanted.gateway), Some(wanted.ifindex), *table)
        };
        for way in wanted {
            if present.iter().any(|route| is_ours(route) && same(route, way)) {
                continue;
            }
            let (SourceRoute { ifindex, gateway, .. }, table) = *way;
            let doing = format!("set gateway {gateway} of table {table} on interface {ifindex}");
            let message = RouteNetlinkMessage::NewRoute(default_route(gateway, ifindex, table));
            self.socket.send(&doing, Mode::Replace, message).await?;
        }
        for route in present.iter().filter(|route| is_ours(route)) {
            let (Some(ifindex), Some(gateway)) = (route.oif, route.gateway) else { continue };
            if wanted.iter().any(|way| same(route, way)) {
                continue;
            }
            let doing = format!("remove gateway {gateway} of table {}", route.table);
            let message = RouteNetlinkMessage::DelRoute(default_route(gateway, ifindex, route.table));
            gone_is_success(self.socket.send(&doing, Mode::Change, message).await)?;
        }
        Ok(())
    }

    /// Reads the rules of both families; a kernel without them has none.
    /// Lists the default routes by source address that are whole: both rules, and the route.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn source_routes(&self) -> Result<Vec<SourceRoute>, Error> {
        let rules = self.source_rules().await?.ours;
        if rules.is_empty() {
            return Ok(Vec::new());
        }
        let routes = self.routes().await?;
        let whole = |rule: &&Rule| {
            rule.priority == DEFAULT && rules.contains(&Rule { priority: SPECIFIC, table: MAIN, ..**rule })
        };
        let ways = rules.iter().filter(whole).filter_map(|rule| {
            let family = |route: &&HostRoute| route.dst.addr().is_ipv6() == rule.source.is_ipv6();
            let route =
                routes.iter().filter(|route| is_ours(route) && route.table == rule.table).find(family)?;
            Some(SourceRoute { source: rule.source, ifindex: route.oif?, gateway: route.gateway? })
        });
        Ok(ways.collect())
    }

    async fn source_rules(&self) -> Result<Rules, Error> {
        let mut rules = Rules::default();
        let mut filter = RuleMessage::default();
        filter.header.family = AddressFamily::Unspec;
        let messages = match self.socket.dump("list rules", RouteNetlinkMessage::GetRule(filter), Some).await
        {
            Err(error) if matches!(error.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                return Ok(rules);
            }
            messages => messages?,
        };
        for message in &messages {
            if let RouteNetlinkMessage::NewRule(message) = message {
                rules.note(message);
            }
        }
        Ok(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::{in_new_netns, ip};

    fn state() -> Vec<String> {
        let shown =
            ["rule show", "-6 rule show", "route show default table all", "-6 route show default table all"];
        shown.map(ip).into()
    }

    #[test]
    fn rules_and_routes_come_follow_and_go_and_those_of_others_stay() {
        in_new_netns(async || {
            for (name, peer, number) in [("eth0", "peer0", 1), ("eth1", "peer1", 2)] {
                ip(&format!("link add {name} type veth peer name {peer}"));
                ip(&format!("link set {peer} up"));
                ip(&format!("link set {name} up"));
                ip(&format!("addr add 172.20.{number}.2/24 dev {name}"));
                ip(&format!("-6 addr add fd00:{number}::2/64 dev {name} nodad"));
            }
            let links = Links::open().await.expect("socket");
            let index = async |name: &str| {
                let links = links.links().await.expect("links");
                links.iter().find(|link| link.name == name).expect("the link").ifindex
            };
            let (eth0, eth1) = (index("eth0").await, index("eth1").await);
            // Somebody else has the table that would be eth1's, and a rule of the same kind.
            ip(&format!("route add default via 172.20.1.9 table {}", TABLES + eth1));
            ip("rule add from 172.20.2.2 lookup 7");
            let before = state();
            let route = |source: &str, ifindex, gateway: &str| SourceRoute {
                source: source.parse().expect("an address"),
                ifindex,
                gateway: gateway.parse().expect("an address"),
            };
            let all = [
                route("172.20.1.2", eth0, "172.20.1.1"),
                route("172.20.2.2", eth1, "172.20.2.1"),
                route("fd00:1::2", eth0, "fd00:1::1"),
                route("fd00:2::2", eth1, "fd00:2::1"),
            ];
            links.ensure_source_routes(&all).await.expect("made");
            let table = TABLES + eth1 + NEXT_TABLES;
            assert!(ip("-4 route get 8.8.8.8 from 172.20.2.2").contains("via 172.20.2.1"));
            assert!(ip("-4 route get 8.8.8.8 from 172.20.1.2").contains("via 172.20.1.1"));
            assert!(ip("-6 route get 2001:db8::1 from fd00:2::2").contains("via fd00:2::1"));
            assert!(ip(&format!("route show table {table}")).contains("via 172.20.2.1"));
            let made = state();
            links.ensure_source_routes(&all).await.expect("again");
            assert_eq!(state(), made, "what is there is not touched");

            let moved = route("172.20.2.3", eth1, "172.20.2.254");
            links.ensure_source_routes(&[all[0], moved]).await.expect("changed");
            let rules = ip("-4 rule show");
            assert!(
                !rules.contains("from 172.20.2.2 lookup main") && rules.contains("from 172.20.2.3"),
                "{rules}"
            );
            assert!(ip("-4 route get 8.8.8.8 from 172.20.1.2").contains("via 172.20.1.1"));
            assert!(ip(&format!("route show table {table}")).contains("via 172.20.2.254"));

            links.ensure_source_routes(&[]).await.expect("removed");
            assert_eq!(state(), before, "what others made is left");
        });
    }
}
