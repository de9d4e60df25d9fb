//! What the daemon and its instance hold, in numbers.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use serde_json::{Value, json};

use super::strikes::Strikes;
use crate::{Dirs, Ns, invariants::Holdings};

/// Descriptors that may come and go: connections of callers that have just left (reliability I8).
const SPARE: usize = 4;

/// One look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Anonymous memory in KiB: what the daemon has asked for.
    memory: usize,
    descriptors: usize,
    threads: usize,
    holdings: Holdings,
    /// Interfaces of the host.
    devices: usize,
    /// Mounted namespaces below the run directory.
    mounts: usize,
    /// Files of the state and run directories, and pins.
    files: usize,
    /// Processes that commands of this instance started: number and name.
    processes: BTreeSet<String>,
}

impl Figures {
    pub fn of(ns: &Ns, dirs: &Dirs, pid: Option<u32>) -> Self {
        let count = |what: &str| pid.map_or(0, |pid| entries(Path::new(&format!("/proc/{pid}/{what}"))));
        let root = dirs.path("").to_string_lossy().trim_end_matches('/').to_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            memory: pid.map(anonymous).unwrap_or_default(),
            descriptors: count("fd"),
            threads: count("task"),
            holdings: Holdings::of(dirs),
            devices: ns.links().len(),
            mounts: mounts.lines().filter(|line| line.contains(&root)).count(),
            files: below(&dirs.path("state")) + below(&dirs.run()) + below(dirs.bpffs()),
            processes: processes_with(&root),
        }
    }

    /// Memory in KiB, for the slope.
    #[expect(clippy::cast_precision_loss, reason = "a daemon has less than 2^52 KiB")]
    pub fn memory(&self) -> f64 {
        self.memory as f64
    }

    /// What is more, or less, than it was at the beginning; memory and threads have no fixed number.
    pub fn above(&self, then: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.descriptors > then.descriptors + SPARE {
            lines.push(format!("{} descriptors, {} at the beginning", self.descriptors, then.descriptors));
        }
        for (what, now, then) in [
            ("programs", self.holdings.programs, then.holdings.programs),
            ("maps", self.holdings.maps, then.holdings.maps),
            ("BPF links", self.holdings.links, then.holdings.links),
            ("interfaces", self.devices, then.devices),
            ("mounts", self.mounts, then.mounts),
            ("files", self.files, then.files),
        ] {
            lines.extend((now != then).then(|| format!("{now} {what}, {then} at the beginning")));
        }
        if self.processes.len() != then.processes.len() {
            lines.push(format!("processes {:?}, {:?} at the beginning", self.processes, then.processes));
        }
        lines
    }

    pub fn header() -> &'static str {
        "    s    ops strikes  anon KiB  fds threads programs maps links devices mounts files processes wrong"
    }

    pub fn row(&self, at: Duration, operations: u64, strikes: &Strikes, wrong: usize) -> String {
        format!(
            "{:>5} {operations:>6} {:>7} {:>9} {:>4} {:>7} {:>8} {:>4} {:>5} {:>7} {:>6} {:>5} {:>9} {wrong:>5}",
            at.as_secs(),
            strikes.total(),
            self.memory,
            self.descriptors,
            self.threads,
            self.holdings.programs,
            self.holdings.maps,
            self.holdings.links,
            self.devices,
            self.mounts,
            self.files,
            self.processes.len()
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "AnonymousKiB": self.memory,
            "Descriptors": self.descriptors,
            "Threads": self.threads,
            "Programs": self.holdings.programs,
            "Maps": self.holdings.maps,
            "Links": self.holdings.links,
            "Interfaces": self.devices,
            "Mounts": self.mounts,
            "Files": self.files,
            "Processes": self.processes.len(),
        })
    }
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Counts files below a directory.
fn below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| if entry.file_type().is_ok_and(|kind| kind.is_dir()) { below(&entry.path()) } else { 1 })
        .sum()
}

fn anonymous(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Lists processes that were started with an instance's socket or directories.
fn processes_with(root: &str) -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).replace('\0', " ");
    processes
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_string_lossy().parse().ok()?;
            let (environment, line) =
                (read(&entry.path().join("environ")), read(&entry.path().join("cmdline")));
            (environment.contains(root) || line.contains(root)).then(|| format!("{pid} {line}"))
        })
        .collect()
}

/// Growth from one to the next in percent of the mean: least squares, the first third left out.
#[expect(clippy::cast_precision_loss, reason = "few cycles")]
pub fn slope(all: &[f64]) -> f64 {
    let values = &all[all.len() / 3..];
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    let middle = (count - 1.0) / 2.0;
    let (mut above, mut below) = (0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let x = index as f64 - middle;
        above += x * (value - mean);
        below += x * x;
    }
    if below == 0.0 || mean == 0.0 { 0.0 } else { above / below / mean * 100.0 }
}

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn a_slope_is_growth_per_cycle_in_percent_behind_the_first_third() {
        let flat = [900.0, 100.0, 100.0, 100.0, 100.0, 100.0];
        assert!(slope(&flat[1..]).abs() < 1e-9 && slope(&[]).abs() < 1e-9);
        let growing: Vec<f64> = (0..9).map(|cycle| 100.0 + f64::from(cycle)).collect();
        assert!((slope(&growing) - 100.0 / 105.5).abs() < 1e-9, "{}", slope(&growing));
    }
}
