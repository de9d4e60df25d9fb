//! Ports that are open on a sandbox's own address, on the host for one network, and between sandboxes by a link or a policy.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{World, flows::addresses, object::Ports};
use crate::{
    dataplane::{LinkBy, LinkEntry},
    model::{
        Endpoint, GatewayMode, HostAccess, Id, IfName, Name, Network, Policy, Protocol, Sandbox, Sources,
    },
};

/// A port on an endpoint's own address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenPort {
    /// The endpoint's address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// Who may come.
    pub allow: Sources,
}

/// Ports that are open on the addresses of one endpoint, or on those of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Host side of the endpoint's veth, or the bridge.
    pub host: IfName,
    /// The ports, in ascending order.
    pub ports: Ports<OpenPort>,
}

/// Ports that one sandbox's links open for it, or that one network's policies open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// The sandbox, or the network.
    pub owner: Id,
    /// The ports, in ascending order.
    pub ports: Ports<LinkEntry>,
}

/// Returns the ports that are open on an endpoint's own addresses: what it publishes, where its network or the daemon lets it be addressed
/// directly (Docker semantics B8, B10, A12).
pub fn open(world: &World, sandbox: &Sandbox, endpoint: &Endpoint, network: &Network) -> Option<Open> {
    let opens = |mode| match mode {
        GatewayMode::Routed => true,
        GatewayMode::Nat => world.direct_routing() || !network.bridge.trusted_host_interfaces.is_empty(),
        GatewayMode::NatUnprotected | GatewayMode::Isolated => false, // everything is, or nothing
    };
    let ipv4 = endpoint.ipv4.map(|net| (IpAddr::V4(net.addr()), network.bridge.gateway_mode_ipv4));
    let ipv6 = endpoint.ipv6.map(|net| (IpAddr::V6(net.addr()), network.bridge.gateway_mode_ipv6));
    let bindings = sandbox.bindings.iter().filter(|binding| binding.endpoint == endpoint.id);
    let ports: BTreeSet<OpenPort> = bindings
        .filter_map(|binding| {
            let (ip, mode) = if binding.host_ip.is_ipv6() { ipv6.or(ipv4) } else { ipv4 }?;
            let (port, protocol, allow) = (binding.port, binding.protocol, binding.allow.clone());
            opens(mode).then_some(OpenPort { ip, port, protocol, allow })
        })
        .collect();
    let ports: Ports<OpenPort> = ports.into_iter().collect();
    (!ports.is_empty()).then(|| Open { host: endpoint.host_ifname.clone(), ports })
}

/// Returns the ports of the host that a network reaches where it does not reach all of them, on its bridge's addresses. They stand for every address
/// of the host.
pub fn open_on_host(network: &Network) -> Option<Open> {
    let HostAccess::Only(allowed) = &network.bridge.host_access else { return None };
    let gateways = [false, true].into_iter().filter_map(|ipv6| network.pool_for(ipv6)?.gateway);
    let ports = gateways.flat_map(|ip| {
        let open = move |&(port, protocol): &(u16, Protocol)| OpenPort {
            ip,
            port,
            protocol,
            allow: Sources::default(),
        };
        allowed.iter().map(open)
    });
    let ports: BTreeSet<OpenPort> = ports.collect();
    let ports: Ports<OpenPort> = ports.into_iter().collect();
    (!ports.is_empty()).then(|| Open { host: network.bridge.ifname.clone(), ports })
}

