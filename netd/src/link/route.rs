//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
        RouteProtocol, RouteScope, RouteType,
    },
};

use super::{Error, Links, Mode, PROTOCOL, error::gone_is_success};

/// A route to a network or host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// Where it leads.
    pub dst: IpNet,
    /// The router on the way.
    pub gateway: Option<IpAddr>,
    /// The interface it leaves by; None: several next hops, or none (blackhole).
    pub oif: Option<u32>,
    /// The interfaces and routers of several next hops.
    pub hops: Vec<(u32, Option<IpAddr>)>,
    /// The source it prefers.
    pub source: Option<IpAddr>,
    /// The MTU it sets, in bytes.
    pub mtu: Option<u32>,
    /// Its table; 254 is main, 255 local.
    pub table: u32,
    /// Who made it (`rtm_protocol`): 2 is the kernel itself.
    pub protocol: u8,
    /// Among equal ones the least wins.
    pub priority: u32,
    /// Whether it leads to a neighbour or router, unlike local, broadcast, blackhole.
    pub unicast: bool,
}

/// The main table.
pub const MAIN: u32 = 254;
/// The kernel's own table of local and broadcast addresses.
pub const LOCAL: u32 = 255;

impl HostRoute {
    pub(super) fn parse(message: &RouteMessage) -> Option<Self> {
        let unspecified: IpAddr = match message.header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        // What a path is known to take (its MTU) is no route.
        if message.header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let mut route = Self {
            dst: IpNet::new(unspecified, message.header.destination_prefix_length).ok()?,
            gateway: None,
            oif: None,
            hops: Vec::new(),
            source: None,
            mtu: None,
            table: u32::from(message.header.table),
            protocol: message.header.protocol.into(),
            priority: 0,
            unicast: message.header.kind == RouteType::Unicast,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => {
                    route.dst = IpNet::new(ip(address)?, message.header.destination_prefix_length).ok()?;
                }
                RouteAttribute::Gateway(address) => route.gateway = ip(address),
                RouteAttribute::Oif(oif) => route.oif = Some(*oif),
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Priority(priority) => route.priority = *priority,
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::MultiPath(hops) => route.hops = hops.iter().map(hop).collect(),
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(route)
    }

    /// Returns the interfaces it leaves by.
    pub fn ways(&self) -> impl Iterator<Item = u32> {
        self.oif.into_iter().chain(self.hops.iter().map(|(oif, _)| *oif))
    }

    /// Whether it is a default route.
    pub fn is_default(&self) -> bool {
        self.dst.prefix_len() == 0
    }
}

/// Whether a route, as the kernel tells of it, is of another table than `local` (`rtm_table` in `struct rtmsg`).
fn is_elsewhere(message: &[u8]) -> bool {
    const RTM_TABLE: usize = 4;
    message.get(RTM_TABLE).is_none_or(|table| u32::from(*table) != LOCAL)
}

fn hop(hop: &RouteNextHop) -> (u32, Option<IpAddr>) {
    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    });
    (hop.interface_index, gateway)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

pub(super) fn family(ipv6: bool) -> AddressFamily {
    if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// Builds a default route of a table by a gateway that need not lie in any of the interface's subnets.
pub(super) fn default_route(gateway: IpAddr, ifindex: u32, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(gateway.is_ipv6()),
        protocol: RouteProtocol::from(PROTOCOL),
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        flags: RouteFlags::Onlink,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Oif(ifindex),
        RouteAttribute::Table(table),
    ];
    message
}

impl Links {
    /// Reads the routes of every table, undisturbed.
    pub async fn routes(&self) -> Result<Vec<HostRoute>, Error> {
        let mut routes = self.routes_of(false, |_| true).await?;
        routes.extend(self.routes_of(true, |_| true).await?);
        Ok(routes)
    }

    /// The same without the table `local`, in which every address has several: most of the routes of a host with many networks.
    pub async fn routes_elsewhere(&self) -> Result<Vec<HostRoute>, Error> {
        let mut routes = self.routes_of(false, is_elsewhere).await?;
        routes.extend(self.routes_of(true, is_elsewhere).await?);
        Ok(routes)
    }

    async fn routes_of(&self, ipv6: bool, wanted: fn(&[u8]) -> bool) -> Result<Vec<HostRoute>, Error> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family(ipv6);
        let route = |message| match message {
            RouteNetlinkMessage::NewRoute(message) => HostRoute::parse(&message),
            _ => None,
        };
        self.socket.dump_of("list routes", RouteNetlinkMessage::GetRoute(filter), wanted, route).await
    }

    /// Leads everything of the gateway's family that has no other route to it, in place of netd's former default route.
    pub async fn set_default_gateway(&self, ifindex: u32, gateway: IpAddr) -> Result<(), Error> {
        let doing = format!("set default gateway {gateway} on interface {ifindex}");
        let message = RouteNetlinkMessage::NewRoute(default_route(gateway, ifindex, MAIN));
        self.socket.send(&doing, Mode::Replace, message).await?;
        self.remove_default_routes(gateway.is_ipv6(), Some((ifindex, gateway))).await
    }

    /// Removes netd's default route of one family. What is gone is success.
    pub async fn remove_default_route(&self, ipv6: bool) -> Result<(), Error> {
        self.remove_default_routes(ipv6, None).await
    }

    async fn remove_default_routes(&self, ipv6: bool, keep: Option<(u32, IpAddr)>) -> Result<(), Error> {
        let routes = self.routes_of(ipv6, is_elsewhere).await?.into_iter();
        let ours =
            routes.filter(|route| route.protocol == PROTOCOL && route.table == MAIN && route.is_default());
        for route in ours {
            let (Some(ifindex), Some(gateway)) = (route.oif, route.gateway) else { continue };
            if keep == Some((ifindex, gateway)) {
                continue;
            }
            let doing = format!("remove default gateway {gateway} of interface {ifindex}");
            let message = RouteNetlinkMessage::DelRoute(default_route(gateway, ifindex, MAIN));
            gone_is_success(self.socket.send(&doing, Mode::Change, message).await)?;
        }
        Ok(())
    }
}
