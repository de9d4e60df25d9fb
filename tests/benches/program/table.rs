//! Medians of interleaved rounds, beside the committed ones.

use std::{collections::BTreeMap, fs, path::Path};

use netd::dataplane::Kernel;

use super::cases::Case;

/// A case with the medians of its rounds, in nanoseconds.
pub struct Row {
    case: Case,
    medians: Vec<f64>,
}

impl Row {
    /// Starts without rounds.
    pub fn of(case: Case) -> Self {
        Self { case, medians: Vec::new() }
    }

    /// Runs the case's program on so many packets, the first of which only warms the caches.
    pub fn round(&mut self, kernel: &mut Kernel, packets: u32, number: &mut u32) {
        let mut times = Vec::new();
        for _ in 0..=packets {
            *number = number.wrapping_add(1);
            let ran = self.case.run(kernel, *number);
            times.push(f64::from(u32::try_from(ran.duration.as_nanos()).unwrap_or(u32::MAX)));
        }
        self.medians.push(middle(times.split_off(1)));
    }
}

/// Nanoseconds by program and kind of packet, what surrounds a run taken off.
pub struct Table {
    around: f64,
    rows: Vec<(String, f64, (f64, f64))>,
}

impl Table {
    /// Settles the rounds; the first row is the packet that no program looks at.
    pub fn of(rows: &[Row]) -> Self {
        let around = rows.first().map_or(0.0, |row| middle(row.medians.clone()));
        let settle = |row: &Row| {
            let mut all = row.medians.clone();
            all.sort_by(f64::total_cmp);
            let of = |at: usize| all.get(at).copied().unwrap_or_default() - around;
            let spread = (of(0), of(all.len().saturating_sub(1)));
            (format!("{}: {}", row.case.program, row.case.kind), of(all.len() / 2), spread)
        };
        Self { around, rows: rows.iter().skip(1).map(settle).collect() }
    }

    /// Prints every row with the committed time and the ratio to it.
    pub fn print(&self, file: Option<&Path>) {
        let committed = file.map(read).unwrap_or_default();
        println!(
            "{:<94} {:>6} {:>13} {:>10} {:>6}",
            "program: packet", "ns", "low to high", "committed", "ratio"
        );
        for (name, time, (low, high)) in &self.rows {
            let spread = format!("{low:.0} to {high:.0}");
            let beside = committed.get(name).map_or_else(
                || format!("{:>10}", "new"),
                |then| format!("{then:>10.0} {:>6.2}", time / then.max(1.0)),
            );
            println!("{name:<94} {time:>6.0} {spread:>13} {beside}");
        }
        println!("around every run, taken off: {:.0} ns", self.around);
    }

    /// Writes the times for the next comparison.
    pub fn write(&self, file: &Path) {
        self.print(Some(file));
        let mut times = read(file);
        times.extend(self.rows.iter().map(|(name, time, _)| (name.clone(), time.round())));
        let text = serde_json::to_string_pretty(&times).expect("numbers by name") + "\n";
        fs::write(file, text).expect("the file of times is written");
    }
}

/// Returns the committed times; none where there is no such file.
fn read(file: &Path) -> BTreeMap<String, f64> {
    fs::read_to_string(file)
        .map(|text| serde_json::from_str(&text).expect("the file of times holds numbers by name"))
        .unwrap_or_default()
}

fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
