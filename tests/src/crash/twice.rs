//! Two kills: the daemon is killed in an operation, and then in the start that takes it back or finishes it (reliability 7.5, double faults).

use std::time::Instant;

use super::{
    operation::Operation,
    point::{Bench, Finding, Mode, Outcome, Points, chosen},
    recovery::Recovery,
    tracer::Trap,
};

/// Kills points of an operation; after each one, so many points of the start that follows are killed too, one at a time.
///
/// The second points move on from one first point to the next: together they go through the whole start.
pub fn sweep_twice(operation: &Operation, points: Points, seconds: usize, progress: bool) -> Outcome {
    let began = Instant::now();
    let mut outcome = Outcome::default();
    let mut bench = Bench::new(operation);
    let calls = bench.record(Mode::Kill);
    outcome.calls = calls.len();
    let firsts = chosen(points, calls.len());
    for (turn, first) in firsts.iter().enumerate() {
        let mut length = None;
        for second in 0..=seconds {
            // A start is as long as what it finds: the first one after this kill is counted, and not killed.
            let trap = match length {
                None => Trap::Kill(usize::MAX),
                Some(length) => Trap::Kill(place(second - 1, seconds, turn, firsts.len(), length)),
            };
            bench.recovery = Recovery { trap: Some(trap), ..Recovery::default() };
            let (hit, wrong) = bench.point(Trap::Kill(*first));
            if length.is_none() {
                length = Some(bench.recovery.calls.len());
            } else {
                outcome.tried += 1;
                outcome.reached += usize::from(bench.recovery.hit.is_some());
            }
            if !wrong.is_empty() {
                let names = [hit.or_else(|| calls.get(first - 1).cloned()), bench.recovery.hit.clone()];
                let [call, next] = names.map(|call| call.map_or_else(|| "?".to_owned(), |call| call.text));
                let event = format!("killed, and the next start at {trap:?} ({next})");
                let finding = Finding { operation: operation.name, number: *first, call, event, wrong };
                if progress {
                    eprintln!("  {finding}");
                }
                outcome.findings.push(finding);
                bench = Bench::new(operation);
            }
            if length == Some(0) {
                break; // nothing was killed: `netd down` had ended before
            }
        }
        if progress {
            eprintln!("  {} {first} of {} after {:.0?}", operation.name, calls.len(), began.elapsed());
        }
    }
    outcome.elapsed = began.elapsed();
    outcome
}

/// Number of the call of a start at which the second kill comes: evenly spread, and shifted from turn to turn.
fn place(second: usize, seconds: usize, turn: usize, turns: usize, length: usize) -> usize {
    1 + (second * turns + turn) * length / (seconds * turns).max(1)
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn second_kills_go_through_the_whole_start() {
        let mut places: Vec<usize> =
            (0..5).flat_map(|turn| (0..4).map(move |second| place(second, 4, turn, 5, 200))).collect();
        places.sort_unstable();
        assert_eq!((places[0], places[19]), (1, 191));
        places.dedup();
        assert_eq!(places.len(), 20, "each at a place of its own");
    }
}
