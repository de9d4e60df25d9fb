//! I1, I2: links, addresses, forwarding entries, neighbours and routes, on the host and inside sandboxes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    process::Command,
};

use serde_json::Value;

use super::{
    Faults, Instance, sources,
    state::{Attachment, State, address, text},
};
use crate::Ns;

/// Interface indexes by name.
pub type Indexes = BTreeMap<String, u32>;

/// Names of the links that carry an instance's label.
pub fn labelled(ns: &Ns, instance: &str) -> impl Iterator<Item = String> {
    let prefix = format!("netd:{instance}:");
    let links = ns.ip_json(&["link", "show"]).as_array().cloned().unwrap_or_default();
    links
        .into_iter()
        .filter(move |link| text(link, "ifalias").starts_with(&prefix))
        .map(|link| text(&link, "ifname").to_owned())
}

/// Compares the host's links and those inside with the state; returns the host's.
pub fn check(state: &State, Instance { ns, dirs, .. }: Instance<'_>, faults: &mut Faults) -> Indexes {
    let links = Links::of(ns);
    let label =
        |kind: &str, object: &Value| format!("netd:{}:{kind}:{}", dirs.instance(), text(object, "id"));
    let mut wanted = BTreeMap::new();
    for network in state.bridged() {
        wanted.insert(text(&network["bridge"], "ifname").to_owned(), label("network", network));
    }
    for Attachment { endpoint, .. } in state.endpoints() {
        wanted.insert(text(endpoint, "host_ifname").to_owned(), label("endpoint", endpoint));
    }
    let prefix = format!("netd:{}:", dirs.instance());
    let ours = links.by_name.iter().filter(|(_, link)| text(link, "ifalias").starts_with(&prefix));
    let found: BTreeSet<_> =
        ours.map(|(name, link)| (name.clone(), text(link, "ifalias").to_owned())).collect();
    faults.same("link with label", &wanted.into_iter().collect(), &found);
    for network in state.bridged() {
        bridge(network, &links, faults);
    }
    for endpoint in state.endpoints() {
        host_side(endpoint, &links, faults);
        inside(endpoint, faults);
    }
    forwarding(state, ns, faults);
    neighbours(state, ns, faults);
    for sandbox in &state.sandboxes {
        default_routes(state, sandbox, faults);
        sources::check(state, sandbox, faults);
    }
    links.by_name.iter().filter_map(|(name, link)| Some((name.clone(), index(link)?))).collect()
}

fn index(link: &Value) -> Option<u32> {
    link["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok())
}

/// The links of a namespace with their addresses.
struct Links {
    by_name: BTreeMap<String, Value>,
}

impl Links {
    fn of(ns: &Ns) -> Self {
        let list = ns.ip_json(&["-details", "addr", "show"]);
        let links = list.as_array().cloned().unwrap_or_default();
        Self { by_name: links.into_iter().map(|link| (text(&link, "ifname").to_owned(), link)).collect() }
    }

    /// Global addresses with their prefix lengths.
    fn addresses(&self, ifname: &str) -> BTreeSet<String> {
        let list = self.by_name.get(ifname).and_then(|link| link["addr_info"].as_array());
        let global = list.into_iter().flatten().filter(|address| address["scope"] == "global");
        global.map(|address| format!("{}/{}", text(address, "local"), address["prefixlen"])).collect()
    }

    fn is_up(&self, ifname: &str) -> bool {
        let flags = self.by_name.get(ifname).and_then(|link| link["flags"].as_array());
        flags.is_some_and(|flags| flags.iter().any(|flag| flag == "UP"))
    }
}

fn bridge(network: &Value, links: &Links, faults: &mut Faults) {
    let ifname = text(&network["bridge"], "ifname");
    let Some(link) = links.by_name.get(ifname) else { return };
    faults.check(link["linkinfo"]["info_kind"] == "bridge", || format!("wrong: {ifname} is no bridge"));
    faults.check(links.is_up(ifname), || format!("wrong: bridge {ifname} is down"));
    let pools = network["ipam"]["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = pools.iter().filter_map(|pool| {
        let length = text(pool, "subnet").split('/').nth(1)?;
        Some(format!("{}/{length}", address(&pool["gateway"])?))
    });
    faults.same(&format!("address of {ifname}"), &wanted.collect(), &links.addresses(ifname));
}

fn host_side(Attachment { endpoint, network, .. }: Attachment<'_>, links: &Links, faults: &mut Faults) {
    let ifname = text(endpoint, "host_ifname");
    let Some(link) = links.by_name.get(ifname) else { return };
    faults.check(link["linkinfo"]["info_kind"] == "veth", || format!("wrong: {ifname} is no veth"));
    faults.check(link["master"] == network["bridge"]["ifname"], || {
        format!("wrong: {ifname} is on bridge {}, not on {}", link["master"], network["bridge"]["ifname"])
    });
    faults.check(links.is_up(ifname), || format!("wrong: {ifname} is down"));
    faults.same(&format!("address of {ifname}"), &BTreeSet::new(), &links.addresses(ifname));
}

