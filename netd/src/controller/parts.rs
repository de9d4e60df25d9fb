//! What networks and sandboxes consist of, derived from the world.
//!
//! Planning an operation, repairing after a restart and tearing down all ask here, and so speak of the same objects.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    World, access,
    files::Renderer,
    object::{Bridge, Gateway, Inside, Listen, Object, Port, Ports, Publish, Record, Slot, Veth},
    sources,
};
use crate::model::{
    BridgeOptions, Driver, Endpoint, HostAccess, Id, Mac, Netns, Network, Sandbox, SandboxMode,
};

/// Of bridges and veths whose network names none, in bytes; the kernel's own default for Ethernet.
const MTU: u32 = 1500;

/// Returns what a network consists of.
pub fn of_network(network: &Network) -> Vec<Object> {
    let (Driver::Bridge, Some(index)) = (network.driver, network.index) else { return Vec::new() };
    let options = &network.bridge;
    let ipv4 =
        network.pool_for(false).filter(|_| network.ipv4).and_then(|pool| match (pool.subnet, pool.gateway) {
            (IpNet::V4(subnet), Some(IpAddr::V4(ip))) => {
                Some((subnet, Some(ip).filter(|_| !options.inhibit_ipv4)))
            }
            (IpNet::V4(subnet), _) => Some((subnet, None)),
            (IpNet::V6(_), _) => None,
        });
    let ipv6 =
        network.pool_for(true).filter(|_| network.ipv6).and_then(|pool| match (pool.subnet, pool.gateway) {
            (IpNet::V6(subnet), Some(IpAddr::V6(ip))) => Some((subnet, Some(ip))),
            (IpNet::V6(subnet), _) => Some((subnet, None)),
            (IpNet::V4(_), _) => None,
        });
    let address4 =
        ipv4.and_then(|(subnet, ip)| Some(IpNet::from(Ipv4Net::new(ip?, subnet.prefix_len()).ok()?)));
    let address6 =
        ipv6.and_then(|(subnet, ip)| Some(IpNet::from(Ipv6Net::new(ip?, subnet.prefix_len()).ok()?)));
    let mut objects = vec![
        Object::Bridge(Bridge {
            ifname: options.ifname.clone(),
            network: network.id.clone(),
            mac: mac_of(&network.id),
            mtu: options.mtu.unwrap_or(MTU),
            addresses: address4.into_iter().chain(address6).collect(),
            // Answers of published ports ask for their way as packets of the bridge.
            internal: network.internal && !options.publish_internal,
            ipv6: network.ipv6,
            adoptable: network.options.contains_key(BridgeOptions::NAME),
        }),
        Object::Slot(Slot {
            index,
            bridge: options.ifname.clone(),
            ipv4,
            ipv6,
            icc: options.icc,
            internal: network.internal,
            masquerade: options.masquerade,
            gateway_modes: (options.gateway_mode_ipv4, options.gateway_mode_ipv6),
            trusts: !options.trusted_host_interfaces.is_empty(),
            host_ipv4: options.host_ipv4,
            host_ipv6: options.host_ipv6,
            host_closed: options.host_access != HostAccess::All,
            hairpin_source: options.hairpin_source,
            any_source: options.any_source,
            own_bridge: !network.options.contains_key(BridgeOptions::NAME),
        }),
    ];
    objects.extend(access::open_on_host(network).map(Object::Open));
    objects
}

/// Returns what a sandbox consists of, in a world that holds its networks.
pub fn of_sandbox(world: &World, sandbox: &Sandbox, renderer: &Renderer) -> Vec<Object> {
    let mut objects = Vec::new();
    let joined = matches!(sandbox.mode, SandboxMode::Sandbox(_));
    let netns = sandbox.netns.as_ref().filter(|_| !joined);
    objects.extend(netns.filter(|netns| netns.owned).map(|_| Object::Netns(sandbox.name.clone())));
    objects.extend(renderer.render(world, sandbox).map(Object::Files));
    let Some(netns) = netns else { return objects };
    let attached = || {
        sandbox
            .endpoints
            .iter()
            .filter_map(|endpoint| Some((endpoint, world.network_by_id(&endpoint.network)?)))
    };
    for (endpoint, network) in attached() {
        objects.extend(of_endpoint(netns, endpoint, network));
    }
    let takers = || sandbox.bindings.iter().filter(|binding| binding.takes_host_port());
    if takers().next().is_some() {
        objects.push(Object::Guard(takers().map(Listen::from).collect()));
        objects.extend(sandbox.endpoints.iter().filter_map(|endpoint| published(sandbox, endpoint)));
    }
    objects.extend(
        attached().filter_map(|(endpoint, network)| {
            access::open(world, sandbox, endpoint, network).map(Object::Open)
        }),
    );
    objects.extend(access::links(world, sandbox).map(Object::Links));
    objects.extend(attached().map(|(endpoint, _)| Object::Up(endpoint.host_ifname.clone())));
    objects.extend(gateway(world, sandbox, netns));
    objects.extend(sources::of_sandbox(sandbox, netns));
    objects
}

