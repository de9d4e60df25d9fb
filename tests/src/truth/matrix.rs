//! What was expected and what was seen: a table to read and a file for machines.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Mutex};

use serde_json::json;

use crate::Family;

/// How a cell ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// As expected.
    Holds,
    /// Otherwise.
    Fails,
    /// Not run: netd does not do it yet, and why.
    Pending(String),
    /// Says nothing about netd, and why.
    NotApplicable(String),
}

/// One protocol of one part of a row in one family.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The row's number.
    pub id: u8,
    /// The part's place in the row.
    pub part: usize,
    /// Who asks whom.
    pub what: String,
    /// What should come of it.
    pub expected: String,
    /// IPv4 or IPv6; None for a row that is not applicable.
    pub family: Option<Family>,
    /// The protocol.
    pub how: String,
    /// What came of it.
    pub seen: String,
    /// Whether that is right.
    pub mark: Mark,
}

/// Every cell so far.
#[derive(Debug, Default)]
pub struct Matrix(Mutex<Vec<Cell>>);

impl Matrix {
    /// Adds a cell.
    pub fn add(&self, cell: Cell) {
        self.0.lock().expect("the matrix").push(cell);
    }

    fn lines(&self) -> BTreeMap<(u8, usize), Vec<Cell>> {
        let mut lines: BTreeMap<_, Vec<Cell>> = BTreeMap::new();
        for cell in self.0.lock().expect("the matrix").iter() {
            lines.entry((cell.id, cell.part)).or_default().push(cell.clone());
        }
        for cells in lines.values_mut() {
            cells.sort_by_key(|cell| cell.family.map(Family::name));
        }
        lines
    }

    /// Returns the table: a line for each part of a row, a mark for each protocol and family.
    pub fn render(&self) -> String {
        let lines = self.lines();
        if lines.is_empty() {
            return String::new();
        }
        let mut text = format!("truth table: expected and seen\n{}\n", "─".repeat(126));
        let _ = writeln!(
            text,
            "{:<5}{:<38}{:<28}{:<34}seen otherwise",
            "row", "probe", "expected", "seen as expected"
        );
        let mut last = 0;
        for ((id, _), cells) in &lines {
            let first = &cells[0];
            let row = if *id == last { String::new() } else { format!("T{id}") };
            last = *id;
            let (marks, rest) = marks(cells);
            let line = format!(
                "{row:<5}{:<38}{:<28}{marks:<34}{rest}",
                fitted(&first.what, 37),
                fitted(&first.expected, 27)
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text + &self.summary()
    }

    fn summary(&self) -> String {
        let cells = self.0.lock().expect("the matrix");
        let count = |wanted: fn(&Mark) -> bool| cells.iter().filter(|cell| wanted(&cell.mark)).count();
        format!(
            "{}\n{} cells: {} as expected ✓, {} otherwise ✗, {} pending …, {} not applicable –\n",
            "─".repeat(126),
            cells.len(),
            count(|m| *m == Mark::Holds),
            count(|m| *m == Mark::Fails),
            count(|m| matches!(m, Mark::Pending(_))),
            count(|m| matches!(m, Mark::NotApplicable(_))),
        )
    }

    /// Writes every cell as JSON.
    pub fn write(&self, path: &Path) {
        let cells: Vec<_> = self.lines().into_values().flatten().map(|cell| cell.json()).collect();
        let text = serde_json::to_string_pretty(&json!({ "cells": cells })).expect("JSON");
        fs::write(path, text + "\n").unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }
}

/// The marks of a line, by family, and what differs.
fn marks(cells: &[Cell]) -> (String, String) {
    let (mut marks, mut rest, mut family) = (String::new(), Vec::new(), None);
    for cell in cells {
        if cell.family != family {
            family = cell.family;
            let _ = write!(
                marks,
                "{}{}",
                if marks.is_empty() { "" } else { "  " },
                family.map_or("", Family::name)
            );
        }
        let (mark, why) = match &cell.mark {
            Mark::Holds => ("✓", None),
            Mark::Fails => {
                ("✗", Some(format!("{} {}: {}", family.map_or("", Family::name), cell.how, cell.seen)))
            }
            Mark::Pending(why) => ("…", Some(format!("pending: {why}"))),
            Mark::NotApplicable(why) => ("–", Some(format!("n.a.: {why}"))),
        };
        let _ = write!(marks, " {}{mark}", cell.how);
        rest.extend(why.filter(|why| !rest.contains(why)));
    }
    (marks.trim_start().to_owned(), rest.join("; "))
}

/// Shortens a text to a column.
fn fitted(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

impl Cell {
    fn json(&self) -> serde_json::Value {
        let (mark, why) = match &self.mark {
            Mark::Holds => ("holds", None),
            Mark::Fails => ("fails", None),
            Mark::Pending(why) => ("pending", Some(why)),
            Mark::NotApplicable(why) => ("not applicable", Some(why)),
        };
        json!({
            "row": format!("T{}", self.id),
            "probe": self.what,
            "family": self.family.map(Family::name),
            "protocol": self.how,
            "expected": self.expected,
            "seen": self.seen,
            "result": mark,
            "why": why,
        })
    }
}
