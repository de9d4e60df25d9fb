//! The files of the log: `log.jsonl`, and those before it as `log.jsonl.1` (the newest) and so on.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    Limits, Record,
    chain::{self, Gap, Head},
};
use crate::store::regular_file_of_ours;

/// Name of the present file.
const NAME: &str = "log.jsonl";
/// A line is shorter: the last one is found in so many bytes at the end.
const LONGEST_LINE: u64 = 1 << 20;

/// Returns the path of a file by its age; 0 is the present one.
pub(super) fn path(directory: &Path, age: usize) -> PathBuf {
    directory.join(if age == 0 { NAME.to_owned() } else { format!("{NAME}.{age}") })
}

/// Returns the age of a file by its name; None: it is none of the log's.
pub(super) fn age(name: &str) -> Option<usize> {
    match name.strip_prefix(NAME)? {
        "" => Some(0),
        rest => rest.strip_prefix('.')?.parse().ok(),
    }
}

/// Where lines are appended.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    limits: Limits,
    open: Option<Open>,
    head: Head,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Bytes of whole lines.
    length: u64,
    /// Bytes that were cut off when it was opened.
    cut: u64,
}

impl Files {
    pub(super) fn new(directory: PathBuf, limits: Limits) -> Self {
        Self { directory, limits, open: None, head: Head::default() }
    }

    /// Appends a record behind a number of lost ones.
    ///
    /// # Errors
    /// The log is as it was before.
    pub(super) fn append(&mut self, record: Record, lost: u64) -> io::Result<()> {
        let (cut, length) = self.opened().map(|open| (open.cut, open.length))?;
        let (line, head) = chain::seal(&self.head, Gap { lost, cut }, record).map_err(io::Error::other)?;
        let size = line.len() as u64;
        if length > 0 && length + size > self.limits.file_size {
            self.rotate()?;
        }
        let open = self.opened()?;
        if let Err(error) = open.file.write_all(line.as_bytes()) {
            // A part of a line may have found room.
            if open.file.set_len(open.length).is_err() {
                self.open = None;
            }
            return Err(error);
        }
        open.length += size;
        open.cut = 0;
        self.head = head;
        Ok(())
    }

    /// Returns the present file, made or found again where somebody has removed it.
    fn opened(&mut self) -> io::Result<&mut Open> {
        let is_there = |open: &Open| open.file.metadata().is_ok_and(|file| file.nlink() > 0);
        let open = match self.open.take().filter(is_there) {
            Some(open) => open,
            None => self.resume()?,
        };
        Ok(self.open.insert(open))
    }

    /// Opens the present file behind its last whole line.
    fn resume(&mut self) -> io::Result<Open> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let path = path(&self.directory, 0);
        if regular_file_of_ours(&path).is_err() {
            self.shift()?;
        }
        let mut file = create(&path)?;
        let (whole, cut, last) = last_line(&mut file)?;
        if cut > 0 {
            tracing::warn!(path = %path.display(), bytes = cut, "an incomplete line of the audit log was cut off");
            file.set_len(whole)?;
        }
        match last.map(|line| chain::open(&line)) {
            Some(Ok((_, head))) => self.head = head,
            // It stays for people to look at, and the chain begins anew.
            Some(Err(why)) => {
                tracing::warn!(path = %path.display(), why, "the audit log's last line is not what was written");
                self.shift()?;
                self.head = Head::default();
                return Ok(Open { file: create(&path)?, length: 0, cut });
            }
            None => self.head = self.before().unwrap_or_else(|| self.head.clone()),
        }
        Ok(Open { file, length: whole, cut })
    }

    /// The end of the file before the present one.
    fn before(&self) -> Option<Head> {
        let mut file = File::open(path(&self.directory, 1)).ok()?;
        let (_, _, last) = last_line(&mut file).ok()?;
        Some(chain::open(&last?).ok()?.1)
    }

    /// Begins another file.
    fn rotate(&mut self) -> io::Result<()> {
        if let Some(open) = &self.open {
            open.file.sync_data()?;
        }
        self.shift()?;
        self.open = Some(Open { file: create(&path(&self.directory, 0))?, length: 0, cut: 0 });
        Ok(())
    }

    /// Makes every file a file older; the oldest goes.
    fn shift(&self) -> io::Result<()> {
        let oldest = self.limits.files.saturating_sub(1);
        ignore_missing(fs::remove_file(path(&self.directory, oldest)))?;
        for age in (0..oldest).rev() {
            ignore_missing(fs::rename(path(&self.directory, age), path(&self.directory, age + 1)))?;
        }
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Returns how many bytes are whole lines, how many follow the last line feed, and the last whole line.
fn last_line(file: &mut File) -> io::Result<(u64, u64, Option<String>)> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST_LINE)))?;
    let mut end = Vec::new();
    file.take(LONGEST_LINE).read_to_end(&mut end)?;
    let Some(feed) = end.iter().rposition(|byte| *byte == b'\n') else { return Ok((0, length, None)) };
    let cut = (end.len() - feed - 1) as u64;
    let begin = end[..feed].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok((length - cut, cut, Some(String::from_utf8_lossy(&end[begin..feed]).into_owned())))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
