//! A copy of every object in the run directory: what the kernel holds lives as long, so that a daemon whose state directory is gone knows whose it is.
//!
//! Nothing is synced, and a copy that cannot be written is no failure: the state directory decides wherever it says anything.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    Meta,
    envelope::{self, Kind},
    generations::read_file,
    ignore_missing,
};

/// The directory of copies.
#[derive(Debug)]
pub(super) struct Copies {
    dir: PathBuf,
}

impl Copies {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, kind: Kind, name: &str) -> PathBuf {
        self.dir.join(kind.directory()).join(format!("{name}.json"))
    }

    /// Keeps the text of an object, unless it is there already.
    pub(super) fn put(&self, kind: Kind, name: &str, text: &[u8]) {
        let path = self.path(kind, name);
        if read_file(&path).is_ok_and(|present| present == text) {
            return;
        }
        if let Err(error) = self.write(&path, text) {
            tracing::warn!(path = %path.display(), %error, "no copy of the state kept");
            // One that is older than the file's previous generation would be believed before it.
            self.remove(kind, name);
        }
    }

    fn write(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let parent = path.parent().unwrap_or(&self.dir);
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        // A name that no copy has: a torn one never takes a good one's place.
        let draft = path.with_extension("draft");
        ignore_missing(fs::remove_file(&draft))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text)?;
        fs::rename(&draft, path)
    }

    /// Forgets an object.
    pub(super) fn remove(&self, kind: Kind, name: &str) {
        let path = self.path(kind, name);
        if let Err(error) = ignore_missing(fs::remove_file(&path)) {
            tracing::warn!(path = %path.display(), %error, "copy of the state not removed");
        }
    }

    /// Forgets all others of a kind.
    pub(super) fn keep_only(&self, kind: Kind, names: &BTreeSet<String>) {
        for (name, _) in self.all(kind) {
            if !names.contains(&name) {
                self.remove(kind, &name);
            }
        }
    }

    /// Returns the text of an object.
    pub(super) fn get(&self, kind: Kind, name: &str) -> Option<Vec<u8>> {
        read_file(&self.path(kind, name)).ok()
    }

    /// Returns the instance's own file.
    pub(super) fn meta(&self) -> Option<Meta> {
        envelope::decode(Kind::Meta, &self.get(Kind::Meta, "meta")?).ok()
    }

    /// Returns every intact copy of a kind: its name and its text.
    pub(super) fn all(&self, kind: Kind) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.dir.join(kind.directory())).into_iter().flatten().flatten();
        let names =
            entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned()));
        let texts = names.filter_map(|name| Some((self.get(kind, &name)?, name)));
        let intact = texts.filter(|(text, _)| envelope::decode::<serde_json::Value>(kind, text).is_ok());
        intact.map(|(text, name)| (name, text)).collect()
    }

    /// Removes all copies.
    pub(super) fn wipe(&self) {
        if let Err(error) = ignore_missing(fs::remove_dir_all(&self.dir)) {
            tracing::warn!(path = %self.dir.display(), %error, "copies of the state not removed");
        }
    }
}
