//! What a power cut may leave on the disk, and what the store makes of it (reliability F4, 7.5).
//!
//! The changes of a sequence of operations are recorded, and cut off after each of them. What was not synced by then is there, missing, empty or
//! torn; directory entries of one directory that were not synced are there in any combination. From every such image all that was acknowledged is
//! read, and of the operation in flight nothing or all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Store,
    disk::{Change, record},
    intent::Intent,
};
use crate::model::{Id, Network, Sandbox};

/// A step of a history; the numbers choose the object and its content.
#[derive(Debug, Clone, Copy)]
enum Act {
    PutNetwork(u8, bool),
    RemoveNetwork(u8),
    PutSandbox(u8, u16),
    RemoveSandbox(u8),
    Sysctl(u8),
}

/// Everything that the state directory says: each object as text.
type Known = BTreeSet<String>;

/// The contents of the disk: what is surely there, and what may be.
#[derive(Debug, Clone, Default)]
struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not synced.
    pending: Vec<Name>,
    /// Files without their name yet, by the name that they will have.
    drafts: BTreeMap<PathBuf, usize>,
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What is on disk.
    synced: Vec<u8>,
    /// What was written since.
    written: Vec<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Name {
    Is(PathBuf, usize),
    Gone(PathBuf),
}

impl Disk {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Draft(path, text) => {
                self.files.push(File { synced: Vec::new(), written: vec![text.clone()] });
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
            Change::Overwrite(path, bytes) => {
                let file = self.now(path).unwrap_or_else(|| {
                    self.files.push(File::default());
                    self.pending.push(Name::Is(path.clone(), self.files.len() - 1));
                    self.files.len() - 1
                });
                self.files[file].written.push(bytes.clone());
            }
            Change::SyncData(path) => {
                let file = self.now(path).expect("a name");
                self.sync(file);
            }
        }
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

