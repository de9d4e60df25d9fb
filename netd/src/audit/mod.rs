//! Who asked for what, and what came of it: lines of JSON in `STATE_DIR/audit`, each bound to the one before it by a hash (reliability.md 8.5).
//!
//! The daemon hands records to a queue and goes on: a disk that is full, slow or gone loses records, which are counted, and delays nobody (F31).
//! Whoever can write the files can write them anew from any line on: the chain shows a line that was changed, taken out or put in, not a log
//! that was forged as a whole. This module alone opens files in that directory.

mod chain;
mod files;
mod log;
mod verify;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use log::Log;
pub use verify::{Break, Checked, check, files_of};

/// Longest text of a record in characters; what is longer is cut off.
const TEXT: usize = 1024;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a file; then the next one begins.
    pub file_size: u64,
    /// Files, the present one among them.
    pub files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_size: 10 << 20, files: 10 }
    }
}

/// The process at the other end of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// User, as the kernel vouches for it (`SO_PEERCRED`).
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Process.
    pub pid: Option<i32>,
    /// What it ran when it connected.
    pub executable: String,
    /// Its place in the cgroup2 hierarchy.
    pub cgroup: String,
}

/// A call and its outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// When it came: RFC 3339, UTC.
    pub time: String,
    /// The same in nanoseconds of `CLOCK_MONOTONIC`, which nobody can set.
    pub monotonic: i64,
    /// The operation's id.
    pub op: String,
    /// Who called.
    #[serde(flatten)]
    pub peer: Peer,
    /// What was asked for, in the CLI's words: `network create`.
    pub verb: String,
    /// To what: `network:ID`, or the word that was given where it means nothing.
    pub objects: Vec<String>,
    /// `OK`, or the error's code (reliability.md, appendix B).
    pub code: String,
    /// The HTTP status.
    pub status: u16,
    /// Microseconds until the answer.
    pub duration: u64,
}

impl Record {
    /// Cuts off what is too long.
    fn bounded(mut self) -> Self {
        for text in [&mut self.op, &mut self.peer.executable, &mut self.peer.cgroup, &mut self.verb] {
            cut(text);
        }
        self.objects.truncate(TEXT / 16);
        self.objects.iter_mut().for_each(cut);
        self
    }
}

fn cut(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(TEXT) {
        text.truncate(at);
    }
}

/// How the log is, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    /// Records written by this daemon.
    pub records: u64,
    /// Records that found no room in the queue or on the disk.
    pub lost: u64,
    /// Why the last one could not be written, while that lasts.
    pub failure: Option<String>,
}

/// Returns where an instance keeps its log.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("audit")
}

#[cfg(test)]
mod tests;
