//! How everyone else talks to the controller: commands go into one queue, answers come back one by one.
//!
//! Reading does not queue: the controller leaves a snapshot of its world after every change.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    Attachment, Code, CreateNetwork, CreatePolicy, CreateSandbox, Error, Event, FlowSelector, SandboxRemoved,
    Status, World,
};
use crate::{
    dataplane::{Explainer, FlowInfo, Monitor},
    model::{Binding, Finished, Name, Network, Operation, OperationId, Policy, PublishSpec, Sandbox},
};

/// Where the answer to a command goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// The queue of commands, to be given to `Controller::run`.
pub struct Commands(pub(super) mpsc::Receiver<Order>);

/// A command, and the operation that its caller calls it.
pub(super) struct Order {
    pub operation: Option<Operation>,
    pub command: Command,
}

/// Chooses networks that `prune` may remove.
pub type NetworkSelector = Box<dyn Fn(&Network) -> bool + Send>;

/// What the controller's task is asked to do.
pub(super) enum Command {
    CreateNetwork(CreateNetwork, Reply<Arc<Network>>),
    RemoveNetwork(String, Reply<()>),
    PruneNetworks(NetworkSelector, Reply<Vec<Name>>),
    Connect(String, Attachment, Reply<()>),
    Disconnect { network: String, sandbox: String, force: bool, reply: Reply<()> },
    CreateSandbox(Box<CreateSandbox>, Reply<Arc<Sandbox>>),
    RemoveSandbox { sandbox: String, force: bool, reply: Reply<SandboxRemoved> },
    Started(String, u32, Reply<()>),
    Exited(String, Reply<()>),
    Publish(String, Vec<PublishSpec>, Reply<Vec<Binding>>),
    Unpublish { sandbox: String, specs: Vec<PublishSpec>, kill: bool, reply: Reply<Vec<Binding>> },
    Unlink { sandbox: String, alias: String, reply: Reply<()> },
    AddPolicy(CreatePolicy, Reply<Policy>),
    RemovePolicy(String, Reply<()>),
    Flows(FlowSelector, Reply<Vec<FlowInfo>>),
    FlushFlows(FlowSelector, Reply<usize>),
    Drops(Reply<Vec<(&'static str, u64)>>),
    Explainer(Reply<Explainer>),
    Monitor(Reply<Monitor>),
    Recall(OperationId, Reply<Option<Finished>>),
    Status(Reply<Status>),
    Down(Reply<()>),
}

impl Command {
    /// Whether it may change what is stored, and with it the maps.
    pub(super) const fn writes(&self) -> bool {
        use Command::{Drops, Explainer, Flows, FlushFlows, Monitor, Recall, Status};
        !matches!(
            self,
            Flows(..) | FlushFlows(..) | Drops(..) | Explainer(..) | Monitor(..) | Recall(..) | Status(..)
        )
    }
}

/// A client of the controller; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Order>,
    world: watch::Receiver<Arc<World>>,
    events: broadcast::Sender<Event>,
    operation: Option<Operation>,
}

impl Handle {
    pub(super) fn new(
        commands: mpsc::Sender<Order>,
        world: watch::Receiver<Arc<World>>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        Self { commands, world, events, operation: None }
    }

    /// Returns a handle whose change is this operation: what it gives back is remembered with the change itself.
    #[must_use]
    pub fn for_operation(&self, operation: Operation) -> Self {
        Self { operation: Some(operation), ..self.clone() }
    }

    /// Returns what an operation of the last day gave back, when all commands before are done; None: it was not done.
    pub async fn recall(&self, id: &OperationId) -> Result<Option<Finished>, Error> {
        self.ask(|reply| Command::Recall(id.clone(), reply)).await
    }

    /// Creates a network.
    pub async fn create_network(&self, request: CreateNetwork) -> Result<Arc<Network>, Error> {
        self.ask(|reply| Command::CreateNetwork(request, reply)).await
    }

    /// Removes a network that has no endpoints, by name, id or id prefix.
    pub async fn remove_network(&self, network: &str) -> Result<(), Error> {
        self.ask(|reply| Command::RemoveNetwork(network.to_owned(), reply)).await
    }

    /// Removes the selected ones of all user-defined networks without endpoints; returns their names.
    pub async fn prune_networks(
        &self,
        select: impl Fn(&Network) -> bool + Send + 'static,
    ) -> Result<Vec<Name>, Error> {
        self.ask(|reply| Command::PruneNetworks(Box::new(select), reply)).await
    }

    /// Attaches a running sandbox to the network that the attachment names.
    pub async fn connect(&self, sandbox: &str, attachment: Attachment) -> Result<(), Error> {
        self.ask(|reply| Command::Connect(sandbox.to_owned(), attachment, reply)).await
    }

    /// Takes a sandbox off a network.
    ///
    /// # Errors
    /// `NotFound` when the sandbox is not on it. An endpoint never outlives its sandbox, so `force`, which is Docker's word,
    /// has nothing more to remove: of a sandbox that is gone it only says that it is not connected.
    pub async fn disconnect(&self, network: &str, sandbox: &str, force: bool) -> Result<(), Error> {
        let (network, sandbox) = (network.to_owned(), sandbox.to_owned());
        self.ask(|reply| Command::Disconnect { network, sandbox, force, reply }).await
    }

