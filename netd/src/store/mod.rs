//! The state on disk: one JSON file per object, two generations of each, and a journal of the operation in flight.
//!
//! `STATE_DIR/{meta,journal}.json`, `STATE_DIR/results.log`, `STATE_DIR/{networks,sandboxes}/<id>.json`, each with its previous generation beside it as
//! `*.prev`, and what could not be read as `*.bad-<time>`. Directories are 0700 and files 0600. This is the only code that opens
//! files there. A copy of each object lies in the run directory, where it lives as long as what is in the kernel (`copies`).
//! A caller writes its intent, changes the kernel, puts or removes the object, and clears the intent:
//!
//! - what an acknowledged call wrote is there after a power loss; what was in flight is there or not, and never half;
//! - room for the object is taken together with the intent, so that a full disk is reported before the kernel is changed.

mod copies;
mod disk;
mod envelope;
mod error;
mod generations;
mod intent;
mod journal;
mod peek;
mod results;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use error::Error;
pub(crate) use generations::regular_file_of_ours;
pub use intent::Intent;
pub use peek::{Peeked, peek};

use crate::model::{Finished, Id, Network, OperationId, Sandbox};
use copies::Copies;
use envelope::Kind;
use generations::{Generations, Staged};
use intent::Entry;
use journal::Journal;
use results::Results;

/// The state directory of one instance, locked for this process.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    copies: Copies,
    journal: Journal,
    results: Results,
    staged: Option<Staged>,
    meta: Meta,
    warnings: Vec<String>,
    /// Holds the lock until the store is dropped.
    _lock: File,
}

/// What belongs to the instance as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Made at the first start: 64 hexadecimal digits.
    pub instance: Id,
    /// Settings under /proc/sys that netd changed, with their values from before.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
}

/// Everything the state directory knows.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Every network.
    pub networks: Vec<Network>,
    /// Every sandbox.
    pub sandboxes: Vec<Sandbox>,
    /// The operation that was in flight when the last daemon ended. It may be complete: clearing the journal is not waited for.
    pub journal: Option<Intent>,
    /// What that operation gives back, for who completes it.
    pub answer: Option<Finished>,
    /// What could not be read, and what was used in its place.
    pub warnings: Vec<String>,
    /// Whether objects may exist that no file tells of any more: what seems to belong to nothing may be theirs, and stays.
    pub incomplete: bool,
}

impl Store {
    /// Opens, and at the first start creates, the state directory and locks it. Copies go to the second directory, which ends with the machine's
    /// uptime; they are read where the first one has been lost.
    ///
    /// # Errors
    /// When another daemon uses the directory, or when it cannot be created.
    pub fn open(dir: &Path, copies: &Path) -> Result<Self, Error> {
        private_directory(dir)?;
        // Before anything is touched: it may be another daemon's.
        let lock = lock(dir)?;
        for directory in [dir.to_owned(), dir.join("networks"), dir.join("sandboxes")] {
            private_directory(&directory)?;
            remove_temporary_files(&directory)?;
        }
        let mut warnings = Vec::new();
        let copies = Copies::new(copies);
        let journal = Journal::open(&dir.join("journal.json"), &mut warnings)?;
        let results = Results::open(dir, &mut warnings)?;
        let stored = meta_file(dir).read(&mut warnings)?;
        let fresh = stored.is_none();
        let meta = match stored.or_else(|| copies.meta()) {
            Some(meta) => meta,
            None => Meta { instance: Id::random().map_err(Error::Random)?, sysctls: BTreeMap::new() },
        };
        let mut store =
            Self { dir: dir.to_owned(), copies, journal, results, staged: None, meta, warnings, _lock: lock };
        if fresh {
            store.recover()?;
            // Twice: the instance's id must survive the loss of one generation.
            store.save_meta()?;
            store.save_meta()?;
        }
        Ok(store)
    }

    /// Takes over the copies of an instance whose state directory is gone. The instance's own file comes last: until then, this is done again.
    fn recover(&mut self) -> Result<(), Error> {
        for kind in [Kind::Network, Kind::Sandbox] {
            for (name, text) in self.copies.all(kind) {
                let file =
                    Generations::new(self.dir.join(kind.directory()).join(format!("{name}.json")), kind);
                if file.exists() {
                    continue;
                }
                file.write(&text)?;
                self.warnings.push(format!("{}: it was gone; its copy is used", file.path().display()));
            }
        }
        Ok(())
    }

    /// Returns the instance's id and saved settings.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Saves the value that a setting under /proc/sys had before netd changed it; the first value stays.
    ///
    /// # Errors
    /// When it cannot be written; nothing has changed then.
    pub fn remember_sysctl(&mut self, name: &str, old: &str) -> Result<(), Error> {
        if self.meta.sysctls.contains_key(name) {
            return Ok(());
        }
        self.meta.sysctls.insert(name.to_owned(), old.to_owned());
        self.save_meta().inspect_err(|_| {
            self.meta.sysctls.remove(name);
        })
    }

