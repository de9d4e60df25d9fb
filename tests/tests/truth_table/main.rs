//! Rung: namespaces. The truth table (Docker semantics 5.3) as data: every row T1 to T85, a test for each row and family, named by both.
//!
//! Rows that only ask share one world (the topology of 5.2); rows that change something have a lab of their own. Each row carries its positive
//! control. At the end: what all rows left behind, and the matrix of expected and seen, also at `target/truth-table.json`.

mod egress;
mod faults;
mod frames;
mod host;
mod internal;
mod live;
mod policy;
mod remote;
mod sandboxes;

use std::{
    path::Path,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use netd_tests::{
    Family,
    truth::{Cell, Expect, How, Mark, Matrix, Part, Row, Stage, Story, Trial, World, row_error, run},
};

/// What netd does not do yet: row, the protocol or all, why. Expected as the table says, not run, and shown as pending.
const PENDING: &[(u8, Option<&str>, &str)] = &[];

/// Every row of the table, by number.
fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = [
        egress::rows(),
        remote::rows(),
        policy::rows(),
        sandboxes::rows(),
        host::rows(),
        internal::rows(),
        live::rows(),
        frames::rows(),
        faults::rows(),
    ]
    .concat();
    rows.sort_by_key(|row| row.id);
    rows
}

fn pending(id: u8, how: &str) -> Option<&'static str> {
    let wanted = |entry: &&(u8, Option<&str>, &str)| entry.0 == id && entry.1.is_none_or(|only| only == how);
    let run_them = std::env::var_os("NETD_PENDING").is_some();
    PENDING.iter().find(wanted).filter(|_| !run_them).map(|entry| entry.2)
}

/// The table, what it needs to be run, and what came of it.
struct Table {
    rows: Vec<Row>,
    matrix: Matrix,
    world: Mutex<Option<World>>,
}

impl Table {
    /// Runs one row in one family, part by part; the error says what did not hold.
    fn check(&self, row: &Row, family: Family) -> Result<(), String> {
        let mut faults = Vec::new();
        for (index, part) in
            row.parts.iter().enumerate().filter(|(_, part)| part.families().contains(&family))
        {
            for cell in self.cells(row, index, part, family) {
                if cell.mark == Mark::Fails {
                    faults.push(row_error(&cell));
                }
                self.matrix.add(cell);
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }

    fn cells(&self, row: &Row, index: usize, part: &Part, family: Family) -> Vec<Cell> {
        match part {
            Part::Probe(probe) => {
                let (later, now): (Vec<How>, Vec<How>) =
                    probe.how.iter().partition(|how| pending(row.id, how.name()).is_some());
                let mut cells: Vec<_> = later
                    .into_iter()
                    .map(|how| Cell {
                        id: row.id,
                        part: index,
                        what: probe.what(),
                        expected: probe.expect.name(),
                        family: Some(family),
                        how: how.name().into(),
                        seen: String::new(),
                        mark: Mark::Pending(pending(row.id, how.name()).unwrap_or_default().into()),
                    })
                    .collect();
                if !now.is_empty() {
                    cells.extend(self.in_world(|world| probe.ask(world, family, row.id, index, &now)));
                }
                cells
            }
            Part::Story(story) => vec![self.tell(row, index, story, family)],
        }
    }

    fn tell(&self, row: &Row, index: usize, story: &Story, family: Family) -> Cell {
        let told = pending(row.id, story.how).map_or_else(
            || {
                story.tell(|| match story.stage {
                    Stage::Shared(tell) => self.in_world(|world| tell(world, family)),
                    Stage::Own(tell) => tell(family),
                })
            },
            |why| Mark::Pending(why.into()).into(),
        );
        Cell {
            id: row.id,
            part: index,
            what: story.what.into(),
            expected: story.expect.into(),
            family: Some(family),
            how: story.how.into(),
            seen: told.seen,
            mark: told.mark,
        }
    }

    /// Runs something in the shared world, which the first user builds.
    fn in_world<T>(&self, work: impl FnOnce(&World) -> T) -> T {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        work(world.get_or_insert_with(World::new))
    }

    fn trials(&self) -> Vec<Trial<'_>> {
        let of = |row: &Row, family: Family| {
            let waits = row.parts.iter().filter(|part| part.families().contains(&family));
            let why: Vec<_> = waits.map(|part| waits_for(row.id, part)).collect();
            let ignored = why.iter().all(Option::is_some).then(|| why.first().copied().flatten()).flatten();
            (row.name(family), ignored.map(str::to_owned))
        };
        let mut trials = Vec::new();
        for row in &self.rows {
            for family in row.families() {
                let (name, ignored) = of(row, family);
                let shared = !row.parts.iter().all(Part::is_own);
                trials.push(Trial { name, ignored, shared, run: Box::new(move || self.check(row, family)) });
            }
        }
        trials.push(Trial {
            name: "every_row_is_there_once_and_carries_its_control".into(),
            ignored: None,
            shared: true,
            run: Box::new(|| complete(&self.rows)),
        });
        trials
    }

    /// Adds what was not run to the matrix: pending rows and those that are not applicable.
    fn add_the_rest(&self) {
        for row in &self.rows {
            if let Some(why) = row.not_applicable {
                self.matrix.add(Cell {
                    id: row.id,
                    part: 0,
                    what: row.title.into(),
                    expected: "–".into(),
                    family: None,
                    how: String::new(),
                    seen: String::new(),
                    mark: Mark::NotApplicable(why.into()),
                });
            }
            for family in
                row.families().filter(|_| row.parts.iter().all(|part| waits_for(row.id, part).is_some()))
            {
                let _ = self.check(row, family);
            }
        }
    }

    /// Takes the shared world down, which fails where something is left or a sandbox's address was seen outside.
    fn close(&self) -> Result<(), String> {
        let world = self.world.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.add_the_rest();
        self.matrix.write(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/truth-table.json")));
        print!("\n{}", self.matrix.render());
        netd_tests::truth::caught(|| {
            drop(world);
            Ok(())
        })
    }
}

fn waits_for(id: u8, part: &Part) -> Option<&'static str> {
    match part {
        Part::Probe(probe) => probe.how.iter().map(|how| pending(id, how.name())).min().flatten(),
        Part::Story(story) => pending(id, story.how),
    }
}

/// Every number once, and beside each denial of a row something that passes.
fn complete(rows: &[Row]) -> Result<(), String> {
    let numbers: Vec<u8> = rows.iter().map(|row| row.id).collect();
    if numbers != (1..=85).collect::<Vec<_>>() {
        return Err(format!("rows: {numbers:?}"));
    }
    for row in rows {
        for family in row.families() {
            let asked =
                || row.parts.iter().filter(|p| p.families().contains(&family)).filter_map(expectation);
            if asked().any(|e| !e.is_ok()) && !asked().any(Expect::is_ok) {
                return Err(format!("T{} {family:?} denies and shows nothing that passes", row.id));
            }
        }
    }
    Ok(())
}

fn expectation(part: &Part) -> Option<Expect> {
    match part {
        Part::Probe(probe) => Some(probe.expect),
        Part::Story(_) => None,
    }
}

fn main() -> ExitCode {
    if std::env::var_os("NETD_TESTS_TABLE_LATER").is_some() {
        return ExitCode::SUCCESS; // `cargo xtask test` runs it last, on its own
    }
    let table = Table { rows: rows(), matrix: Matrix::default(), world: Mutex::new(None) };
    run(table.trials(), || table.close())
}
