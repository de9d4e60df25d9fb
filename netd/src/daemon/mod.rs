//! The daemon's life: directories, packet path, repaired state, API; and a stop that touches no traffic.
//!
//! Whatever ends the daemon, forwarding goes on: everything in the kernel is pinned or has a life of its own, and nothing here
//! runs a destructor over it. Only `netd down` removes it.

mod activation;
mod bpffs;
mod directories;
mod down;
mod hardening;
mod watchdog;

use std::{
    os::unix::net::UnixListener as StdListener,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::sys::stat::Mode;
use sd_notify::NotifyState;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use crate::{
    api,
    audit::{self, Log},
    config::Settings,
    controller::{
        Code, Controller, End, Error, Handle, HostChanges, Linux, Renderer, Reserved, Settings as Rules,
        SharedDataplane, Site,
    },
    dataplane::{self, Dataplane, Kernel},
    ipam::ula_pool,
    kernel_release,
    link::{Changes, Links, Watcher},
    store::Store,
    sysctl::{self, ReservedPorts},
};

pub use down::down;
pub use hardening::harden;

/// Changes of links and routes come in bursts; this long after the first one, they are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Longest time between two times that the packet path is asked whether expired flows are to be collected.
const COLLECT_ASKED_EVERY: Duration = Duration::from_secs(1);
/// How long an operation in flight may take once the daemon was told to stop (reliability F2).
const FINISH: Duration = Duration::from_secs(5);
/// Name of `ip_local_reserved_ports` in the stored state.
const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// Serves until SIGTERM or SIGINT, which leave all traffic running, or until `netd down`.
///
/// # Errors
/// Names what could not be set up, or that another daemon is there already.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| start("handle SIGTERM", &error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| start("handle SIGINT", &error))?;
    refuse_old_kernel(&kernel_release::text())?;
    let passed = activation::listener(&directories::socket(&settings))
        .map_err(|error| start("take the socket that the service manager passed", &error))?;
    if passed.is_none() {
        directories::is_alone(&settings)?;
    }
    directories::prepare(&settings)?;
    let store = directories::open_store(&settings)?;
    let listener = listen(&settings, passed)?;
    let links = Links::open().await?;
    // What changes while the start looks at everything is heard of after it.
    let watcher = Watcher::open(links.netns()).await?;
    let (controller, handle, commands) = assemble(&settings, store, links).await?;
    let audit = Log::start(audit::directory(&settings.state_dir), settings.audit);
    let audit = Arc::new(audit.map_err(|error| start("write the audit log", &error))?);
    let (stop, stopping) = watch::channel(false);
    let audit_for_api = Arc::clone(&audit);
    let service = api::Service { listener, handle, audit: audit_for_api, user_limits: settings.user_limits };
    let served = tokio::spawn(api::serve_until(service, until(stopping.clone())));
    let changes = Debounced { watcher, begun: None };
    let mut working = tokio::spawn(controller.run(commands, changes, stopping));
    notify(NotifyState::Ready);
    tokio::spawn(watchdog::watch());
    tracing::info!(instance = %settings.instance, socket = %directories::socket(&settings).display(), "daemon ready");
    let early = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut working => Some(ended),
    };
    notify(NotifyState::Stopping);
    let _ = stop.send(true); // both tasks may have ended
    let ended = match early {
        Some(ended) => ended,
        None => tokio::time::timeout(FINISH, working)
            .await
            .map_err(|_| Error::new(Code::Failure, "stop: the operation in flight did not end in time"))?,
    };
    let (controller, end) =
        ended.map_err(|error| Error::new(Code::Failure, format!("the controller ended: {error}")))?;
    finish_requests(served).await;
    audit.flush();
    if end == End::Down {
        return down::erase(&settings, controller.into_store());
    }
    directories::forget_pid(&settings);
    tracing::info!("daemon stopped; traffic goes on");
    Ok(())
}

/// Ends the start on a kernel that netd cannot run on, before it changes anything. One whose release says nothing is given a try.
fn refuse_old_kernel(release: &str) -> Result<(), Error> {
    match kernel_release::parse(release) {
        Some(version) if version < kernel_release::FLOOR => {
            let (major, minor) = kernel_release::FLOOR;
            let why = format!(
                "start the daemon: kernel {release} lacks what netd needs ({major}.{minor} or later)"
            );
            Err(Error::new(Code::Unsupported, why).hint("netd doctor lists what is missing"))
        }
        _ => Ok(()),
    }
}

async fn finish_requests(served: JoinHandle<()>) {
    if let Err(error) = served.await {
        tracing::error!(%error, "the API ended early");
    }
}

/// Opens the packet path and repairs what the stored state says.
async fn assemble(
    settings: &Settings,
    mut store: Store,
    links: Links,
) -> Result<(Controller<Linux>, Handle, crate::controller::Commands), Error> {
    let original = original_reserved_ports(settings, &links, &mut store).await?;
    let reserved = Reserved::start(links.netns(), &original, &settings.nat_port_ranges).await?;
    let dataplane = open_dataplane(settings)?;
    let site = Site {
        instance: settings.instance.to_string(),
        run_dir: settings.run_dir.clone(),
        only_uplinks: settings.uplinks.clone(),
    };
    let machine = Linux::new(links, dataplane, reserved, &site)?;
    let rules = rules(settings, &store);
    let (mut controller, handle, commands) =
        Controller::new(machine, store, rules, Renderer::new(settings.dns.clone()));
    controller.reconcile().await?;
    Ok((controller, handle, commands))
}

