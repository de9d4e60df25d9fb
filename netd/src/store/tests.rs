//! The state directory under damage, kills, full disks and a second daemon.

use std::{fs, net::IpAddr, os::unix::fs::symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    controller::{self, CreateNetwork, Facts},
    ipam::{World, docker_default_pools},
    model::{Binding, DnsConfig, Protocol, SandboxMode, Sources},
};

pub(super) fn network(name: &str, id: u8) -> Network {
    let pools = docker_default_pools();
    let world = World { networks: &[], host: &[], default_pools: &pools };
    let request = CreateNetwork { name: name.to_owned(), ..CreateNetwork::default() };
    let facts = Facts { world, id: Id::from_bytes(&[id; 32]), created: String::new(), index: Some(1) };
    controller::create_network(&request, facts).expect("valid")
}

pub(super) fn sandbox(id: u8, ports: u16) -> Sandbox {
    let binding = |offset: u16, host_ip: &str| Binding {
        host_ip: host_ip.parse::<IpAddr>().expect("an address"),
        host_port: 2000 + offset,
        port: 1000 + offset,
        protocol: Protocol::Tcp,
        endpoint: Id::from_bytes(&[id; 32]),
        allow: Sources::default(),
    };
    let v4 = (0..ports).map(|offset| binding(offset, "0.0.0.0"));
    Sandbox {
        id: Id::from_bytes(&[id; 32]),
        name: format!("s{id}").parse().expect("a name"),
        created: String::new(),
        mode: SandboxMode::Endpoints,
        netns: None,
        hostname: "host".to_owned(),
        dns: DnsConfig::default(),
        endpoints: Vec::new(),
        publish: Vec::new(),
        publish_all: false,
        exposed: Vec::new(),
        bindings: v4.chain((0..ports).map(|offset| binding(offset, "::"))).collect(),
        links: Vec::new(),
        labels: BTreeMap::new(),
        command: Vec::new(),
        pid: None,
    }
}

fn create(network: &Network) -> Intent {
    Intent::CreateNetwork(Box::new(network.clone()))
}

/// Opens a state directory without copies: nobody can write there.
fn open(dir: &Path) -> Result<Store, Error> {
    Store::open(dir, Path::new("/proc/nowhere"))
}

fn reopened(dir: &TempDir) -> Loaded {
    open(dir.path()).expect("opens").load().expect("loads")
}

fn path_of(dir: &TempDir, network: &Network) -> PathBuf {
    dir.path().join("networks").join(format!("{}.json", network.id))
}

#[test]
fn what_the_disk_would_not_forget_is_still_there() {
    let dir = TempDir::new().expect("a directory");
    let (web, one) = (network("web", 1), sandbox(2, 3));
    let files = || {
        let names = fs::read_dir(dir.path().join("networks")).expect("lists");
        names.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
    };
    let mut store = open(dir.path()).expect("opens");
    store.put_network(&web).expect("puts");
    store.put_sandbox(&one).expect("puts");
    let before = files();
    disk::refusing(disk::Refusal::SyncDirectory, || {
        store.remove_network(&web.id).expect_err("refused");
        store.remove_sandbox(&one.id).expect_err("refused");
    });
    assert_eq!(files(), before);
    drop(store);
    let loaded = reopened(&dir);
    assert_eq!((loaded.networks, loaded.sandboxes), (vec![web.clone()], vec![one.clone()]));

    let mut store = open(dir.path()).expect("opens");
    store.remove_network(&web.id).expect("removes");
    store.remove_sandbox(&one.id).expect("removes");
    assert!(files().is_empty(), "{:?}", files());
}

