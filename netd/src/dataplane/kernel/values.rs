//! What the maps hold of networks, endpoints and uplinks.

use std::collections::HashMap;

use ipnet::IpNet;
use netd_common::{
    maps::{Endpoint, Network, Owner, TrustKey, Uplink, endpoint_flags},
    net::{Addr4, Addr6},
};

use super::{
    super::{EndpointEntry, NetworkEntry, UplinkEntry},
    direct, wire,
};

/// Returns a network as `NETWORK` holds it.
pub fn network(network: &NetworkEntry) -> Network {
    Network {
        bridge: network.bridge,
        flags: direct::flags(network),
        mac: wire(network.bridge_mac),
        pad: 0,
        gateway4: network.ipv4.and_then(|(_, gateway)| gateway).map(Addr4::from).unwrap_or_default(),
        source4: network.host_ipv4.map(Addr4::from).unwrap_or_default(),
        gateway6: network.ipv6.and_then(|(_, gateway)| gateway).map(Addr6::from).unwrap_or_default(),
        source6: network.host_ipv6.map(Addr6::from).unwrap_or_default(),
    }
}

/// Returns an endpoint as `ENDPOINT` holds it, on this network.
pub fn endpoint(
    endpoint: &EndpointEntry,
    network: &Network,
    (mask4, mask6): (Addr4, Addr6),
    published: [u32; 2],
) -> Endpoint {
    Endpoint {
        flags: network.flags | endpoint_flags::ACTIVE,
        network: endpoint.network,
        mac: wire(endpoint.mac),
        addr4: endpoint.ipv4.map(Addr4::from).unwrap_or_default(),
        mask4,
        gateway4: network.gateway4,
        published,
        addr6: endpoint.ipv6.map(Addr6::from).unwrap_or_default(),
        mask6,
        gateway6: network.gateway6,
    }
}

/// Returns who has an endpoint's addresses, as `ADDRESS4` and `ADDRESS6` hold it.
pub fn owner(endpoint: &EndpointEntry, flags: u32) -> Owner {
    Owner { ifindex: endpoint.ifindex, network: endpoint.network, mac: wire(endpoint.mac), flags }
}

/// Returns an uplink as `UPLINK` holds it.
pub fn uplink(uplink: &UplinkEntry) -> Uplink {
    Uplink {
        addr4: uplink.ipv4.map(Addr4::from).unwrap_or_default(),
        addr6: uplink.ipv6.map(Addr6::from).unwrap_or_default(),
        mtu: uplink.mtu,
    }
}

/// Returns the key of an interface that a network trusts.
pub fn trust((network, ifindex): (u16, u32)) -> TrustKey {
    TrustKey { network: u32::from(network), ifindex }
}

/// Returns the netmasks of a network's subnets.
pub fn masks(subnets: &HashMap<IpNet, u32>, slot: u16) -> (Addr4, Addr6) {
    let (mut mask4, mut mask6) = (Addr4::default(), Addr6::default());
    for (subnet, _) in subnets.iter().filter(|(_, other)| **other == u32::from(slot)) {
        match subnet {
            IpNet::V4(net) => mask4 = net.netmask().into(),
            IpNet::V6(net) => mask6 = net.netmask().into(),
        }
    }
    (mask4, mask6)
}

/// Marks a port among those that an endpoint publishes ([`Endpoint::published`]).
pub fn mark_published(bits: &mut [u32; 2], port: u16) {
    bits[usize::from(port >> 5 & 1)] |= 1 << (port & 31);
}
