//! The clock that the programs read, from user space. A daemon in a time namespace has another one of its own (`time_namespaces(7)`).

use std::{fs, sync::OnceLock};

use netd_common::maps::TICK_SHIFT;
use nix::time::{ClockId, clock_gettime};

/// How far the clocks of this process's children are ahead of the host's.
const OFFSETS: &str = "/proc/self/timens_offsets";
/// The namespaces of this process and of its children: before Linux 6.3 a process that has made one does not live in it.
const OWN_AND_CHILDRENS: [&str; 2] = ["/proc/self/ns/time", "/proc/self/ns/time_for_children"];
const NANOS: i128 = 1_000_000_000;

/// Returns the host's coarse monotonic clock in ticks, as the programs read it.
pub fn now() -> u32 {
    u32::try_from((hosts(ClockId::CLOCK_MONOTONIC_COARSE) >> TICK_SHIFT) & i128::from(u32::MAX)).unwrap_or(0)
}

/// Returns the host's monotonic clock in nanoseconds, by which the programs say when something was.
pub fn nanos() -> i128 {
    hosts(ClockId::CLOCK_MONOTONIC)
}

/// Reads a monotonic clock of the host, in nanoseconds.
fn hosts(clock: ClockId) -> i128 {
    let own = clock_gettime(clock);
    own.map_or(0, |time| i128::from(time.tv_sec()) * NANOS + i128::from(time.tv_nsec())) - ahead()
}

/// Returns by how many nanoseconds this process's monotonic clock is ahead; it is fixed once there is a process in the namespace.
fn ahead() -> i128 {
    static AHEAD: OnceLock<i128> = OnceLock::new();
    *AHEAD.get_or_init(|| {
        let [own, childrens] = OWN_AND_CHILDRENS.map(|path| fs::read_link(path).ok());
        // Kernels without time namespaces have no such files.
        let text = (own == childrens).then(|| fs::read_to_string(OFFSETS).ok()).flatten();
        text.and_then(|text| parse(&text)).unwrap_or(0)
    })
}

/// Reads the line of the monotonic clock: its name, seconds, nanoseconds.
fn parse(text: &str) -> Option<i128> {
    let line = text.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_whitespace().map(str::parse::<i128>);
    Some(numbers.next()?.ok()? * NANOS + numbers.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_the_monotonic_clock_may_be_to_either_side() {
        assert_eq!(parse("monotonic           0         0\nboottime            7         0\n"), Some(0));
        assert_eq!(parse("monotonic     1000000       500\n"), Some(1_000_000 * NANOS + 500));
        assert_eq!(parse("monotonic          -2 500000000\n"), Some(-3 * NANOS / 2));
        assert_eq!(parse(""), None);
    }
}
