//! What finished operations gave back, for a day: whoever did not hear the answer asks again by the operation's id (reliability P3, 6.5).
//!
//! A line for each, `CRC32 JSON`, in `results.log`; when that is full it becomes `results.log.prev`, and the one before that goes: the new name is on
//! disk before the old one leads elsewhere. A line is written between the commit and the answer. Until the next operation the journal knows it too, so
//! that no kill and no power cut falls between the two.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    Error, disk,
    generations::{directory, draft, regular_file_of_ours, replace, set_aside},
    ignore_missing,
};
use crate::{
    model::{Finished, OperationId},
    moment::Moment,
};

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
    /// Whether the file may end within a line, which ends where the next one begins.
    torn: bool,
    /// Lines of a file.
    pub(super) most: usize,
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
        let torn = text.last().is_some_and(|byte| *byte != b'\n');
        let (present, previous) = (read_lines(&text), read_lines(&old));
        Ok(Self { path, file, length: text.len() as u64, torn, most: MOST, present, previous })
    }

    /// Returns what an operation of the last day gave back.
    pub(super) fn recall(&self, id: &OperationId) -> Option<Finished> {
        let line = self.present.get(id).or_else(|| self.previous.get(id))?;
        let found: Finished = serde_json::from_str(line).ok()?; // it was written, or read, as one
        (found.at.seconds_until(&Moment::now()) < REMEMBERED).then_some(found)
    }

    /// Remembers an operation, and waits for the disk.
    ///
    /// # Errors
    /// When it cannot be written; it is remembered until this process ends.
    pub(super) fn remember(&mut self, finished: &Finished) -> Result<(), Error> {
        let text = serde_json::to_string(finished).map_err(Error::Encode)?;
        let mut line = encode(&text);
        let is_full = self.present.len() >= self.most || self.length + line.len() as u64 > SIZE;
        let begun = if is_full { self.begin() } else { Ok(()) };
        self.present.insert(finished.operation.id.clone(), text.into());
        begun?;
        if self.torn {
            line.insert(0, b'\n');
        }
        let written = disk::append(&mut self.file, &self.path, &line);
        if written.is_err() {
            // A part of the line may have found room.
            self.torn |= self.file.set_len(self.length).is_err();
        } else {
            self.length += line.len() as u64;
            self.torn = false;
        }
        written.map_err(Error::io("write", &self.path))
    }

    /// Begins another file. A disk that refuses costs no answer until this process ends, and is asked again with the next one.
    fn begin(&mut self) -> Result<(), Error> {
        let next = self.next_file().map_err(Error::io("begin anew", &self.path));
        if next.is_ok() || self.present.len() >= self.most {
            self.previous = std::mem::take(&mut self.present);
        }
        self.file = next?;
        (self.length, self.torn) = (0, false);
        Ok(())
    }

    /// Makes the present file the previous one too, and puts an empty one in its place once that is on disk.
    fn next_file(&self) -> io::Result<File> {
        let next = draft(&self.path, b"")?;
        let file = next.try_clone()?;
        replace(&self.path, next, || disk::sync_directory(directory(&self.path)))?;
        Ok(file)
    }
}

/// Opens the present file; the name of a new one is on disk.
fn open_file(path: &Path) -> Result<File, Error> {
    let is_new = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(Error::io("open", path))?;
    if is_new {
        disk::created(path);
        disk::sync_directory(directory(path)).map_err(Error::io("make", path))?;
    }
    Ok(file)
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
    use std::{fs, io::Write as _, net::Ipv4Addr};

    use super::*;
    use crate::model::{Answer, Binding, Operation, Protocol, Sources};

    fn finished(id: &str, at: Moment) -> Finished {
        let operation = Operation { id: id.parse().expect("an id"), request: "r".repeat(64) };
        Finished { at, ..Finished::now(operation, Answer::Done) }
    }

    fn now() -> Moment {
        Moment::now()
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
            results.remember(&finished(id, now().before(age))).expect("writes");
        }
        for results in [results, open(dir.path())] {
            assert_eq!(
                ["new", "old", "older", "none"].map(|id| knows(&results, id)),
                [true, true, false, false]
            );
        }
    }

    #[test]
    fn a_clock_that_is_set_forgets_no_operation_of_this_boot_and_keeps_none_for_longer() {
        const TEN_YEARS: i64 = 10 * 365 * REMEMBERED;
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = open(dir.path());
        let ahead = |age, jump| now().before(age).with_wall_clock_ahead(jump);
        for (id, at) in [
            ("set-forward-since", ahead(60, -TEN_YEARS)),
            ("set-back-since", ahead(60, TEN_YEARS)),
            ("old-and-set-back-since", ahead(REMEMBERED, TEN_YEARS)),
            ("older-netd", now().without_boot()),
            ("older-netd-and-old", now().before(REMEMBERED).without_boot()),
        ] {
            results.remember(&finished(id, at)).expect("writes");
        }
        for results in [results, open(dir.path())] {
            assert!(
                ["set-forward-since", "set-back-since", "older-netd"].iter().all(|id| knows(&results, id))
            );
            assert!(!["old-and-set-back-since", "older-netd-and-old"].iter().any(|id| knows(&results, id)));
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

    #[test]
    fn a_disk_that_refuses_another_file_costs_no_other_answer() {
        for refusal in [disk::Refusal::Link, disk::Refusal::Unlink, disk::Refusal::SyncDirectory] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut results = open(dir.path());
            results.most = 2;
            // There is a previous file to give up.
            for id in ["a", "b", "c", "d"] {
                results.remember(&finished(id, now())).expect("writes");
            }
            let refused = disk::refusing(refusal, || results.remember(&finished("e", now())));
            assert!(refused.is_err(), "{refusal:?}");
            assert_eq!(["c", "d", "e"].map(|id| knows(&results, id)), [true; 3], "{refusal:?}");
            let known = ["c", "d", "e"].map(|id| knows(&open(dir.path()), id));
            assert_eq!(known, [true, true, false], "{refusal:?}");
            for id in ["f", "g", "h"] {
                results.remember(&finished(id, now())).expect("writes");
            }
            for results in [results, open(dir.path())] {
                assert_eq!(["f", "g", "h"].map(|id| knows(&results, id)), [true; 3], "{refusal:?}");
            }
            let left = fs::read_dir(dir.path()).expect("lists").count();
            assert_eq!(left, 2, "{refusal:?}");
        }
    }

    #[test]
    fn a_line_that_a_full_disk_broke_off_costs_no_other_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(NAME);
        open(dir.path()).remember(&finished("a", now())).expect("writes");
        let line = fs::read(&path).expect("reads");
        fs::write(&path, [&line[..], &line[..40]].concat()).expect("writes");
        let mut results = open(dir.path());
        let whole = std::mem::replace(&mut results.file, File::open(&path).expect("opens"));
        // Neither to be written nor to be cut off.
        results.remember(&finished("b", now())).expect_err("it is open for reading alone");
        results.file = whole;
        results.remember(&finished("c", now())).expect("writes");
        assert_eq!(["a", "b", "c"].map(|id| knows(&open(dir.path()), id)), [true, false, true]);
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
