//! A line of the log: what happened, its number, the hash of the line before it, and its own.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Record;

/// Stands before the hash, which ends the line: everything before that is what is hashed.
const HASH: &str = ",\"hash\":\"";
/// Ends the line.
const END: &str = "\"}";

/// The end of a chain: what the next line has to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Number of the last line; 0: there is none.
    pub number: u64,
    /// Its hash.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { number: 0, hash: "0".repeat(64) }
    }
}

/// What is missing between a line and the one before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Gap {
    /// Records that were lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// Bytes of an incomplete line that were cut off.
    #[serde(skip_serializing_if = "is_zero")]
    pub cut: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A line without its own hash.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub number: u64,
    pub previous: String,
    #[serde(flatten)]
    pub gap: Gap,
    #[serde(flatten)]
    pub record: Record,
}

/// Returns the next line of a chain with its line feed, and the chain's new end.
pub(super) fn seal(head: &Head, gap: Gap, record: Record) -> serde_json::Result<(String, Head)> {
    let number = head.number + 1;
    let line = Line { number, previous: head.hash.clone(), gap, record };
    let mut text = escape(&serde_json::to_string(&line)?);
    text.pop(); // the brace that closes the object: the hash belongs into it
    let hash = digest(&text);
    text.push_str(HASH);
    text.push_str(&hash);
    text.push_str(END);
    text.push('\n');
    Ok((text, Head { number, hash }))
}

/// Reads a line (without its line feed) that nobody has changed, and the end of a chain that it is.
///
/// # Errors
/// Says why it is not what was written.
pub(super) fn open(text: &str) -> Result<(Line, Head), String> {
    let (body, rest) = text.rsplit_once(HASH).ok_or("it is no line of an audit log")?;
    let hash = rest.strip_suffix(END).ok_or("it is no line of an audit log")?;
    if digest(body) != hash {
        return Err("its hash is another one: it was changed".to_owned());
    }
    let line: Line =
        serde_json::from_str(&format!("{body}}}")).map_err(|error| format!("it is malformed: {error}"))?;
    let head = Head { number: line.number, hash: hash.to_owned() };
    Ok((line, head))
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
        hex
    })
}

/// Leaves printable ASCII alone in a JSON text: other characters stand in strings only, and may be control characters or turn the writing round.
fn escape(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut text, character| {
        if matches!(character, ' '..='~') {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}"); // writing to a String cannot fail
            }
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(verb: &str) -> Record {
        Record { verb: verb.to_owned(), objects: vec!["network:app".into()], ..Record::default() }
    }

    #[test]
    fn a_line_is_one_json_object_that_names_the_one_before_it() {
        let (first, head) = seal(&Head::default(), Gap::default(), record("network create")).expect("seals");
        let gap = Gap { lost: 3, cut: 0 };
        let (second, end) = seal(&head, gap, record("network rm")).expect("seals");
        let json: serde_json::Value = serde_json::from_str(&second).expect("JSON");
        assert_eq!((&json["number"], &json["lost"]), (&2.into(), &3.into()));
        assert_eq!((&json["previous"], &json["hash"]), (&head.hash.into(), &end.hash.clone().into()));
        assert!(json["cut"].is_null());
        let (line, found) = open(second.trim_end()).expect("whole");
        assert_eq!((line.record, line.gap, found), (record("network rm"), gap, end));
        assert!(open(first.trim_end()).is_ok());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (text, _) = seal(&Head::default(), Gap::default(), record("network create")).expect("seals");
        let text = text.trim_end();
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(open(&changed).is_err(), "byte {at}: {changed}");
        }
    }

    #[test]
    fn no_text_ends_a_line_or_acts_on_a_terminal() {
        let evil = "a\nb\u{1b}[2Jc\u{7f}\u{85}\u{202e}\u{1f600}\",\"hash\":\"\"}";
        let given = Record { verb: evil.to_owned(), ..Record::default() };
        let (text, _) = seal(&Head::default(), Gap::default(), given.clone()).expect("seals");
        assert!(text.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        assert_eq!(open(text.trim_end()).expect("whole").0.record, given);
    }
}
