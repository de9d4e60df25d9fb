//! What the kernel holds in a namespace, without counters, ages and states that change by themselves: for "nothing changed".

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use aya::programs::{SchedClassifier, tc::TcAttachType};
use serde_json::Value;

use crate::{Dirs, Ns};

/// Lines by section; two snapshots are equal when nothing was added, removed or changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, BTreeSet<String>>);

impl Snapshot {
    /// Reads links, addresses, routes, rules, permanent neighbours, forwarding entries, queueing disciplines, packet programs and sysctls.
    pub fn of(ns: &Ns) -> Self {
        let mut sections = BTreeMap::new();
        for (section, args, keys) in SECTIONS {
            let lines = sections.entry(section).or_insert_with(BTreeSet::new);
            collect(&ns.ip_json(args), keys, &args.join(" "), lines);
        }
        sections.insert("address", addresses(ns));
        sections.insert("qdisc", qdiscs(ns));
        sections.insert("forwarding", forwarding(ns));
        sections.insert("program", programs(ns));
        sections.insert("sysctl", ns.run(sysctls));
        Self(sections)
    }

    /// The same, and the pins, namespaces and mounts of an instance.
    pub fn with_files(ns: &Ns, dirs: &Dirs) -> Self {
        let mut snapshot = Self::of(ns);
        snapshot.0.insert("file", dirs.leftovers().into_iter().collect());
        snapshot
    }

    /// Lists what the other one has more (`+`) and less (`-`).
    pub fn diff(&self, after: &Self) -> Vec<String> {
        let empty = BTreeSet::new();
        let sections: BTreeSet<_> = self.0.keys().chain(after.0.keys()).collect();
        let mut lines = Vec::new();
        for section in sections {
            let (old, new) = (self.0.get(section).unwrap_or(&empty), after.0.get(section).unwrap_or(&empty));
            lines.extend(old.difference(new).map(|line| format!("- {section} {line}")));
            lines.extend(new.difference(old).map(|line| format!("+ {section} {line}")));
        }
        lines
    }

    /// Expects that nothing differs.
    pub fn assert_unchanged(&self, after: &Self, what: &str) {
        let diff = self.diff(after);
        assert!(diff.is_empty(), "{what} changed the kernel:\n{}", diff.join("\n"));
    }
}

type Section = (&'static str, &'static [&'static str], &'static [&'static str]);

const SECTIONS: [Section; 8] = [
    (
        "link",
        &["-details", "link", "show"],
        &[
            "ifindex",
            "ifname",
            "mtu",
            "master",
            "address",
            "ifalias",
            "linkinfo/info_kind",
            "txqlen",
            "gso_max_size",
            "gso_ipv4_max_size",
            "gso_max_segs",
            "gro_max_size",
            "gro_ipv4_max_size",
            "xdp",
        ],
    ),
    ("route", &["route", "show", "table", "all"], ROUTE),
    ("route6", &["-6", "route", "show", "table", "all"], ROUTE),
    ("rule", &["rule", "show"], RULE),
    ("rule6", &["-6", "rule", "show"], RULE),
    ("neighbour", &["neigh", "show", "nud", "permanent"], NEIGHBOUR),
    ("neighbour6", &["-6", "neigh", "show", "nud", "permanent"], NEIGHBOUR),
    ("proxy", &["neigh", "show", "proxy"], NEIGHBOUR),
];
const ROUTE: &[&str] = &["type", "dst", "gateway", "dev", "table", "protocol", "scope", "prefsrc", "metric"];
const RULE: &[&str] =
    &["priority", "src", "srclen", "dst", "dstlen", "iif", "oif", "fwmark", "table", "protocol"];
const NEIGHBOUR: &[&str] = &["dst", "dev", "lladdr"];

fn collect(list: &Value, keys: &[&str], context: &str, into: &mut BTreeSet<String>) {
    for item in list.as_array().into_iter().flatten() {
        let field = |key: &&str| {
            let value = item.pointer(&format!("/{key}"))?;
            Some(format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        };
        let fields: Vec<_> = keys.iter().filter_map(field).collect();
        if !fields.is_empty() && !comes_with_a_carrier(item) {
            into.insert(format!("{} ({context})", fields.join(" ")));
        }
    }
}

/// IPv6 routes that the kernel adds and removes by itself, in the background, as an interface gains and loses its carrier.
fn comes_with_a_carrier(route: &Value) -> bool {
    let dst = route["dst"].as_str().unwrap_or_default();
    route["protocol"] == "kernel" && dst.contains(':') && (route["table"] == "local" || link_local(dst))
}

fn link_local(address: &str) -> bool {
    address.starts_with("fe80:")
}

fn addresses(ns: &Ns) -> BTreeSet<String> {
    let links = ns.ip_json(&["addr", "show"]);
    let mut lines = BTreeSet::new();
    for link in links.as_array().into_iter().flatten() {
        for address in link["addr_info"].as_array().into_iter().flatten() {
            let local = address["local"].as_str().unwrap_or_default();
            if !link_local(local) {
                lines.insert(format!("{} {local}/{}", link["ifname"], address["prefixlen"]));
            }
        }
    }
    lines
}

fn qdiscs(ns: &Ns) -> BTreeSet<String> {
    let out = ns.output(Command::new("tc").args(["qdisc", "show"]));
    String::from_utf8_lossy(&out.stdout).lines().map(|line| line.trim().to_owned()).collect()
}

/// Forwarding entries that somebody has set: not learnt ones, and not the groups that the kernel joins by itself.
fn forwarding(ns: &Ns) -> BTreeSet<String> {
    let out = ns.output(Command::new("bridge").args(["fdb", "show"]));
    let group =
        |line: &&str| u8::from_str_radix(&line[..2.min(line.len())], 16).is_ok_and(|byte| byte & 1 == 1);
    let text = String::from_utf8_lossy(&out.stdout);
    let set = text.lines().filter(|line| line.contains("permanent") || line.contains("static"));
    set.filter(|line| !group(line)).map(|line| line.trim().to_owned()).collect()
}

/// The names of the programs on each interface's hooks; a kernel without such links (before 6.6) lists none.
fn programs(ns: &Ns) -> BTreeSet<String> {
    let links = ns.links();
    ns.run(|| {
        let mut lines = BTreeSet::new();
        for ifname in &links {
            for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                let Ok((_, programs)) = SchedClassifier::query_tcx(ifname, hook) else { continue };
                let names = programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned());
                let names: Vec<String> = names.collect();
                lines.extend((!names.is_empty()).then(|| format!("{ifname} {hook:?}: {}", names.join(", "))));
            }
        }
        lines
    })
}

/// Reads every key of the namespace below `net`.
fn sysctls() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    read_keys(Path::new("/proc/sys/net"), &mut lines);
    // A figure, not a setting.
    lines.retain(|line| !line.contains("nf_conntrack_count"));
    lines
}

fn read_keys(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            read_keys(&path, into);
        } else if let Ok(value) = fs::read_to_string(&path) {
            into.insert(format!("{} = {}", path.display(), value.trim()));
        }
    }
}
