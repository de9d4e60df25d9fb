//! One file with its previous generation: written atomically, read with whatever is intact.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use atomic_write_file::{AtomicWriteFile, unix::OpenOptionsExt as _};
use serde::de::DeserializeOwned;

use super::{
    Error, disk,
    envelope::{self, Kind},
    ignore_missing, remove_temporary_files,
};

/// What the name of a damaged file goes on with; then comes the time.
const SET_ASIDE: &str = ".bad-";
/// A larger file is none of ours: a sandbox with tens of thousands of scattered ports takes a few megabytes.
const MAX_BYTES: u64 = 64 << 20;

/// A file and the generation before it.
#[derive(Debug)]
pub(super) struct Generations {
    path: PathBuf,
    kind: Kind,
}

/// The next generation of a file: its bytes are on disk, but not yet under its name.
#[derive(Debug)]
pub(super) struct Staged {
    target: Generations,
    text: Vec<u8>,
    file: AtomicWriteFile,
}

/// Removes previous generations whose successors are gone: a power cut broke a removal off.
pub(super) fn remove_lone(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let path = entry.map_err(Error::io("list", directory))?.path();
        if path.extension().is_some_and(|extension| extension == "prev") && !path.with_extension("").exists()
        {
            ignore_missing(disk::unlink(&path)).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Returns the names (without suffixes) of all files of a directory that have an intact or damaged generation.
pub(super) fn names(directory: &Path) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".json")) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// Returns the names of the files of a directory that were set aside.
pub(super) fn set_aside_names(directory: &Path) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        let name = entry.file_name();
        names.extend(
            name.to_str()
                .and_then(|name| name.split_once(".json"))
                .filter(|(_, rest)| rest.contains(SET_ASIDE))
                .map(|(name, _)| name.to_owned()),
        );
    }
    Ok(names)
}

/// Writes the next generation of a file, without its name yet. More can be appended when it has that.
pub(super) fn draft(path: &Path, text: &[u8]) -> io::Result<AtomicWriteFile> {
    let mut options = AtomicWriteFile::options();
    options.preserve_mode(false).preserve_owner(false).mode(0o600).custom_flags(libc::O_APPEND);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    disk::drafted(path, text);
    Ok(file)
}

/// Keeps the current generation of a file as the previous one, does what must be done before it is replaced, and puts the next one in its place; waits
/// for the disk.
pub(super) fn replace(
    path: &Path,
    next: AtomicWriteFile,
    before: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    // Until the next one takes its place, the current generation is untouched.
    let replaced = keep_current(path)
        .and_then(|kept| before().map(|()| kept))
        .and_then(|kept| disk::commit(next, path).inspect_err(|_| restore(path, kept)));
    replaced.inspect_err(|_| {
        // A draft that the disk would not take is not wanted any more.
        if let Err(error) = remove_temporary_files(directory(path)) {
            tracing::error!(%error, "file not removed after a failed write");
        }
    })
}

/// Makes the current generation the previous one too. Returns whether there is one.
fn keep_current(path: &Path) -> io::Result<bool> {
    ignore_missing(disk::unlink(&previous(path)))?;
    match disk::link(path, &previous(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        linked => linked.map(|()| true),
    }
}

/// Returns to the generation before a write that failed half way, if there was one. Best effort: the disk has just refused to work.
fn restore(path: &Path, kept: bool) {
    let restored =
        if kept { disk::rename(&previous(path), path) } else { ignore_missing(disk::unlink(path)) };
    if let Err(error) = restored {
        tracing::error!(path = %path.display(), %error, "state file not restored after a failed write");
    }
}

fn previous(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".prev");
    name.into()
}

/// Returns the directory that a file is in.
pub(super) fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

impl Generations {
    pub(super) fn new(path: PathBuf, kind: Kind) -> Self {
        Self { path, kind }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the current generation is there, intact or not.
    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    fn previous(&self) -> PathBuf {
        previous(&self.path)
    }

    /// Writes the next generation.
    pub(super) fn write(&self, text: &[u8]) -> Result<(), Error> {
        draft(&self.path, text).and_then(|file| self.publish(file)).map_err(Error::io("write", &self.path))
    }

    /// Writes the next generation without making it the current one.
    pub(super) fn stage(self, text: Vec<u8>) -> Result<Staged, Error> {
        let file = draft(&self.path, &text).map_err(Error::io("write", &self.path))?;
        Ok(Staged { target: self, text, file })
    }

    /// Puts the next generation in its place; it says all that the one before says, whose name need not be on disk for that.
    fn publish(&self, next: AtomicWriteFile) -> io::Result<()> {
        replace(&self.path, next, || Ok(()))
    }

    fn directory(&self) -> &Path {
        directory(&self.path)
    }

    /// Removes both generations; waits for the disk. Where that fails, the current one is there as before.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let gone = self.doomed();
        // The previous generation first: alone it would come back to life.
        ignore_missing(disk::unlink(&self.previous()))
            .and_then(|()| ignore_missing(disk::rename(&self.path, &gone)))
            .and_then(|()| self.forget_damaged(self.directory()))
            .and_then(|()| disk::sync_directory(self.directory()))
            .inspect_err(|_| {
                if let Err(error) = ignore_missing(disk::rename(&gone, &self.path)) {
                    tracing::error!(path = %self.path.display(), %error, "state file not restored after a failed removal");
                }
            })
            .map_err(Error::io("remove", &self.path))?;
        // It is a temporary file by its name: one that stays, or comes back with a power cut, goes at the next start.
        if let Err(error) = ignore_missing(disk::unlink(&gone).or_else(|_| disk::unlink(&gone))) {
            tracing::warn!(path = %gone.display(), %error, "removed state file not deleted");
        }
        Ok(())
    }

