//! What was measured: samples of each cell, their medians, spreads and ratios.

use std::fmt;

use serde::Serialize;

use super::plan::{Contender, Family, Metric, Setting, Way, Workload};
use crate::bench::statistics::Samples;

/// What the contenders of a race take turns in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Discipline {
    /// IPv4 or IPv6.
    pub family: Family,
    /// From where to where.
    #[serde(rename = "path")]
    pub way: Way,
    /// What is done.
    pub workload: Workload,
}

/// A contender in a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Runner {
    /// Who.
    pub contender: Contender,
    /// With what else around.
    pub setting: Setting,
}

impl fmt::Display for Discipline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.way, self.family, self.workload)
    }
}

impl fmt::Display for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { contender, setting } = self;
        if *setting == Setting::LEAST {
            write!(f, "{contender}")
        } else {
            write!(f, "{contender}, {setting}")
        }
    }
}

/// All samples of a runner in a discipline and metric, one a round.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// The race's title: rounds of different races were not interleaved.
    pub race: String,
    /// Who.
    #[serde(flatten)]
    pub runner: Runner,
    /// In what.
    #[serde(flatten)]
    pub discipline: Discipline,
    /// What the numbers are.
    pub metric: Metric,
    /// In the order of the rounds; none where a round failed.
    pub samples: Vec<Option<f64>>,
    /// Of the samples.
    pub median: f64,
    /// Median absolute deviation of the samples.
    pub deviation: f64,
    /// To the limit.
    #[serde(flatten)]
    pub ratio: Option<Ratio>,
}

/// How one runner's samples compare with another's of the same rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Median of the rounds' ratios.
    #[serde(rename = "ratio")]
    pub median: f64,
    /// Median absolute deviation of those.
    #[serde(rename = "ratio_deviation")]
    pub deviation: f64,
    /// Between what the median of ever more rounds would lie, 95 times of 100; none: there are fewer than six.
    #[serde(rename = "ratio_interval")]
    pub interval: Option<(f64, f64)>,
}

/// All cells.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// In the order of measuring.
    pub cells: Vec<Cell>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    /// Contenders whose field could not be built.
    pub unbuilt: usize,
    /// How interfaces were set, by contender.
    pub links: Vec<(Contender, Vec<serde_json::Value>)>,
}

impl Results {
    /// Adds the rounds of a discipline: of every runner and round a value for each metric.
    pub fn add(&mut self, race: &str, discipline: Discipline, runners: &[(Runner, Vec<Option<Vec<f64>>>)]) {
        for (at, metric) in discipline.workload.metrics().iter().enumerate() {
            let of = |rounds: &[Option<Vec<f64>>]| -> Vec<Option<f64>> {
                rounds.iter().map(|round| round.as_ref().and_then(|values| values.get(at).copied())).collect()
            };
            let limit = runners
                .iter()
                .find(|(runner, _)| {
                    runner.contender == discipline.way.reference() && runner.setting == Setting::LEAST
                })
                .map(|(_, rounds)| of(rounds));
            for (runner, rounds) in runners {
                let cell = Cell::new(race, *runner, discipline, *metric, of(rounds), limit.as_deref());
                self.cells.push(cell);
            }
        }
    }

    /// Whether every cell has a sample, and every field was built.
    pub fn whole(&self) -> bool {
        self.unbuilt == 0 && self.cells.iter().all(|cell| cell.samples.iter().any(Option::is_some))
    }

    /// The cell of a runner in a discipline of a race, by default of the first: its first metric.
    pub fn find(&self, race: Option<&str>, runner: Runner, discipline: Discipline) -> Option<&Cell> {
        self.cells.iter().find(|cell| {
            race.is_none_or(|race| cell.race == race)
                && cell.runner == runner
                && cell.discipline == discipline
        })
    }

    /// How a cell compares with another runner's in the same rounds.
    pub fn ratio(&self, of: &Cell, to: Runner) -> Option<Ratio> {
        let to = self.find(Some(&of.race), to, of.discipline)?;
        Ratio::of(&of.samples, &to.samples)
    }
}

impl Cell {
    fn new(
        race: &str,
        runner: Runner,
        discipline: Discipline,
        metric: Metric,
        samples: Vec<Option<f64>>,
        limit: Option<&[Option<f64>]>,
    ) -> Self {
        let values: Samples = samples.iter().flatten().copied().collect();
        Self {
            race: race.to_owned(),
            runner,
            discipline,
            metric,
            median: values.median(),
            deviation: values.deviation(),
            ratio: limit.and_then(|limit| Ratio::of(&samples, limit)),
            samples,
        }
    }
}

impl Ratio {
    /// Compares round by round; rounds that failed for either count for nobody. None: no round is left.
    fn of(of: &[Option<f64>], to: &[Option<f64>]) -> Option<Self> {
        let ratios: Samples = of.iter().zip(to).filter_map(|(of, to)| Some((*of)? / (*to)?)).collect();
        (!ratios.is_empty()).then(|| Self {
            median: ratios.median(),
            deviation: ratios.deviation(),
            interval: ratios.interval(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_compares_rounds_with_their_own_limit() {
        let runner = |contender| Runner { contender, setting: Setting::LEAST };
        let discipline = Discipline { family: Family::V4, way: Way::Published, workload: Workload::Connect };
        let rounds = |values: [f64; 3]| values.map(|value| Some(vec![value])).to_vec();
        let mut results = Results::default();
        // The machine is half as fast in the second round; the ratios do not see it.
        let both = [
            (runner(Contender::Host), rounds([100.0, 50.0, 100.0])),
            (runner(Contender::Netd), rounds([90.0, 45.0, 95.0])),
        ];
        results.add("IPv4", discipline, &both);
        let cell = results.find(None, runner(Contender::Netd), discipline).expect("a cell");
        let ratio = cell.ratio.expect("a ratio");
        assert!((ratio.median - 0.9).abs() < 1e-9);
        assert!((cell.median - 90.0).abs() < 1e-9);
        assert!(ratio.deviation < 1e-9);
        assert_eq!(ratio.interval, None, "three rounds tell no interval");
    }

    #[test]
    fn a_round_that_failed_counts_for_nobody() {
        let ratio = Ratio::of(&[None, Some(3.0)], &[Some(1.0), Some(4.0)]).expect("a round is left");
        assert!((ratio.median - 0.75).abs() < 1e-9);
        assert_eq!(Ratio::of(&[Some(1.0)], &[None]), None);
    }
}