    fn save_meta(&mut self) -> Result<(), Error> {
        let text = envelope::encode(Kind::Meta, &self.meta)?;
        meta_file(&self.dir).write(&text)?;
        self.copies.put(Kind::Meta, "meta", &text);
        Ok(())
    }

    /// Reads everything. Damaged files are set aside, and their previous generation or their copy is used; see `Loaded::warnings`.
    ///
    /// # Errors
    /// When the directory cannot be read at all.
    pub fn load(&mut self) -> Result<Loaded, Error> {
        let mut warnings = std::mem::take(&mut self.warnings);
        let networks = self.load_all(Kind::Network, |network: &Network| &network.id, &mut warnings)?;
        let sandboxes = self.load_all(Kind::Sandbox, |sandbox: &Sandbox| &sandbox.id, &mut warnings)?;
        let journal = self.journal.read(&mut warnings)?;
        let finished = journal.as_ref().filter(|entry| entry.intent.is_done(&networks, &sandboxes));
        if let Some(finished) = finished.and_then(|entry| entry.finished.as_ref()) {
            self.recover_result(finished, &mut warnings);
        }
        let (journal, answer) = journal.map(|entry| (entry.intent, entry.finished)).unzip();
        let incomplete = self.has_lost(Kind::Network)? || self.has_lost(Kind::Sandbox)?;
        if incomplete {
            warnings.push(format!(
                "{}: objects were lost with their files; what belongs to nothing stays until the *.bad-* files are removed",
                self.dir.display()
            ));
        }
        Ok(Loaded { networks, sandboxes, journal, answer: answer.flatten(), warnings, incomplete })
    }

    /// Remembers an operation that was committed, and whose daemon came no further.
    fn recover_result(&mut self, finished: &Finished, warnings: &mut Vec<String>) {
        if self.results.recall(&finished.operation.id).is_none()
            && let Err(error) = self.results.remember(finished)
        {
            warnings.push(error.to_string());
        }
    }

    /// Returns what an operation of the last day gave back; None: it was not done, or longer ago.
    pub fn recall(&self, id: &OperationId) -> Option<Finished> {
        self.results.recall(id)
    }

    /// Remembers what a committed operation gave back.
    ///
    /// # Errors
    /// When it cannot be written; it is remembered until this process ends.
    pub fn remember(&mut self, finished: &Finished) -> Result<(), Error> {
        self.results.remember(finished)
    }

    /// Whether a file was set aside and nothing took its place.
    fn has_lost(&self, kind: Kind) -> Result<bool, Error> {
        let directory = self.dir.join(kind.directory());
        Ok(generations::set_aside_names(&directory)?
            .iter()
            .any(|name| !directory.join(format!("{name}.json")).exists()))
    }

    fn load_all<T: Serialize + DeserializeOwned>(
        &self,
        kind: Kind,
        id: impl Fn(&T) -> &Id,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<T>, Error> {
        let mut objects = Vec::new();
        generations::remove_lone(&self.dir.join(kind.directory()))?;
        for name in generations::names(&self.dir.join(kind.directory()))? {
            let file = Generations::new(self.dir.join(kind.directory()).join(format!("{name}.json")), kind);
            let fits = |object: &T| {
                let wrong = || format!("it holds the object {}", id(object));
                if id(object).as_str() == name { Ok(()) } else { Err(wrong()) }
            };
            // A copy is the last thing that was said of an object; the previous generation is older.
            if let Some(text) = self.copies.get(kind, &name)
                && envelope::decode::<T>(kind, &text).is_ok_and(|object| fits(&object).is_ok())
                && file.mend(fits, &text, warnings)?
            {
                warnings.push(format!("{}: its copy is used", file.path().display()));
            }
            objects.extend(file.read_checked(fits, warnings)?);
        }
        let ids: BTreeSet<String> = objects.iter().map(|object| id(object).to_string()).collect();
        for object in &objects {
            self.copies.put(kind, id(object).as_str(), &envelope::encode(kind, object)?);
        }
        self.copies.keep_only(kind, &ids);
        Ok(objects)
    }

    /// Saves a network.
    ///
    /// # Errors
    /// When it cannot be written; the old content is still there.
    pub fn put_network(&mut self, network: &Network) -> Result<(), Error> {
        self.put(Kind::Network, &network.id, network)
    }

    /// Saves a sandbox.
    ///
    /// # Errors
    /// When it cannot be written; the old content is still there.
    pub fn put_sandbox(&mut self, sandbox: &Sandbox) -> Result<(), Error> {
        self.put(Kind::Sandbox, &sandbox.id, sandbox)
    }

    /// Forgets a network; one that is not there is fine.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_network(&mut self, id: &Id) -> Result<(), Error> {
        self.remove(Kind::Network, id)
    }

