//! The chart for the README: for each path and workload a group of bars, as ratios to the limit.

use std::fmt::Write as _;

use super::{
    machine::Machine,
    plan::{Contender, Family, Setting, Way, Workload},
    results::{Discipline, Results, Runner},
};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 70.0;
/// Height of a path's panel, its title included.
const PANEL: f64 = 205.0;
const BARS: f64 = 120.0;
/// Where the axis ends: a little above the limit.
const MOST: f64 = 1.2;

type Coloured = (Contender, &'static str);

const COLOURS: [Coloured; 11] = [
    (Contender::Redirect, "#8a8a8a"),
    (Contender::Route, "#b8b8b8"),
    (Contender::IptablesLegacy, "#f2b880"),
    (Contender::IptablesNft, "#e08a3c"),
    (Contender::DockerNft, "#7fa7d6"),
    (Contender::Netavark, "#9b86c4"),
    (Contender::DockerProxy, "#d67f8f"),
    (Contender::Netd, "#1f8f5f"),
    (Contender::NetdNetkit, "#7cc49a"),
    (Contender::NetdClsact, "#b5d98f"),
    (Contender::NetdInternal, "#4f9f8a"),
];
const WORKLOADS: [Workload; 4] = [Workload::Stream, Workload::Rr, Workload::Connect, Workload::Udp];

/// Draws the IPv4 results of the smallest setting.
pub fn draw(results: &Results, machine: &Machine) -> String {
    let ways: Vec<Way> = [Way::Published, Way::Egress, Way::Sandbox, Way::Loopback, Way::Hairpin]
        .into_iter()
        .filter(|way| {
            WORKLOADS.iter().any(|workload| ratio(results, Contender::Netd, *way, *workload).is_some())
        })
        .collect();
    let height = TOP + PANEL * f64::from(u32::try_from(ways.len()).unwrap_or(0)) + 20.0;
    let mut svg = Svg::default();
    svg.line(&format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="12">"#
    ));
    svg.line(r##"<rect width="100%" height="100%" fill="#ffffff"/>"##);
    svg.text(LEFT, 22.0, "start", "16", "Throughput and rates, as part of the limit (1.0)");
    svg.text(LEFT, 40.0, "start", "11", &format!("{}; medians of interleaved rounds, IPv4", machine.line()));
    let shown = shown(results);
    legend(&mut svg, &shown);
    let mut top = TOP;
    for way in ways {
        panel(&mut svg, results, &shown, way, top);
        top += PANEL;
    }
    svg.line("</svg>");
    svg.0
}

fn ratio(results: &Results, contender: Contender, way: Way, workload: Workload) -> Option<f64> {
    let runner = Runner { contender, setting: Setting::LEAST };
    Some(results.find(None, runner, Discipline { family: Family::V4, way, workload })?.ratio?.median)
}

/// The contenders that have a bar, in the order of their colours.
fn shown(results: &Results) -> Vec<Coloured> {
    let measured = |contender| {
        results.cells.iter().any(|cell| {
            cell.runner == Runner { contender, setting: Setting::LEAST }
                && cell.discipline.family == Family::V4
                && cell.ratio.is_some()
        })
    };
    COLOURS.into_iter().filter(|(contender, _)| measured(*contender)).collect()
}

fn legend(svg: &mut Svg, shown: &[Coloured]) {
    let mut x = LEFT;
    for (contender, colour) in shown {
        svg.line(&format!(r#"<rect x="{x}" y="50" width="10" height="10" fill="{colour}"/>"#));
        let name = contender.to_string();
        svg.text(x + 14.0, 59.0, "start", "11", &name);
        x += 30.0 + 6.5 * f64::from(u32::try_from(name.len()).unwrap_or(0));
    }
}

fn panel(svg: &mut Svg, results: &Results, shown: &[Coloured], way: Way, top: f64) {
    let base = top + 55.0 + BARS;
    let limit = if way.reference() == Contender::Host {
        "host networking"
    } else {
        "host → sandbox over a bridge, no filter"
    };
    svg.text(LEFT, top + 28.0, "start", "13", &format!("{} (limit: {limit})", way.title()));
    for step in [0.0, 0.5, 1.0] {
        let y = base - step / MOST * BARS;
        let colour = if step > 0.9 { "#555555" } else { "#dddddd" };
        svg.line(&format!(
            r#"<line x1="{LEFT}" x2="{}" y1="{y}" y2="{y}" stroke="{colour}"/>"#,
            WIDTH - RIGHT
        ));
        svg.text(LEFT - 8.0, y + 4.0, "end", "11", &format!("{step:.1}"));
    }
    let group = (WIDTH - LEFT - RIGHT) / f64::from(u32::try_from(WORKLOADS.len()).unwrap_or(1));
    let mut left = LEFT;
    for workload in WORKLOADS {
        let bar = (group - 30.0) / f64::from(u32::try_from(shown.len()).unwrap_or(1));
        let mut x = left + 15.0;
        for (contender, colour) in shown {
            if let Some(ratio) = ratio(results, *contender, way, workload) {
                let height = ratio.clamp(0.0, MOST) / MOST * BARS;
                svg.line(&format!(
                    r#"<rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{height:.1}" fill="{colour}"><title>{contender}: {ratio:.2}</title></rect>"#,
                    base - height,
                    bar - 3.0
                ));
                svg.text(x + bar / 2.0 - 1.5, base - height - 3.0, "middle", "9", &format!("{ratio:.2}"));
            }
            x += bar;
        }
        svg.text(left + group / 2.0, base + 15.0, "middle", "12", workload.title());
        left += group;
    }
}

/// An SVG document in the making.
#[derive(Default)]
struct Svg(String);

impl Svg {
    fn line(&mut self, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, size: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.line(&format!(
            r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="#222222">{text}</text>"##
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::path::results::{Cell, Ratio};

    fn cell(contender: Contender, family: Family, ratio: Option<f64>) -> Cell {
        let workload = Workload::Rr;
        Cell {
            race: "race".to_owned(),
            runner: Runner { contender, setting: Setting::LEAST },
            discipline: Discipline { family, way: Way::Published, workload },
            metric: workload.metrics()[0],
            samples: Vec::new(),
            median: 1.0,
            deviation: 0.0,
            ratio: ratio.map(|median| Ratio { median, deviation: 0.0, interval: None }),
        }
    }

    #[test]
    fn the_legend_names_those_that_were_measured_alone() {
        let cells = vec![
            cell(Contender::Netd, Family::V4, Some(0.9)),
            cell(Contender::Route, Family::V4, Some(0.8)),
            cell(Contender::Netavark, Family::V6, Some(0.7)),
            cell(Contender::DockerNft, Family::V4, None),
        ];
        let names: Vec<_> =
            shown(&Results { cells, ..Results::default() }).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [Contender::Route, Contender::Netd]);
    }
}
