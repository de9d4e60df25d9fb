//! What a power cut may leave on the disk, and what the store makes of it (reliability F4, 7.5).
//!
//! The changes of a sequence of operations are recorded, and cut off after each of them. What was not synced by then is there, missing, empty or
//! torn; directory entries of one directory that were not synced are there in any combination. From every such image all that was acknowledged is
//! read, answers among it, and of the operation in flight nothing or all.

mod image;

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Store,
    disk::{Change, record},
    intent::Intent,
    results,
};
use crate::model::{Answer, Finished, Id, Network, Operation, Sandbox};
use image::{DATA, Disk, Image};

/// Operations of a history at most.
const OPERATIONS: usize = 16;

/// A step of a history; the numbers choose the object and its content.
#[derive(Debug, Clone, Copy)]
enum Act {
    PutNetwork(u8, bool),
    RemoveNetwork(u8),
    PutSandbox(u8, u16),
    RemoveSandbox(u8),
    Sysctl(u8),
}

/// Everything that the state directory says: each object and each answer as text.
type Known = BTreeSet<String>;

/// Everything that a store says.
fn known(store: &mut Store) -> Known {
    let loaded = store.load().expect("loads");
    let networks = loaded.networks.iter().map(|network| serde_json::to_string(network).expect("encodes"));
    let sandboxes = loaded.sandboxes.iter().map(|sandbox| serde_json::to_string(sandbox).expect("encodes"));
    let sysctls = store.meta().sysctls.keys().cloned();
    let instance = [store.meta().instance.to_string()];
    networks.chain(sandboxes).chain(sysctls).chain(instance).chain(answers(store)).collect()
}

/// The answers that a store remembers.
fn answers(store: &Store) -> Known {
    let recalled = (0..OPERATIONS).filter_map(|number| store.recall(&operation(number).id));
    recalled.map(|finished| serde_json::to_string(&finished).expect("encodes")).collect()
}

fn operation(number: usize) -> Operation {
    Operation { id: format!("op{number}").parse().expect("an id"), request: "r".repeat(64) }
}

/// What an operation with an id gives back.
fn finished(number: usize, act: Act) -> Option<Finished> {
    let id = |number: u8| Id::from_bytes(&[number; 32]);
    let answer = match act {
        Act::PutNetwork(number, _) => Answer::Network(id(number)),
        // Longer than a sector.
        Act::RemoveNetwork(_) => {
            Answer::Networks((100..200).map(|n| format!("network{n}").parse().expect("a name")).collect())
        }
        Act::PutSandbox(number, ports) => Answer::Ports(sandbox(number, ports).bindings),
        // Not everybody gives an id.
        Act::RemoveSandbox(_) | Act::Sysctl(_) => return None,
    };
    Some(Finished::now(operation(number), answer))
}

fn network(number: u8, internal: bool) -> Network {
    Network { internal, ..super::tests::network(&format!("n{number}"), number) }
}

fn sandbox(number: u8, ports: u16) -> Sandbox {
    super::tests::sandbox(number, ports)
}

/// Does one thing as the controller does: intent, object, answer, clear.
fn act(store: &mut Store, number: usize, act: Act) {
    let id = |number: u8| Id::from_bytes(&[number; 32]);
    let there = store.load().expect("loads");
    let finished = finished(number, act);
    match act {
        Act::PutNetwork(number, internal) => {
            let after = Box::new(network(number, internal));
            let before = there.networks.into_iter().find(|before| before.id == after.id);
            let intent = match before.map(Box::new) {
                Some(before) => Intent::UpdateNetwork { before, after: after.clone() },
                None => Intent::CreateNetwork(after.clone()),
            };
            store.journal_begin(&intent, finished.as_ref()).expect("begins");
            store.put_network(&after).expect("puts");
        }
        Act::RemoveNetwork(number) => {
            let intent = Intent::RemoveNetwork(Box::new(network(number, false)));
            store.journal_begin(&intent, finished.as_ref()).expect("begins");
            store.remove_network(&id(number)).expect("removes");
        }
        Act::PutSandbox(number, ports) => {
            let after = Box::new(sandbox(number, ports));
            let before = there.sandboxes.into_iter().find(|before| before.id == after.id);
            let intent = match before.map(Box::new) {
                Some(before) => Intent::UpdateSandbox { before, after: after.clone() },
                None => Intent::CreateSandbox(after.clone()),
            };
            store.journal_begin(&intent, finished.as_ref()).expect("begins");
            store.put_sandbox(&after).expect("puts");
        }
        Act::RemoveSandbox(number) => {
            let intent = Intent::RemoveSandbox(Box::new(sandbox(number, 1)));
            store.journal_begin(&intent, finished.as_ref()).expect("begins");
            store.remove_sandbox(&id(number)).expect("removes");
        }
        Act::Sysctl(number) => {
            return store.remember_sysctl(&format!("key{number}"), "0").expect("remembers");
        }
    }
    if let Some(finished) = finished {
        store.remember(&finished).expect("remembers");
    }
    store.journal_clear().expect("clears");
}

