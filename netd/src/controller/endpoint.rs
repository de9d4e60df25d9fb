//! Makes the endpoint of a sandbox on a network: its addresses and names, all chosen before anything is touched.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Attachment, Code, Error, World, words};
use crate::{
    ipam,
    model::{Driver, Endpoint, Id, IfName, Mac, Network, Sandbox, SandboxMode},
};

/// Ports of one bridge (`linux/if_bridge.h`, `BR_MAX_PORTS` less the bridge itself).
const MAX_ENDPOINTS: usize = 1023;
/// Names the interface inside exactly (Docker semantics D6).
const IFNAME_OPTION: &str = "com.docker.network.endpoint.ifname";

/// Chooses everything about a new endpoint.
///
/// `occupied` are interface names in use inside the sandbox besides those of its endpoints.
///
/// # Errors
/// The addresses, the MAC or the interface name are taken or not allowed on this network, or the bridge is full.
pub fn make(
    world: &World,
    network: &Network,
    sandbox: &Sandbox,
    wanted: &Attachment,
    occupied: &BTreeSet<String>,
) -> Result<Endpoint, Error> {
    check(world, network, sandbox, wanted)?;
    let used = ipam::used_addresses(network, world.sandboxes().map(AsRef::as_ref));
    let (ipv4, ipv6) = ipam::endpoint_addresses(network, wanted.ipv4, wanted.ipv6, &used)?;
    let gateway =
        |ipv6: bool| network.pool_for(ipv6).filter(|_| !network.internal).and_then(ipam::default_gateway);
    let (id, host_ifname) = identity(world)?;
    Ok(Endpoint {
        id,
        network: network.id.clone(),
        ifname: inside_name(network, sandbox, wanted, occupied)?,
        host_ifname,
        mac: mac(world, network, wanted.mac)?,
        gateway4: gateway(false).and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
        gateway6: gateway(true).and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
        ipv4,
        ipv6,
        aliases: wanted.aliases.clone(),
        gw_priority: wanted.gw_priority,
        driver_opts: wanted.driver_opts.clone(),
        requested: (wanted.ipv4.is_some(), wanted.ipv6.is_some(), wanted.mac.is_some()),
    })
}

/// Checks what has nothing to do with addresses.
fn check(world: &World, network: &Network, sandbox: &Sandbox, wanted: &Attachment) -> Result<(), Error> {
    if network.driver != Driver::Bridge {
        return Err(Error::new(Code::Usage, format!("network {} takes no endpoints", network.name)));
    }
    if sandbox.endpoint_on(&network.id).is_some() {
        let text = format!("endpoint with name {} already exists in network {}", sandbox.name, network.name);
        return Err(Error::new(Code::Forbidden, text));
    }
    words::check_aliases(sandbox.name.as_str(), wanted)?;
    if network.is_default_bridge() && !wanted.aliases.is_empty() {
        let text = "network-scoped aliases are only supported for user-defined networks";
        return Err(Error::new(Code::Usage, text).hint("create a network with `netd network create`"));
    }
    if world.endpoints_on(&network.id).count() >= MAX_ENDPOINTS {
        let text = format!(
            "connect sandbox {} to network {}: it has {MAX_ENDPOINTS} endpoints, the kernel's limit of ports per bridge",
            sandbox.name, network.name
        );
        return Err(Error::new(Code::Limit, text).hint("create another network"));
    }
    Ok(())
}

/// Returns a new id and the host side's name, `veth` and 7 hexadecimal digits (Docker semantics J1).
fn identity(world: &World) -> Result<(Id, IfName), Error> {
    loop {
        let id = Id::random().map_err(|error| Error::new(Code::Failure, format!("choose an id: {error}")))?;
        let name: IfName = format!("veth{}", &id.as_str()[..7])
            .parse()
            .map_err(|error| Error::new(Code::Failure, format!("name an interface: {error}")))?;
        let mut endpoints = world.sandboxes().flat_map(|sandbox| &sandbox.endpoints);
        if !endpoints.any(|endpoint| endpoint.host_ifname == name) {
            return Ok((id, name));
        }
    }
}

fn mac(world: &World, network: &Network, wanted: Option<Mac>) -> Result<Mac, Error> {
    let used: BTreeSet<Mac> = world.endpoints_on(&network.id).map(|(_, endpoint)| endpoint.mac).collect();
    match wanted {
        Some(mac) if used.contains(&mac) => {
            let text = format!("MAC address {mac} is already in use on network {}", network.name);
            Err(Error::new(Code::Conflict, text))
        }
        Some(mac) => Ok(mac),
        None => ipam::random_mac(&used),
    }
}

/// Returns the network's prefix with the lowest free index (Docker semantics D8), or the name that was asked for.
fn inside_name(
    network: &Network,
    sandbox: &Sandbox,
    wanted: &Attachment,
    occupied: &BTreeSet<String>,
) -> Result<IfName, Error> {
    let taken = |name: &str| {
        occupied.contains(name) || sandbox.endpoints.iter().any(|endpoint| endpoint.ifname.as_str() == name)
    };
    if let Some(name) = wanted.driver_opts.get(IFNAME_OPTION) {
        let name: IfName =
            name.parse().map_err(|error| Error::new(Code::Usage, format!("{IFNAME_OPTION}: {error}")))?;
        if taken(name.as_str()) {
            let text = format!("sandbox {} has an interface {name} already", sandbox.name);
            return Err(Error::new(Code::Conflict, text));
        }
        return Ok(name);
    }
    let free = (0..=u16::MAX)
        .map(|index| format!("{}{index}", network.bridge.iface_prefix))
        .find(|name| !taken(name));
    let name = free.unwrap_or_default();
    name.parse().map_err(|error| {
        Error::new(Code::Usage, format!("name an interface inside {}: {error}", sandbox.name))
    })
}

/// Refuses to attach or detach a sandbox whose mode has no networks of its own (Docker semantics D10, HO6).
pub fn check_mode(sandbox: &Sandbox) -> Result<(), Error> {
    let text = match sandbox.mode {
        SandboxMode::Endpoints => return Ok(()),
        SandboxMode::None => {
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        }
        SandboxMode::Host | SandboxMode::Sandbox(_) => {
            "container sharing network namespace with another container or host cannot be connected to any other network"
        }
    };
    Err(Error::new(Code::Usage, text))
}