#[test]
fn what_the_disk_would_not_keep_aside_is_still_there() {
    for refusal in [disk::Refusal::Link, disk::Refusal::Unlink] {
        let dir = TempDir::new().expect("a directory");
        let mut store = open(dir.path()).expect("opens");
        for ports in 1..=3 {
            store.put_sandbox(&sandbox(2, ports)).expect("puts");
        }
        disk::refusing(refusal, || store.put_sandbox(&sandbox(2, 9)).expect_err("refused"));
        drop(store);
        assert_eq!(reopened(&dir).sandboxes, [sandbox(2, 3)], "{refusal:?}");
    }
}

#[test]
fn what_was_put_is_there_after_a_restart() {
    let dir = TempDir::new().expect("a directory");
    let (web, one) = (network("web", 1), sandbox(2, 3));
    let instance = {
        let mut store = open(dir.path()).expect("opens");
        store.journal_begin(&create(&web), None).expect("begins");
        store.put_network(&web).expect("puts");
        store.journal_clear().expect("clears");
        store.put_sandbox(&one).expect("puts");
        store.remember_sysctl("net.ipv4.ip_forward", "0").expect("remembers");
        store.remember_sysctl("net.ipv4.ip_forward", "1").expect("keeps the first");
        store.meta().instance.clone()
    };
    let mut store = open(dir.path()).expect("opens");
    assert_eq!(store.meta().instance, instance);
    assert_eq!(store.meta().sysctls["net.ipv4.ip_forward"], "0");
    let loaded = store.load().expect("loads");
    assert_eq!((loaded.networks, loaded.sandboxes), (vec![web.clone()], vec![one.clone()]));
    assert_eq!((loaded.journal, loaded.warnings), (None, Vec::new()));

    store.remove_network(&web.id).expect("removes");
    store.remove_sandbox(&one.id).expect("removes");
    store.remove_sandbox(&one.id).expect("removing again is fine");
    drop(store);
    let loaded = reopened(&dir);
    assert_eq!((loaded.networks.len(), loaded.sandboxes.len()), (0, 0));
}

#[test]
fn an_operation_in_flight_is_found_after_a_kill() {
    let dir = TempDir::new().expect("a directory");
    let (before, after) = (Box::new(sandbox(1, 1)), Box::new(sandbox(1, 2)));
    let web = network("web", 1);
    for intent in [
        create(&web),
        Intent::RemoveNetwork(Box::new(web.clone())),
        Intent::UpdateNetwork { before: Box::new(web.clone()), after: Box::new(web.clone()) },
        Intent::CreateSandbox(before.clone()),
        Intent::UpdateSandbox { before: before.clone(), after },
        Intent::RemoveSandbox(before),
    ] {
        let mut store = open(dir.path()).expect("opens");
        store.journal_begin(&intent, None).expect("begins");
        // A killed process runs no destructor, so the staged file stays behind.
        std::mem::forget(store.staged.take());
        drop(store);
        assert_eq!(reopened(&dir).journal, Some(intent));
        let files = fs::read_dir(dir.path().join("networks")).expect("lists").count();
        assert_eq!(files, 0, "temporary files are swept");
    }
    open(dir.path()).expect("opens").journal_clear().expect("clears");
    assert_eq!(reopened(&dir).journal, None);
}

#[test]
fn a_second_daemon_is_told_which_directory() {
    let dir = TempDir::new().expect("a directory");
    let _first = open(dir.path()).expect("opens");
    let error = open(dir.path()).expect_err("locked");
    assert_eq!(
        error.to_string(),
        format!(
            "another netd daemon (pid {}) uses the state directory {}",
            std::process::id(),
            dir.path().display()
        )
    );
}