fn of_endpoint(netns: &Netns, endpoint: &Endpoint, network: &Network) -> Vec<Object> {
    let host = &endpoint.host_ifname;
    let ipv4 = endpoint.ipv4.map(|net| IpAddr::V4(net.addr()));
    let addresses = ipv4.into_iter().chain(endpoint.ipv6.map(|net| IpAddr::V6(net.addr())));
    let mut objects = vec![
        Object::Veth(Veth {
            device: network.bridge.device,
            endpoint: endpoint.id.clone(),
            host: host.clone(),
            bridge: network.bridge.ifname.clone(),
            // ARP and neighbour discovery pass at layer 2 also without ICC (truth table T61, T64); the programs stop the rest.
            isolated: false,
            mtu: network.bridge.mtu.unwrap_or(MTU),
            addresses: addresses.collect(),
            netns: netns.clone(),
            inside: endpoint.ifname.clone(),
            mac: endpoint.mac,
        }),
        Object::Programs(host.clone(), network.bridge.device),
        Object::Inside(Inside {
            netns: netns.clone(),
            ifname: endpoint.ifname.clone(),
            addresses: endpoint.ipv4.map(IpNet::V4).into_iter().chain(endpoint.ipv6.map(IpNet::V6)).collect(),
            mtu: network.bridge.mtu.unwrap_or(MTU),
            announcements: network.bridge.announcements,
            own_bridge: !network.options.contains_key(BridgeOptions::NAME),
        }),
    ];
    objects.extend(network.index.map(|index| {
        Object::Record(Record {
            host: host.clone(),
            network: index,
            mac: endpoint.mac,
            ipv4: endpoint.ipv4.map(|net| net.addr()),
            ipv6: endpoint.ipv6.map(|net| net.addr()),
        })
    }));
    objects
}

/// Returns the published ports of a sandbox that this endpoint serves.
///
/// An IPv6 host address of an endpoint without IPv6 leads to its IPv4 address (Docker semantics E14, E15).
fn published(sandbox: &Sandbox, endpoint: &Endpoint) -> Option<Object> {
    let ipv4 = endpoint.ipv4.map(|net| IpAddr::V4(net.addr()));
    let ipv6 = endpoint.ipv6.map(|net| IpAddr::V6(net.addr()));
    let ports: Ports<Port> = sandbox
        .bindings
        .iter()
        .filter(|binding| binding.endpoint == endpoint.id && binding.takes_host_port())
        .filter_map(|binding| {
            let backend = if binding.host_ip.is_ipv6() { ipv6.or(ipv4) } else { ipv4 };
            Some(Port {
                listen: binding.into(),
                backend: backend?,
                backend_port: binding.port,
                allow: binding.allow.clone(),
            })
        })
        .collect();
    (!ports.is_empty()).then(|| Object::Publish(Publish { host: endpoint.host_ifname.clone(), ports }))
}

fn gateway(world: &World, sandbox: &Sandbox, netns: &Netns) -> Option<Object> {
    let ipv4 = super::gateway::provider(world, sandbox, false)
        .and_then(|endpoint| Some((endpoint.gateway4?, endpoint.ifname.clone())));
    let ipv6 = super::gateway::provider(world, sandbox, true)
        .and_then(|endpoint| Some((endpoint.gateway6?, endpoint.ifname.clone())));
    (ipv4.is_some() || ipv6.is_some()).then(|| Object::Gateway(Gateway { netns: netns.clone(), ipv4, ipv6 }))
}

/// Returns a locally administered unicast address from the first bytes of an id, which are random.
pub fn mac_of(id: &Id) -> Mac {
    let mut mac = [0x02, 0, 0, 0, 0, 0];
    for (byte, digits) in mac[1..].iter_mut().zip(id.as_str().as_bytes().chunks_exact(2)) {
        let digit = |ascii: u8| if ascii.is_ascii_digit() { ascii - b'0' } else { ascii - b'a' + 10 };
        *byte = digit(digits[0]) << 4 | digit(digits[1]);
    }
    Mac(mac)
}
