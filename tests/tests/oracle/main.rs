//! Rung: oracle (reliability 7.4). The same packets through netd and through the kernel's own NAT under Docker's rules deliver the same frames.
//!
//! `cargo xtask oracle --sequences N --seed S` runs as many as wanted.

mod canon;
mod compare;
mod difference;
mod error;
mod generate;
mod intended;
mod kernel_world;
mod layout;
mod netd_world;
mod packet;
mod plan;
mod play;
mod reassembly;
mod sequence;
mod world;

use std::{collections::BTreeMap, time::Instant};

use compare::{Oracle, Tally, Way};
use intended::{INTENDED, OPEN};

/// Sequences of a run without `NETD_ORACLE_SEQUENCES`.
const SEQUENCES: u64 = 10_000;
/// The seed of a run without `NETD_ORACLE_SEED`.
const SEED: u64 = 1;
/// Mismatches that are shrunk and printed.
const SHRUNK: usize = 150;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn netd_delivers_what_the_kernel_delivers_but_for_what_is_meant() {
    let (seed, count) = (setting("NETD_ORACLE_SEED"), setting("NETD_ORACLE_SEQUENCES"));
    let first = setting("NETD_ORACLE_FIRST").unwrap_or_default();
    let usual = seed.is_none() && count.is_none() && first == 0;
    let (seed, count) = (seed.unwrap_or(SEED), count.unwrap_or(SEQUENCES));
    let meant = INTENDED.iter().chain(OPEN).collect();
    let mut oracle = Oracle::new(kernel_world::build(), netd_world::build(), meant);
    let started = Instant::now();
    let found = oracle.run(seed, first..first + count);
    eprintln!("{count} sequences of seed {seed} in {:.1?}", started.elapsed());
    summarise(&oracle.tally);
    assert_eq!(report(&mut oracle, seed, found), 0, "sequences that were answered differently");
    if usual {
        covers(&oracle.tally);
    }
}

#[test]
fn two_worlds_of_the_kernel_deliver_the_same() {
    // Where a client's port is taken, the kernel chooses another one at random.
    let meant = INTENDED.iter().filter(|intended| intended.id.contains("colliding")).collect();
    let mut oracle = Oracle::new(kernel_world::build(), kernel_world::build(), meant);
    let found = oracle.run(SEED, 0..1_000);
    assert_eq!(report(&mut oracle, SEED, found), 0, "sequences that were answered differently");
}

#[test]
fn a_missing_rule_is_found_and_shrunk() {
    for rule in [
        "MASQUERADE",
        "--dport 90 -j ACCEPT",
        "br22 -o br22 -j DROP",
        "-d 172.20.0.2 ! -i br20",
        "-i br26 -o br26 -j DROP",
        "172.27.0.2 -i eth0 -j ACCEPT",
        "-p sctp",
    ] {
        let mut oracle = Oracle::new(kernel_world::build(), kernel_world::build_without(rule), Vec::new());
        let found = oracle.run(SEED, 0..1_000).into_iter().take(5);
        let shrunk = found.map(|(number, mismatch)| oracle.shrink(generate::tree(SEED, number), mismatch));
        let smallest = shrunk.min_by_key(|(_, mismatch)| mismatch.event);
        let (sequence, mismatch) = smallest.unwrap_or_else(|| panic!("nobody misses {rule}"));
        let text = compare::describe(&sequence, &mismatch);
        assert!(mismatch.event < 2, "without {rule} this should be enough: one packet, or two\n{text}");
    }
}

#[test]
fn every_intended_difference_shows_in_its_example() {
    let mut oracle = Oracle::new(kernel_world::build(), netd_world::build(), INTENDED.iter().collect());
    for intended in INTENDED {
        let sequence = intended.example.sequence();
        oracle.tally = Tally::default();
        let mismatch = oracle.play(std::slice::from_ref(&sequence)).remove(0);
        let text = mismatch.map(|mismatch| compare::describe(&sequence, &mismatch));
        assert_eq!(text, None, "{}: its example shows something else", intended.id);
        assert!(
            oracle.tally.intended.contains_key(intended.id),
            "{}: its example does not show it\n{sequence}",
            intended.id
        );
    }
}

/// Prints what was played.
fn summarise(tally: &Tally) {
    eprintln!("{} events delivered the same, {} delivered nothing", tally.delivered, tally.nothing);
    for intended in INTENDED.iter().chain(OPEN) {
        let times = tally.intended.get(intended.id).copied().unwrap_or_default();
        eprintln!("{times:>6} times {}: {}", intended.id, intended.reason);
    }
}

/// Prints mismatches, shrunk, each kind once; returns how many there are.
fn report(oracle: &mut Oracle, seed: u64, found: Vec<(u64, compare::Mismatch)>) -> usize {
    let total = found.len();
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (number, mismatch) in found.into_iter().take(SHRUNK) {
        let (sequence, mismatch) = oracle.shrink(generate::tree(seed, number), mismatch);
        let text =
            format!("number {number} of seed {seed}, shrunk:\n{}", compare::describe(&sequence, &mismatch));
        kinds.entry(sequence.to_string()).or_default().push(text);
    }
    let mut kinds: Vec<_> = kinds.into_values().collect();
    kinds.sort_by_key(|same| std::cmp::Reverse(same.len()));
    for same in &kinds {
        eprintln!("{} times: {}", same.len(), same[0]);
    }
    total
}

/// Every way must have carried packets in both worlds, or their agreement means little.
fn covers(tally: &Tally) {
    let paths = [
        "egress",
        "published",
        "hairpin",
        "neighbour",
        "neighbour's published port",
        "other network's published port",
    ];
    for (path, what) in
        paths.into_iter().flat_map(|path| ["tcp", "udp", "error", "fragments"].map(|what| (path, what)))
    {
        require(tally, path, what);
    }
    let modes = [
        "direct to unprotected",
        "direct to routed",
        "direct by a trusted uplink",
        "egress as itself",
        "other network, unprotected",
        "other network, routed",
    ];
    // A network that is not masqueraded has no answers from outside in the kernel's world, unless it is routed.
    for (path, what) in modes.into_iter().flat_map(|path| ["tcp", "udp", "sctp"].map(|what| (path, what))) {
        require(tally, path, what);
    }
    for what in ["tcp", "udp", "sctp", "lite", "echo", "other"] {
        for path in ["egress", "neighbour"] {
            require(tally, path, what);
        }
    }
    require(tally, "published", "sctp");
}

/// Fails where no packet of this kind went this way in one of the directions and families.
fn require(tally: &Tally, path: &'static str, what: &'static str) {
    for (v4, back) in [(true, true), (true, false), (false, true), (false, false)] {
        let way = Way { v4, path, back, what };
        assert!(tally.ways.contains_key(&way), "no packet went this way: {way:?}");
    }
}