fn inside(Attachment { sandbox, endpoint, .. }: Attachment<'_>, faults: &mut Faults) {
    let (path, ifname, name) =
        (text(&sandbox["netns"], "path"), text(endpoint, "ifname"), text(sandbox, "name"));
    if !Path::new(path).exists() {
        return; // said by `files`
    }
    let links = Links::of(&Ns::open(name, path));
    let Some(link) = links.by_name.get(ifname) else {
        faults.add(format!("missing: {ifname} in {name}"));
        return;
    };
    faults.check(link["address"] == endpoint["mac"], || format!("wrong: MAC of {ifname} in {name}"));
    faults.check(links.is_up(ifname), || format!("wrong: {ifname} in {name} is down"));
    let wanted =
        ["ipv4", "ipv6"].iter().map(|key| text(endpoint, key).to_owned()).filter(|text| !text.is_empty());
    faults.same(&format!("address of {ifname} in {name}"), &wanted.collect(), &links.addresses(ifname));
    let others = links.by_name.iter().filter(|(name, link)| {
        link["linkinfo"]["info_kind"] == "veth"
            && !sandbox["endpoints"]
                .as_array()
                .is_some_and(|all| all.iter().any(|e| e["ifname"] == name.as_str()))
    });
    if sandbox["netns"]["owned"] == true {
        others.for_each(|(other, _)| faults.add(format!("too much: {other} in {name}")));
    }
}

/// Default routes: at most one a family, by an interface that the sandbox has, to its gateway.
fn default_routes(state: &State, sandbox: &Value, faults: &mut Faults) {
    let (path, name) = (text(&sandbox["netns"], "path"), text(sandbox, "name"));
    let mine: Vec<_> = state.endpoints().filter(|endpoint| endpoint.sandbox["id"] == sandbox["id"]).collect();
    if mine.is_empty() || !Path::new(path).exists() {
        return;
    }
    let ns = Ns::open(name, path);
    for (family, key) in [("-4", "gateway4"), ("-6", "gateway6")] {
        let routes = ns.ip_json(&[family, "route", "show", "default"]);
        let routes: Vec<_> = routes.as_array().into_iter().flatten().collect();
        let ways: Vec<_> = mine.iter().filter(|endpoint| !endpoint.endpoint[key].is_null()).collect();
        let known = |route: &Value| {
            ways.iter().any(|way| {
                way.endpoint["ifname"] == route["dev"]
                    && address(&way.endpoint[key]) == address(&route["gateway"])
            })
        };
        let internal = ways.iter().all(|way| way.network["internal"] == true);
        let wanted = usize::from(!internal && !ways.is_empty());
        faults.check(routes.len() == wanted && routes.iter().all(|route| known(route)), || {
            format!("wrong: default routes {family} in {name}: {routes:?}")
        });
    }
}

/// Static forwarding entries of bridges: one for each endpoint.
fn forwarding(state: &State, ns: &Ns, faults: &mut Faults) {
    let out = ns.output(Command::new("bridge").args(["-json", "fdb", "show"]));
    let list: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let is_static = |entry: &&Value| entry["state"] == "static";
    let found = list.as_array().into_iter().flatten().filter(is_static);
    let found =
        found.map(|entry| (text(entry, "ifname").to_owned(), text(entry, "mac").to_owned())).collect();
    let wanted = state.endpoints().map(|Attachment { endpoint, .. }| {
        (text(endpoint, "host_ifname").to_owned(), text(endpoint, "mac").to_owned())
    });
    faults.same("forwarding entry", &wanted.collect(), &found);
}

/// Permanent neighbours on bridges: every address of an endpoint.
fn neighbours(state: &State, ns: &Ns, faults: &mut Faults) {
    let bridges: BTreeSet<&str> = state.bridged().map(|network| text(&network["bridge"], "ifname")).collect();
    let list = ns.ip_json(&["neigh", "show", "nud", "permanent"]);
    let on_bridge = |entry: &&Value| bridges.contains(text(entry, "dev"));
    let found = list.as_array().into_iter().flatten().filter(on_bridge).filter_map(|entry| {
        let ip: IpAddr = address(&entry["dst"])?;
        (!ip.is_multicast()).then(|| (text(entry, "dev").to_owned(), ip, text(entry, "lladdr").to_owned()))
    });
    let wanted = state.endpoints().flat_map(|Attachment { endpoint, network, .. }| {
        let bridge = text(&network["bridge"], "ifname").to_owned();
        let addresses = ["ipv4", "ipv6"].into_iter().filter_map(|key| address(&endpoint[key]));
        addresses.map(move |ip| (bridge.clone(), ip, text(endpoint, "mac").to_owned()))
    });
    faults.same("neighbour", &wanted.collect(), &found.collect());
}
