//! What the control plane's bars are measured with: medians of 50 runs of the `netd` command, printed, not asserted.
//!
//! `cargo bench -p netd-tests --bench bars`

use std::time::{Duration, Instant};

use netd_tests::{Lab, Options};

const ROUNDS: usize = 50;

fn main() {
    let lab = Lab::with(&Options { config: String::new(), ..Options::default() });
    println!("netd: medians of {ROUNDS} commands, process start included (bar)");
    row("network create", "20 ms", || {
        let elapsed = timed(&lab, &["network", "create", "--ipv6", "bench"]);
        lab.netd(&["network", "rm", "bench"]).ok();
        elapsed
    });
    lab.network("netA", 20, &[]);
    row("sandbox create, one published port", "30 ms", || {
        let elapsed = timed(&lab, &["sandbox", "create", "--network", "netA", "-p", "8080:80", "bench"]);
        lab.netd(&["sandbox", "rm", "-f", "bench"]).ok();
        elapsed
    });
    lab.netd(&["sandbox", "create", "--network", "netA", "ports"]).ok();
    row("publish 1,000 ports", "100 ms", || {
        let elapsed = timed(&lab, &["publish", "ports", "20000-20999:20000-20999"]);
        lab.netd(&["unpublish", "ports", "20000-20999:20000-20999"]).ok();
        elapsed
    });
    for number in 0..100 {
        lab.netd(&["sandbox", "create", "--network", "netA", &format!("many{number}")]).ok();
    }
    let (kib, path) = resident(&lab);
    println!("{:<36} {:>8.1} MB  (30 MB)  {path}", "resident with 100 sandboxes", kib / 1024.0);
}

fn timed(lab: &Lab, args: &[&str]) -> Duration {
    let start = Instant::now();
    let run = lab.netd(args);
    let elapsed = start.elapsed();
    run.ok();
    elapsed
}

fn row(what: &str, bar: &str, mut round: impl FnMut() -> Duration) {
    let mut times: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    times.sort_unstable();
    let millis = |index: usize| times[index].as_secs_f64() * 1e3;
    let (median, low, high) = (millis(ROUNDS / 2), millis(0), millis(ROUNDS - 1));
    println!("{what:<36} {median:>8.1} ms  ({bar})  {low:.1} to {high:.1}");
}

/// Returns the daemon's resident memory in KiB and the file it was read from.
fn resident(lab: &Lab) -> (f64, String) {
    let path = format!("/proc/{}/status", lab.daemon.pid().expect("the daemon runs"));
    let status = std::fs::read_to_string(&path).expect("the daemon's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    (line.trim().trim_end_matches(" kB").parse().expect("KiB"), path)
}
