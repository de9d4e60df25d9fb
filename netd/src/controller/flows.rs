//! Which flows a user means: by sandbox and network, translated into addresses.

use std::net::IpAddr;

use super::{Error, FlowSelector, World, apply::Machine, task::Controller};
use crate::{
    dataplane::{FlowFilter, FlowInfo},
    model::Endpoint,
};

impl<M: Machine> Controller<M> {
    pub(super) fn flows(&mut self, select: &FlowSelector) -> Result<Vec<FlowInfo>, Error> {
        match filter(&self.world, select)? {
            Some(filter) => Ok(self.machine.dataplane(|dataplane| dataplane.flows(&filter))?),
            None => Ok(Vec::new()),
        }
    }

    pub(super) fn flush_flows(&mut self, select: &FlowSelector) -> Result<usize, Error> {
        match filter(&self.world, select)? {
            Some(filter) => Ok(self.machine.dataplane(|dataplane| dataplane.flush_flows(&filter))?),
            None => Ok(0),
        }
    }
}

/// Returns the filter; None: what is selected has no addresses, and so no flows.
fn filter(world: &World, select: &FlowSelector) -> Result<Option<FlowFilter>, Error> {
    let sandbox = select.sandbox.as_ref().map(|word| world.sandbox(word)).transpose()?;
    let network = select.network.as_ref().map(|word| world.network(word)).transpose()?;
    let mut filter = FlowFilter { addresses: Vec::new(), protocol: select.protocol, port: select.port };
    if sandbox.is_none() && network.is_none() {
        return Ok(Some(filter));
    }
    let endpoints = world
        .sandboxes()
        .filter(|other| sandbox.is_none_or(|sandbox| sandbox.id == other.id))
        .flat_map(|sandbox| &sandbox.endpoints)
        .filter(|endpoint| network.is_none_or(|network| network.id == endpoint.network));
    filter.addresses = endpoints.flat_map(addresses).collect();
    Ok((!filter.addresses.is_empty()).then_some(filter))
}

/// Returns an endpoint's addresses.
pub(super) fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    let ipv4 = endpoint.ipv4.map(|net| IpAddr::V4(net.addr()));
    ipv4.into_iter().chain(endpoint.ipv6.map(|net| IpAddr::V6(net.addr())))
}
