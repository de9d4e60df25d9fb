//! I8: the daemon holds no more than it needs.

use std::fs;

use super::{Faults, state::State};

/// Descriptors of a daemon without a single object: maps, programs, sockets, files.
const DESCRIPTORS: usize = 200;
/// Threads: two workers a CPU, and those that wait for the disk or visit a namespace.
const THREADS: usize = 64;

/// Counts descriptors and threads.
pub fn check(pid: u32, state: &State, faults: &mut Faults) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    let (descriptors, threads) = (count("fd"), count("task"));
    faults.check(descriptors > 0, || format!("missing: the daemon's process {pid}"));
    let allowed = DESCRIPTORS + 2 * state.endpoints().count();
    faults.check(descriptors <= allowed, || format!("too much: {descriptors} descriptors, not {allowed}"));
    faults.check(threads <= THREADS, || format!("too much: {threads} threads, not {THREADS}"));
}
