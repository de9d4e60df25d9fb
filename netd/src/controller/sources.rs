//! Where what a sandbox on several networks sends from each of its addresses leaves by default: by that address's network.
//!
//! An answer that left by another network's veth would not be known there for one, and its source would be a forged one (dataplane 7.14).

use std::net::IpAddr;

use super::{World, object::Object, plan::Step};
use crate::{
    model::{IfName, Netns, Sandbox, SandboxMode},
    store::Intent,
};

/// Default routes of a sandbox by source address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRoutes {
    /// The sandbox's namespace.
    pub netns: Netns,
    /// One for each address of a family in which several endpoints have a gateway.
    pub routes: Vec<SourceRoute>,
}

/// Where what is sent from an address leaves by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRoute {
    /// The address.
    pub source: IpAddr,
    /// The interface inside the sandbox that has it.
    pub ifname: IfName,
    /// The gateway of that one's network.
    pub gateway: IpAddr,
}

/// Returns the default routes by source address that a sandbox has.
pub fn of_sandbox(sandbox: &Sandbox, netns: &Netns) -> Option<Object> {
    let mut routes = Vec::new();
    for ipv6 in [false, true] {
        let ways = sandbox.endpoints.iter().filter_map(|endpoint| {
            let (source, gateway): (IpAddr, IpAddr) = if ipv6 {
                (endpoint.ipv6?.addr().into(), endpoint.gateway6?.into())
            } else {
                (endpoint.ipv4?.addr().into(), endpoint.gateway4?.into())
            };
            Some(SourceRoute { source, ifname: endpoint.ifname.clone(), gateway })
        });
        let ways: Vec<SourceRoute> = ways.collect();
        if ways.len() > 1 {
            routes.extend(ways);
        }
    }
    (!routes.is_empty()).then(|| Object::SourceRoutes(SourceRoutes { netns: netns.clone(), routes }))
}

/// Returns the step that removes such routes from a sandbox that shall have none: an operation that broke off may have left some. To be taken with
/// the sandbox's other steps, while its namespace is open.
pub fn leftover(sandbox: &Sandbox) -> Option<Step> {
    let bare = |netns: &&Netns| of_sandbox(sandbox, netns).is_none();
    sandbox.netns.as_ref().filter(|_| sandbox.mode == SandboxMode::Endpoints).filter(bare).map(removal)
}

/// Returns the step that removes such routes from the namespace of a sandbox that was being made or removed when an operation broke off.
pub fn of_broken_off(world: &World, broken_off: Option<&Intent>) -> Option<Step> {
    let Some(Intent::CreateSandbox(sandbox) | Intent::RemoveSandbox(sandbox)) = broken_off else {
        return None;
    };
    foreign_netns(sandbox).filter(|_| world.sandbox_by_id(&sandbox.id).is_none()).map(removal)
}

fn removal(netns: &Netns) -> Step {
    Step::Remove(Object::SourceRoutes(SourceRoutes { netns: netns.clone(), routes: Vec::new() }))
}

/// Returns a sandbox's namespace when it is not netd's, so that what netd put into it does not go with it.
pub fn foreign_netns(sandbox: &Sandbox) -> Option<&Netns> {
    let attached = sandbox.mode == SandboxMode::Endpoints;
    sandbox.netns.as_ref().filter(|netns| attached && !netns.owned)
}
