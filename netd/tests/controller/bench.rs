//! A controller in the calling thread's namespace, with directories of its own.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use netd::{
    controller::{
        Attachment, Controller, CreateNetwork, CreateSandbox, End, Handle, HostChanges, Linux, Renderer,
        Reserved, Settings, SharedDataplane, Site,
    },
    dataplane::{Dataplane, fake::Fake},
    ipam::{docker_default_pools, ula_pool},
    link::{Changes, Links},
    model::DnsConfig,
    netns::Netns,
    store::Store,
    sysctl::ReservedPorts,
};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};

/// A program that a test starts has copies of every test's sockets and locks until it runs: with another test beside it, what that one has closed
/// would still be held.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs a test on a thread with a namespace of its own, which ends with the thread.
pub fn in_new_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(tokio::task::LocalSet::new().run_until(test()));
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// `sandbox create` with names and specifications.
pub fn request(name: &str, networks: &[&str], publish: &[&str]) -> CreateSandbox {
    CreateSandbox {
        name: Some(name.into()),
        networks: networks
            .iter()
            .map(|network| Attachment { network: (*network).into(), ..Attachment::default() })
            .collect(),
        publish: publish.iter().map(|text| text.parse().expect("a specification")).collect(),
        ..CreateSandbox::default()
    }
}

/// A running controller.
pub struct Bench {
    pub handle: Handle,
    dataplane: SharedDataplane,
    dir: TempDir,
    stop: watch::Sender<bool>,
    task: JoinHandle<(Controller<Linux>, End)>,
}

/// A host that nobody changes.
struct Still;

impl HostChanges for Still {
    async fn changed(&mut self) -> Changes {
        std::future::pending().await
    }
}

impl Bench {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let fake: Box<dyn Dataplane> = Box::new(Fake::default());
        Self::on(Arc::new(Mutex::new(fake)), dir).await
    }

    async fn on(dataplane: SharedDataplane, dir: TempDir) -> Self {
        let links = Links::open().await.expect("links");
        let mut store = Store::open(&dir.path().join("state"), &dir.path().join("copies")).expect("store");
        let present = ReservedPorts::read(links.netns()).await.expect("setting");
        store.remember_sysctl("reserved", &present.to_string()).expect("stored");
        let original = ReservedPorts::parse(&store.meta().sysctls["reserved"]).expect("a list");
        let reserved =
            Reserved::start(links.netns(), &original, &[(10_000, 32_767)]).await.expect("reserved");
        let site =
            Site { instance: "test".into(), run_dir: dir.path().join("run"), only_uplinks: Vec::new() };
        let machine = Linux::new(links, Arc::clone(&dataplane), reserved, &site).expect("machine");
        let mut default_pools = docker_default_pools();
        default_pools.push(ula_pool(&store.meta().instance));
        let settings = Settings {
            instance: "test".into(),
            default_pools,
            default_bridge: CreateNetwork::default(),
            network_options: std::collections::BTreeMap::new(),
            network_slots: 64,
            direct_routing: false,
            collect_every: Duration::from_secs(5),
        };
        let (mut controller, handle, commands) =
            Controller::new(machine, store, settings, Renderer::new(DnsConfig::default()));
        controller.reconcile().await.expect("reconciled");
        let (stop, stopping) = watch::channel(false);
        // On this thread: another one would be in another namespace.
        let task = tokio::task::spawn_local(controller.run(commands, Still, stopping));
        Self { handle, dataplane, dir, stop, task }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Ends the controller as SIGTERM does, and starts another one.
    pub async fn restart(self) -> Self {
        let Self { dataplane, dir, stop, task, .. } = self;
        stop.send(true).expect("running");
        let (controller, end) = task.await.expect("ended well");
        assert_eq!(end, End::Stopped);
        drop(controller);
        Self::on(dataplane, dir).await
    }

    /// Copies the stored state as it is now.
    pub fn save_state(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("directory");
        copy_dir(&self.dir.path().join("state"), copy.path());
        copy
    }

    /// Ends the controller, puts an older state in place, and starts another one.
    pub async fn restart_from(self, state: TempDir) -> Self {
        let Self { dataplane, dir, stop, task, .. } = self;
        stop.send(true).expect("running");
        drop(task.await.expect("ended well"));
        std::fs::remove_dir_all(dir.path().join("state")).expect("removed");
        copy_dir(state.path(), &dir.path().join("state"));
        Self::on(dataplane, dir).await
    }

    /// Takes everything down and checks that the packet path is empty.
    pub async fn down(self) {
        self.handle.down().await.expect("down");
        let (controller, end) = self.task.await.expect("ended well");
        assert_eq!(end, End::Down);
        controller.into_store().wipe().expect("wiped");
        let inventory =
            self.dataplane.lock().unwrap_or_else(PoisonError::into_inner).inventory().expect("inventory");
        assert!(
            inventory.endpoints.is_empty() && inventory.publishes.is_empty() && inventory.networks.is_empty()
        );
        let left: Vec<_> = ["netns", "sandboxes"]
            .iter()
            .filter_map(|name| std::fs::read_dir(self.dir.path().join("run").join(name)).ok())
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Makes a namespace of somebody else's with an `eth0` in it. It ends with the value.
    pub fn foreign_namespace() -> Netns {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root");
            let added = std::process::Command::new("ip")
                .args(["link", "add", "eth0", "type", "veth", "peer", "name", "peer0"])
                .status();
            assert!(added.expect("iproute2").success());
            Netns::current().expect("namespace")
        };
        let netns = std::thread::spawn(make).join().expect("namespace");
        // A path that lives as long as the descriptor.
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&netns));
        let path = format!("/proc/{}/fd/{fd}", std::process::id());
        let by_path = Netns::open_path(Path::new(&path)).expect("namespace");
        std::mem::forget(netns); // keeps the path, until the test process ends
        by_path
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    for entry in std::fs::read_dir(from).expect("directory") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
