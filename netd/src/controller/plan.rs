//! From one world to the next: a pure list of steps, each with its inverse.
//!
//! New objects come before changed ones take effect and old ones go last, in the reverse of their order, so that moving a
//! gateway or a published port leaves no gap. What fails half-way is undone by the inverses of the steps taken, last first.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use super::{
    World, access,
    files::Renderer,
    object::{Listen, Object, Port, Ports, Publish},
    parts, sources,
    world::Both,
};
use crate::model::{Id, IfName, Network, Sandbox};

/// One change of the kernel. Applying it again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes the object be there.
    Put(Object),
    /// Makes an object that is there equal to the second.
    Replace(Object, Object),
    /// Makes the object be gone.
    Remove(Object),
    /// Fails when a socket of the host holds one of these; they are guarded already.
    Probe(Ports<Listen>),
}

impl Step {
    /// Returns the name of its failpoints, which goes on with `before` or `after`.
    pub fn point(&self) -> String {
        match self {
            Self::Put(object) => format!("{}.put", object.word()),
            Self::Replace(_, object) => format!("{}.change", object.word()),
            Self::Remove(object) => format!("{}.remove", object.word()),
            Self::Probe(_) => "guard.probe".to_owned(),
        }
    }

    /// Returns the object that it removes.
    pub const fn removed(&self) -> Option<&Object> {
        match self {
            Self::Remove(object) => Some(object),
            Self::Put(_) | Self::Replace(..) | Self::Probe(_) => None,
        }
    }

    /// Returns the step that takes this one back; a probe leaves nothing behind.
    pub fn inverse(&self) -> Option<Self> {
        match self {
            Self::Put(object) => Some(Self::Remove(object.clone())),
            Self::Replace(old, new) => Some(Self::Replace(new.clone(), old.clone())),
            Self::Remove(object) => Some(Self::Put(object.clone())),
            Self::Probe(_) => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(object) => write!(f, "put {object}"),
            Self::Replace(_, object) => write!(f, "change {object}"),
            Self::Remove(object) => write!(f, "remove {object}"),
            Self::Probe(listens) => write!(f, "probe {} host ports", listens.len()),
        }
    }
}

/// Returns the steps from one world to the next.
pub fn diff(before: &World, after: &World, renderer: &Renderer) -> Vec<Step> {
    let mut changes = Changes::default();
    for network in after.networks() {
        match before.network_by_id(&network.id) {
            Some(old) if Arc::ptr_eq(old, network) => {}
            Some(old) => changes.between(&parts::of_network(old), &parts::of_network(network)),
            None => changes.between(&[], &parts::of_network(network)),
        }
    }
    let sandboxes = before.sandboxes_until(after);
    for (old, new) in &sandboxes {
        let Some(sandbox) = new else { continue };
        let new = || parts::of_sandbox(after, sandbox, renderer);
        match old {
            // Its hosts file may name a sandbox that has changed.
            Some(old) if Arc::ptr_eq(old, sandbox) && sandbox.links.is_empty() => {}
            Some(old) => changes.between(&parts::of_sandbox(before, old, renderer), &new()),
            None => changes.between(&[], &new()),
        }
    }
    for network in before.networks().filter(|network| after.network_by_id(&network.id).is_none()) {
        changes.between(&parts::of_network(network), &[]);
    }
    let gone = sandboxes.iter().filter(|(_, new)| new.is_none()).filter_map(|(old, _)| *old);
    for sandbox in gone {
        changes.between(&parts::of_sandbox(before, sandbox, renderer), &[]);
    }
    let policies = policy_changes(before, after, &sandboxes);
    // What a policy closes is closed before somebody else can have the address, and open before the sandbox is up.
    changes.puts.splice(0..0, policies.puts);
    changes.removes.extend(policies.removes);
    changes.steps()
}

/// Returns how policies follow, of networks that have changed themselves or whose sandboxes have.
fn policy_changes(before: &World, after: &World, sandboxes: &[Both<'_>]) -> Changes {
    let mut touched: BTreeSet<&Id> = BTreeSet::new();
    for (world, other) in [(before, after), (after, before)] {
        let same = |network: &&Arc<Network>| {
            other.network_by_id(&network.id).is_some_and(|other| Arc::ptr_eq(network, other))
        };
        touched.extend(world.networks().filter(|network| !same(network)).map(|network| &network.id));
    }
    for (old, new) in sandboxes {
        let same = old.zip(*new).is_some_and(|(old, new)| Arc::ptr_eq(old, new));
        let moved = [old, new].into_iter().flatten().filter(|_| !same);
        touched.extend(moved.flat_map(|sandbox| &sandbox.endpoints).map(|endpoint| &endpoint.network));
    }
    let mut changes = Changes::default();
    for id in touched {
        let of = |world: &World| -> Vec<Object> {
            let links = world.network_by_id(id).and_then(|network| access::policies(world, network));
            links.map(Object::Links).into_iter().collect()
        };
        changes.between(&of(before), &of(after));
    }
    changes
}

/// Returns the steps that make every object of a world be there, for repairing what is missing. They do not probe: the ports
/// are netd's already. Of what an operation may have left, they remove what is to be found while a sandbox's namespace is open.
pub fn ensure(world: &World, renderer: &Renderer) -> Vec<Step> {
    ensure_these(world, world.networks(), world.sandboxes(), renderer)
}

/// The same for some networks and sandboxes of a world.
pub fn ensure_these<'a>(
    world: &World,
    networks: impl Iterator<Item = &'a Arc<Network>> + Clone,
    sandboxes: impl Iterator<Item = &'a Arc<Sandbox>>,
    renderer: &Renderer,
) -> Vec<Step> {
    let policies = networks.clone().filter_map(|network| access::policies(world, network)).map(Object::Links);
    let networks = networks.flat_map(|network| parts::of_network(network));
    let sandboxes = sandboxes.flat_map(|sandbox| {
        let objects = parts::of_sandbox(world, sandbox, renderer).into_iter().map(Step::Put);
        objects.chain(sources::leftover(sandbox))
    });
    networks.chain(policies).map(Step::Put).chain(sandboxes).collect()
}

