//! Everything the controller knows at one moment, and how a user's word finds an object in it.
//!
//! A world is a value: the controller plans on a copy and replaces the old one when the plan has been applied. Objects are
//! shared, so a copy costs a pointer per object, and readers keep the world they looked at.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use super::{Code, Error};
use crate::model::{Endpoint, Id, Link, Name, Network, Sandbox};

/// Networks and sandboxes with their endpoints, consistent with each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    networks: BTreeMap<Id, Arc<Network>>,
    sandboxes: BTreeMap<Id, Arc<Sandbox>>,
    /// Whether published ports may be addressed directly on every network.
    direct_routing: bool,
}

/// A sandbox in two worlds, as it was and as it will be.
pub type Both<'a> = (Option<&'a Arc<Sandbox>>, Option<&'a Arc<Sandbox>>);

impl World {
    /// Returns a world without anything in it, under the daemon's own rule on direct access.
    pub fn empty(direct_routing: bool) -> Self {
        Self { direct_routing, ..Self::default() }
    }

    /// Whether published ports may be addressed directly on every network (`allow-direct-routing`, Docker semantics A12).
    pub fn direct_routing(&self) -> bool {
        self.direct_routing
    }

    /// Returns every network, by id.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Arc<Network>> + Clone {
        self.networks.values()
    }

    /// Returns every sandbox, by id.
    pub fn sandboxes(&self) -> impl ExactSizeIterator<Item = &Arc<Sandbox>> + Clone {
        self.sandboxes.values()
    }

    /// Finds a network by full name, full id or unique prefix of an id, in this order (Docker semantics B21).
    ///
    /// # Errors
    /// `network X not found`, or that the prefix is ambiguous.
    pub fn network(&self, word: &str) -> Result<&Arc<Network>, Error> {
        resolve(&self.networks, word, |network| &network.name).map_err(|miss| {
            let error = match miss {
                Miss::None => Error::new(Code::NotFound, format!("network {word} not found")),
                Miss::Ambiguous(count) => Error::new(
                    Code::Usage,
                    format!("network {word} is ambiguous ({count} matches found based on ID prefix)"),
                ),
            };
            error.about(|| format!("network {word}"))
        })
    }

    /// Finds a sandbox by full name, full id or unique prefix of an id, in this order.
    ///
    /// # Errors
    /// `No such sandbox: X`, or that the prefix is ambiguous.
    pub fn sandbox(&self, word: &str) -> Result<&Arc<Sandbox>, Error> {
        resolve(&self.sandboxes, word, |sandbox| &sandbox.name).map_err(|miss| {
            let error = match miss {
                Miss::None => Error::new(Code::NotFound, format!("No such sandbox: {word}")),
                Miss::Ambiguous(count) => Error::new(
                    Code::Usage,
                    format!("sandbox {word} is ambiguous ({count} matches found based on ID prefix)"),
                ),
            };
            error.about(|| format!("sandbox {word}"))
        })
    }

    /// Returns the sandbox that a link leads to now, if there is one.
    pub fn linked(&self, link: &Link) -> Option<&Arc<Sandbox>> {
        self.sandbox_by_id(&link.target)
            .or_else(|| self.sandboxes.values().find(|sandbox| sandbox.name == link.name))
    }

    /// Returns the network with this id.
    pub fn network_by_id(&self, id: &Id) -> Option<&Arc<Network>> {
        self.networks.get(id)
    }

    /// Returns the sandbox with this id.
    pub fn sandbox_by_id(&self, id: &Id) -> Option<&Arc<Sandbox>> {
        self.sandboxes.get(id)
    }

    /// Returns every sandbox of this world and of a later one, as it was and as it will be. Both are read once, side by side: most are the very same.
    pub fn sandboxes_until<'a>(&'a self, later: &'a Self) -> Vec<Pair<'a, Sandbox>> {
        let (mut old, mut new) = (self.sandboxes().peekable(), later.sandboxes().peekable());
        let mut pairs = Vec::with_capacity(new.len());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return pairs,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => Ordering::Equal,
                (Some(a), Some(b)) => a.id.cmp(&b.id),
            };
            pairs.push(match order {
                Ordering::Less => (old.next(), None),
                Ordering::Equal => (old.next(), new.next()),
                Ordering::Greater => (None, new.next()),
            });
        }
    }

    /// Returns the endpoints on a network, each with its sandbox.
    pub fn endpoints_on(&self, network: &Id) -> impl Iterator<Item = (&Arc<Sandbox>, &Endpoint)> {
        self.sandboxes().filter_map(|sandbox| Some((sandbox, sandbox.endpoint_on(network)?)))
    }

    /// Inserts or replaces a network.
    pub(crate) fn put_network(&mut self, network: Network) {
        self.networks.insert(network.id.clone(), Arc::new(network));
    }

    /// Removes a network.
    pub(crate) fn remove_network(&mut self, id: &Id) {
        self.networks.remove(id);
    }

    /// Inserts or replaces a sandbox.
    pub(crate) fn put_sandbox(&mut self, sandbox: Sandbox) {
        self.sandboxes.insert(sandbox.id.clone(), Arc::new(sandbox));
    }

    /// Removes a sandbox.
    pub(crate) fn remove_sandbox(&mut self, id: &Id) {
        self.sandboxes.remove(id);
    }
}

/// An object as it was and as it will be; none: it was not there, or will not be.
pub type Pair<'a, T> = (Option<&'a Arc<T>>, Option<&'a Arc<T>>);

/// Why a word finds no single object.
enum Miss {
    None,
    Ambiguous(usize),
}

fn resolve<'a, T>(
    objects: &'a BTreeMap<Id, Arc<T>>,
    word: &str,
    name: impl Fn(&T) -> &Name,
) -> Result<&'a Arc<T>, Miss> {
    if let Some(object) = objects.values().find(|object| name(object).as_str() == word) {
        return Ok(object);
    }
    let mut matches = objects.iter().filter(|(id, _)| !word.is_empty() && id.as_str().starts_with(word));
    match (matches.next(), matches.count()) {
        (None, _) => Err(Miss::None),
        (Some((_, object)), 0) => Ok(object),
        (Some(_), more) => Err(Miss::Ambiguous(more + 1)),
    }
}
