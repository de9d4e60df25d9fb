//! What finished operations gave back, for a day: whoever did not hear the answer asks again by the operation's id (reliability P3, 6.5).
//!
//! A line for each, `CRC32 JSON`, in `results.log`; when that is full it becomes `results.log.prev`, and the one before that goes. A line is written
//! between the commit and the answer. Until the next operation the journal knows it too, so that no kill and no power cut falls between the two.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    Error, disk,
    generations::{regular_file_of_ours, set_aside},
    ignore_missing,
};
use crate::model::{Finished, OperationId};

/// Name of the present file.
pub(super) const NAME: &str = "results.log";
/// Name of the one before it.
pub(super) const PREVIOUS: &str = "results.log.prev";
/// Lines of a file; twice as many operations are remembered at most.
const MOST: usize = 2048;
/// Bytes of a file.
const SIZE: u64 = 1 << 20;
/// How long an operation is remembered, in seconds.
const REMEMBERED: i64 = 24 * 60 * 60;

#[derive(Debug)]
pub(super) struct Results {
    path: PathBuf,
    file: File,
    length: u64,
    present: Lines,
    previous: Lines,
}

/// Finished operations in JSON, as in their file: a range of ports is short there, and megabytes when every port is listed.
type Lines = BTreeMap<OperationId, Box<str>>;

impl Results {
    pub(super) fn open(dir: &Path, warnings: &mut Vec<String>) -> Result<Self, Error> {
        let (path, before) = (dir.join(NAME), dir.join(PREVIOUS));
        for path in [&path, &before] {
            if let Err(why) = regular_file_of_ours(path) {
                set_aside(path, &why.to_string(), warnings)?;
            }
        }
        let mut old = Vec::new();
        let read = File::open(&before).and_then(|mut file| file.read_to_end(&mut old));
        ignore_missing(read.map(drop)).map_err(Error::io("read", &before))?;
        let mut file = open_file(&path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(Error::io("read", &path))?;
        // What a power cut left of a line ends here, so that the next one begins on its own.
        if text.last().is_some_and(|byte| *byte != b'\n') {
            let _ = file.write_all(b"\n"); // on a full disk the next start does it
        }
        let length = text.len() as u64;
        Ok(Self { path, file, length, present: read_lines(&text), previous: read_lines(&old) })
    }

    /// Returns what an operation of the last day gave back.
    pub(super) fn recall(&self, id: &OperationId) -> Option<Finished> {
        let line = self.present.get(id).or_else(|| self.previous.get(id))?;
        let found: Finished = serde_json::from_str(line).ok()?; // it was written, or read, as one
        let age = jiff::Timestamp::now().as_second() - found.at;
        (age < REMEMBERED).then_some(found)
    }

    /// Remembers an operation, and waits for the disk.
    ///
    /// # Errors
    /// When it cannot be written; it is remembered until this process ends.
    pub(super) fn remember(&mut self, finished: &Finished) -> Result<(), Error> {
        let text = serde_json::to_string(finished).map_err(Error::Encode)?;
        let line = encode(&text);
        let is_full = self.present.len() >= MOST || self.length + line.len() as u64 > SIZE;
        let begun = if is_full { self.begin() } else { Ok(()) };
        self.present.insert(finished.operation.id.clone(), text.into());
        begun?;
        if self.length == 0 {
            self.sync_name()?;
        }
        let written = disk::append(&mut self.file, &line);
        if written.is_err() {
            let _ = self.file.set_len(self.length); // a part of the line may have found room; reading leaves it out
        } else {
            self.length += line.len() as u64;
        }
        written.map_err(Error::io("write", &self.path))
    }

    /// Begins another file. Where that fails, the lines of before stay known, and the next line tries again.
    fn begin(&mut self) -> Result<(), Error> {
        let replaced = self.replace_file();
        // A disk that refuses for long must not make this grow.
        if replaced.is_ok() || self.present.len() >= 2 * MOST {
            self.previous = std::mem::take(&mut self.present);
        }
        replaced
    }

    fn replace_file(&mut self) -> Result<(), Error> {
        let previous = self.path.with_file_name(PREVIOUS);
        ignore_missing(disk::rename(&self.path, &previous)).map_err(Error::io("rename", &self.path))?;
        self.file = open_file(&self.path)?;
        self.length = 0;
        Ok(())
    }

    /// Sees that the file's name is on disk before its first line.
    fn sync_name(&self) -> Result<(), Error> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        disk::sync_directory(directory).map_err(Error::io("make", &self.path))
    }
}

fn open_file(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(Error::io("open", path))
}

fn encode(text: &str) -> Vec<u8> {
    format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes())).into_bytes()
}