    /// Writes an image into a directory: bits of `names` say which pending changes of names are there, `data` what of unsynced content is.
    fn image(&self, names: u32, data: Data, into: &Path) {
        let mut there = self.names.clone();
        for (bit, name) in self.pending.iter().enumerate() {
            if names >> bit & 1 == 1 {
                name.apply(&mut there);
            }
        }
        for directory in ["", "networks", "sandboxes"] {
            fs::create_dir_all(into.join(directory)).expect("a directory");
        }
        for (path, file) in there {
            fs::write(into.join(path), data.of(&self.files[file])).expect("a file");
        }
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
enum Data {
    None,
    All,
    /// Sectors of 512 bytes: the first ones, from the last write.
    First(usize),
    /// The last ones.
    Last(usize),
    /// Zeroes of the right length, as delayed allocation leaves them.
    Zeroes,
}

const DATA: [Data; 6] = [Data::None, Data::All, Data::First(1), Data::Last(1), Data::First(3), Data::Zeroes];

impl Data {
    fn of(self, file: &File) -> Vec<u8> {
        const SECTOR: usize = 512;
        let Some(new) = file.written.last() else { return file.synced.clone() };
        let mixed = |is_new: &dyn Fn(usize) -> bool| {
            let at = |bytes: &Vec<u8>, index: usize| bytes.get(index).copied().unwrap_or_default();
            let pick = |index| if is_new(index) { at(new, index) } else { at(&file.synced, index) };
            (0..new.len().max(file.synced.len())).map(pick).collect()
        };
        match self {
            Self::None => file.synced.clone(),
            Self::All => new.clone(),
            Self::First(sectors) => mixed(&|index| index < sectors * SECTOR),
            Self::Last(sectors) => mixed(&|index| index + sectors * SECTOR >= new.len()),
            Self::Zeroes => vec![0; new.len()],
        }
    }
}

/// Everything that a store says.
fn known(store: &mut Store) -> Known {
    let loaded = store.load().expect("loads");
    let networks = loaded.networks.iter().map(|network| serde_json::to_string(network).expect("encodes"));
    let sandboxes = loaded.sandboxes.iter().map(|sandbox| serde_json::to_string(sandbox).expect("encodes"));
    let sysctls = store.meta().sysctls.keys().cloned();
    networks.chain(sandboxes).chain(sysctls).chain([store.meta().instance.to_string()]).collect()
}

fn network(number: u8, internal: bool) -> Network {
    Network { internal, ..super::tests::network(&format!("n{number}"), number) }
}

fn sandbox(number: u8, ports: u16) -> Sandbox {
    super::tests::sandbox(number, ports)
}

/// Does one thing as the controller does: intent, object, clear.
fn act(store: &mut Store, act: Act) {
    let id = |number: u8| Id::from_bytes(&[number; 32]);
    match act {
        Act::PutNetwork(number, internal) => {
            let network = network(number, internal);
            store.journal_begin(&Intent::CreateNetwork(Box::new(network.clone())), None).expect("begins");
            store.put_network(&network).expect("puts");
        }
        Act::RemoveNetwork(number) => {
            store
                .journal_begin(&Intent::RemoveNetwork(Box::new(network(number, false))), None)
                .expect("begins");
            store.remove_network(&id(number)).expect("removes");
        }
        Act::PutSandbox(number, ports) => {
            let sandbox = sandbox(number, ports);
            store.journal_begin(&Intent::CreateSandbox(Box::new(sandbox.clone())), None).expect("begins");
            store.put_sandbox(&sandbox).expect("puts");
        }
        Act::RemoveSandbox(number) => {
            store.journal_begin(&Intent::RemoveSandbox(Box::new(sandbox(number, 1))), None).expect("begins");
            store.remove_sandbox(&id(number)).expect("removes");
        }
        Act::Sysctl(number) => {
            return store.remember_sysctl(&format!("key{number}"), "0").expect("remembers");
        }
    }
    store.journal_clear().expect("clears");
}

/// Plays a history and tries every image of every cut; returns how many there were.
fn cut_everywhere(acts: &[Act]) -> usize {
    let dir = TempDir::new().expect("a directory");
    let mut disk = Disk::default();
    let mut images = 0;
    let relative = |change: Change| relative(change, dir.path());
    let mut store = None;
    let nowhere = Path::new("/proc/nowhere");
    let changes = record(|| store = Some(Store::open(dir.path(), nowhere).expect("opens")));
    for change in changes {
        disk.apply(&relative(change));
    }
    let mut store = store.expect("a store");
    let mut before = known(&mut store);
    for &step in acts {
        let changes = record(|| act(&mut store, step));
        let after = known(&mut store);
        for change in changes {
            disk.apply(&relative(change));
            images += try_images(&disk, &[&before, &after]);
        }
        // The operation has been acknowledged.
        images += try_images(&disk, &[&after]);
        before = after;
    }
    images
}

fn relative(change: Change, dir: &Path) -> Change {
    let cut = |path: PathBuf| path.strip_prefix(dir).expect("below the directory").to_owned();
    match change {
        Change::Draft(path, text) => Change::Draft(cut(path), text),
        Change::SyncDraft(path) => Change::SyncDraft(cut(path)),
        Change::Publish(path) => Change::Publish(cut(path)),
        Change::Link(from, to) => Change::Link(cut(from), cut(to)),
        Change::Unlink(path) => Change::Unlink(cut(path)),
        Change::Rename(from, to) => Change::Rename(cut(from), cut(to)),
        Change::SyncDirectory(path) => Change::SyncDirectory(cut(path)),
        Change::Overwrite(path, bytes) => Change::Overwrite(cut(path), bytes),
        Change::SyncData(path) => Change::SyncData(cut(path)),
    }
}

fn try_images(disk: &Disk, allowed: &[&Known]) -> usize {
    let combinations = 1_u32 << disk.pending.len();
    let mut images = 0;
    for names in 0..combinations {
        for data in DATA {
            let image = TempDir::new().expect("a directory");
            disk.image(names, data, image.path());
            let mut store = Store::open(image.path(), Path::new("/proc/nowhere")).expect("an image opens");
            let found = known(&mut store);
            assert!(
                allowed.contains(&&found),
                "names {names:b}, data {data:?}, pending {:?}\nfound {found:#?}\nallowed {allowed:#?}",
                disk.pending
            );
            let left: Vec<_> = fs::read_dir(image.path().join("networks"))
                .expect("lists")
                .flatten()
                .map(|e| e.file_name())
                .collect();
            let bad = left.iter().filter(|name| name.to_string_lossy().contains(".bad-")).count();
            assert_eq!(bad, 0, "a cut damages no object: {left:?}");
            images += 1;
        }
    }
    images
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1..4_u8, any::<bool>()).prop_map(|(number, internal)| Act::PutNetwork(number, internal)),
        (1..4_u8).prop_map(Act::RemoveNetwork),
        (1..4_u8, 0..3_u16).prop_map(|(number, ports)| Act::PutSandbox(number, ports)),
        (1..4_u8).prop_map(Act::RemoveSandbox),
        (0..3_u8).prop_map(Act::Sysctl),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn every_cut_of_any_history_recovers_what_was_acknowledged(acts in prop::collection::vec(acts(), 1..5)) {
        cut_everywhere(&acts);
    }
}

#[test]
fn every_cut_of_a_usual_history_recovers_what_was_acknowledged() {
    let images = cut_everywhere(&[
        Act::PutNetwork(1, false),
        Act::PutSandbox(2, 1),
        Act::PutSandbox(2, 2),
        Act::PutNetwork(1, true),
        Act::Sysctl(1),
        Act::RemoveSandbox(2),
        Act::RemoveNetwork(1),
    ]);
    assert!(images > 500, "{images} images");
}

/// The control: a disk that forgets what was synced loses acknowledged work, and that is seen.
#[test]
#[should_panic(expected = "allowed")]
fn a_lost_sync_is_found() {
    let dir = TempDir::new().expect("a directory");
    let nowhere = Path::new("/proc/nowhere");
    let mut store = None;
    let mut disk = Disk::default();
    let changes = record(|| {
        let mut opened = Store::open(dir.path(), nowhere).expect("opens");
        act(&mut opened, Act::PutNetwork(1, false));
        store = Some(opened);
    });
    let unsynced =
        |change: &Change| !matches!(change, Change::SyncDirectory(path) if path.ends_with("networks"));
    changes.into_iter().filter(unsynced).for_each(|change| disk.apply(&relative(change, dir.path())));
    let after = known(&mut store.expect("a store"));
    try_images(&disk, &[&after]);
}
