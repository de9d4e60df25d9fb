//! Plays batches in both worlds, compares, and shrinks what differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    thread,
};

use netd_tests::Family;

use crate::{
    canon::Delivery,
    difference::Difference,
    generate::{self, Tree},
    intended::Intended,
    play::{self, BATCH, Numbers, Outcome},
    sequence::{Event, Sequence, Twist, What},
    world::{World, pin},
};

/// The two worlds, alive for all batches.
#[derive(Debug)]
pub struct Oracle {
    kernel: World,
    netd: World,
    /// Differences that are no mismatch.
    meant: Vec<&'static Intended>,
    /// What the next batch begins with.
    numbers: Numbers,
    /// What was found so far.
    pub tally: Tally,
}

/// What was played and found.
#[derive(Debug, Default)]
pub struct Tally {
    /// Events that delivered something in both worlds, and the same but for what is meant.
    pub delivered: usize,
    /// Events that delivered nothing.
    pub nothing: usize,
    /// Those of `delivered`, by what was sent on which way.
    pub ways: BTreeMap<Way, usize>,
    /// How often each intended difference was seen.
    pub intended: BTreeMap<&'static str, usize>,
}

/// What was sent on which way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Whether it was IPv4.
    pub v4: bool,
    /// Where it led.
    pub path: &'static str,
    /// Whether it was an answer.
    pub back: bool,
    /// What it was.
    pub what: &'static str,
}

impl Tally {
    /// Counts what an event delivered; true when the flow's other side received something.
    fn count(&mut self, sequence: &Sequence, event: &Event, seen: &[Delivery]) -> bool {
        if seen.is_empty() {
            self.nothing += 1;
            return false;
        }
        self.delivered += 1;
        let flow = sequence.flows[sequence.flow_of(event)];
        let receiver = if event.back { Some(flow.from) } else { flow.responder() };
        let of_flow = |seen: &Delivery| !seen.is_error_of_host() && !seen.is_host_reset();
        let received = seen.iter().any(|seen| Some(seen.edge) == receiver && of_flow(seen));
        if received {
            let way = Way {
                v4: sequence.family == Family::V4,
                path: flow.path(),
                back: event.back,
                what: event.kind(flow.proto),
            };
            *self.ways.entry(way).or_default() += 1;
        }
        received
    }
}

/// The first event of a sequence whose deliveries differ and are not meant to.
#[derive(Debug)]
pub struct Mismatch {
    /// Its number.
    pub event: usize,
    /// What the kernel delivered.
    pub kernel: Vec<Delivery>,
    /// What netd delivered.
    pub netd: Vec<Delivery>,
}

impl Oracle {
    /// Compares a world of the kernel's with one that is meant to do the same, but for these differences.
    pub fn new(kernel: World, netd: World, meant: Vec<&'static Intended>) -> Self {
        Self { kernel, netd, meant, numbers: Numbers::FIRST, tally: Tally::default() }
    }

    /// Plays sequences in both worlds at once, each on a CPU of its own.
    pub fn play(&mut self, sequences: &[Sequence]) -> Vec<Option<Mismatch>> {
        let numbers = self.numbers;
        let (kernel, netd) = thread::scope(|scope| {
            let start = |world, cpu| {
                scope.spawn(move || {
                    pin(cpu);
                    play::play(world, numbers, sequences)
                })
            };
            let (kernel, netd) = (start(&self.kernel, 0), start(&self.netd, 1));
            let wait = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            (wait(kernel), wait(netd))
        });
        let (next, again) = numbers.after(sequences.len());
        if again {
            self.kernel.forget();
            self.netd.forget();
        }
        self.numbers = next;
        sequences
            .iter()
            .zip(kernel.into_iter().zip(netd))
            .map(|(sequence, (kernel, netd))| self.compare(sequence, kernel, netd))
            .collect()
    }