#[derive(Default)]
struct Changes {
    /// New and changed objects, in their order.
    puts: Vec<Step>,
    /// Objects that go, in the order in which they once came.
    removes: Vec<Step>,
}

impl Changes {
    fn between(&mut self, old: &[Object], new: &[Object]) {
        let ports = PortChanges::between(old, new);
        for object in new {
            match object {
                Object::Guard(_) => ports.guard(&mut self.puts),
                Object::Publish(publish) => ports.publish(publish, &mut self.puts),
                _ => match old.iter().find(|other| other.same_thing(object)) {
                    Some(same) if same == object => {}
                    Some(other) => self.puts.push(Step::Replace(other.clone(), object.clone())),
                    None => self.puts.push(Step::Put(object.clone())),
                },
            }
        }
        for object in old {
            match object {
                Object::Guard(_) => ports.release(&mut self.removes),
                Object::Publish(publish) => ports.withdraw(publish, &mut self.removes),
                _ if new.iter().any(|other| other.same_thing(object)) => {}
                _ => self.removes.push(Step::Remove(object.clone())),
            }
        }
    }

    fn steps(self) -> Vec<Step> {
        self.puts.into_iter().chain(self.removes.into_iter().rev()).collect()
    }
}

/// What serves each host port before and after: the host side of a veth and a port behind it.
struct PortChanges<'a> {
    old: HashMap<Listen, (&'a IfName, &'a Port)>,
    new: HashMap<Listen, (&'a IfName, &'a Port)>,
}

impl<'a> PortChanges<'a> {
    fn between(old: &'a [Object], new: &'a [Object]) -> Self {
        let index = |objects: &'a [Object]| {
            let publishes = objects.iter().filter_map(|object| match object {
                Object::Publish(publish) => Some(publish),
                _ => None,
            });
            publishes
                .flat_map(|publish| publish.ports.iter().map(|port| (port.listen, (&publish.host, port))))
                .collect()
        };
        Self { old: index(old), new: index(new) }
    }

    /// Guards and probes the ports that were not there before.
    fn guard(&self, steps: &mut Vec<Step>) {
        let fresh = sorted(self.new.keys().filter(|listen| !self.old.contains_key(listen)));
        if !fresh.is_empty() {
            steps.extend([Step::Put(Object::Guard(Arc::clone(&fresh))), Step::Probe(fresh)]);
        }
    }

    /// Serves the ports that this endpoint did not serve before.
    fn publish(&self, publish: &Publish, steps: &mut Vec<Step>) {
        let of = |ports: Vec<Port>, host: &IfName| {
            Object::Publish(Publish { host: host.clone(), ports: ports.into() })
        };
        let mut fresh = Vec::new();
        let mut moved: HashMap<&IfName, (Vec<Port>, Vec<Port>)> = HashMap::new();
        for port in publish.ports.iter() {
            match self.old.get(&port.listen) {
                None => fresh.push(port.clone()),
                Some((host, old)) if **host == publish.host && *old == port => {}
                Some((host, old)) => {
                    let (from, to) = moved.entry(host).or_default();
                    from.push((*old).clone());
                    to.push(port.clone());
                }
            }
        }
        for (host, (from, to)) in moved {
            steps.push(Step::Replace(of(from, host), of(to, &publish.host)));
        }
        if !fresh.is_empty() {
            steps.push(Step::Put(of(fresh, &publish.host)));
        }
    }

    /// Stops serving the ports that nobody serves any more.
    fn withdraw(&self, publish: &Publish, steps: &mut Vec<Step>) {
        let gone: Ports<Port> =
            publish.ports.iter().filter(|port| !self.new.contains_key(&port.listen)).cloned().collect();
        if !gone.is_empty() {
            steps.push(Step::Remove(Object::Publish(Publish { host: publish.host.clone(), ports: gone })));
        }
    }

    /// Gives up the reservation of ports that nobody serves any more.
    fn release(&self, steps: &mut Vec<Step>) {
        let gone = sorted(self.old.keys().filter(|listen| !self.new.contains_key(listen)));
        if !gone.is_empty() {
            steps.push(Step::Remove(Object::Guard(gone)));
        }
    }
}

fn sorted<'a>(listens: impl Iterator<Item = &'a Listen>) -> Ports<Listen> {
    let mut listens: Vec<Listen> = listens.copied().collect();
    listens.sort_unstable();
    listens.into()
}
