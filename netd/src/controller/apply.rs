//! Carries out a plan: step by step, and back again when one fails.

use std::{collections::BTreeSet, future::Future, io, net::IpAddr, time::Instant};

use super::{
    Code, Error, NetnsRequest,
    host::{HostView, LinkView},
    object::{Bridge, Listen, Object},
    plan::Step,
    sandboxes::Place,
};
use crate::{
    dataplane::Dataplane,
    failpoint,
    ipam::HostPrefix,
    link::{Changes, Proxy},
    model::{Id, IfName, Name, Netns, Sandbox},
};

/// What plans are applied to: the kernel, or a model of it in tests.
pub trait Machine: Send + 'static {
    /// Takes one step; taking it again changes nothing.
    fn apply(&mut self, step: &Step) -> impl Future<Output = Result<(), Error>> + Send;

    /// Lets go of what was kept for the next step, and to take steps back, once what is new is at work.
    fn settle(&mut self) -> impl Future<Output = ()> + Send;

    /// Removes the links of many veths or bridges before the steps that remove them one by one: alone each waits for several grace periods, a few dozen
    /// together no longer than one.
    fn remove_together(&mut self, links: &[&Object]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Finds and checks the namespace that a request names, and lists the interfaces in it. A namespace still to be made
    /// gets its path, and no inode.
    fn place(
        &mut self,
        name: &Name,
        request: &NetnsRequest,
    ) -> impl Future<Output = Result<Place, Error>> + Send;

    /// Returns the interface names in a namespace that netd didn't make.
    fn interfaces(&mut self, netns: &Netns) -> impl Future<Output = Result<BTreeSet<String>, Error>> + Send;

    /// Returns the inode of the namespace at this path.
    fn inode(&mut self, netns: &Netns) -> Result<u64, Error>;

    /// Returns the inode of the namespace at this path; None: there is none. Fails when that cannot be told.
    fn found(&mut self, netns: &Netns) -> Result<Option<u64>, Error>;

    /// Whether no socket of the host holds any of these.
    fn free(&mut self, listens: &[Listen]) -> bool;

    /// Whether a process runs and belongs to this sandbox; fails when that cannot be told.
    fn is_running(&self, sandbox: &Sandbox, pid: u32) -> Result<bool, Error>;

    /// Ends a process at once.
    fn kill(&mut self, pid: u32) -> Result<(), Error>;

    /// Returns the index of an interface, if it is there.
    fn index(&mut self, ifname: &IfName) -> impl Future<Output = Result<Option<u32>, Error>> + Send;

    /// Returns what the host knows of ports.
    fn ports(&mut self) -> impl Future<Output = Result<PortFacts, Error>> + Send;

    /// Returns the prefixes that the host uses itself; netd's bridges left out.
    fn prefixes(&mut self) -> impl Future<Output = Result<Vec<HostPrefix>, Error>> + Send;

    /// Returns what the packet path has to know of the host, where these are netd's bridges.
    fn host(&mut self, bridges: &[IfName]) -> impl Future<Output = Result<HostView, Error>> + Send;

    /// Takes note of links that others changed: what was remembered of them holds no longer.
    fn heard(&mut self, _changes: &Changes) {}

    /// Lists the host's links; what is asked of them until `settle` is answered from the list.
    fn list_anew(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        async { Ok(()) }
    }

    /// Returns how one of the host's links is, if it is there.
    fn look(&mut self, ifname: &IfName) -> impl Future<Output = Result<Option<LinkView>, Error>> + Send;

    /// Gives the namespace of a sandbox its name again, if a process that lives in it is found. Returns whether it has one now.
    fn name_again(&mut self, sandbox: &Sandbox) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Puts back what netd needs of the settings of those of these bridges that are there and this instance's own or adopted, and of the host; returns
    /// each by name, most with the value.
    fn repair_settings(
        &mut self,
        bridges: &[Bridge],
    ) -> impl Future<Output = Result<Vec<String>, Error>> + Send;

    /// Puts back the routes to the subnets of those of these bridges that are there and this instance's own; returns what it put back.
    fn repair_routes(
        &mut self,
        bridges: &[Bridge],
    ) -> impl Future<Output = Result<Vec<String>, Error>> + Send;

    /// Whether the kernel has netkit devices.
    fn has_netkit(&mut self) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Lists everything that carries this instance's label, from undisturbed lists.
    fn owned(&mut self) -> impl Future<Output = Result<Vec<Owned>, Error>> + Send;

    /// Removes an object that belongs to nothing.
    fn remove_orphan(&mut self, orphan: &Owned) -> impl Future<Output = Result<(), Error>> + Send;

    /// Gives a link its name back.
    fn rename(&mut self, from: &IfName, to: &IfName) -> impl Future<Output = Result<(), Error>> + Send;

    /// Makes these the addresses that the host answers for on the links outside.
    fn answer_for(&mut self, wanted: &BTreeSet<Proxy>) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reads a setting, by its path below `/proc/sys/net`; None: there is none.
    fn setting(&mut self, key: &str) -> impl Future<Output = Result<Option<String>, Error>> + Send;

    /// Writes a setting.
    fn set(&mut self, key: &str, value: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Gives the host its settings back.
    fn restore(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Starts a collection of expired flows, unless one is running.
    fn collect(&mut self);

    /// Runs a closure on the packet path.
    fn dataplane<T>(&mut self, act: impl FnOnce(&mut dyn Dataplane) -> T) -> T;
}

/// A thing with this instance's label, by what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owned {
    /// A bridge.
    Bridge {
        /// Its name.
        ifname: IfName,
        /// Its network.
        network: Id,
    },
    /// A veth's host side.
    Veth {
        /// Its name.
        ifname: IfName,
        /// Its endpoint.
        endpoint: Id,
    },
    /// A namespace in the run directory.
    Netns(Name),
    /// A sandbox's files in the run directory.
    Files(Id),
    /// What the host knows for good of an address behind one of netd's bridges.
    Neighbour {
        /// The bridge.
        bridge: IfName,
        /// Its index.
        ifindex: u32,
        /// The address.
        ip: IpAddr,
    },
}

/// What the host knows of ports.
#[derive(Debug, Clone, Default)]
pub struct PortFacts {
    /// `ip_local_port_range`.
    pub ephemeral: (u16, u16),
    /// `ip_local_reserved_ports` as ranges.
    pub reserved: Vec<(u16, u16)>,
    /// Whether the host has IPv6 at all.
    pub ipv6: bool,
}

/// Takes every step; where one fails, takes back those before it, last first. What is taken is settled by the caller, who may still take it back.
///
/// # Errors
/// The first failure. What could not be taken back is logged, and repaired at the next start.
pub async fn run<M: Machine>(machine: &mut M, steps: &[Step]) -> Result<(), Error> {
    for (index, step) in steps.iter().enumerate() {
        let began = Instant::now();
        let result = take(machine, step).await;
        tracing::debug!(%step, elapsed = ?began.elapsed(), "step taken");
        if let Err(error) = result {
            // A step that failed half-way has left something too.
            undo(machine, &steps[..=index]).await;
            return Err(error);
        }
    }
    Ok(())
}

async fn take<M: Machine>(machine: &mut M, step: &Step) -> Result<(), Error> {
    let point = |when: &str| {
        failpoint::hit(|| format!("{}.{when}", step.point())).map_err(|error| broken(step, &error))
    };
    point("before")?;
    machine.apply(step).await?;
    point("after")
}

fn broken(step: &Step, error: &io::Error) -> Error {
    Error { errno: error.raw_os_error(), ..Error::new(Code::Failure, format!("{step}: {error}")) }
}

/// Takes back every step, last first, whatever fails on the way.
pub async fn undo<M: Machine>(machine: &mut M, steps: &[Step]) {
    for inverse in steps.iter().rev().filter_map(Step::inverse) {
        if let Err(error) = machine.apply(&inverse).await {
            tracing::error!(%error, step = %inverse, "a step could not be taken back");
        }
    }
    machine.settle().await;
}