#[test]
fn state_is_for_its_owner_alone() {
    let dir = TempDir::new().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("opens up");
    let mut store = open(dir.path()).expect("opens");
    let web = network("web", 1);
    store.put_network(&web).expect("puts");
    store.put_network(&web).expect("puts");
    let mode = |path: &Path| fs::symlink_metadata(path).expect("exists").permissions().mode() & 0o777;
    for directory in ["", "networks", "sandboxes"] {
        assert_eq!(mode(&dir.path().join(directory)), 0o700, "{directory}");
    }
    let previous = path_of(&dir, &web).with_extension("json.prev");
    for file in [dir.path().join("meta.json"), dir.path().join("journal.json"), path_of(&dir, &web), previous]
    {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

/// The text of a file that another netd wrote.
fn of_schema(schema: u32, body: &str) -> String {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(format!("Network {schema}\n{body}").as_bytes());
    let crc = hasher.finalize();
    let length = body.len();
    format!(
        "{{\"kind\":\"network\",\"schema\":{schema},\"length\":{length},\"crc32\":\"{crc:08x}\",\"body\":{body}}}\n"
    )
}

#[test]
fn what_another_netd_wrote_is_read_as_far_as_it_is_known() {
    let dir = TempDir::new().expect("a directory");
    let (web, db) = (network("web", 1), network("db", 2));
    drop(open(dir.path()).expect("opens"));
    let mut body = serde_json::to_value(&web).expect("encodes");
    body["colour"] = "blue".into();
    fs::write(path_of(&dir, &web), of_schema(9, &body.to_string())).expect("writes");
    fs::write(path_of(&dir, &db), of_schema(9, "{}")).expect("writes");
    let loaded = reopened(&dir);
    assert_eq!(loaded.networks, [web]);
    assert!(
        loaded.warnings[0].contains("a newer netd wrote it (schema 9, known here: up to 1)"),
        "{:?}",
        loaded.warnings
    );
    assert!(loaded.incomplete, "its kernel objects must not be swept");
    // So it stays until the object is removed, or the file.
    assert!(reopened(&dir).incomplete);
    let mut store = open(dir.path()).expect("opens");
    store.remove_network(&db.id).expect("removes");
    assert!(!store.load().expect("loads").incomplete);
}

#[test]
fn a_lost_directory_is_made_again_from_its_copies() {
    let (dir, copies) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let state = dir.path().join("state");
    let (web, one, gone) = (network("web", 1), sandbox(2, 3), sandbox(3, 1));
    let mut store = Store::open(&state, copies.path()).expect("opens");
    store.put_network(&web).expect("puts");
    store.put_sandbox(&sandbox(2, 1)).expect("puts");
    store.put_sandbox(&one).expect("puts");
    store.put_sandbox(&gone).expect("puts");
    store.remove_sandbox(&gone.id).expect("removes");
    store.remember_sysctl("net.ipv4.ip_forward", "0").expect("remembers");
    let meta = store.meta().clone();
    drop(store);
    // Damage of the current generation: what was acknowledged last is in the copy, and not in the previous generation.
    let path = state.join("sandboxes").join(format!("{}.json", one.id));
    fs::write(&path, "garbage").expect("writes");
    let loaded = Store::open(&state, copies.path()).and_then(|mut store| store.load()).expect("loads");
    assert_eq!((&loaded.sandboxes[..], loaded.incomplete), (&[one.clone()][..], false));
    // Damage of one object in both generations: its copy, and nothing else, takes its place.
    let path = state.join("networks").join(format!("{}.json", web.id));
    fs::write(&path, "garbage").expect("writes");
    let loaded = Store::open(&state, copies.path()).and_then(|mut store| store.load()).expect("loads");
    assert_eq!((&loaded.networks[..], &loaded.sandboxes[..]), (&[web.clone()][..], &[one.clone()][..]));
    assert!(!loaded.incomplete && loaded.warnings.iter().any(|warning| warning.contains("its copy is used")));
    for lost in [&state, &state.join("meta.json")] {
        fs::remove_dir_all(lost).or_else(|_| fs::remove_file(lost)).expect("removes");
        let _ = fs::remove_file(state.join("meta.json.prev"));
        let mut store = Store::open(&state, copies.path()).expect("opens");
        assert_eq!(store.meta(), &meta);
        let loaded = store.load().expect("loads");
        assert_eq!((&loaded.networks[..], &loaded.sandboxes[..]), (&[web.clone()][..], &[one.clone()][..]));
    }
    // What is gone from the state directory for good reason does not come back.
    let mut store = Store::open(&state, copies.path()).expect("opens");
    store.remove_network(&web.id).expect("removes");
    drop(store);
    let loaded = Store::open(&state, copies.path()).and_then(|mut store| store.load()).expect("loads");
    assert_eq!((loaded.networks.len(), loaded.sandboxes.len()), (0, 1));
    Store::open(&state, copies.path()).and_then(Store::wipe).expect("wipes");
    assert!(!state.exists() && !copies.path().exists());
}

/// Damage that a state file may suffer.
#[derive(Debug, Clone)]
enum Harm {
    Truncate(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Zero(prop::sample::Index),
    Replace(Vec<u8>),
}

impl Harm {
    fn apply(&self, mut text: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Truncate(at) => text.truncate(at.index(text.len())),
            Self::Flip(at, bit) => {
                let at = at.index(text.len());
                text[at] ^= 1 << bit;
            }
            Self::Zero(at) => {
                let at = at.index(text.len());
                text[at..].fill(0);
            }
            Self::Replace(bytes) => text.clone_from(bytes),
        }
        text
    }
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Harm::Truncate),
        (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        any::<prop::sample::Index>().prop_map(Harm::Zero),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(Harm::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_gives_way_to_the_generation_before(harm in harm()) {
        let dir = TempDir::new().expect("a directory");
        let (old, new) = (network("web", 1), Network { internal: true, ..network("web", 1) });
        let mut store = open(dir.path()).expect("opens");
        store.put_network(&old).expect("puts");
        store.put_network(&new).expect("puts");
        drop(store);

        let path = path_of(&dir, &new);
        let text = fs::read(&path).expect("reads");
        let damaged = harm.apply(text.clone());
        prop_assume!(damaged != text);
        // Written as a new file: the previous generation may share its blocks with nothing.
        fs::remove_file(&path).expect("removes");
        fs::write(&path, &damaged).expect("writes");

        let loaded = reopened(&dir);
        prop_assert_eq!(&loaded.networks, &vec![old.clone()]);
        prop_assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
        let again = reopened(&dir);
        prop_assert_eq!((again.networks, again.warnings), (vec![old], Vec::new()), "the repair lasts");
        let bad = fs::read_dir(dir.path().join("networks")).expect("lists")
            .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains(".bad-")));
        prop_assert_eq!(bad.count(), 1);
    }

    #[test]
    fn a_damaged_journal_is_the_intent_or_nothing(harm in harm()) {
        let dir = TempDir::new().expect("a directory");
        let intent = create(&network("web", 1));
        open(dir.path()).expect("opens").journal_begin(&intent, None).expect("begins");
        let path = dir.path().join("journal.json");
        fs::write(&path, harm.apply(fs::read(&path).expect("reads"))).expect("writes");
        let journal = reopened(&dir).journal;
        prop_assert!(journal.is_none() || journal == Some(intent.clone()));
        let mut store = open(dir.path()).expect("opens");
        store.journal_begin(&intent, None).expect("works on");
        drop(store);
        prop_assert_eq!(reopened(&dir).journal, Some(intent));
    }

    #[test]
    fn bindings_survive_folding(offsets in prop::collection::btree_set(0..200_u16, 0..100)) {
        let mut sandbox = sandbox(1, 200);
        sandbox.bindings.retain(|binding| offsets.contains(&(binding.port - 1000)));
        let text = serde_json::to_string(&sandbox).expect("encodes");
        prop_assert_eq!(serde_json::from_str::<Sandbox>(&text).expect("decodes"), sandbox);
    }
}

#[test]
fn a_range_of_ports_takes_one_line() {
    let text = serde_json::to_string(&sandbox(1, 60_000)).expect("encodes");
    assert!(text.len() < 2000, "{} bytes", text.len());
}

#[test]
fn the_instance_outlives_the_loss_of_one_generation() {
    let dir = TempDir::new().expect("a directory");
    let instance = open(dir.path()).expect("opens").meta().instance.clone();
    fs::remove_file(dir.path().join("meta.json")).expect("removes");
    fs::write(dir.path().join("meta.json"), "garbage").expect("writes");
    let mut store = open(dir.path()).expect("opens");
    assert_eq!(store.meta().instance, instance);
    assert_eq!(store.load().expect("loads").warnings.len(), 2);
}

#[test]
fn foreign_files_are_set_aside_or_ignored() {
    let dir = TempDir::new().expect("a directory");
    let (web, db) = (network("web", 1), network("db", 2));
    let mut store = open(dir.path()).expect("opens");
    store.put_network(&web).expect("puts");
    drop(store);
    fs::write(dir.path().join("networks/README"), "not ours").expect("writes");
    fs::copy(path_of(&dir, &web), path_of(&dir, &db)).expect("copies");
    symlink("/etc/passwd", dir.path().join("sandboxes/link.json")).expect("links");
    fs::create_dir(dir.path().join("sandboxes/directory.json")).expect("makes");
    for name in ["sandboxes/huge.json", "journal.json"] {
        let huge = fs::File::create(dir.path().join(name)).expect("creates");
        huge.set_len(2 << 30).expect("a sparse file");
    }

    let loaded = reopened(&dir);
    assert_eq!(loaded.networks, [web]);
    assert_eq!(loaded.warnings.len(), 6, "{:#?}", loaded.warnings);
    assert!(dir.path().join("networks/README").exists());
}

#[test]
fn wiping_leaves_nothing_but_what_is_not_ours() {
    let dir = TempDir::new().expect("a directory");
    let state = dir.path().join("state");
    let mut store = open(&state).expect("opens");
    store.put_network(&network("web", 1)).expect("puts");
    store.wipe().expect("wipes");
    assert!(!state.exists());

    let store = open(&state).expect("opens");
    fs::write(state.join("mine"), "").expect("writes");
    store.wipe().expect("wipes");
    assert_eq!(fs::read_dir(&state).expect("stays").count(), 1);
}

/// Mounts a small tmpfs that only this thread sees; None: the test does not run as root.
fn small_disk(dir: &TempDir, kib: u32) -> Option<()> {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("private mounts");
    let options = format!("size={kib}k");
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .expect("a tmpfs");
    Some(())
}

#[test]
fn a_full_disk_is_reported_first_and_removing_still_works() {
    let dir = TempDir::new().expect("a directory");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if small_disk(&dir, 192).is_none() {
                return;
            }
            let mut store = open(dir.path()).expect("opens");
            let web = network("web", 1);
            store.put_network(&web).expect("puts");
            let filler = dir.path().join("filler");
            let error = fs::write(&filler, vec![0; 1 << 20]).expect_err("the disk is full");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);

            let db = network("db", 2);
            let error = store.journal_begin(&create(&db), None).expect_err("no room");
            assert!(error.is_no_space(), "{error}");
            let changed = Network { internal: true, ..web.clone() };
            assert!(store.put_network(&changed).expect_err("no room").is_no_space());
            let loaded = store.load().expect("loads");
            assert_eq!((loaded.networks, loaded.journal), (vec![web.clone()], None));

            store.journal_begin(&Intent::RemoveNetwork(Box::new(web.clone())), None).expect("there is room");
            store.remove_network(&web.id).expect("removes");
            store.journal_clear().expect("clears");
            fs::remove_file(&filler).expect("frees the disk");
            store.journal_begin(&create(&db), None).expect("works again");
            store.put_network(&db).expect("works again");
            assert_eq!(store.load().expect("loads").networks, [db]);
        });
    });
}
