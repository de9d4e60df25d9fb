//! The controller's task: takes one command after the other, plans it, journals it, applies it, commits it and answers.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};

use super::{
    Code, CreateNetwork, Error, Event, Handle, Phase, World,
    apply::{self, Machine, PortFacts},
    files::Renderer,
    handle::{Command, Commands, Order},
    host::HostView,
    plan,
    promotions::Promotions,
    publish::HostPorts,
    rounds::Rounds,
    unfinished::Unfinished,
};
use crate::{
    dataplane::Unhooked,
    failpoint,
    ipam::DefaultPool,
    link::{Changes, Proxy},
    model::{Answer, Finished, Operation},
    pulse,
    store::{Intent, Store},
};

/// Commands that may wait; more wait at the sender's side (reliability 8.3).
const QUEUE: usize = 64;
/// Events that a slow reader may be behind.
const EVENTS: usize = 1024;

/// What the controller is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's name.
    pub instance: String,
    /// Where subnets come from that nobody names, of both families.
    pub default_pools: Vec<DefaultPool>,
    /// The network `bridge`, as far as the configuration says.
    pub default_bridge: CreateNetwork,
    /// Options of every new network that does not give them itself.
    pub network_options: BTreeMap<String, String>,
    /// Networks that the dataplane has slots for.
    pub network_slots: u16,
    /// Whether published ports may be addressed directly on every network (`allow-direct-routing`).
    pub direct_routing: bool,
    /// Between two collections of expired flows.
    pub collect_every: Duration,
}

/// The state of the one writer.
pub struct Controller<M> {
    pub(super) machine: M,
    pub(super) store: Store,
    pub(super) world: Arc<World>,
    pub(super) settings: Settings,
    pub(super) renderer: Renderer,
    /// The host as the packet path knows it.
    pub(super) host: HostView,
    /// What the host answers for on the links outside; None: not known.
    pub(super) proxies: Option<BTreeSet<Proxy>>,
    /// What of others' changes was looked for, and what could not be put right.
    pub(super) rounds: Rounds,
    /// When a program of an endpoint is made faster.
    pub(super) promotions: Promotions,
    /// What the last look at all of it could not put right.
    pub(super) unfinished: Unfinished,
    /// The last ephemeral host port handed out.
    pub(super) last_port: u16,
    /// Whether the stored state has lost objects: nothing is swept then.
    pub(super) incomplete: bool,
    /// The operation at work, as its caller calls it.
    operation: Option<Operation>,
    /// Why the state is not what it should be, for `status`.
    pub(super) degraded: Option<String>,
    view: watch::Sender<Arc<World>>,
    events: broadcast::Sender<Event>,
}

/// What is left to do when the controller's task has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The daemon was told to stop: everything stays.
    Stopped,
    /// `netd down`: everything is gone but the directories.
    Down,
}

