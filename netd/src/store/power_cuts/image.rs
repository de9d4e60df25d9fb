//! What a disk may hold after a power cut, by the changes that it was told of and those that it was told to keep.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::super::disk::Change;

/// The unit that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Files with their content.
pub(super) type Image = BTreeMap<PathBuf, Vec<u8>>;

/// The contents of the disk: what is surely there, and what may be.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not synced.
    pub(super) pending: Vec<Name>,
    /// Files without their name yet, by the name that they will have.
    drafts: BTreeMap<PathBuf, usize>,
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What is on disk.
    synced: Vec<u8>,
    /// What was written since.
    written: Vec<Vec<u8>>,
    /// Bytes at its start that those writes leave alone.
    kept: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Name {
    Is(PathBuf, usize),
    Gone(PathBuf),
}

impl Disk {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Draft(path, text) => {
                self.files.push(File { written: vec![text.clone()], ..File::default() });
                self.drafts.insert(path.clone(), self.files.len() - 1);
            }
            Change::SyncDraft(path) => self.sync(self.drafts[path]),
            Change::Publish(path) => {
                let file = self.drafts[path];
                self.pending.push(Name::Is(path.clone(), file));
            }
            Change::Link(from, to) => {
                let file = self.now(from).expect("a name");
                self.pending.push(Name::Is(to.clone(), file));
            }
            Change::Unlink(path) => self.pending.push(Name::Gone(path.clone())),
            Change::Rename(from, to) => {
                let file = self.now(from).expect("a name");
                self.pending.extend([Name::Is(to.clone(), file), Name::Gone(from.clone())]);
            }
            Change::SyncDirectory(directory) => {
                let (synced, pending) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|name| name.path().parent() == Some(directory));
                self.pending = pending;
                let synced: Vec<Name> = synced;
                for name in &synced {
                    name.apply(&mut self.names);
                }
            }
            Change::Create(path) => {
                self.create(path);
            }
            Change::Overwrite(path, bytes) => {
                let file = self.now(path).unwrap_or_else(|| self.create(path));
                let file = &mut self.files[file];
                file.written.push(bytes.clone());
                file.kept = 0;
            }
            Change::Append(path, bytes) => {
                let file = self.now(path).expect("a name");
                let file = &mut self.files[file];
                if file.written.is_empty() {
                    file.kept = file.synced.len();
                }
                let before = file.written.last().unwrap_or(&file.synced);
                file.written.push([before.as_slice(), bytes].concat());
            }
            Change::SyncData(path) => {
                let file = self.now(path).expect("a name");
                self.sync(file);
            }
        }
    }

    fn create(&mut self, path: &Path) -> usize {
        self.files.push(File::default());
        let file = self.files.len() - 1;
        self.pending.push(Name::Is(path.to_owned(), file));
        file
    }

    fn sync(&mut self, file: usize) {
        let file = &mut self.files[file];
        if let Some(last) = file.written.pop() {
            file.synced = last;
            file.written.clear();
        }
    }

    /// The file that a name leads to, with all pending changes.
    fn now(&self, path: &Path) -> Option<usize> {
        let mut names = self.names.clone();
        self.pending.iter().for_each(|name| name.apply(&mut names));
        names.get(path).copied()
    }

    /// Returns an image: bits of `names` say which pending changes of names are there, `data` what of unsynced content is.
    pub(super) fn image(&self, names: u32, data: Data) -> Image {
        let mut there = self.names.clone();
        for (bit, name) in self.pending.iter().enumerate() {
            if names >> bit & 1 == 1 {
                name.apply(&mut there);
            }
        }
        there.into_iter().map(|(path, file)| (path, data.of(&self.files[file]))).collect()
    }
}

impl Name {
    fn path(&self) -> &Path {
        match self {
            Self::Is(path, _) | Self::Gone(path) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Is(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Gone(path) => {
                names.remove(path);
            }
        }
    }
}

/// What of unsynced content is on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Data {
    None,
    All,
    /// The first sectors of the last write.
    First(usize),
    /// The last ones.
    Last(usize),
    /// The first ones, and the file ends there.
    Short(usize),
    /// Zeroes of the right length, as delayed allocation leaves them.
    Zeroes,
}

pub(super) const DATA: [Data; 7] =
    [Data::None, Data::All, Data::First(1), Data::Last(1), Data::First(3), Data::Short(1), Data::Zeroes];

impl Data {
    pub(super) fn is_torn(self) -> bool {
        !matches!(self, Self::None | Self::All)
    }

    fn of(self, file: &File) -> Vec<u8> {
        let Some(new) = file.written.last() else { return file.synced.clone() };
        let (first, end) = (file.kept / SECTOR, new.len().div_ceil(SECTOR));
        let mixed = |is_new: &dyn Fn(usize) -> bool| -> Vec<u8> {
            let at = |bytes: &Vec<u8>, index: usize| bytes.get(index).copied().unwrap_or_default();
            let pick = |index| if is_new(index / SECTOR) { at(new, index) } else { at(&file.synced, index) };
            (0..new.len().max(file.synced.len())).map(pick).collect()
        };
        match self {
            Self::None => file.synced.clone(),
            Self::All => new.clone(),
            Self::First(sectors) => mixed(&|sector| sector < first + sectors),
            Self::Last(sectors) => mixed(&|sector| sector + sectors >= end),
            Self::Short(sectors) => {
                let mut bytes = mixed(&|sector| sector < first + sectors);
                bytes.truncate(file.synced.len().max((first + sectors) * SECTOR));
                bytes
            }
            Self::Zeroes => {
                let mut bytes = new[..file.kept].to_vec();
                bytes.resize(new.len(), 0);
                bytes
            }
        }
    }
}