/// Plays a history, with so many answers in a file, and tries every image of every cut; returns how many there were.
/// Of its changes the disk never hears of those that it is said to forget.
fn cut_everywhere(acts: &[Act], most: usize, mut forgets: impl FnMut(&Change) -> bool) -> usize {
    let dir = TempDir::new().expect("a directory");
    let mut disk = Disk::default();
    let mut images = 0;
    let relative = |change: Change| relative(change, dir.path());
    let mut store = None;
    let changes = record(|| store = Some(open(dir.path())));
    for change in changes {
        disk.apply(&relative(change));
    }
    let mut store = store.expect("a store");
    store.results.most = most;
    let mut before = known(&mut store);
    for (number, &step) in acts.iter().enumerate() {
        let old = answers(&store);
        let changes = record(|| act(&mut store, number, step));
        let after = known(&mut store);
        // Those of the oldest file go with it, and it does not matter when.
        let old: Known = old.difference(&after).cloned().collect();
        assert!(old.is_empty() || answers(&store).len() > most, "{old:#?} were forgotten too early");
        let mut tried = HashSet::new();
        for change in changes.into_iter().map(relative).filter(|change| !forgets(change)) {
            disk.apply(&change);
            try_images(&disk, &[&before, &after], &old, &mut tried);
        }
        images += tried.len();
        // The operation has been acknowledged.
        let mut tried = HashSet::new();
        try_images(&disk, &[&after], &Known::new(), &mut tried);
        images += tried.len();
        before = after;
    }
    images
}

fn open(dir: &Path) -> Store {
    Store::open(dir, Path::new("/proc/nowhere")).expect("opens")
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
        Change::Create(path) => Change::Create(cut(path)),
        Change::Overwrite(path, bytes) => Change::Overwrite(cut(path), bytes),
        Change::Append(path, bytes) => Change::Append(cut(path), bytes),
        Change::SyncData(path) => Change::SyncData(cut(path)),
    }
}

/// Opens every image that a cut may leave and that was not tried: what is known there is one of those allowed, apart from what is old.
fn try_images(disk: &Disk, allowed: &[&Known], old: &Known, tried: &mut HashSet<Image>) {
    let allowed: Vec<Known> = allowed.iter().map(|known| *known - old).collect();
    let combinations = 1_u32 << disk.pending.len();
    for (names, data) in (0..combinations).flat_map(|names| DATA.map(|data| (names, data))) {
        let image = disk.image(names, data);
        if tried.contains(&image) {
            continue;
        }
        let dir = TempDir::new().expect("a directory");
        for directory in ["networks", "sandboxes"] {
            fs::create_dir(dir.path().join(directory)).expect("a directory");
        }
        for (path, content) in &image {
            fs::write(dir.path().join(path), content).expect("a file");
        }
        tried.insert(image);
        let mut store = open(dir.path());
        let found = &known(&mut store) - old;
        assert!(
            allowed.contains(&found),
            "names {names:b}, data {data:?}, pending {:?}\nfound {found:#?}\nallowed {allowed:#?}",
            disk.pending
        );
        let left: Vec<_> = fs::read_dir(dir.path().join("networks"))
            .expect("lists")
            .flatten()
            .map(|e| e.file_name())
            .collect();
        let bad = left.iter().filter(|name| name.to_string_lossy().contains(".bad-")).count();
        assert_eq!(bad, 0, "a cut damages no object: {left:?}");
        if data.is_torn() {
            goes_on(store, dir.path());
        }
    }
}

/// What a cut left of a line costs neither those before it nor the next one.
fn goes_on(mut store: Store, dir: &Path) {
    let next = Finished::now(operation(OPERATIONS - 1), Answer::Done);
    store.remember(&next).expect("remembers");
    let remembered = answers(&store);
    drop(store);
    assert_eq!(answers(&open(dir)), remembered);
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
    fn every_cut_of_any_history_recovers_what_was_acknowledged(
        acts in prop::collection::vec(acts(), 1..5),
        most in 1..4_usize,
    ) {
        cut_everywhere(&acts, most, |_| false);
    }
}

const USUAL: [Act; 7] = [
    Act::PutNetwork(1, false),
    Act::PutSandbox(2, 1),
    Act::PutSandbox(2, 2),
    Act::PutNetwork(1, true),
    Act::Sysctl(1),
    Act::RemoveSandbox(2),
    Act::RemoveNetwork(1),
];

#[test]
fn every_cut_of_a_usual_history_recovers_what_was_acknowledged() {
    // In one file, and in three.
    for most in [OPERATIONS, 2] {
        let images = cut_everywhere(&USUAL, most, |_| false);
        assert!(images > 150, "{images} images");
    }
}

/// The control: a disk that forgets what was synced loses acknowledged work, and that is seen.
#[test]
#[should_panic(expected = "allowed")]
fn a_lost_sync_is_found() {
    let forgets =
        |change: &Change| matches!(change, Change::SyncDirectory(path) if path.ends_with("networks"));
    cut_everywhere(&[Act::PutNetwork(1, false)], OPERATIONS, forgets);
}

/// The same of an answer.
#[test]
#[should_panic(expected = "allowed")]
fn a_lost_sync_of_an_answer_is_found() {
    let forgets = |change: &Change| matches!(change, Change::SyncData(path) if path.ends_with(results::NAME));
    cut_everywhere(&USUAL, OPERATIONS, forgets);
}

/// The same of the name that a full file gets.
#[test]
#[should_panic(expected = "allowed")]
fn a_lost_sync_of_the_previous_answers_is_found() {
    let mut begins = false;
    let forgets = |change: &Change| match change {
        Change::Link(_, to) => {
            begins = to.ends_with(results::PREVIOUS);
            false
        }
        Change::SyncDirectory(_) => std::mem::take(&mut begins),
        _ => false,
    };
    cut_everywhere(&USUAL, 2, forgets);
}
