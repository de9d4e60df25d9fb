//! I1: rules and default routes by source address inside sandboxes, of netd's protocol number alone.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use serde_json::Value;

use super::{
    Faults,
    state::{Attachment, State, address, text},
};
use crate::Ns;

/// Of rules and routes that netd makes (`FRA_PROTOCOL`, `rtm_protocol`).
const PROTOCOL: &str = "110";
/// Where both rules of an address are.
const PLACES: [u64; 2] = [32_764, 32_765];

/// Each address of a family in which several endpoints of a sandbox have a gateway leaves by its own; nobody else has such rules.
pub fn check(state: &State, sandbox: &Value, faults: &mut Faults) {
    let (path, name) = (text(&sandbox["netns"], "path"), text(sandbox, "name"));
    let mine: Vec<_> = state.endpoints().filter(|endpoint| endpoint.sandbox["id"] == sandbox["id"]).collect();
    if mine.is_empty() || !Path::new(path).exists() {
        return;
    }
    let ns = Ns::open(name, path);
    for (family, ip, gateway) in [("-4", "ipv4", "gateway4"), ("-6", "ipv6", "gateway6")] {
        let way = |Attachment { endpoint, .. }: &Attachment<'_>| {
            let ends = (address(&endpoint[ip])?, address(&endpoint[gateway])?);
            Some((ends.0, text(endpoint, "ifname").to_owned(), ends.1))
        };
        let mut wanted: BTreeSet<_> = mine.iter().filter_map(way).collect();
        if wanted.len() < 2 {
            wanted.clear();
        }
        let (rules, found) = (rules(&ns, family), routes(&ns, family));
        let places = wanted.iter().flat_map(|(source, ..)| PLACES.map(|place| (*source, place)));
        let made = rules.iter().map(|(source, place, _)| (*source, *place)).collect();
        faults.same(&format!("rule {family} in {name}"), &places.collect(), &made);
        let tables = rules.iter().filter(|rule| rule.1 == PLACES[1]);
        let ways = tables.flat_map(|(source, _, table)| {
            let of_table = found.iter().filter(move |route| route.0 == *table);
            of_table.map(|(_, ifname, gateway)| (*source, ifname.clone(), *gateway))
        });
        faults.same(&format!("route by source {family} in {name}"), &wanted, &ways.collect());
        let used: BTreeSet<_> = rules.iter().map(|rule| &rule.2).collect();
        for route in found.iter().filter(|route| !used.contains(&route.0)) {
            faults.add(format!("too much: route by source in {name}: {route:?}"));
        }
    }
}

/// Source, place and table of netd's rules.
fn rules(ns: &Ns, family: &str) -> Vec<(IpAddr, u64, String)> {
    let all = ns.ip_json(&[family, "rule", "show"]);
    let ours = all.as_array().into_iter().flatten().filter(|rule| rule["protocol"] == PROTOCOL);
    let parts = |rule: &Value| {
        let table = text(rule, "table").to_owned();
        Some((address(&rule["src"])?, rule["priority"].as_u64()?, table))
    };
    ours.filter_map(parts).collect()
}

/// Table, interface and gateway of netd's default routes that are not in the main table.
fn routes(ns: &Ns, family: &str) -> Vec<(String, String, IpAddr)> {
    let all = ns.ip_json(&[family, "route", "show", "default", "table", "all"]);
    let ours = all.as_array().into_iter().flatten().filter(|route| route["protocol"] == PROTOCOL);
    let parts = |route: &Value| {
        let table = route["table"].as_str()?.to_owned();
        Some((table, text(route, "dev").to_owned(), address(&route["gateway"])?))
    };
    ours.filter_map(parts).collect()
}
