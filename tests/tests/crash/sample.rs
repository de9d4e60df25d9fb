//! Points of every operation: a spread sample, or what `cargo xtask crash` asks for.

use std::str::FromStr;

use netd_tests::crash::{Mode, OPERATIONS, Operation, Outcome, Points, sweep, sweep_twice};
use nix::errno::Errno;

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("NETD_CRASH_{name}")).ok().filter(|text| !text.is_empty())
}

fn number<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

/// Errors that `--errno` knows by name.
const ERRORS: [Errno; 9] = [
    Errno::EAGAIN,
    Errno::EBUSY,
    Errno::EIO,
    Errno::EMFILE,
    Errno::ENFILE,
    Errno::ENOBUFS,
    Errno::ENOMEM,
    Errno::ENOSPC,
    Errno::EPERM,
];

fn errno(name: &str) -> Errno {
    let known = ERRORS.into_iter().find(|errno| format!("{errno:?}") == name);
    known.unwrap_or_else(|| Errno::from_raw(number(name)))
}

/// Tries so many points of operations; those that are asked for instead, where any are.
fn run(names: &[&str], mode: Mode, usual: usize) {
    each(names, usual, |operation, points, progress| sweep(operation, mode, points, progress));
}

fn each(names: &[&str], usual: usize, attempt: impl Fn(&Operation, Points, bool) -> Outcome) {
    let asked = setting("OPERATION");
    let points = match setting("POINTS").as_deref() {
        None => Points::Spread(usual),
        Some("all") => Points::All,
        Some(text) => match text.split_once('-') {
            Some((first, last)) => Points::Range(number(first), number(last)),
            None => Points::Spread(number(text)),
        },
    };
    let wanted =
        |name: &str| asked.as_deref().map_or(names.contains(&name), |asked| asked == "all" || asked == name);
    let known: Vec<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
    assert!(known.iter().any(|name| wanted(name)), "there are no such operations among {known:?}");
    let mut findings = 0;
    for operation in OPERATIONS.iter().filter(|operation| wanted(operation.name)) {
        let outcome = attempt(operation, points, asked.is_some());
        print(operation.name, &outcome);
        findings += outcome.findings.len();
        let reached = outcome.tried == 0 || outcome.reached > 0;
        assert!(reached, "{}: no point broke anything off", operation.name);
    }
    assert_eq!(findings, 0, "points at which something was wrong");
}

fn print(name: &str, outcome: &Outcome) {
    let Outcome { calls, tried, reached, findings, elapsed } = outcome;
    eprintln!(
        "{name:<20} {calls:>4} calls {tried:>4} tried {reached:>4} reached {:>3} wrong {:>5.0} s",
        findings.len(),
        elapsed.as_secs_f64()
    );
    if setting("OPERATION").is_none() {
        for finding in findings {
            eprintln!("{finding}");
        }
    }
}

#[test]
fn operations_on_networks_survive_being_killed() {
    run(&["network-create", "network-rm", "connect", "disconnect"], Mode::Kill, 2);
}

#[test]
fn operations_on_sandboxes_survive_being_killed() {
    run(&["sandbox-create", "sandbox-rm", "disconnect-gateway", "run"], Mode::Kill, 2);
}

#[test]
fn operations_on_ports_survive_being_killed() {
    run(&["publish", "unpublish"], Mode::Kill, 2);
}

#[test]
fn starting_and_taking_down_survive_being_killed() {
    run(&["start", "first-start", "down", "down-alone"], Mode::Kill, 2);
}

#[test]
#[ignore = "takes a minute on a busy machine: `cargo xtask crash --twice`"]
fn a_second_kill_in_the_start_after_the_first_leaves_nothing_either() {
    let seconds = setting("SECONDS").map_or(1, |text| number(&text));
    each(&["sandbox-create"], 1, |operation, points, progress| {
        sweep_twice(operation, points, seconds, progress)
    });
}

#[test]
#[ignore = "takes an error and an operation: `cargo xtask crash --errno`"]
#[cfg(target_arch = "x86_64")]
fn a_call_that_fails_fails_one_operation_and_leaves_nothing() {
    let name = setting("ERRNO").expect("NETD_CRASH_ERRNO: an error's name");
    run(&[], Mode::Fail((name != "any").then(|| errno(&name))), 10);
}