impl<M: Machine> Controller<M> {
    /// Makes a controller with an empty world, and the handle to talk to it; `reconcile` fills the world.
    pub fn new(machine: M, store: Store, settings: Settings, renderer: Renderer) -> (Self, Handle, Commands) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let world = Arc::new(World::empty(settings.direct_routing));
        let (view, seen) = watch::channel(Arc::clone(&world));
        let (events, _) = broadcast::channel(EVENTS);
        let handle = Handle::new(sender, seen, events.clone());
        let controller = Self {
            machine,
            store,
            world,
            settings,
            renderer,
            host: HostView::default(),
            proxies: None,
            rounds: Rounds::default(),
            promotions: Promotions::new(Instant::now()),
            unfinished: Unfinished::default(),
            last_port: 0,
            incomplete: false,
            operation: None,
            degraded: None,
            view,
            events,
        };
        (controller, handle, Commands(commands))
    }

    /// Serves commands until the queue closes, `stop` fires, or everything was taken down. An operation in flight is finished.
    pub async fn run(
        mut self,
        Commands(mut commands): Commands,
        mut host: impl HostChanges,
        mut stop: watch::Receiver<bool>,
    ) -> (Self, End) {
        let mut collect = tokio::time::interval(self.settings.collect_every);
        collect.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pulse::beat();
            // The kernel answers at once, so that an operation may never have waited: whoever was just told runs first.
            tokio::task::yield_now().await;
            let promotion = tokio::time::sleep_until(self.promotions.due());
            let awaits_promotion = self.awaits_promotion();
            let command = tokio::select! {
                biased;
                () = stop.wait_for(|stop| *stop).map(drop) => return (self, End::Stopped),
                command = commands.recv() => command,
                changes = host.changed() => {
                    let anywhere = changes.lost.then_some(Unhooked::Anywhere);
                    self.put_back_hooks(&anywhere.unwrap_or_else(|| Unhooked::On(changes.hooks.clone())));
                    self.host_changed(&changes).await;
                    continue;
                }
                _ = collect.tick() => {
                    self.put_back_hooks(&Unhooked::default());
                    self.look_around().await;
                    self.finish().await;
                    self.machine.collect();
                    continue;
                }
                () = promotion, if awaits_promotion => {
                    self.promote_one();
                    continue;
                }
            };
            let Some(Order { operation, command }) = command else { return (self, End::Stopped) };
            self.operation = operation;
            let writes = command.writes();
            if writes {
                self.rounds.tampering.netd_writes();
            }
            if let Command::Down(reply) = command {
                let result = self.down().await;
                let done = result.is_ok();
                let _ = reply.send(result); // whoever asked may have left
                if done {
                    return (self, End::Down);
                }
                continue;
            }
            // A panic ends the operation, not the daemon; what it left half-done is repaired from the stored state.
            let served = AssertUnwindSafe(self.serve(command)).catch_unwind().await;
            self.operation = None;
            if let Err(panic) = served {
                self.recover(&reason(&*panic)).await;
            }
            if writes {
                self.promotions.operated(Instant::now());
            }
        }
    }

    /// Returns the stored state, when the controller is done with it.
    pub fn into_store(self) -> Store {
        self.store
    }

    async fn recover(&mut self, why: &str) {
        tracing::error!(why, "an operation panicked");
        self.degraded = Some(format!("an operation panicked ({why}); its changes were repaired"));
        if let Err(error) = self.reconcile().await {
            tracing::error!(%error, "state not repaired after a panic");
            self.unfinished.note(error.message);
        }
    }

    async fn serve(&mut self, command: Command) {
        // Whoever asked may have left; the operation is done all the same.
        match command {
            Command::CreateNetwork(request, reply) => {
                let result = self.create_network(&request).await;
                let _ = reply.send(about(result, "network", &request.name));
            }
            Command::RemoveNetwork(network, reply) => {
                let _ = reply.send(about(self.remove_network(&network).await, "network", &network));
            }
            Command::PruneNetworks(select, reply) => {
                let _ = reply.send(self.prune_networks(select).await);
            }
            Command::Connect(sandbox, attachment, reply) => {
                let _ = reply.send(about(self.connect(&sandbox, &attachment).await, "sandbox", &sandbox));
            }
            Command::Disconnect { network, sandbox, force, reply } => {
                let result = self.disconnect(&network, &sandbox, force).await;
                let _ = reply.send(about(result, "sandbox", &sandbox));
            }
            Command::CreateSandbox(request, reply) => {
                let result = self.create_sandbox(&request).await;
                let name = request.name.as_deref().unwrap_or_default();
                let _ = reply.send(about(result, "sandbox", name));
            }
            Command::RemoveSandbox { sandbox, force, reply } => {
                let _ = reply.send(about(self.remove_sandbox(&sandbox, force).await, "sandbox", &sandbox));
            }
            Command::Started(sandbox, pid, reply) => {
                let _ = reply.send(self.set_pid(&sandbox, Some(pid)).await);
            }
            Command::Exited(sandbox, reply) => {
                let _ = reply.send(self.set_pid(&sandbox, None).await);
            }
            Command::Publish(sandbox, specs, reply) => {
                let _ = reply.send(about(self.publish(&sandbox, &specs).await, "sandbox", &sandbox));
            }
            Command::Unpublish { sandbox, specs, kill, reply } => {
                let result = self.unpublish(&sandbox, &specs, kill).await;
                let _ = reply.send(about(result, "sandbox", &sandbox));
            }
            Command::Unlink { sandbox, alias, reply } => {
                let _ = reply.send(about(self.unlink(&sandbox, &alias).await, "sandbox", &sandbox));
            }
            Command::AddPolicy(request, reply) => {
                let _ = reply.send(about(self.add_policy(&request).await, "network", &request.network));
            }
            Command::RemovePolicy(policy, reply) => {
                let _ = reply.send(about(self.remove_policy(&policy).await, "policy", &policy));
            }
            Command::Flows(select, reply) => {
                let _ = reply.send(self.flows(&select));
            }
            Command::FlushFlows(select, reply) => {
                let _ = reply.send(self.flush_flows(&select));
            }
            Command::Drops(reply) => {
                let _ =
                    reply.send(self.machine.dataplane(|dataplane| dataplane.drops()).map_err(Error::from));
            }
            Command::Explainer(reply) => {
                let _ = reply.send(Ok(self.machine.dataplane(|dataplane| dataplane.explainer())));
            }
            Command::Monitor(reply) => {
                let _ = reply.send(Ok(self.machine.dataplane(|dataplane| dataplane.monitor())));
            }
            Command::Recall(id, reply) => {
                let _ = reply.send(Ok(self.store.recall(&id)));
            }
            Command::Status(reply) => {
                let _ = reply.send(Ok(self.status()));
            }
            Command::Down(_) => {}
        }
    }

    /// Goes from the present world to the next: intent, steps, commit. A failed change has changed nothing. What the operation gives back is remembered
    /// with the change that completes it.
    pub(super) async fn change(
        &mut self,
        next: World,
        intent: &Intent,
        answer: Option<Answer>,
    ) -> Result<(), Error> {
        let finished = self.operation.clone().zip(answer);
        let finished = finished.map(|(operation, answer)| Finished::now(operation, answer));
        self.renderer.refresh();
        let steps = plan::diff(&self.world, &next, &self.renderer);
        let written =
            point("journal.before").and_then(|()| Ok(self.store.journal_begin(intent, finished.as_ref())?));
        written.map_err(|error| error.in_phase(Phase::Journal))?;
        let applied = apply::run(&mut self.machine, &steps).await;
        let mut result = applied.map_err(|error| error.in_phase(Phase::Apply));
        if result.is_ok()
            && let Err(error) = point("commit.before").and_then(|()| commit(&mut self.store, intent))
        {
            apply::undo(&mut self.machine, &steps).await;
            result = Err(error.in_phase(Phase::Commit));
        }
        // From here on nothing can fail any more.
        let _ = point("commit.after");
        if result.is_ok() {
            self.remember(finished);
            self.machine.settle().await;
        }
        // A disk that refused once may have done so to anybody.
        if let Err(error) = self.store.journal_clear().or_else(|_| self.store.journal_clear()) {
            tracing::warn!(%error, "journal not cleared");
            self.unfinished.note(format!("clear the journal: {error}"));
        }
        result?;
        self.show(next);
        self.follow_proxies(false).await;
        Ok(())
    }

    /// Remembers what a committed operation gives back.
    pub(super) fn remember(&mut self, finished: Option<Finished>) {
        if let Some(finished) = finished
            && let Err(error) = self.store.remember(&finished)
        {
            tracing::warn!(%error, "the operation is remembered until the daemon ends");
        }
    }

    /// Makes this the world that everyone sees.
    pub(super) fn show(&mut self, world: World) {
        self.world = Arc::new(world);
        self.view.send_replace(Arc::clone(&self.world));
    }

    /// Tells whoever listens.
    pub(super) fn tell(&self, event: Event) {
        let _ = self.events.send(event); // nobody listens
    }

    /// Plans something that chooses host ports.
    pub(super) fn with_ports<T>(
        &mut self,
        facts: &PortFacts,
        act: impl FnOnce(&mut HostPorts<'_>) -> T,
    ) -> T {
        let reserved =
            |port: u16| facts.reserved.iter().any(|(first, last)| (*first..=*last).contains(&port));
        let machine = &mut self.machine;
        act(&mut HostPorts {
            ephemeral: facts.ephemeral,
            last: &mut self.last_port,
            reserved: &reserved,
            free: &mut |listens| machine.free(listens),
            ipv6: facts.ipv6,
        })
    }
}

