//! The state as it lies on the disk, read without its lock and without mending anything: for who looks beside a daemon, or when none runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use super::{
    Error, Intent, Meta,
    copies::Copies,
    envelope::{self, Kind},
    generations::{self, read_file},
    intent::Entry,
    results,
};
use crate::model::{Id, Network, Sandbox};

/// Files and directories at the top of the state directory.
const TOP: [&str; 9] = [
    "meta.json",
    "meta.json.prev",
    "journal.json",
    "lock",
    "networks",
    "sandboxes",
    results::NAME,
    results::PREVIOUS,
    "audit",
];
/// Access of others than the owner.
const OTHERS: u32 = 0o077;

/// What the state directory says, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Peeked {
    /// The instance's own file.
    pub meta: Option<Meta>,
    /// Every network that a start would find.
    pub networks: Vec<Network>,
    /// Every sandbox that a start would find.
    pub sandboxes: Vec<Sandbox>,
    /// The operation in flight.
    pub journal: Option<Intent>,
    /// Files, each with what is wrong with it.
    pub faults: Vec<(PathBuf, String)>,
}

/// Reads a state directory; of damaged files their copy or previous generation is taken, as by a start. None: there is no such directory.
///
/// # Errors
/// When the directory cannot be read at all.
pub fn peek(dir: &Path, copies: &Path) -> Result<Option<Peeked>, Error> {
    if !fs::exists(dir).map_err(Error::io("read", dir))? {
        return Ok(None);
    }
    let mut peeked = Peeked::default();
    let copies = Copies::new(copies);
    peeked.meta = peeked.object(dir, Kind::Meta, "meta", &copies, |_: &Meta| None);
    peeked.networks = peeked.objects(dir, Kind::Network, &copies, |network: &Network| Some(&network.id))?;
    peeked.sandboxes = peeked.objects(dir, Kind::Sandbox, &copies, |sandbox: &Sandbox| Some(&sandbox.id))?;
    let journal = dir.join("journal.json");
    match read_file(&journal).map_err(|error| error.to_string()).and_then(|text| {
        let entry = envelope::decode_start::<Option<Entry>>(Kind::Journal, &text);
        entry.map(|(entry, _)| entry.map(|entry| entry.intent)).map_err(|why| why.to_string())
    }) {
        Ok(intent) => peeked.journal = intent,
        Err(why) => peeked.fault(&journal, why),
    }
    peeked.unknown(dir)?;
    Ok(Some(peeked))
}

impl Peeked {
    fn fault(&mut self, path: &Path, why: impl Into<String>) {
        self.faults.push((path.to_owned(), why.into()));
    }

    fn objects<T: DeserializeOwned>(
        &mut self,
        dir: &Path,
        kind: Kind,
        copies: &Copies,
        id: impl Fn(&T) -> Option<&Id>,
    ) -> Result<Vec<T>, Error> {
        let folder = dir.join(kind.directory());
        let names = match generations::names(&folder) {
            Err(Error::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {
                self.fault(&folder, "missing");
                return Ok(Vec::new());
            }
            names => names?,
        };
        Ok(names.iter().filter_map(|name| self.object(dir, kind, name, copies, &id)).collect())
    }

    /// Reads the current generation of an object, else what a start would take in its place.
    fn object<T: DeserializeOwned>(
        &mut self,
        dir: &Path,
        kind: Kind,
        name: &str,
        copies: &Copies,
        id: impl Fn(&T) -> Option<&Id>,
    ) -> Option<T> {
        let path = dir.join(kind.directory()).join(format!("{name}.json"));
        let decode = |text: Vec<u8>| {
            let object = envelope::decode::<T>(kind, &text).map_err(|why| why.to_string())?;
            match id(&object).filter(|id| id.as_str() != name) {
                Some(id) => Err(format!("it holds the object {id}")),
                None => Ok(object),
            }
        };
        let previous = dir.join(kind.directory()).join(format!("{name}.json.prev"));
        let before = read_file(&previous).map_err(|error| (error.kind(), error.to_string()));
        let before =
            before.and_then(|text| decode(text).map_err(|why| (std::io::ErrorKind::InvalidData, why)));
        if let Err((kind, why)) = &before
            && *kind != std::io::ErrorKind::NotFound
        {
            self.fault(&previous, why);
        }
        let current = read_file(&path).map_err(|error| error.to_string()).and_then(decode);
        match current {
            Ok(object) => Some(object),
            Err(why) => {
                let copy = copies.get(kind, name).and_then(|text| decode(text).ok());
                let instead = match (&copy, &before) {
                    (Some(_), _) => "the next start takes its copy in the run directory",
                    (None, Ok(_)) => "the next start takes its previous generation",
                    (None, Err(_)) => "nothing is left of it",
                };
                self.fault(&path, format!("{why}; {instead}"));
                copy.or(before.ok())
            }
        }
    }

    /// Notes files that should not be there, and those that others may read.
    fn unknown(&mut self, dir: &Path) -> Result<(), Error> {
        for folder in [dir.to_owned(), dir.join("networks"), dir.join("sandboxes")] {
            let Ok(entries) = fs::read_dir(&folder) else { continue }; // noted above
            for entry in entries {
                let path = entry.map_err(Error::io("list", &folder))?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let known = if folder == dir {
                    TOP.contains(&name.as_str())
                } else {
                    path.with_extension("").extension().is_some_and(|json| json == "json")
                        || path.extension().is_some_and(|json| json == "json")
                };
                let mode = fs::symlink_metadata(&path).map_or(0, |found| found.permissions().mode());
                if name.contains(".bad-") {
                    self.fault(&path, "a damaged file that was set aside");
                } else if name.starts_with('.') {
                    self.fault(&path, "a write broke off; the next start removes it");
                } else if !known {
                    self.fault(&path, "nobody knows what it is for");
                } else if mode & OTHERS != 0 {
                    self.fault(&path, format!("others may use it (mode {:o})", mode & 0o777));
                } else if name.ends_with(".json.prev") && !path.with_extension("").exists() {
                    self.fault(&path, "a previous generation without its successor");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn what_is_wrong_with_files_is_said_and_nothing_is_touched() {
        let root = tempfile::tempdir().expect("a directory");
        let (dir, copies) = (root.path().join("state"), root.path().join("copies"));
        assert_eq!(peek(&dir, &copies).expect("read"), None);
        drop(Store::open(&dir, &copies).expect("made"));
        let peeked = peek(&dir, &copies).expect("read").expect("there");
        assert_eq!((peeked.faults, peeked.meta.is_some(), peeked.journal), (Vec::new(), true, None));

        fs::write(dir.join("networks/0.json"), "no envelope").expect("written");
        fs::write(dir.join("sandboxes/.1.json.tmp"), "").expect("written");
        fs::write(dir.join("meta.json"), "torn").expect("written");
        let names = |dir: &Path| fs::read_dir(dir).expect("listed").flatten().count();
        let before = names(&dir);
        let peeked = peek(&dir, &copies).expect("read").expect("there");
        let faulty: Vec<String> = peeked
            .faults
            .iter()
            .map(|(path, _)| path.strip_prefix(&dir).expect("below").display().to_string())
            .collect();
        assert!(
            ["meta.json", "networks/0.json", "sandboxes/.1.json.tmp"]
                .iter()
                .all(|file| faulty.iter().any(|found| found == file)),
            "{:?}",
            peeked.faults
        );
        assert!(peeked.meta.is_some(), "its copy is taken");
        assert_eq!(names(&dir), before);
        assert_eq!(fs::read(dir.join("meta.json")).expect("read"), b"torn");
    }
}
