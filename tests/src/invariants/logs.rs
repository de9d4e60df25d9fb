//! I7: the answers of finished operations and the audit log, which stand beside the state in lines.
//!
//! A line that is not whole is told as `torn: …`: a power cut may leave it, and nothing else.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use super::{
    Faults,
    state::{crc32, names, text},
};
use crate::Dirs;

/// The answers that are remembered, the present file first.
pub const ANSWERS: [&str; 2] = ["results.log", "results.log.prev"];

/// Reads both.
pub fn check(dirs: &Dirs, faults: &mut Faults) {
    let state = dirs.path("state");
    for name in ANSWERS {
        check_answers(&state.join(name), faults);
    }
    check_audit(&state.join("audit"), faults);
}

/// Lines are `CRC32 JSON`, and no operation has two in one file.
fn check_answers(path: &Path, faults: &mut Faults) {
    let Ok(bytes) = fs::read(path) else { return };
    let mut seen = BTreeSet::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.is_empty()) {
        let at = format!("{}:{number}", path.display());
        let (sum, body) = line.split_at_checked(9).unwrap_or((line, &[]));
        if sum != format!("{:08x} ", crc32(body)).as_bytes() {
            faults.add(format!("torn: {at}"));
            continue;
        }
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let is_answer =
            answer["at"].is_i64() && !answer["answer"].is_null() && text(&answer, "request").len() == 64;
        let id = text(&answer, "id").to_owned();
        faults.check(is_answer && !id.is_empty(), || format!("damaged: {at} is no operation's answer"));
        faults.check(seen.insert(id.clone()), || format!("twice: {at} answers operation {id}"));
    }
}

/// The files of the audit log by age, each line with the number and the hash that the one before it says.
fn check_audit(directory: &Path, faults: &mut Faults) {
    if !directory.exists() {
        return;
    }
    let mut ages = BTreeSet::new();
    for name in names(directory, faults) {
        let age = name.strip_prefix("log.jsonl").and_then(|rest| match rest.strip_prefix('.') {
            Some(age) => age.parse::<u32>().ok(),
            None => rest.is_empty().then_some(0),
        });
        faults.check(age.is_some(), || format!("too much: {name} in the audit log's directory"));
        ages.extend(age);
    }
    let mut before = Value::Null;
    for age in ages.into_iter().rev() {
        let path = directory.join(if age == 0 { "log.jsonl".to_owned() } else { format!("log.jsonl.{age}") });
        let text = fs::read_to_string(&path).unwrap_or_default();
        // What has no end is being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for (number, line) in (1..).zip(whole.lines()) {
            let at = format!("{}:{number}", path.display());
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                faults.add(format!("torn: {at}"));
                continue;
            };
            let follows = before.is_null()
                || (line["previous"] == before["hash"]
                    && line["number"].as_u64() == before["number"].as_u64().map(|number| number + 1));
            faults.check(follows, || format!("wrong: {at} does not follow the line before it"));
            before = line;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a state directory with these files.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let dirs = Dirs::new();
        fs::create_dir_all(dirs.path("state/audit")).expect("directories");
        for (name, content) in files {
            fs::write(dirs.path("state").join(name), content).expect("a file");
        }
        let mut faults = Faults::default();
        check(&dirs, &mut faults);
        faults.0.iter().map(|line| line.replace(&*dirs.path("state").to_string_lossy(), "")).collect()
    }

    fn answer(id: &str) -> String {
        let request = "r".repeat(64);
        let body = format!(r#"{{"id":"{id}","request":"{request}","at":1,"answer":"done"}}"#);
        format!("{:08x} {body}\n", crc32(body.as_bytes()))
    }

    fn record(number: u32) -> String {
        format!(r#"{{"number":{number},"previous":"{}","hash":"{number}"}}"#, number - 1) + "\n"
    }

    #[test]
    fn answers_are_whole_and_none_is_there_twice() {
        let (a, b) = (answer("a"), answer("b"));
        let other = "00000000 ".to_owned() + &a[9..];
        let foreign = format!("{:08x} {{}}\n", crc32(b"{}"));
        let (log, previous) = (ANSWERS[0], ANSWERS[1]);
        // A kill between two names leaves one file under both.
        assert_eq!(found(&[(log, &(a.clone() + &b)), (previous, &a)]), [""; 0]);
        for (content, wanted) in [
            (a.clone() + &a, "twice: /results.log:2 answers operation a"),
            (a.clone() + &b[..40], "torn: /results.log:2"),
            (a.clone() + &other, "torn: /results.log:2"),
            (a.clone() + "\0\0\n", "torn: /results.log:2"),
            (foreign, "damaged: /results.log:1 is no operation's answer"),
        ] {
            assert_eq!(found(&[(log, &content)]), [wanted], "{content}");
        }
    }

    #[test]
    fn records_follow_each_other_through_the_files_of_the_audit_log() {
        let [one, two, three] = [1, 2, 3].map(record);
        let (log, older) = ("audit/log.jsonl", "audit/log.jsonl.1");
        assert_eq!(found(&[(older, &(one.clone() + &two)), (log, &(three.clone() + &one[..5]))]), [""; 0]);
        for (files, wanted) in [
            ([(older, &one), (log, &three)], "wrong: /audit/log.jsonl:1 does not follow the line before it"),
            ([(older, &one), ("audit/core", &two)], "too much: core in the audit log's directory"),
            ([(older, &one), (log, &("{\n".to_owned() + &two))], "torn: /audit/log.jsonl:1"),
        ] {
            assert_eq!(found(&files.map(|(name, content)| (name, content.as_str()))), [wanted]);
        }
    }
}