    /// Forgets a sandbox; one that is not there is fine.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_sandbox(&mut self, id: &Id) -> Result<(), Error> {
        self.remove(Kind::Sandbox, id)
    }

    /// Writes down what is about to be done and what it is going to give back, and takes the room that the object will need.
    ///
    /// # Errors
    /// When it cannot be written; nothing has changed, and nothing must be done.
    pub fn journal_begin(&mut self, intent: &Intent, finished: Option<&Finished>) -> Result<(), Error> {
        self.staged = None;
        let staged = match intent {
            Intent::CreateNetwork(network) | Intent::UpdateNetwork { after: network, .. } => {
                Some(self.stage(Kind::Network, &network.id, network)?)
            }
            Intent::CreateSandbox(sandbox) | Intent::UpdateSandbox { after: sandbox, .. } => {
                Some(self.stage(Kind::Sandbox, &sandbox.id, sandbox)?)
            }
            Intent::RemoveNetwork(_) | Intent::RemoveSandbox(_) => None,
        };
        self.journal.write(&Entry { intent: intent.clone(), finished: finished.cloned() })?;
        self.staged = staged;
        Ok(())
    }

    /// Says that the operation in flight is complete or undone.
    ///
    /// Does not wait for the disk: after a power loss the intent may be read again, and repeating it changes nothing.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn journal_clear(&mut self) -> Result<(), Error> {
        self.staged = None;
        self.journal.clear()
    }

    /// Removes everything that netd keeps in the directory, for `netd down`, and the directory itself if nothing else is in it.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn wipe(self) -> Result<(), Error> {
        for directory in ["networks", "sandboxes"] {
            let path = self.dir.join(directory);
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        // The audit log stands beside the state, and ends with it.
        let audit = self.dir.join("audit");
        ignore_missing(fs::remove_dir_all(&audit)).map_err(Error::io("remove", &audit))?;
        self.copies.wipe();
        let own = ["meta.json", "meta.json.prev", "journal.json", results::NAME, results::PREVIOUS, "lock"];
        for entry in fs::read_dir(&self.dir).map_err(Error::io("read", &self.dir))? {
            let path = entry.map_err(Error::io("read", &self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // A damaged one that was kept aside goes with the others.
            if own.contains(&name.split(".bad-").next().unwrap_or_default()) {
                ignore_missing(fs::remove_file(&path)).map_err(Error::io("remove", &path))?;
            }
        }
        match fs::remove_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            // Someone mounted something there, or made it a part of a larger directory: it stays, empty.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
            other => other.map_err(Error::io("remove", &self.dir)),
        }
    }

    fn remove(&mut self, kind: Kind, id: &Id) -> Result<(), Error> {
        self.object(kind, id).remove()?;
        self.copies.remove(kind, id.as_str());
        Ok(())
    }

    fn object(&self, kind: Kind, id: &Id) -> Generations {
        Generations::new(self.dir.join(kind.directory()).join(format!("{id}.json")), kind)
    }

    fn stage<T: Serialize>(&self, kind: Kind, id: &Id, object: &T) -> Result<Staged, Error> {
        self.object(kind, id).stage(envelope::encode(kind, object)?)
    }

    fn put<T: Serialize>(&mut self, kind: Kind, id: &Id, object: &T) -> Result<(), Error> {
        let text = envelope::encode(kind, object)?;
        let file = self.object(kind, id);
        match self.staged.take() {
            Some(staged) if staged.holds(&file, &text) => staged.commit(),
            other => {
                drop(other); // gives its room back first
                file.write(&text)
            }
        }?;
        self.copies.put(kind, id.as_str(), &text);
        Ok(())
    }
}

fn meta_file(dir: &Path) -> Generations {
    Generations::new(dir.join("meta.json"), Kind::Meta)
}

/// Makes a directory that only its owner may enter, or makes an existing one so.
fn private_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("create the state directory", path))?;
    let present = fs::metadata(path).map_err(Error::io("read", path))?;
    if present.uid() != nix::unistd::geteuid().as_raw() {
        let belongs = io::Error::other(format!("it belongs to uid {}", present.uid()));
        return Err(Error::io("use the state directory", path)(belongs));
    }
    let mode = present.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(Error::io("restrict access to", path))?;
    }
    Ok(())
}

/// Removes what a killed daemon was about to write. Only its own temporary files begin with a dot.
fn remove_temporary_files(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(is_temporary) {
            ignore_missing(fs::remove_file(entry.path())).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && (name.contains(".json.") || name.contains(results::NAME))
}

/// Locks the directory and writes this process's id into the lock, for whoever comes next.
fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {
            // On a full disk the next one learns no id.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            Err(Error::Locked { dir: dir.to_owned(), pid: text.trim().parse().ok() })
        }
        Err(TryLockError::Error(source)) => Err(Error::io("lock", &path)(source)),
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod power_cuts;
#[cfg(test)]
mod tests;