fn open_dataplane(settings: &Settings) -> Result<SharedDataplane, Error> {
    bpffs::ensure(&settings.bpffs)?;
    if settings.bpffs.exists() {
        directories::take(&settings.bpffs)?;
    }
    let kernel = Kernel::open(settings.dataplane())?;
    let shared: SharedDataplane = Arc::new(Mutex::new(Box::new(kernel) as Box<dyn Dataplane>));
    // A destructor would detach what it finds: this reference is never given back.
    std::mem::forget(Arc::clone(&shared));
    Ok(shared)
}

/// Returns the host's own list of reserved ports: as it is now at the first start, as it was then at every other. Where nobody remembers, it is what is
/// left of the present one without what this instance reserves.
async fn original_reserved_ports(
    settings: &Settings,
    links: &Links,
    store: &mut Store,
) -> Result<ReservedPorts, Error> {
    if let Some(text) = store.meta().sysctls.get(RESERVED_PORTS) {
        return ReservedPorts::parse(text).ok_or_else(|| {
            Error::new(Code::Failure, format!("the stored {RESERVED_PORTS} is malformed: {text:?}"))
        });
    }
    let present = ReservedPorts::read(links.netns()).await?;
    let ours = own_reserved_ports(settings, links).await?;
    let original = if ours.is_empty() { present } else { present.without(&ours, &ReservedPorts::default()) };
    store.remember_sysctl(RESERVED_PORTS, &original.to_string())?;
    Ok(original)
}

/// Returns the host ports that an earlier daemon of this instance reserved, as its pinned maps say; none where it left no pins.
async fn own_reserved_ports(settings: &Settings, links: &Links) -> Result<Vec<(u16, u16)>, Error> {
    if !settings.bpffs.exists() {
        return Ok(Vec::new());
    }
    let ephemeral = sysctl::local_port_range(links.netns()).await?;
    let published = dataplane::published_ports(&settings.bpffs);
    let published = published.into_iter().filter(|port| ephemeral.contains(port)).map(|port| (port, port));
    Ok(published.chain(settings.nat_port_ranges.iter().copied()).collect())
}

fn rules(settings: &Settings, store: &Store) -> Rules {
    let mut default_pools = settings.default_pools.clone();
    if !default_pools.iter().any(|pool| pool.base.addr().is_ipv6()) {
        default_pools.push(ula_pool(&store.meta().instance));
    }
    Rules {
        instance: settings.instance.to_string(),
        default_pools,
        default_bridge: settings.default_bridge.clone(),
        network_options: settings.network_options.clone(),
        network_slots: u16::try_from(netd_common::maps::capacity::NETWORK).unwrap_or(u16::MAX),
        direct_routing: settings.direct.routing,
        collect_every: settings.timeouts.collect_every().min(COLLECT_ASKED_EVERY),
    }
}

/// Takes the API's socket where the service manager has one, or binds it, for root and the socket's group alone.
fn listen(settings: &Settings, passed: Option<StdListener>) -> Result<UnixListener, Error> {
    let path = directories::socket(settings);
    let listener = match passed {
        Some(listener) => listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener)),
        None => bind(&path),
    };
    let listener = listener.map_err(|error| start(&format!("listen at {}", path.display()), &error))?;
    // The directory first: who may not enter it has no use for the socket.
    directories::give_to_group(settings, &settings.run_dir)?;
    directories::give_to_group(settings, &path)?;
    Ok(listener)
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = nix::sys::stat::umask(Mode::from_bits_truncate(0o117));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    listener
}

fn start(what: &str, error: &std::io::Error) -> Error {
    let code = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Code::Permission,
        _ => Code::Failure,
    };
    Error::new(code, format!("start the daemon: {what}: {error}"))
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager was not told");
    }
}

async fn until(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await; // the sender's end is a stop too
}

/// Changes of the host, a burst at a time.
struct Debounced {
    watcher: Watcher,
    /// When to look at the burst that has begun, and what it began with.
    begun: Option<(Instant, Changes)>,
}

impl HostChanges for Debounced {
    /// May be dropped and called again at any point: a burst that has begun is remembered.
    async fn changed(&mut self) -> Changes {
        let due = if let Some((due, _)) = &self.begun {
            *due
        } else {
            let changes = self.watcher.changed().await;
            // No way is found from a bridge that was told not to forward: that can't wait.
            let debounce = if changes.can_not_wait() { Duration::ZERO } else { DEBOUNCE };
            self.begun.insert((Instant::now() + debounce, changes)).0
        };
        tokio::time::sleep_until(due).await;
        let mut changes = self.begun.take().map(|(_, changes)| changes).unwrap_or_default();
        changes.add(self.watcher.noticed());
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_too_old_is_refused_by_its_name() {
        let error = refuse_old_kernel("5.10.0-33-cloud-amd64").expect_err("too old");
        assert_eq!(error.code, Code::Unsupported);
        assert!(error.message.contains("kernel 5.10.0-33-cloud-amd64 lacks what netd needs (6.1 or later)"));
        for release in ["6.1.0-18-amd64", "6.12.9", "7.2.0", "of my own"] {
            refuse_old_kernel(release).expect("new enough, or unknown");
        }
    }
}