    /// Where a generation lies that is being removed.
    fn doomed(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.removed"))
    }

    /// Removes what was set aside of an object that is removed now: nothing of it is missed any more.
    fn forget_damaged(&self, directory: &Path) -> io::Result<()> {
        let Some(name) = self.path.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
        let prefix = format!("{name}{SET_ASIDE}");
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                ignore_missing(disk::unlink(&entry.path()))?;
            }
        }
        Ok(())
    }

    /// Reads the newest intact generation; None: there is none.
    pub(super) fn read<T: DeserializeOwned>(&self, warnings: &mut Vec<String>) -> Result<Option<T>, Error> {
        self.read_checked(|_| Ok(()), warnings)
    }

    /// Puts this in the place of the current generation if that one is damaged, and keeps the damaged one aside. Returns whether it was.
    pub(super) fn mend<T: DeserializeOwned>(
        &self,
        check: impl Fn(&T) -> Result<(), String>,
        text: &[u8],
        warnings: &mut Vec<String>,
    ) -> Result<bool, Error> {
        let Found::Corrupt(why) = self.read_one(&self.path, &check)? else { return Ok(false) };
        set_aside(&self.path, &why, warnings)?;
        // On a full disk the previous generation must do.
        Ok(self.write(text).inspect_err(|error| warnings.push(error.to_string())).is_ok())
    }

    /// Reads the newest intact generation that passes a check. A damaged current one is set aside and replaced.
    pub(super) fn read_checked<T: DeserializeOwned>(
        &self,
        check: impl Fn(&T) -> Result<(), String>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<T>, Error> {
        let why = match self.read_one(&self.path, &check)? {
            Found::Object(object) => return Ok(Some(object)),
            Found::Nothing => None,
            Found::Corrupt(why) => Some(why),
        };
        let previous = match self.read_one(&self.previous(), &check)? {
            Found::Object(object) => Some(object),
            Found::Nothing => None,
            Found::Corrupt(why) => {
                set_aside(&self.previous(), &why, warnings)?;
                None
            }
        };
        if let Some(why) = why {
            set_aside(&self.path, &why, warnings)?;
        }
        if previous.is_some() {
            disk::link(&self.previous(), &self.path).map_err(Error::io("restore", &self.path))?;
            warnings.push(format!("{}: its previous generation is used", self.path.display()));
        }
        Ok(previous)
    }

    fn read_one<T: DeserializeOwned>(
        &self,
        path: &Path,
        check: &impl Fn(&T) -> Result<(), String>,
    ) -> Result<Found<T>, Error> {
        // A disk that fails to read once may do better the second time: what it says now decides whether the file is set aside.
        let text = match read_file(path).or_else(|_| read_file(path)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            // That says nothing of the file: it is as good as ever, and the next start reads it.
            Err(error) if is_shortage(&error) => return Err(Error::io("read", path)(error)),
            Err(error) => return Ok(Found::Corrupt(error.to_string())),
        };
        Ok(match envelope::decode::<T>(self.kind, &text) {
            Ok(object) => check(&object).map_or_else(Found::Corrupt, |()| Found::Object(object)),
            Err(damage) => Found::Corrupt(damage.to_string()),
        })
    }
}

/// Keeps a damaged file for people to look at.
pub(super) fn set_aside(path: &Path, why: &str, warnings: &mut Vec<String>) -> Result<(), Error> {
    let mut bad = path.to_owned().into_os_string();
    bad.push(format!("{SET_ASIDE}{}", jiff::Timestamp::now().as_nanosecond()));
    let bad = PathBuf::from(bad);
    disk::rename(path, &bad).map_err(Error::io("set aside", path))?;
    warnings.push(format!("{}: {why}; kept as {}", path.display(), bad.display()));
    Ok(())
}

/// What was found under a name.
enum Found<T> {
    Object(T),
    Nothing,
    Corrupt(String),
}

/// Whether this process or the kernel has run out of something.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR))
}

/// Reads a regular file of our own; links, devices and files of others are refused.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    check_ours(&file.metadata()?)?;
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// Checks that a path is free or leads to a regular file of our own of a sensible size.
pub(crate) fn regular_file_of_ours(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => check_ours(&other?),
    }
}

fn check_ours(metadata: &fs::Metadata) -> io::Result<()> {
    if !metadata.is_file() {
        Err(io::Error::other("it is not a regular file"))
    } else if metadata.uid() != nix::unistd::geteuid().as_raw() {
        Err(io::Error::other(format!("it belongs to user {}", metadata.uid())))
    } else if metadata.len() > MAX_BYTES {
        Err(io::Error::other(format!("it has {} bytes", metadata.len())))
    } else {
        Ok(())
    }
}

impl Staged {
    /// Whether this is that file with that content.
    pub(super) fn holds(&self, file: &Generations, text: &[u8]) -> bool {
        self.target.path == file.path && self.text == text
    }

    /// Makes it the current generation; waits for the disk.
    pub(super) fn commit(self) -> Result<(), Error> {
        self.target.publish(self.file).map_err(Error::io("write", &self.target.path))
    }
}
