//! The bars: what netd has to reach, and whether it did.

use std::fmt::Write as _;

use super::{
    plan::{Contender, Family, Setting, Way, Workload},
    results::{Discipline, Ratio, Results, Runner},
};

/// Ratios to the limit of each path, medians of rounds.
const BARS: [(Way, Workload, f64); 15] = [
    (Way::Published, Workload::Stream, 0.98),
    (Way::Published, Workload::Rr, 0.95),
    (Way::Published, Workload::Connect, 0.96),
    (Way::Published, Workload::Udp, 0.85),
    (Way::Egress, Workload::Stream, 0.98),
    (Way::Egress, Workload::Rr, 0.92),
    (Way::Egress, Workload::Connect, 0.95),
    (Way::Egress, Workload::Udp, 0.82),
    (Way::Sandbox, Workload::Stream, 1.00),
    (Way::Sandbox, Workload::Rr, 0.98),
    (Way::Sandbox, Workload::Connect, 0.97),
    (Way::Sandbox, Workload::Udp, 0.90),
    (Way::Loopback, Workload::Stream, 0.95),
    (Way::Loopback, Workload::Rr, 0.98),
    (Way::Loopback, Workload::Connect, 0.95),
];
/// Ratios to Docker's rules by iptables.
const LEADS: [(Way, Workload, f64); 3] = [
    (Way::Published, Workload::Stream, 1.25),
    (Way::Published, Workload::Connect, 1.25),
    (Way::Egress, Workload::Udp, 1.35),
];
/// With many ports, networks or flows, no figure falls below this part of its value with one.
const STEADY: f64 = 0.97;

/// Returns a line for each bar that was measured, and whether all of them were reached.
pub fn compare(results: &Results) -> (String, bool) {
    let mut check = Check {
        text: String::from("\nbars, and where the median lies 95 times of 100\n"),
        ..Check::default()
    };
    let netd = Runner { contender: Contender::Netd, setting: Setting::LEAST };
    for family in [Family::V4, Family::V6] {
        for (way, workload, bar) in BARS {
            let discipline = Discipline { family, way, workload };
            let ratio = results.find(None, netd, discipline).and_then(|cell| cell.ratio);
            check.line(&format!("{way} {family} {workload}: of {}", way.reference()), ratio, bar);
        }
        for (way, workload, bar) in LEADS {
            for contender in [Contender::IptablesLegacy, Contender::IptablesNft] {
                let other = Runner { contender, setting: Setting::LEAST };
                let cell = results.find(None, netd, Discipline { family, way, workload });
                let ratio = cell.and_then(|cell| results.ratio(cell, other));
                check.line(&format!("{way} {family} {workload}: of {contender}"), ratio, bar);
            }
        }
    }
    let many = results.cells.iter().filter(|cell| {
        let Runner { contender, setting } = cell.runner;
        contender == Contender::Netd
            && setting != Setting::LEAST
            && cell.metric == cell.discipline.workload.metrics()[0]
    });
    for cell in many {
        let Discipline { family, way, workload } = cell.discipline;
        let ratio = results.ratio(cell, netd);
        check.line(
            &format!("{way} {family} {workload} with {}: of netd with one", cell.runner.setting),
            ratio,
            STEADY,
        );
    }
    // Writing to a string cannot fail.
    let _ = writeln!(
        check.text,
        "{} reached, {} missed, {} missed by less than these rounds can tell",
        check.reached, check.missed, check.unclear
    );
    (check.text, check.missed + check.unclear == 0)
}

#[derive(Default)]
struct Check {
    text: String,
    reached: usize,
    missed: usize,
    unclear: usize,
}

impl Check {
    fn line(&mut self, what: &str, ratio: Option<Ratio>, bar: f64) {
        let Some(Ratio { median, interval, .. }) = ratio else { return };
        let may_reach = interval.is_some_and(|(_, high)| high >= bar);
        let (word, count) = match (median >= bar, may_reach) {
            (true, _) => ("reached", &mut self.reached),
            (false, true) => ("unclear", &mut self.unclear),
            (false, false) => ("MISSED ", &mut self.missed),
        };
        *count += 1;
        let between = interval.map_or_else(String::new, |(low, high)| format!("; {low:.2} to {high:.2}"));
        let _ = writeln!(self.text, "  {word}  {median:.3}  (bar {bar:.2}{between})  {what}");
    }
}
