//! Conservation (dataplane case 125): nothing vanishes. Every packet that a program saw was passed on, forwarded, or dropped for a reason that is
//! counted.
//!
//! Two sides that know nothing of each other: the kernel counts how often each program ran, and the programs, loaded with
//! `NETD_COUNT_VERDICTS`, count what they decided. A way out of a program that counts nothing, or counts twice, makes them differ.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::{Map, MapData, MapInfo, PerCpuArray, PerCpuValues},
    programs::{ProgramFd, loaded_programs},
    sys::{Stats, enable_stats},
};
use netd_common::verdict::DropReason;

/// Asks the daemon for programs that count every verdict.
pub const COUNT_VERDICTS: &str = "NETD_COUNT_VERDICTS";
/// How long packets may be under way when a test ends.
const REST: Duration = Duration::from_secs(5);
/// The packet programs, as far as the kernel keeps their names (15 bytes).
const PROGRAMS: [&str; 8] = [
    "from_endpoint",
    "to_endpoint",
    "from_uplink",
    "to_uplink",
    "from_bare_uplin",
    "to_bare_uplink",
    "from_netkit",
    "guard",
];

/// Slots of the map `DROPS` that are no reasons (`netd_common::verdict::tally`), from the first one on.
const TALLY: u32 = 56;
const PASSED: u32 = TALLY;
const FORWARDED: u32 = TALLY + 1;
const STOPPED: u32 = TALLY + 2;
const ANSWERED: u32 = TALLY + 3;
const HELD: u32 = TALLY + 4;
const DISCARDED: u32 = TALLY + 5;

/// The packet programs of one instance, those replaced by a restart included: while they are held, their counts stay.
#[derive(Debug, Default)]
pub struct Ledger {
    programs: BTreeMap<u32, Program>,
}

/// A packet program, held open.
#[derive(Debug)]
struct Program {
    fd: ProgramFd,
    /// The map it counts in: an instance that was taken down and started again has another.
    counters: u32,
}

/// What the programs counted.
#[derive(Debug, PartialEq, Eq)]
struct Counts(BTreeMap<u32, u64>);

impl Ledger {
    /// Makes the kernel count runs, for as long as this process lives.
    pub fn open() -> Self {
        static STATS: OnceLock<OwnedFd> = OnceLock::new();
        STATS.get_or_init(|| enable_stats(Stats::RunTime).expect("BPF_ENABLE_STATS"));
        Self::default()
    }

    /// Takes the programs that an instance has loaded by now.
    pub fn note(&mut self, bpffs: &Path) {
        let Some(map) = drops(bpffs).and_then(|pin| MapInfo::from_pin(pin).ok()) else { return };
        for program in loaded_programs().flatten() {
            let name = program.name_as_str().unwrap_or_default();
            let ours = program.map_ids().ok().flatten().is_some_and(|ids| ids.contains(&map.id()));
            if ours && PROGRAMS.contains(&name) && !self.programs.contains_key(&program.id()) {
                let fd = program.fd().expect("a program of the instance");
                self.programs.insert(program.id(), Program { fd, counters: map.id() });
            }
        }
    }

    /// Puts a count wrong, to see that it is noticed: one more in a slot of `DROPS`, or one less.
    pub fn miscount(bpffs: &Path, slot: u32, more: bool) {
        let map = MapData::from_pin(drops(bpffs).expect("an instance")).expect("the counters");
        let mut counters: PerCpuArray<_, u64> = Map::PerCpuArray(map).try_into().expect("an array per CPU");
        let mut counts: Vec<u64> = counters.get(&slot, 0).expect("a counter").to_vec();
        counts[0] = if more { counts[0].wrapping_add(1) } else { counts[0].wrapping_sub(1) };
        let counts = PerCpuValues::try_from(counts).expect("a count for each CPU");
        counters.set(slot, counts, 0).expect("write the counter");
    }

    /// Compares both sides once no packet is under way; lists what does not add up. Nothing is checked when the instance was taken down.
    pub fn faults(&mut self, bpffs: &Path) -> Vec<String> {
        self.note(bpffs); // some are loaded when a device wants them
        let Some(pin) = drops(bpffs) else { return Vec::new() };
        let id = MapInfo::from_pin(&pin).expect("the counters").id();
        let runs_now =
            || -> u64 { self.programs.values().filter(|p| p.counters == id).map(|p| run_count(&p.fd)).sum() };
        let end = Instant::now() + REST;
        loop {
            let runs = runs_now();
            let counts = Counts::read(&pin);
            let faults = counts.faults(runs);
            let at_rest = runs == runs_now() && counts == Counts::read(&pin);
            if at_rest && (faults.is_empty() || Instant::now() > end) {
                return faults;
            }
            assert!(Instant::now() < end + REST, "packets go on for {REST:?} after the test");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// How often a program ran, by the kernel's count.
fn run_count(program: &ProgramFd) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd());
    let info = fs::read_to_string(&path).expect("what the kernel says of a program");
    let count = info.lines().find_map(|line| line.strip_prefix("run_cnt:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no run_cnt in {info}"))
}

/// Where an instance's counters are pinned.
fn drops(bpffs: &Path) -> Option<PathBuf> {
    fs::read_dir(bpffs).ok()?.flatten().map(|entry| entry.path().join("DROPS")).find(|path| path.exists())
}

impl Counts {
    fn read(pin: &Path) -> Self {
        let map = MapData::from_pin(pin).expect("the counters");
        let counters: PerCpuArray<_, u64> = Map::PerCpuArray(map).try_into().expect("an array per CPU");
        let sum = |slot| counters.get(&slot, 0).expect("a counter").iter().sum();
        Self((0..counters.len()).map(|slot| (slot, sum(slot))).collect())
    }

    fn faults(&self, runs: u64) -> Vec<String> {
        let of = |slot: u32| self.0.get(&slot).copied().unwrap_or_default();
        let reasons: u64 = DropReason::ALL.iter().map(|reason| of(*reason as u32)).sum();
        let mut faults = Vec::new();
        let decided = of(PASSED) + of(FORWARDED) + of(STOPPED);
        if runs != decided {
            faults.push(format!("programs ran {runs} times and decided {decided} times"));
        }
        let (stopped, explained) = (of(STOPPED) + of(ANSWERED) + of(DISCARDED), reasons + of(HELD));
        if stopped != explained {
            faults.push(format!(
                "{stopped} packets were dropped ({} answered, {} while they waited), but {explained} have a reason ({} wait)",
                of(ANSWERED),
                of(DISCARDED),
                of(HELD)
            ));
        }
        faults
    }
}
