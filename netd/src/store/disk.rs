//! Every change of the state directory, so that tests can ask what a power cut leaves of them.
//!
//! A file is synced before it gets its name, and a directory is synced before anybody is told: that is all that the order of writes rests on.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use atomic_write_file::AtomicWriteFile;

#[cfg(test)]
pub(super) use trace::{Change, Refusal, record, refusing};

/// Outside of tests nobody listens.
macro_rules! note {
    ($change:expr) => {
        #[cfg(test)]
        trace::note(|| $change);
    };
}

/// Notes that the next generation of a file is written, but neither synced nor under its name.
#[cfg_attr(not(test), expect(unused_variables, reason = "nobody listens"))]
pub(super) fn drafted(path: &Path, text: &[u8]) {
    note!(Change::Draft(path.to_owned(), text.to_vec()));
}

/// Syncs the next generation, gives it its name, and syncs the directory.
#[cfg_attr(not(test), expect(unused_variables, reason = "nobody listens"))]
pub(super) fn commit(next: AtomicWriteFile, path: &Path) -> io::Result<()> {
    next.commit()?;
    note!(Change::SyncDraft(path.to_owned()));
    note!(Change::Publish(path.to_owned()));
    note!(Change::SyncDirectory(path.parent().unwrap_or(path).to_owned()));
    Ok(())
}

pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    trace::refused(Refusal::Link)?;
    fs::hard_link(from, to)?;
    note!(Change::Link(from.to_owned(), to.to_owned()));
    Ok(())
}

pub(super) fn unlink(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    trace::refused(Refusal::Unlink)?;
    fs::remove_file(path)?;
    note!(Change::Unlink(path.to_owned()));
    Ok(())
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    note!(Change::Rename(from.to_owned(), to.to_owned()));
    Ok(())
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    trace::refused(Refusal::SyncDirectory)?;
    File::open(path)?.sync_all()?;
    note!(Change::SyncDirectory(path.to_owned()));
    Ok(())
}

/// Overwrites a file from its start.
#[cfg_attr(not(test), expect(unused_variables, reason = "nobody listens"))]
pub(super) fn write_at_start(file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    note!(Change::Overwrite(path.to_owned(), bytes.to_vec()));
    Ok(())
}

/// Notes that a file without content got its name.
#[cfg_attr(not(test), expect(unused_variables, reason = "nobody listens"))]
pub(super) fn created(path: &Path) {
    note!(Change::Create(path.to_owned()));
}

/// Writes lines behind others and waits for the disk. What a power cut leaves of them is for their reader to tell.
pub(super) fn append(file: &mut File, path: &Path, lines: &[u8]) -> io::Result<()> {
    file.write_all(lines)?;
    note!(Change::Append(path.to_owned(), lines.to_vec()));
    sync_data(file, path)
}

#[cfg_attr(not(test), expect(unused_variables, reason = "nobody listens"))]
pub(super) fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    file.sync_data()?;
    note!(Change::SyncData(path.to_owned()));
    Ok(())
}

#[cfg(test)]
mod trace {
    use std::{
        cell::{Cell, RefCell},
        io,
        path::PathBuf,
    };

    /// A change of the state directory, as a disk sees it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Change {
        /// A file without its name yet got this content.
        Draft(PathBuf, Vec<u8>),
        /// That content is on disk.
        SyncDraft(PathBuf),
        /// That file got its name.
        Publish(PathBuf),
        /// A file got a second name.
        Link(PathBuf, PathBuf),
        /// A name went.
        Unlink(PathBuf),
        /// A file got another name.
        Rename(PathBuf, PathBuf),
        /// A directory's names are on disk.
        SyncDirectory(PathBuf),
        /// A file without content got its name.
        Create(PathBuf),
        /// A file was overwritten from its start.
        Overwrite(PathBuf, Vec<u8>),
        /// Something was written behind a file's content.
        Append(PathBuf, Vec<u8>),
        /// A file's content is on disk.
        SyncData(PathBuf),
    }

    thread_local! {
        static CHANGES: RefCell<Option<Vec<Change>>> = const { RefCell::new(None) };
        static REFUSES: Cell<Option<Refusal>> = const { Cell::new(None) };
    }

    /// What a disk may refuse.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Refusal {
        SyncDirectory,
        Link,
        Unlink,
    }

    /// Runs a closure on a disk that refuses this.
    pub fn refusing<T>(what: Refusal, act: impl FnOnce() -> T) -> T {
        REFUSES.set(Some(what));
        let result = act();
        REFUSES.set(None);
        result
    }

    pub fn refused(what: Refusal) -> io::Result<()> {
        if REFUSES.get() == Some(what) { Err(io::Error::other("the disk refuses")) } else { Ok(()) }
    }

    /// Runs a closure and returns the changes that it made on this thread.
    pub fn record(act: impl FnOnce()) -> Vec<Change> {
        CHANGES.with_borrow_mut(|changes| *changes = Some(Vec::new()));
        act();
        CHANGES.with_borrow_mut(Option::take).unwrap_or_default()
    }

    pub fn note(change: impl FnOnce() -> Change) {
        CHANGES.with_borrow_mut(|changes| {
            if let Some(changes) = changes {
                changes.push(change());
            }
        });
    }
}
