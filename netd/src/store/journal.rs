//! The intent of the operation in flight, in one file that is written in place.
//!
//! The file has its size from the beginning, so that a full disk cannot keep anybody from removing things. In place means that a
//! power loss may tear it; a torn intent was never acknowledged, so nothing had been done yet.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    Error, disk,
    envelope::{self, Kind},
    generations::{regular_file_of_ours, set_aside},
    intent::Entry,
};

/// Room that is taken in advance: the intents of sandboxes without hundreds of scattered ports fit.
const RESERVED: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of the file. It never shrinks: what could be created can be removed.
    size: usize,
}

impl Journal {
    /// Opens the journal and makes it where it is missing; what is no journal of ours is set aside.
    pub(super) fn open(path: &Path, warnings: &mut Vec<String>) -> Result<Self, Error> {
        if let Err(why) = regular_file_of_ours(path) {
            set_aside(path, &why.to_string(), warnings)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(Error::io("open the journal", path))?;
        let length = file.metadata().map_err(Error::io("read the journal", path))?.len();
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        let mut journal = Self { path: path.to_owned(), file, size };
        if size == 0 {
            journal.reserve()?;
        }
        Ok(journal)
    }

    /// Fills a new journal up to its size and waits for the disk.
    fn reserve(&mut self) -> Result<(), Error> {
        self.clear()?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        disk::sync_data(&self.file, &self.path)
            .and_then(|()| disk::sync_directory(directory))
            .map_err(Error::io("write the journal", &self.path))
    }

    /// Writes an intent and waits for the disk. On failure the journal is empty, as it was before.
    pub(super) fn write(&mut self, entry: &Entry) -> Result<(), Error> {
        let text = envelope::encode(Kind::Journal, &Some(entry))?;
        let written = self.overwrite(&text).and_then(|()| {
            disk::sync_data(&self.file, &self.path).map_err(Error::io("write the journal", &self.path))
        });
        written.inspect_err(|_| {
            if let Err(error) = self.clear() {
                tracing::error!(%error, "journal not cleared after a failed write");
            }
        })
    }

    /// Removes the intent; does not wait for the disk.
    pub(super) fn clear(&mut self) -> Result<(), Error> {
        self.overwrite(&envelope::encode(Kind::Journal, &None::<Entry>)?)
    }

    /// Reads the intent, if there is one.
    pub(super) fn read(&self, warnings: &mut Vec<String>) -> Result<Option<Entry>, Error> {
        let mut text = vec![0; self.size];
        self.file.read_exact_at(&mut text, 0).map_err(Error::io("read the journal", &self.path))?;
        match envelope::decode_start::<Option<Entry>>(Kind::Journal, &text) {
            Ok((entry, _)) => Ok(entry),
            Err(why) => {
                warnings.push(format!("{}: {why}; taken as empty", self.path.display()));
                Ok(None)
            }
        }
    }

    /// Replaces the content; spaces fill the file up, so that it stays a JSON document of the same size.
    fn overwrite(&mut self, text: &[u8]) -> Result<(), Error> {
        let mut bytes = text.to_vec();
        bytes.resize(text.len().max(self.size).max(RESERVED), b' ');
        disk::write_at_start(&self.file, &self.path, &bytes)
            .map_err(Error::io("write the journal", &self.path))?;
        self.size = bytes.len();
        Ok(())
    }
}