    fn compare(&mut self, sequence: &Sequence, kernel: Outcome, netd: Outcome) -> Option<Mismatch> {
        let (mut known, mut open) = (BTreeSet::new(), BTreeSet::new());
        for (event, (kernel, netd)) in kernel.into_iter().zip(netd).enumerate() {
            let index = sequence.flow_of(&sequence.events[event]);
            let flow = sequence.flows[index];
            if kernel == netd {
                if self.tally.count(sequence, &sequence.events[event], &kernel) {
                    known.insert(flow.conversation());
                    open.extend(part_of_flow(index, &sequence.events[event]));
                }
                continue;
            }
            let difference = Difference {
                sequence,
                number: event,
                event: sequence.events[event],
                flow,
                is_known: known.contains(&flow.conversation()),
                is_open: open.contains(&(index, false))
                    || open.contains(&(index, sequence.events[event].back)),
                kernel: without(&kernel, &netd),
                netd: without(&netd, &kernel),
            };
            let Some(intended) = self.meant.iter().find(|intended| (intended.explains)(&difference)) else {
                return Some(Mismatch { event, kernel, netd });
            };
            *self.tally.intended.entry(intended.id).or_default() += 1;
            if !intended.goes_on {
                return None;
            }
            if self.tally.count(sequence, &sequence.events[event], &netd) {
                known.insert(flow.conversation());
                open.extend(part_of_flow(index, &sequence.events[event]));
            }
        }
        None
    }

    /// Returns the smallest sequence found that still differs, and how.
    pub fn shrink(&mut self, mut tree: Tree, first: Mismatch) -> (Sequence, Mismatch) {
        let mut smallest = (tree.current(), first);
        let mut more = tree.simplify();
        for _ in 0..400 {
            if !more {
                break;
            }
            let candidate = tree.current();
            match self.play(std::slice::from_ref(&candidate)).remove(0) {
                Some(mismatch) => {
                    smallest = (candidate, mismatch);
                    smallest.0.events.truncate(smallest.1.event + 1);
                    more = tree.simplify();
                }
                None => more = tree.complicate(),
            }
        }
        smallest
    }

    /// Plays the sequences with these numbers of a seed, and returns those that differ.
    pub fn run(&mut self, seed: u64, numbers: std::ops::Range<u64>) -> Vec<(u64, Mismatch)> {
        let numbers: Vec<u64> = numbers.collect();
        let mut found = Vec::new();
        for batch in numbers.chunks(BATCH) {
            let sequences: Vec<_> =
                batch.iter().map(|&number| generate::tree(seed, number).current()).collect();
            let differing = self.play(&sequences).into_iter().zip(batch);
            found.extend(differing.filter_map(|(mismatch, &number)| Some((number, mismatch?))));
        }
        found
    }
}

/// Returns a flow and the direction in which an event used it: with another source it was another flow, and an error is about one.
fn part_of_flow(index: usize, event: &Event) -> Option<(usize, bool)> {
    let apart = event.twist == Twist::SpoofedAddress || matches!(event.what, What::Error { .. });
    (!apart).then_some((index, event.back))
}

/// Returns what is in one list and not in the other.
fn without(list: &[Delivery], other: &[Delivery]) -> Vec<Delivery> {
    let mut other = other.to_vec();
    let mut rest = Vec::new();
    for delivery in list {
        match other.iter().position(|candidate| candidate == delivery) {
            Some(at) => drop(other.swap_remove(at)),
            None => rest.push(delivery.clone()),
        }
    }
    rest
}

/// Writes a mismatch for a reader.
pub fn describe(sequence: &Sequence, mismatch: &Mismatch) -> String {
    let mut text = sequence.to_string();
    let lines = |seen: &[Delivery]| seen.iter().map(ToString::to_string).collect::<Vec<_>>();
    let alike = lines(&mismatch.kernel) == lines(&mismatch.netd); // only the bytes tell
    let mut side = |name: &str, seen: &[Delivery]| {
        writeln!(
            text,
            "  event {} in {name} delivers:{}",
            mismatch.event,
            if seen.is_empty() { " nothing" } else { "" }
        )
        .expect("a string");
        for delivery in seen {
            writeln!(text, "    {delivery}").expect("a string");
            if alike {
                writeln!(text, "      {:02x?}", delivery.bytes).expect("a string");
            }
        }
    };
    side("the kernel's world", &mismatch.kernel);
    side("netd's world", &mismatch.netd);
    text
}
