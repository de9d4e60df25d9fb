//! From one world to the next: a pure list of steps, each with its inverse.
//!
//! New objects come before changed ones take effect and old ones go last, in the reverse of their order, so that moving a
//! gateway or a published port leaves no gap. What fails half-way is undone by the inverses of the steps taken, last first.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{
    World,
    files::Renderer,
    object::{self, Listen, Object, Port, Ports, Publish},
};
use crate::model::IfName;

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
            Some(old) => changes.between(&object::of_network(old), &object::of_network(network)),
            None => changes.between(&[], &object::of_network(network)),
        }
    }
    for sandbox in after.sandboxes() {
        let new = || object::of_sandbox(after, sandbox, renderer);
        match before.sandbox_by_id(&sandbox.id) {
            // Its hosts file may name a sandbox that has changed.
            Some(old) if Arc::ptr_eq(old, sandbox) && sandbox.links.is_empty() => {}
            Some(old) => changes.between(&object::of_sandbox(before, old, renderer), &new()),
            None => changes.between(&[], &new()),
        }
    }
    for network in before.networks().filter(|network| after.network_by_id(&network.id).is_none()) {
        changes.between(&object::of_network(network), &[]);
    }
    for sandbox in before.sandboxes().filter(|sandbox| after.sandbox_by_id(&sandbox.id).is_none()) {
        changes.between(&object::of_sandbox(before, sandbox, renderer), &[]);
    }
    changes.steps()
}

/// Returns the steps that make every object of a world be there, for repairing what is missing. They do not probe: the ports
/// are netd's already.
pub fn ensure(world: &World, renderer: &Renderer) -> Vec<Step> {
    let networks = world.networks().flat_map(|network| object::of_network(network));
    let sandboxes = world.sandboxes().flat_map(|sandbox| object::of_sandbox(world, sandbox, renderer));
    networks.chain(sandboxes).map(Step::Put).collect()
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