/// Returns what a sandbox's links open: the targets' exposed ports, on the default network, where sandboxes may not talk otherwise
/// (Docker semantics G2, truth table T65 to T68).
pub fn links(world: &World, sandbox: &Sandbox) -> Option<Links> {
    let targets = sandbox.links.iter().filter_map(|link| world.linked(link));
    let ports: BTreeSet<LinkEntry> = targets
        .flat_map(|target| {
            let exposed = exposed(target);
            let pairs = pairs(world, sandbox, target);
            pairs.into_iter().flat_map(move |(from, to)| {
                let entry =
                    move |port: &(u16, Protocol)| LinkEntry { from, to, port: Some(*port), by: LinkBy::Link };
                exposed.iter().map(entry).collect::<Vec<_>>()
            })
        })
        .collect();
    let ports: Ports<LinkEntry> = ports.into_iter().collect();
    (!ports.is_empty()).then(|| Links { owner: sandbox.id.clone(), ports })
}

/// Returns what a network's policies open, where sandboxes may not talk otherwise.
pub fn policies(world: &World, network: &Network) -> Option<Links> {
    if network.policies.is_empty() || network.bridge.icc {
        return None;
    }
    let there: HashMap<&Name, &Endpoint> =
        world.endpoints_on(&network.id).map(|(sandbox, endpoint)| (&sandbox.name, endpoint)).collect();
    let mut ports = BTreeSet::new();
    for policy in &network.policies {
        for (from, to) in ends(policy, |name| there.get(name).copied()) {
            let entry = |port| LinkEntry { from, to, port, by: LinkBy::Policy };
            if policy.ports.is_empty() {
                ports.insert(entry(None));
            }
            ports.extend(policy.ports.iter().map(|port| entry(Some(*port))));
        }
    }
    let ports: Ports<LinkEntry> = ports.into_iter().collect();
    (!ports.is_empty()).then(|| Links { owner: network.id.clone(), ports })
}

/// Whether the sandboxes that a policy names are there, so that it opens something.
pub fn policy_holds(world: &World, network: &Network, policy: &Policy) -> bool {
    let named = |name: &Name| {
        world
            .endpoints_on(&network.id)
            .find(|(sandbox, _)| sandbox.name == *name)
            .map(|(_, endpoint)| endpoint)
    };
    !network.bridge.icc && !ends(policy, named).is_empty()
}

/// Returns between which addresses a policy opens something, by family; an unspecified one stands for every sandbox on the network.
fn ends<'a>(policy: &Policy, endpoint: impl Fn(&Name) -> Option<&'a Endpoint>) -> Vec<(IpAddr, IpAddr)> {
    let Some(to) = endpoint(&policy.to) else { return Vec::new() };
    let everybody = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let from: Vec<IpAddr> = match &policy.from {
        None => everybody.to_vec(),
        Some(name) => endpoint(name).map(|from| addresses(from).collect()).unwrap_or_default(),
    };
    let to_same = |from: IpAddr| addresses(to).find(|to| to.is_ipv4() == from.is_ipv4()).map(|to| (from, to));
    from.into_iter().filter_map(to_same).collect()
}

/// Returns both sandboxes' addresses on the default network, by family; none where they may talk anyway.
fn pairs(world: &World, sandbox: &Sandbox, target: &Sandbox) -> Vec<(IpAddr, IpAddr)> {
    let endpoints = sandbox.endpoints.iter().filter_map(|from| {
        let network = world.network_by_id(&from.network)?;
        let closed = network.is_default_bridge() && !network.bridge.icc;
        Some((from, target.endpoint_on(&network.id).filter(|_| closed)?))
    });
    let families = endpoints.flat_map(|(from, to)| {
        let same =
            |from: IpAddr| addresses(to).find(|to| to.is_ipv4() == from.is_ipv4()).map(|to| (from, to));
        addresses(from).filter_map(same).collect::<Vec<_>>()
    });
    families.collect()
}

/// Returns the ports that a sandbox says it serves: `--expose` and `-p`.
fn exposed(sandbox: &Sandbox) -> BTreeSet<(u16, Protocol)> {
    let published = sandbox
        .publish
        .iter()
        .flat_map(|spec| (spec.ports.0..=spec.ports.1).map(|port| (port, spec.protocol)));
    sandbox.exposed.iter().copied().chain(published).collect()
}
