//! Chooses which endpoint of a sandbox provides the default route and serves its published ports, for each family by itself.

use std::cmp::Reverse;

use super::World;
use crate::model::{Endpoint, Network, Sandbox};

/// Returns the endpoint that is the gateway of this family, if any is.
///
/// The order is Docker's (semantics H1; moby `daemon/libnetwork/sandbox.go`, `Less`): higher priority, then not internal, then
/// gateways of both families before one, then the network's name.
pub fn provider<'a>(world: &World, sandbox: &'a Sandbox, ipv6: bool) -> Option<&'a Endpoint> {
    ranked(world, sandbox)
        .into_iter()
        .find(|endpoint| if ipv6 { endpoint.gateway6.is_some() } else { endpoint.gateway4.is_some() })
}

fn ranked<'a>(world: &World, sandbox: &'a Sandbox) -> Vec<&'a Endpoint> {
    let mut endpoints: Vec<(&Network, &Endpoint)> = sandbox
        .endpoints
        .iter()
        .filter_map(|endpoint| Some((world.network_by_id(&endpoint.network)?.as_ref(), endpoint)))
        .collect();
    endpoints.sort_by_key(|(network, endpoint)| {
        let families = u8::from(endpoint.gateway4.is_some()) + u8::from(endpoint.gateway6.is_some());
        (Reverse(endpoint.gw_priority), network.internal, Reverse(families), &network.name)
    });
    endpoints.into_iter().map(|(_, endpoint)| endpoint).collect()
}
