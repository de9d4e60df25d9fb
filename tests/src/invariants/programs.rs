//! I4, I7: pins are exactly as expected, and every interface has the programs it must have, once each.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::MapInfo,
    programs::{ProgramInfo, SchedClassifier, loaded_links, loaded_programs, tc::TcAttachType},
};

use super::{
    Faults, Instance,
    links::Indexes,
    state::{Attachment, State, text},
};
use crate::{Dirs, Ns, PATIENCE};

/// Programs of the cgroup hooks.
const SOCKETS: [&str; 10] = [
    "bind4",
    "bind6",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];
/// Maps that no instance is without.
const MAPS: [&str; 20] = [
    "ADDRESS4", "ADDRESS6", "CONFIG", "DROPS", "ENDPOINT", "FLOW4", "FLOW6", "LINK4", "LINK6", "LOCAL4",
    "LOCAL6", "NETWORK", "OPEN4", "OPEN6", "PORTS", "PUBLISH4", "PUBLISH6", "SUBNET4", "SUBNET6", "UPLINK",
];

/// Where the pins of the present layout are.
pub fn pins(dirs: &Dirs) -> Option<PathBuf> {
    let versions: Vec<_> = fs::read_dir(dirs.bpffs()).ok()?.flatten().map(|entry| entry.path()).collect();
    versions.into_iter().max()
}

/// Lists the loaded programs of an instance: those that count in its map.
pub fn of_instance(dirs: &Dirs) -> Vec<ProgramInfo> {
    let Some(id) = pins(dirs).and_then(|dir| MapInfo::from_pin(dir.join("DROPS")).ok()).map(|map| map.id())
    else {
        return Vec::new();
    };
    let uses = |program: &ProgramInfo| program.map_ids().ok().flatten().is_some_and(|ids| ids.contains(&id));
    loaded_programs().flatten().filter(uses).collect()
}

/// What an instance holds of the packet path, as counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// Loaded programs that use its map of drops.
    pub programs: usize,
    /// Maps of these programs, and pinned ones.
    pub maps: usize,
    /// BPF links of these programs.
    pub links: usize,
}

impl Holdings {
    /// Counts them.
    pub fn of(dirs: &Dirs) -> Self {
        let programs = of_instance(dirs);
        let mut maps: BTreeSet<u32> =
            programs.iter().filter_map(|program| program.map_ids().ok().flatten()).flatten().collect();
        let pinned = pins(dirs).and_then(|dir| fs::read_dir(dir).ok());
        maps.extend(
            pinned
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|pin| Some(MapInfo::from_pin(pin.path()).ok()?.id())),
        );
        let ids: BTreeSet<u32> = programs.iter().map(ProgramInfo::id).collect();
        let links = loaded_links().flatten().filter(|link| ids.contains(&link.program_id())).count();
        Self { programs: programs.len(), maps: maps.len(), links }
    }
}

/// Names of those of these programs that are still there when the kernel has had time to let go.
pub fn loaded(ids: &[u32]) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let there = loaded_programs().flatten().filter(|program| ids.contains(&program.id()));
        let names: Vec<String> =
            there.map(|program| program.name_as_str().unwrap_or("?").to_owned()).collect();
        if names.is_empty() || Instant::now() > end {
            return names;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Compares pins, hooks and loaded programs with the state.
pub fn check(state: &State, indexes: &Indexes, instance: Instance<'_>, faults: &mut Faults) {
    let Some(dir) = pins(instance.dirs) else {
        faults.add("missing: every pin");
        return;
    };
    let versions = fs::read_dir(instance.dirs.bpffs()).map_or(0, Iterator::count);
    faults.check(versions == 1, || format!("too much: {versions} layouts of pins"));
    for name in MAPS {
        faults.check(dir.join(name).exists(), || format!("missing: pin of map {name}"));
    }
    let found: BTreeSet<String> = fs::read_dir(dir.join("links"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let names: BTreeSet<String> = found
        .iter()
        .map(|pin| pin.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned())
        .collect();
    for name in SOCKETS {
        faults.check(names.contains(name), || format!("missing: link of {name}"));
    }
    endpoints(state, indexes, instance, &found, faults);
    let living: BTreeSet<u32> = indexes.values().copied().collect();
    for pin in &found {
        let index = pin.split('-').next().and_then(|index| index.parse::<u32>().ok());
        if let Some(index) = index {
            faults.check(living.contains(&index), || {
                format!("too much: pin {pin} of an interface that is gone")
            });
        }
    }
    if instance.pid.is_some() && !instance.held {
        loaded_once(instance.dirs, faults);
    }
}

/// Each endpoint has its two programs, the bridge and the sandbox's side none.
fn endpoints(
    state: &State,
    indexes: &Indexes,
    instance: Instance<'_>,
    pins: &BTreeSet<String>,
    faults: &mut Faults,
) {
    let mut wanted = BTreeSet::new();
    for Attachment { endpoint, .. } in state.endpoints() {
        let ifname = text(endpoint, "host_ifname");
        let Some(index) = indexes.get(ifname) else { continue };
        let (tcx, filters) = (on_tcx(instance.ns, ifname), filters(instance.ns, ifname));
        let both: Vec<String> = tcx.into_iter().chain(filters).collect();
        let mut sorted = both.clone();
        sorted.sort();
        faults.check(sorted == ["from_endpoint", "to_endpoint"], || {
            format!("wrong: programs on {ifname}: {both:?}")
        });
        wanted.insert(*index);
    }
    for pin in pins.iter().filter(|pin| pin.ends_with("_endpoint")) {
        let index = pin.split('-').next().and_then(|index| index.parse::<u32>().ok()).unwrap_or_default();
        faults.check(wanted.contains(&index), || format!("too much: pin {pin} of no endpoint"));
    }
}

/// Names of the programs on an interface's TCX hooks.
fn on_tcx(ns: &Ns, ifname: &str) -> Vec<String> {
    ns.run(|| {
        let hooks = [TcAttachType::Ingress, TcAttachType::Egress];
        let programs = hooks.into_iter().filter_map(|hook| SchedClassifier::query_tcx(ifname, hook).ok());
        let programs = programs.flat_map(|(_, programs)| programs);
        programs.map(|program| program.name_as_str().unwrap_or("?").to_owned()).collect()
    })
}

/// Names of the programs of an interface's clsact filters.
fn filters(ns: &Ns, ifname: &str) -> Vec<String> {
    let mut names = Vec::new();
    for direction in ["ingress", "egress"] {
        let out = ns.output(Command::new("tc").args(["filter", "show", "dev", ifname, direction]));
        let text = String::from_utf8_lossy(&out.stdout);
        let programs = text.lines().filter(|line| line.contains("direct-action"));
        names.extend(programs.filter_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("handle")).skip(2);
            Some(words.next()?.split(':').next()?.trim_end_matches(".o").to_owned())
        }));
    }
    names
}

/// A program that is loaded twice has outlived its daemon. The kernel lets go of a replaced filter's program a moment later.
fn loaded_once(dirs: &Dirs, faults: &mut Faults) {
    let end = Instant::now() + PATIENCE;
    loop {
        let programs = of_instance(dirs);
        let mut names: Vec<&str> =
            programs.iter().map(|program| program.name_as_str().unwrap_or("?")).collect();
        names.sort_unstable();
        let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        if twice.is_empty() || Instant::now() > end {
            for pair in twice {
                faults.add(format!("too much: program {} is loaded twice", pair[0]));
            }
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
