//! Interleaved rounds: all fields of a race stand at once, and their runners take turns in each discipline.

use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;

use super::{
    field::{Field, Kit},
    measure,
    programme::Race,
    results::{Discipline, Results, Runner},
};

/// How often, how long, and who watches.
#[derive(Debug, Clone, Copy)]
pub struct Turns<'a> {
    /// Rounds that count, after one that does not.
    pub rounds: usize,
    /// Length of a measurement.
    pub seconds: f64,
    /// Tells how far it is.
    pub bar: &'a ProgressBar,
}

/// A runner and what it achieved, a round each.
struct Lane<'a> {
    field: &'a Field,
    rounds: Vec<Option<Vec<f64>>>,
}

impl Turns<'_> {
    /// Builds the fields of a race, runs every discipline, and takes the fields down.
    pub fn run(self, race: &Race, kit: Kit, results: &mut Results) -> Result<()> {
        let mut fields = Vec::new();
        for runner in &race.runners {
            self.bar.set_message(format!("building {runner}"));
            match Field::build(*runner, kit).and_then(|field| field.fill().map(|()| field)) {
                Ok(field) => fields.push(field),
                Err(error) => {
                    results.unbuilt += 1;
                    results.failures.push(format!("{runner}: not measured: {error:#}"));
                }
            }
        }
        for discipline in &race.disciplines {
            self.discipline(&race.title, *discipline, &fields, results);
        }
        if race.main {
            for field in &fields {
                results.links.push((field.runner.contender, field.links()?));
            }
        }
        Ok(())
    }

    fn discipline(self, race: &str, discipline: Discipline, fields: &[Field], results: &mut Results) {
        let takes_part = |field: &&Field| field.road(discipline.way, discipline.family).is_some();
        let mut lanes: Vec<Lane> =
            fields.iter().filter(takes_part).map(|field| Lane { field, rounds: Vec::new() }).collect();
        for round in 0..=self.rounds {
            for at in order(lanes.len(), round) {
                let Lane { field, rounds } = &mut lanes[at];
                self.bar.set_message(format!("{discipline} {}", field.runner));
                let outcome = self.turn(discipline, field, round);
                self.bar.inc(1);
                // What is wrong in the first round is wrong in the others too, and they say so.
                if round == 0 {
                    continue;
                }
                if let Err(error) = &outcome {
                    let runner = field.runner;
                    results.failures.push(format!("{discipline} {runner}, round {round}: {error:#}"));
                }
                rounds.push(outcome.ok());
            }
        }
        let lanes: Vec<(Runner, _)> =
            lanes.into_iter().map(|lane| (lane.field.runner, lane.rounds)).collect();
        results.add(race, discipline, &lanes);
    }

    fn turn(self, discipline: Discipline, field: &Field, round: usize) -> Result<Vec<f64>> {
        let Some(road) = field.road(discipline.way, discipline.family) else { return Ok(Vec::new()) };
        let duration = Duration::from_secs_f64(self.seconds);
        measure::run(discipline.workload, &road, if round == 0 { duration / 2 } else { duration })
    }
}

/// Who runs when in a round. Whoever ran before leaves closing connections and full caches behind: so everybody runs behind everybody else, equally often
/// in as many rounds as there are runners, or twice as many if their number is odd (Williams 1949).
fn order(runners: usize, round: usize) -> impl Iterator<Item = usize> {
    let (shift, mirrored) =
        if runners.is_multiple_of(2) { (round, false) } else { (round / 2, round % 2 == 1) };
    (0..runners).map(move |turn| {
        let turn = if mirrored { runners - 1 - turn } else { turn };
        // 0, 1, n-1, 2, n-2, ...
        let place = if turn % 2 == 1 { turn.div_ceil(2) } else { runners - turn / 2 };
        (place + shift) % runners
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::order;

    #[test]
    fn everybody_runs_once_a_round_and_behind_everybody_else_equally_often() {
        for runners in 1..9 {
            let mut pairs = BTreeMap::new();
            let rounds = if runners % 2 == 0 { runners } else { 2 * runners };
            for round in 0..rounds {
                let turns: Vec<usize> = order(runners, round).collect();
                let mut sorted = turns.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..runners).collect::<Vec<_>>(), "{runners} runners, round {round}");
                for pair in turns.windows(2) {
                    *pairs.entry((pair[0], pair[1])).or_insert(0) += 1;
                }
            }
            assert_eq!(pairs.len(), runners * (runners - 1), "{runners} runners");
            assert!(pairs.values().all(|times| *times == rounds / runners), "{runners} runners: {pairs:?}");
        }
    }
}
