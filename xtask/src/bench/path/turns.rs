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
            for turn in 0..lanes.len() {
                // Nobody always runs behind the same one.
                let at = (turn + round) % lanes.len();
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
