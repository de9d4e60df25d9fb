//! Rung: a guest whose power is cut (reliability F4, F24, 7.5). Runs in QEMU, on a disk that loses what was not flushed: `cargo xtask vm power-cuts`.
//!
//! Says on the console what the daemon has acknowledged, after it has; and first of all what is there from before. The host, which cuts the power,
//! compares: `xtask/src/vm/power_cuts.rs`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
};

use netd_tests::{
    Daemon, Dirs, Topology,
    invariants::{self, Instance},
};

/// Networks that are there at a time, and about as many sandboxes.
const LIVING: u32 = 5;
/// Bytes of a block of the control's disk.
const BLOCK: usize = 4096;

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: see `cargo xtask vm power-cuts`"))
        .into()
}

#[test]
#[ignore = "runs in a guest whose power is cut: `cargo xtask vm power-cuts`"]
fn what_the_daemon_acknowledged_before_a_power_cut_is_there_after_it() {
    let root = variable("NETD_POWER_CUTS");
    let control = Control::open(&variable("NETD_POWER_CUTS_CONTROL"));
    println!("@@ kept {}", control.written);
    let dirs = Dirs::at(&root, "cut");
    let stored = invariants::stored(&dirs);
    let _ = fs::remove_file(dirs.path("log"));
    let topology = Topology::new();
    let daemon = Daemon::plain(&topology.h, dirs, "[flows]\nentries = 4096\n");
    let recovered = recovered(&daemon);
    for line in &recovered {
        println!("@@ has {line}");
    }
    // Ports went with their sandboxes, whose namespaces are gone; the files still said so.
    for line in stored.iter().filter(|line| line.starts_with("port ")) {
        println!("@@ has {line}");
    }
    let objects = |lines: &BTreeSet<String>| -> BTreeSet<String> {
        lines.iter().filter(|line| !line.starts_with("port ") && !usual(line)).cloned().collect()
    };
    // A cut in the middle may leave the daemon a generation to go back to; it knows no less than the files say.
    for line in objects(&stored).difference(&objects(&recovered)) {
        println!("@@ wrong stored, and not in the daemon's answer: {line}");
    }
    let instance = Instance { ns: &topology.h, dirs: daemon.dirs(), pid: daemon.pid(), held: false };
    // A line of a log that was being written may be torn.
    for line in invariants::violations(instance).iter().filter(|line| !line.starts_with("torn: ")) {
        println!("@@ wrong {line}");
    }
    println!("@@ recovered");
    let guest = Guest { daemon, control };
    guest.work(&recovered);
}

/// Networks that the daemon makes by itself.
fn usual(line: &str) -> bool {
    ["network bridge", "network host", "network none"].contains(&line)
}

/// What the daemon found at its start: networks as it tells of them, sandboxes as it forgets them.
fn recovered(daemon: &Daemon) -> BTreeSet<String> {
    let networks = invariants::get(daemon.dirs(), "/networks").expect("the daemon's networks");
    let names = networks.as_array().into_iter().flatten().filter_map(|network| network["Name"].as_str());
    let mut lines: BTreeSet<String> = names.map(|name| format!("network {name}")).collect();
    lines.retain(|line| !usual(line));
    let log = daemon.log();
    let forgotten = log.lines().filter(|line| line.contains("sandbox forgotten"));
    lines.extend(forgotten.filter_map(|line| {
        let name = line.split("sandbox=").nth(1)?.split_whitespace().next()?;
        Some(format!("sandbox {}", name.trim_matches('"')))
    }));
    lines
}

/// The daemon at work, and the control beside it.
struct Guest {
    daemon: Daemon,
    control: Control,
}

impl Guest {
    /// Makes networks, sandboxes and ports and removes them again, until the power is gone.
    fn work(mut self, recovered: &BTreeSet<String>) -> ! {
        let number = |line: &String| line.strip_prefix("network n")?.parse::<u32>().ok();
        let mut living: Vec<u32> = recovered.iter().filter_map(number).collect();
        living.sort_unstable();
        let first = living.last().map_or(1, |last| last + 1);
        let mut housed = BTreeSet::new();
        for number in first.. {
            let (network, sandbox) = (format!("n{number}"), format!("s{number}"));
            let (one, two) = (20_000 + number * 2, 20_001 + number * 2);
            self.ask(&["network", "create", "--ipv6", &network], &format!("+ network {network}"));
            let (p, both) = (format!("{one}:80"), format!("+ sandbox {sandbox}"));
            self.ask(&["sandbox", "create", "--network", &network, "-p", &p, &sandbox], &both);
            self.ask(&["publish", &sandbox, &format!("{two}:81")], &format!("+ port {sandbox} {two}"));
            self.ask(&["unpublish", &sandbox, &format!("{one}:80")], &format!("- port {sandbox} {one}"));
            living.push(number);
            housed.insert(number);
            while living.len() > LIVING as usize {
                let old = living.remove(0);
                let (network, sandbox) = (format!("n{old}"), format!("s{old}"));
                if housed.remove(&old) {
                    self.ask(&["sandbox", "rm", "-f", &sandbox], &format!("- sandbox {sandbox}"));
                }
                self.ask(&["network", "rm", &network], &format!("- network {network}"));
            }
        }
        unreachable!("the power is cut long before the numbers end")
    }

    /// Runs a command; says before that it will be asked, and after that it was acknowledged.
    fn ask(&mut self, args: &[&str], change: &str) {
        println!("@@ ask {change}");
        let ran = self.daemon.run(args);
        if ran.code == 0 {
            println!("@@ ack {change}");
        } else {
            println!("@@ wrong {}: exit code {}: {}", ran.line, ran.code, ran.stderr.trim());
            loop {
                thread::park();
            }
        }
        self.control.write();
    }
}

/// A disk of its own that is written and never flushed: what is lost of it shows that cuts lose what was not flushed.
struct Control {
    disk: File,
    /// Blocks, those of earlier boots included that are there.
    written: u64,
}

/// A block in memory as the disk takes it without the page cache between.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

impl Control {
    fn open(path: &Path) -> Self {
        let disk = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
        let disk = disk.unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
        Self { written: kept(&disk), disk }
    }

    /// Writes the next block, and says so.
    fn write(&mut self) {
        let block = Block([1; BLOCK]);
        self.disk.write_all_at(&block.0, self.written * BLOCK as u64).expect("write to the control's disk");
        self.written += 1;
        println!("@@ unflushed {}", self.written);
    }
}

/// Counts the blocks that earlier boots' writes left.
fn kept(disk: &File) -> u64 {
    let mut block = Block([0; BLOCK]);
    let mut full = |number: u64| {
        let read = disk.read_exact_at(&mut block.0, number * BLOCK as u64);
        read.is_ok() && block.0[0] == 1
    };
    let mut number = 0;
    while full(number) {
        number += 1;
    }
    number
}
