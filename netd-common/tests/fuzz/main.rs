//! Rung: fuzzing (reliability 7.6). Any bytes through the parsers and the hooks over the fake world.
//!
//! The committed corpus is replayed as an ordinary test. `cargo xtask fuzz TARGET --seconds N` makes new inputs from it by mutation and keeps
//! those that do something new, as the target's answer tells; what fails is written beside them and becomes a regression test by being committed.

mod targets;

use std::{
    collections::BTreeSet,
    fs,
    panic::{catch_unwind, set_hook, take_hook},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use targets::{ALL, Target};

/// Bytes of an input at most.
const LONGEST: usize = 512;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// Reads a target's committed inputs, in the order of their names.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(corpus(target)).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("an input of the corpus")).collect()
}

#[test]
fn every_input_of_the_corpus_keeps_its_promises() {
    for (name, target) in ALL {
        let inputs = inputs(name);
        assert!(inputs.len() >= 10, "{name}: a corpus of {} inputs shows little", inputs.len());
        let answers: BTreeSet<u64> = inputs.iter().map(|input| target(input)).collect();
        assert!(answers.len() >= 5, "{name}: its inputs do {} things alone", answers.len());
    }
}

#[test]
#[ignore = "runs as long as it is told to: cargo xtask fuzz"]
fn fuzz() {
    let wanted = std::env::var("NETD_FUZZ_TARGET").unwrap_or_default();
    let seconds = std::env::var("NETD_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let seed = std::env::var("NETD_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let targets: Vec<Target> =
        ALL.into_iter().filter(|(name, _)| wanted.is_empty() || *name == wanted).collect();
    assert!(!targets.is_empty(), "no target {wanted}; there are {:?}", ALL.map(|(name, _)| name));
    for target in targets {
        Fuzzer::new(target, seed).run(Duration::from_secs(seconds));
    }
}

/// Mutates one target's inputs.
struct Fuzzer {
    target: Target,
    random: Random,
    inputs: Vec<Vec<u8>>,
    answers: BTreeSet<u64>,
}

impl Fuzzer {
    fn new(target: Target, seed: u64) -> Self {
        let inputs = [targets::seeds(target.0), inputs(target.0)].concat();
        for input in &inputs {
            if catch_unwind(|| (target.1)(input)).is_err() {
                panic!("{} fails on {:02x?}", target.0, smaller(target.1, input.clone()));
            }
        }
        let answers = inputs.iter().map(|input| (target.1)(input)).collect();
        Self { target, random: Random(seed | 1), inputs, answers }
    }

    fn run(&mut self, time: Duration) {
        let (name, target) = self.target;
        let (end, mut tries, mut kept) = (Instant::now() + time, 0_u64, 0);
        while Instant::now() < end {
            for _ in 0..200 {
                let input = self.mutant();
                tries += 1;
                let Ok(answer) = catch_unwind(|| target(&input)) else {
                    let path = self.keep("failed", &smaller(target, input));
                    panic!("{name} fails on {}", path.display());
                };
                // The first few hundred kinds of behaviour are worth a file; later ones are kept in memory, to go on from.
                if self.answers.insert(answer) {
                    if self.answers.len() <= 200 {
                        self.keep("kept", &input);
                        kept += 1;
                    }
                    self.inputs.push(input);
                }
            }
        }
        eprintln!(
            "{name}: {tries} inputs, {} kinds of behaviour, {kept} inputs added to the corpus",
            self.answers.len()
        );
    }

    fn keep(&self, why: &str, input: &[u8]) -> PathBuf {
        let digest = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3) // FNV-1a
        });
        let path = corpus(self.target.0).join(format!("{why}-{digest:016x}"));
        fs::create_dir_all(corpus(self.target.0)).expect("the corpus");
        fs::write(&path, input).expect("write an input");
        path
    }

    fn mutant(&mut self) -> Vec<u8> {
        const VALUES: [u8; 16] = [0, 1, 2, 4, 5, 6, 8, 0x10, 0x11, 0x20, 0x2c, 0x3a, 0x45, 0x60, 0x80, 0xff];
        let random = &mut self.random;
        let mut input = match random.below(self.inputs.len() + 1) {
            0 => Vec::new(),
            n => self.inputs[n - 1].clone(),
        };
        for _ in 0..=random.below(6) {
            let at = random.below(input.len() + 1);
            match random.below(6) {
                0 => input.insert(at, random.byte()),
                1 => input.truncate(at),
                2 => input.extend((0..=random.below(24)).map(|_| random.byte()).collect::<Vec<_>>()),
                3 => {
                    let other = &self.inputs
                        [random.below(self.inputs.len().max(1)).min(self.inputs.len().saturating_sub(1))..];
                    input.extend(other.first().into_iter().flatten());
                }
                n if at < input.len() => {
                    input[at] = if n == 4 { random.byte() } else { VALUES[random.below(VALUES.len())] };
                }
                _ => {}
            }
        }
        input.truncate(LONGEST);
        input
    }
}

/// Takes away from an input what it fails without.
fn smaller(target: fn(&[u8]) -> u64, mut input: Vec<u8>) -> Vec<u8> {
    let hook = take_hook();
    set_hook(Box::new(|_| {})); // or each try would print its failure
    let mut length = input.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at + length <= input.len() {
            let shorter = [&input[..at], &input[at + length..]].concat();
            if catch_unwind(|| target(&shorter)).is_err() {
                input = shorter;
            } else {
                at += 1;
            }
        }
        length /= 2;
    }
    set_hook(hook);
    input
}

/// A small generator (xorshift64*): runs repeat by their seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or_default() % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}