/// Says what an operation was about that failed.
fn about<T>(result: Result<T, Error>, kind: &str, word: &str) -> Result<T, Error> {
    let object = || if word.is_empty() { kind.to_owned() } else { format!("{kind} {word}") };
    result.map_err(|error| error.about(object))
}

/// A failpoint of the journal.
fn point(name: &str) -> Result<(), Error> {
    failpoint::hit(|| name.to_owned()).map_err(|error| {
        let errno = error.raw_os_error();
        Error { errno, ..Error::new(Code::Failure, format!("{name}: {error}")) }
    })
}

/// Returns what a panic said.
fn reason(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("unknown reason").to_owned()
}

/// Notices that links, addresses, routes or settings of the host have changed.
pub trait HostChanges: Send {
    /// Waits until something has changed and a moment has passed without more of it.
    fn changed(&mut self) -> impl Future<Output = Changes> + Send;
}

/// Writes the result of an operation down for good.
fn commit(store: &mut Store, intent: &Intent) -> Result<(), Error> {
    match intent {
        Intent::CreateNetwork(network) | Intent::UpdateNetwork { after: network, .. } => {
            store.put_network(network)?;
        }
        Intent::RemoveNetwork(network) => store.remove_network(&network.id)?,
        Intent::CreateSandbox(sandbox) => store.put_sandbox(sandbox)?,
        Intent::UpdateSandbox { after, .. } => store.put_sandbox(after)?,
        Intent::RemoveSandbox(sandbox) => store.remove_sandbox(&sandbox.id)?,
    }
    Ok(())
}

impl From<crate::store::Error> for Error {
    fn from(error: crate::store::Error) -> Self {
        let (message, errno) = (super::error::chain(&error), error.errno());
        let error = match error {
            crate::store::Error::Locked { .. } => Self::new(Code::Conflict, message),
            error if error.is_no_space() => {
                Self::new(Code::NoSpace, format!("{message}; nothing was changed"))
                    .hint("free disk space and try again")
            }
            _ => Self::new(Code::Failure, message),
        };
        Self { errno, ..error }
    }
}