    /// Creates a sandbox with its endpoints and published ports.
    pub async fn create_sandbox(&self, request: CreateSandbox) -> Result<Arc<Sandbox>, Error> {
        self.ask(|reply| Command::CreateSandbox(Box::new(request), reply)).await
    }

    /// Removes a sandbox; `force` also while its process runs (which ends it).
    pub async fn remove_sandbox(&self, sandbox: &str, force: bool) -> Result<SandboxRemoved, Error> {
        let sandbox = sandbox.to_owned();
        self.ask(|reply| Command::RemoveSandbox { sandbox, force, reply }).await
    }

    /// Records that `netd run` started its process in a sandbox.
    pub async fn started(&self, sandbox: &str, pid: u32) -> Result<(), Error> {
        self.ask(|reply| Command::Started(sandbox.to_owned(), pid, reply)).await
    }

    /// Records that the process of a sandbox has ended.
    pub async fn exited(&self, sandbox: &str) -> Result<(), Error> {
        self.ask(|reply| Command::Exited(sandbox.to_owned(), reply)).await
    }

    /// Adds published ports to a sandbox, all or none; returns the new bindings.
    pub async fn publish(&self, sandbox: &str, specs: Vec<PublishSpec>) -> Result<Vec<Binding>, Error> {
        self.ask(|reply| Command::Publish(sandbox.to_owned(), specs, reply)).await
    }

    /// Removes published ports; with `kill` their established connections too. Returns the removed bindings.
    pub async fn unpublish(
        &self,
        sandbox: &str,
        specs: Vec<PublishSpec>,
        kill: bool,
    ) -> Result<Vec<Binding>, Error> {
        let sandbox = sandbox.to_owned();
        self.ask(|reply| Command::Unpublish { sandbox, specs, kill, reply }).await
    }

    /// Removes a link by its alias, and what it opened.
    pub async fn unlink(&self, sandbox: &str, alias: &str) -> Result<(), Error> {
        let (sandbox, alias) = (sandbox.to_owned(), alias.to_owned());
        self.ask(|reply| Command::Unlink { sandbox, alias, reply }).await
    }

    /// Adds a policy to a network.
    pub async fn add_policy(&self, request: CreatePolicy) -> Result<Policy, Error> {
        self.ask(|reply| Command::AddPolicy(request, reply)).await
    }

    /// Removes a policy by its id or a prefix of it: nothing new is opened by it, and datagrams stop.
    pub async fn remove_policy(&self, policy: &str) -> Result<(), Error> {
        self.ask(|reply| Command::RemovePolicy(policy.to_owned(), reply)).await
    }

    /// Lists live flows.
    pub async fn flows(&self, select: FlowSelector) -> Result<Vec<FlowInfo>, Error> {
        self.ask(|reply| Command::Flows(select, reply)).await
    }

    /// Ends flows; returns how many.
    pub async fn flush_flows(&self, select: FlowSelector) -> Result<usize, Error> {
        self.ask(|reply| Command::FlushFlows(select, reply)).await
    }

    /// Returns (reason, packets) for every drop reason.
    pub async fn drops(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        self.ask(Command::Drops).await
    }

    /// Returns what explains packets; it does its work beside the controller.
    pub async fn explainer(&self) -> Result<Explainer, Error> {
        self.ask(Command::Explainer).await
    }

    /// Returns what listens to drops; whoever does costs the controller nothing.
    pub async fn monitor(&self) -> Result<Monitor, Error> {
        self.ask(Command::Monitor).await
    }

    /// Returns the daemon's state in numbers.
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(Command::Status).await
    }

    /// Removes everything this instance put into the kernel, then its state; the daemon ends afterwards.
    pub async fn down(&self) -> Result<(), Error> {
        self.ask(Command::Down).await
    }

    /// Subscribes to what happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Returns a consistent snapshot of networks, sandboxes and endpoints, as of the last finished operation.
    pub fn view(&self) -> Arc<World> {
        Arc::clone(&self.world.borrow())
    }

    /// Returns every network, by id.
    pub fn networks(&self) -> Vec<Arc<Network>> {
        self.view().networks().cloned().collect()
    }

    /// Finds a network by full name, full id or unique id prefix, in this order (Docker semantics B21).
    pub fn network(&self, word: &str) -> Result<Arc<Network>, Error> {
        self.view().network(word).cloned()
    }

    /// Returns every sandbox, by id.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.view().sandboxes().cloned().collect()
    }

    /// Finds a sandbox by full name, full id or unique id prefix, in this order.
    pub fn sandbox(&self, word: &str) -> Result<Arc<Sandbox>, Error> {
        self.view().sandbox(word).cloned()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let stopped = || Error::new(Code::NotReady, "the daemon is stopping");
        let (reply, answer) = oneshot::channel();
        let order = Order { operation: self.operation.clone(), command: command(reply) };
        self.commands.send(order).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| {
            if self.commands.is_closed() {
                stopped()
            } else {
                Error::new(Code::Failure, "the operation broke off, and its changes were taken back")
            }
        })?
    }
}
