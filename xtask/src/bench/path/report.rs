//! The tables a person reads: a row for each contender, a column for each workload.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::NOTHING};

use super::{
    plan::{Family, Way},
    programme::Race,
    results::{Cell, Discipline, Ratio, Results},
};

/// The tables of a race.
pub fn tables(race: &Race, results: &Results) -> String {
    let mut text = String::new();
    let mut ways: Vec<(Family, Way)> = race.disciplines.iter().map(|d| (d.family, d.way)).collect();
    ways.dedup();
    for (family, way) in ways {
        let disciplines: Vec<Discipline> =
            race.disciplines.iter().copied().filter(|d| (d.family, d.way) == (family, way)).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{} · {}", way.title(), race.title);
        let _ = writeln!(text, "{}", table(race, &disciplines, results));
    }
    text
}

fn table(race: &Race, disciplines: &[Discipline], results: &Results) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let mut header = vec![String::new()];
    header.extend(disciplines.iter().map(|discipline| discipline.workload.title().to_owned()));
    table.set_header(header);
    for runner in &race.runners {
        let cells: Vec<Option<&Cell>> = disciplines
            .iter()
            .map(|discipline| results.find(Some(&race.title), *runner, *discipline))
            .collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let mut row = vec![runner.to_string()];
        row.extend(cells.into_iter().map(|cell| cell.map_or_else(|| "–".to_owned(), show)));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// `0.97 ±0.01  12.3 k/s`: ratio to the limit and its spread, then the median itself.
fn show(cell: &Cell) -> String {
    if cell.samples.iter().all(Option::is_none) {
        return "failed".to_owned();
    }
    let value = cell.metric.show(cell.median);
    match cell.ratio {
        Some(Ratio { median, deviation, .. }) => format!("{median:.2} ±{deviation:.2}  {value}"),
        None => value,
    }
}