/// Reads the lines that are whole.
fn read_lines(text: &[u8]) -> Lines {
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let whole = lines.filter_map(|line| {
        let (checksum, json) = line.split_once(' ')?;
        let is_whole = u32::from_str_radix(checksum, 16) == Ok(crc32fast::hash(json.as_bytes()));
        let finished: Finished = is_whole.then(|| serde_json::from_str(json).ok()).flatten()?;
        Some((finished.operation.id, json.into()))
    });
    whole.collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr};

    use super::{
        super::disk::{Refusal, refusing},
        *,
    };
    use crate::model::{Answer, Binding, Operation, Protocol, Sources};

    fn finished(id: &str, at: i64) -> Finished {
        let operation = Operation { id: id.parse().expect("an id"), request: "r".repeat(64) };
        Finished { at, ..Finished::now(operation, Answer::Done) }
    }

    fn now() -> i64 {
        jiff::Timestamp::now().as_second()
    }

    fn open(dir: &Path) -> Results {
        Results::open(dir, &mut Vec::new()).expect("opens")
    }

    fn knows(results: &Results, id: &str) -> bool {
        results.recall(&id.parse().expect("an id")).is_some()
    }

    #[test]
    fn an_operation_is_remembered_over_restarts_and_for_a_day() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = open(dir.path());
        for (id, age) in [("new", 0), ("old", REMEMBERED - 60), ("older", REMEMBERED)] {
            results.remember(&finished(id, now() - age)).expect("writes");
        }
        for results in [results, open(dir.path())] {
            assert_eq!(
                ["new", "old", "older", "none"].map(|id| knows(&results, id)),
                [true, true, false, false]
            );
        }
    }

    #[test]
    fn a_power_cut_in_a_line_costs_no_other_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(NAME);
        for id in ["a", "b"] {
            open(dir.path()).remember(&finished(id, now())).expect("writes");
        }
        let text = fs::read(&path).expect("reads");
        let first = text.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
        for end in first..text.len() - 1 {
            fs::write(&path, &text[..end]).expect("writes");
            let mut results = open(dir.path());
            assert_eq!((knows(&results, "a"), knows(&results, "b")), (true, false), "{end} bytes");
            results.remember(&finished("c", now())).expect("writes");
            let again = open(dir.path());
            assert_eq!((knows(&again, "a"), knows(&again, "c")), (true, true), "{end} bytes");
        }
    }

    #[test]
    fn a_range_of_ports_takes_the_room_of_a_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = open(dir.path());
        let (first, last) = (5_000, 64_999);
        let binding = |port| Binding {
            port,
            protocol: Protocol::Tcp,
            host_ip: Ipv4Addr::UNSPECIFIED.into(),
            host_port: port,
            endpoint: "a".repeat(64).parse().expect("an id"),
            allow: Sources::default(),
        };
        let answer = Answer::Ports((first..=last).map(binding).collect());
        let operation = Operation { id: "a".parse().expect("an id"), request: String::new() };
        let id = operation.id.clone();
        results.remember(&Finished::now(operation, answer.clone())).expect("writes");
        assert!(results.present[&id].len() < 1000, "{}", results.present[&id]);
        for results in [results, open(dir.path())] {
            assert_eq!(results.recall(&id).expect("known").answer, answer);
        }
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = open(dir.path());
        for number in 0..=2 * MOST {
            // As `remember`, without waiting for the disk each time.
            let finished = finished(&format!("n{number}"), now());
            if results.present.len() >= MOST {
                results.begin().expect("begins");
            }
            let text = serde_json::to_string(&finished).expect("encodes");
            results.file.write_all(&encode(&text)).expect("writes");
            results.present.insert(finished.operation.id, text.into());
        }
        for results in [results, open(dir.path())] {
            assert_eq!(results.present.len() + results.previous.len(), MOST + 1);
            assert!(knows(&results, &format!("n{}", 2 * MOST)) && !knows(&results, "n0"));
        }
        assert!(fs::metadata(dir.path().join(PREVIOUS)).expect("there").len() < SIZE);
    }

    /// Fills the present file up: the next line begins another one.
    fn fill(results: &mut Results) {
        results.remember(&finished("first", now())).expect("writes");
        results.length = SIZE;
    }

    fn knows_both(results: &Results) -> [bool; 2] {
        ["first", "last"].map(|id| knows(results, id))
    }

    #[test]
    fn another_file_that_cannot_be_begun_costs_no_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = open(dir.path());
        fill(&mut results);
        let obstacle = dir.path().join(PREVIOUS);
        fs::create_dir(&obstacle).expect("makes");
        for id in ["a", "b", "last"] {
            results.remember(&finished(id, now())).expect_err("a directory is in the way");
            assert!(knows(&results, "first") && knows(&results, id), "{id}");
        }
        fs::remove_dir(&obstacle).expect("removes");
        results.remember(&finished("last", now())).expect("writes");
        assert_eq!([&results, &open(dir.path())].map(knows_both), [[true; 2]; 2]);
    }

    #[test]
    fn another_file_that_can_never_be_begun_takes_no_more_and_more_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = open(dir.path());
        fill(&mut results);
        fs::create_dir(dir.path().join(PREVIOUS)).expect("makes");
        for number in 0..5 * MOST {
            let _ = results.remember(&finished(&format!("n{number}"), now()));
            results.length = SIZE;
        }
        assert!(results.present.len() + results.previous.len() <= 4 * MOST);
        assert!(knows(&results, &format!("n{}", 5 * MOST - 1)));
    }

    #[test]
    fn another_file_that_was_begun_half_way_is_gone_on_with() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = open(dir.path());
        fill(&mut results);
        // As when the new file could not be opened.
        fs::rename(dir.path().join(NAME), dir.path().join(PREVIOUS)).expect("renames");
        refusing(Refusal::SyncDirectory, || {
            results.remember(&finished("last", now())).expect_err("the disk refuses");
            results.remember(&finished("last", now())).expect_err("the disk refuses");
        });
        results.remember(&finished("last", now())).expect("writes");
        assert_eq!([&results, &open(dir.path())].map(knows_both), [[true; 2]; 2]);
    }

    #[test]
    fn foreign_files_in_its_place_are_set_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let foreign = dir.path().join("foreign");
        fs::write(&foreign, "precious").expect("writes");
        std::os::unix::fs::symlink(&foreign, dir.path().join(NAME)).expect("links");
        let mut warnings = Vec::new();
        let mut results = Results::open(dir.path(), &mut warnings).expect("opens");
        results.remember(&finished("a", now())).expect("writes");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(fs::read_to_string(foreign).expect("reads"), "precious");
    }
}
