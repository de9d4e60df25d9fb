use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use tempfile::TempDir;

use super::{
    Break, Limits, Record, check,
    files::{self, Files},
    files_of,
    log::Log,
};

fn record(number: u64) -> Record {
    Record { verb: "network create".into(), op: format!("{number:016x}"), ..Record::default() }
}

/// A log with so many records, written by one daemon after the other.
fn written(dir: &TempDir, limits: Limits, daemons: &[u64]) {
    let mut number = 0;
    for records in daemons {
        let mut files = Files::new(dir.path().join("audit"), limits);
        for _ in 0..*records {
            number += 1;
            files.append(record(number), 0).expect("appends");
        }
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// What the check of a whole log says: lines of each file, or where and why it broke.
fn verdict(dir: &TempDir) -> Result<Vec<u64>, String> {
    let files = files_of(&dir.path().join("audit")).expect("lists");
    match check(&files) {
        Ok(checked) => Ok(checked.iter().map(|file| file.records).collect()),
        Err(Break::Line { path, line, why }) => {
            Err(format!("{}:{line}: {why}", path.file_name().expect("a name").display()))
        }
        Err(Break::Read { path, source }) => panic!("{}: {source}", path.display()),
    }
}

#[test]
fn the_chain_goes_on_over_restarts_and_files_and_the_oldest_go() {
    let dir = directory();
    let size = 400; // one record, not two
    written(&dir, Limits { file_size: size, files: 3 }, &[1, 2, 1]);
    assert_eq!(verdict(&dir), Ok(vec![1, 1, 1]), "three of four files");
    let whole = directory();
    written(&whole, Limits::default(), &[2, 3]);
    assert_eq!(verdict(&whole), Ok(vec![5]));
    let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let audit = whole.path().join("audit");
    assert_eq!((mode(&audit), mode(&files::path(&audit, 0))), (0o700, 0o600));
}

#[test]
fn a_line_that_was_changed_taken_out_or_put_in_is_named() {
    let dir = directory();
    written(&dir, Limits::default(), &[4]);
    let path = files::path(&dir.path().join("audit"), 0);
    let text = fs::read_to_string(&path).expect("reads");
    let lines: Vec<&str> = text.lines().collect();
    let with = |lines: &[&str]| fs::write(&path, lines.join("\n") + "\n").expect("writes");
    let changed = lines[1].replace("network create", "network delete");
    for (lines, wanted) in [
        (
            vec![lines[0], &changed, lines[2], lines[3]],
            "log.jsonl:2: its hash is another one: it was changed",
        ),
        (vec![lines[0], lines[2], lines[3]], "log.jsonl:2: record 3 follows record 1: others are missing"),
        (vec![lines[0], lines[1], lines[1]], "log.jsonl:3: record 2 follows record 2: others are missing"),
        (vec![lines[0], "{}", lines[1]], "log.jsonl:2: it is no line of an audit log"),
    ] {
        with(&lines);
        assert_eq!(verdict(&dir), Err(wanted.to_owned()));
    }
    with(&lines);
    assert_eq!(verdict(&dir), Ok(vec![4]), "the control");
}

#[test]
fn a_power_cut_in_a_line_is_told_as_such_and_the_chain_goes_on() {
    let dir = directory();
    written(&dir, Limits::default(), &[3]);
    let audit = dir.path().join("audit");
    let path = files::path(&audit, 0);
    let text = fs::read(&path).expect("reads");
    let two = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).expect("two lines").0 + 1;
    for end in two + 1..text.len() {
        fs::write(&path, &text[..end]).expect("writes");
        let checked = check(std::slice::from_ref(&path)).expect("fits");
        assert_eq!((checked[0].records, checked[0].incomplete), (2, Some(3)), "{end} bytes");
        let mut files = Files::new(audit.clone(), Limits::default());
        files.append(record(3), 0).expect("appends");
        assert_eq!(verdict(&dir), Ok(vec![3]), "{end} bytes, gone on");
        let last = fs::read_to_string(&path).expect("reads");
        assert!(last.contains(&format!("\"cut\":{}", end - two)), "{last}");
    }
}

#[test]
fn what_is_no_log_of_ours_stays_untouched_and_the_chain_begins_anew() {
    let dir = directory();
    let audit = dir.path().join("audit");
    fs::create_dir(&audit).expect("makes");
    let foreign = dir.path().join("foreign");
    fs::write(&foreign, "precious").expect("writes");
    symlink(&foreign, files::path(&audit, 0)).expect("links");
    written(&dir, Limits::default(), &[1]);
    assert_eq!(fs::read_to_string(&foreign).expect("reads"), "precious");
    fs::write(files::path(&audit, 0), "garbage\n").expect("writes");
    written(&dir, Limits::default(), &[1]);
    assert_eq!(fs::read_to_string(files::path(&audit, 1)).expect("reads"), "garbage\n");
    assert_eq!(check(&[files::path(&audit, 0)]).map(|files| files[0].records).ok(), Some(1));
}

#[test]
fn records_without_room_are_counted_and_told_by_the_next_line() {
    let dir = directory();
    let audit = dir.path().join("audit");
    // A file in the directory's place: nothing can be written.
    fs::write(&audit, "").expect("writes");
    let log = Log::start(audit.clone(), Limits::default()).expect("starts");
    log.record(record(1));
    log.record(record(2));
    log.flush();
    let state = log.state();
    assert_eq!((state.records, state.lost), (0, 2));
    assert!(state.failure.is_some_and(|why| why.starts_with("the audit log cannot be written")));
    fs::remove_file(&audit).expect("removes");
    log.record(record(3));
    log.flush();
    let state = log.state();
    assert_eq!((state.records, state.lost, state.failure), (1, 2, None));
    let checked = check(&files_of(&audit).expect("lists")).expect("fits");
    assert_eq!((checked[0].records, checked[0].lost), (1, 2));
    // A directory that somebody removes comes back.
    fs::remove_dir_all(&audit).expect("removes");
    log.record(record(4));
    log.flush();
    assert_eq!(log.state().records, 2);
    assert!(files::path(&audit, 0).exists());
}
