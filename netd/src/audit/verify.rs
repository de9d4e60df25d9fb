//! Follows the chain through the files, and finds the first line that does not fit.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    chain::{self, Head},
    files,
};

/// A longer line is none of ours.
const LONGEST_LINE: u64 = 1 << 20;

/// A file whose lines fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Checked {
    /// Its path.
    pub file: String,
    /// Lines.
    pub records: u64,
    /// Records that its lines tell of as lost.
    pub lost: u64,
    /// When the first call came; empty: there is none.
    pub first: String,
    /// When the last one came.
    pub last: String,
    /// Number of an incomplete line at its end, as a power cut leaves it; None: every line is whole.
    pub incomplete: Option<u64>,
}

/// The first line that does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Break {
    /// A file cannot be read.
    #[error("cannot read {} ({source})", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line is not what was written, or not in its place.
    #[error("{}:{line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// Returns the files of a log that are there, the oldest first.
///
/// # Errors
/// The directory cannot be listed.
pub fn files_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut ages: Vec<usize> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        ages.extend(entry?.file_name().to_str().and_then(files::age));
    }
    ages.sort_unstable_by(|a, b| b.cmp(a));
    Ok(ages.into_iter().map(|age| files::path(directory, age)).collect())
}

/// Checks files that continue one another, the oldest first.
///
/// # Errors
/// The first line that does not fit.
pub fn check(paths: &[PathBuf]) -> Result<Vec<Checked>, Break> {
    let mut head = None;
    paths.iter().map(|path| check_file(path, &mut head)).collect()
}

fn check_file(path: &Path, head: &mut Option<Head>) -> Result<Checked, Break> {
    let unread = |source| Break::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(unread)?);
    let mut checked = Checked {
        file: path.display().to_string(),
        records: 0,
        lost: 0,
        first: String::new(),
        last: String::new(),
        incomplete: None,
    };
    loop {
        let mut text = Vec::new();
        reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text).map_err(unread)?;
        let number = checked.records + 1;
        let broken = |why: String| Break::Line { path: path.to_owned(), line: number, why };
        if text.is_empty() {
            return Ok(checked);
        }
        if text.pop_if(|byte| *byte == b'\n').is_none() {
            if reader.fill_buf().map_err(unread)?.is_empty() {
                checked.incomplete = Some(number);
                return Ok(checked);
            }
            return Err(broken(format!("it is longer than {LONGEST_LINE} bytes")));
        }
        let text = String::from_utf8(text).map_err(|_| broken("it is no text".to_owned()))?;
        let (line, end) = chain::open(&text).map_err(broken)?;
        follows(head.as_ref(), &line).map_err(broken)?;
        *head = Some(end);
        checked.records = number;
        checked.lost += line.gap.lost;
        if checked.first.is_empty() {
            checked.first.clone_from(&line.record.time);
        }
        checked.last = line.record.time;
    }
}

/// Whether a line stands where it belongs. The first one of all has nothing to follow: what was before it may have been rotated away.
fn follows(head: Option<&Head>, line: &chain::Line) -> Result<(), String> {
    let start = Head::default();
    let before = match head {
        Some(head) => head,
        None if line.number == 1 => &start,
        None => return Ok(()),
    };
    if line.number != before.number + 1 {
        return Err(format!("record {} follows record {}: others are missing", line.number, before.number));
    }
    if line.previous != before.hash {
        return Err(format!(
            "record {} follows another record than this one's {}",
            line.number, before.number
        ));
    }
    Ok(())
}
