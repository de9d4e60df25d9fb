//! Ports of a bridge: their flags, and the permanent entries that spare endpoints from being learned or asked for.

use std::{collections::BTreeSet, net::IpAddr};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use super::{Error, Links, Mode, device, error::gone_is_success};
use crate::model::{IfName, Mac};

/// How a port of a bridge behaves. The default is an endpoint's port on a network with ICC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's")]
pub struct PortFlags {
    /// Whether sources are learned; endpoints have permanent entries instead, which no forged source can move.
    pub learning: bool,
    /// Whether frames to unknown destinations go out here.
    pub unicast_flood: bool,
    /// Whether nothing passes between this port and other isolated ones (ICC off).
    pub isolated: bool,
    /// Whether a frame may leave by the port it came in.
    pub hairpin: bool,
}

/// What the host knows for good of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The interface that it is behind.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Its address on the link.
    pub mac: Option<Mac>,
}

impl PortFlags {
    /// Returns what the kernel says of a bridge's port.
    pub(super) fn of(infos: &[LinkInfo]) -> Option<Self> {
        let settings = infos.iter().find_map(|info| match info {
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => Some(settings),
            _ => None,
        })?;
        let mut flags = Self::default();
        for setting in settings {
            match setting {
                InfoBridgePort::Learning(on) => flags.learning = *on,
                InfoBridgePort::UnicastFlood(on) => flags.unicast_flood = *on,
                InfoBridgePort::HairpinMode(on) => flags.hairpin = *on,
                InfoBridgePort::Isolated(on) => flags.isolated = *on,
                _ => {}
            }
        }
        Some(flags)
    }
}

impl Links {
    /// Makes a link a port of a bridge, with these flags. To be called again when a flag changes.
    ///
    /// # Errors
    /// `Limit` when the bridge is full.
    pub async fn enslave(&self, port: &IfName, bridge: u32, flags: PortFlags) -> Result<(), Error> {
        let doing = format!("make {port} a port of bridge {bridge}");
        let mut join = device::named(port);
        join.attributes.push(LinkAttribute::Controller(bridge));
        let mut set = device::named(port);
        set.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::Learning(flags.learning),
                InfoBridgePort::UnicastFlood(flags.unicast_flood),
                InfoBridgePort::HairpinMode(flags.hairpin),
                InfoBridgePort::Isolated(flags.isolated),
            ])),
        ]));
        let both = [join, set].map(|message| (Mode::Change, RouteNetlinkMessage::NewLink(message)));
        self.socket.send_together(&doing, both.into()).await.map_err(|error| match error.errno() {
            Some(libc::EXFULL) => Error::Limit(format!("{doing}: a bridge has at most 1023 ports")),
            _ => error,
        })
    }

    /// Takes a port out of its bridge.
    pub async fn release_port(&self, port: &IfName) -> Result<(), Error> {
        let mut leave = device::named(port);
        leave.attributes.push(LinkAttribute::Controller(0));
        self.change_link(&format!("take {port} out of its bridge"), leave).await
    }

    /// Ties an endpoint's Ethernet address to its port of a bridge, and its addresses to that on the bridge, for good: neither learns nor asks.
    pub async fn add_endpoint(
        &self,
        port: u32,
        bridge: u32,
        mac: Mac,
        addresses: &[IpAddr],
    ) -> Result<(), Error> {
        let neighbours = addresses.iter().map(|ip| permanent_neighbour(bridge, *ip, mac));
        let all = std::iter::once(fdb(port, mac)).chain(neighbours);
        let all = all.map(|message| (Mode::Replace, RouteNetlinkMessage::NewNeighbour(message))).collect();
        self.socket.send_together(&format!("tie {mac} and its addresses to port {port}"), all).await
    }

    /// Ties an Ethernet address to a port of a bridge for good.
    pub async fn add_fdb(&self, port: u32, mac: Mac) -> Result<(), Error> {
        let message = RouteNetlinkMessage::NewNeighbour(fdb(port, mac));
        self.socket.send(&format!("tie {mac} to port {port}"), Mode::Replace, message).await
    }

    /// Unties an Ethernet address from a port. What is gone is success.
    pub async fn remove_fdb(&self, port: u32, mac: Mac) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelNeighbour(fdb(port, mac));
        gone_is_success(
            self.socket.send(&format!("untie {mac} from port {port}"), Mode::Change, message).await,
        )
    }

    /// Makes an endpoint's Ethernet address known on its bridge for good, so that the host never asks for it.
    pub async fn add_neighbour(&self, bridge: u32, ip: IpAddr, mac: Mac) -> Result<(), Error> {
        let message = permanent_neighbour(bridge, ip, mac);
        let doing = format!("add neighbour {ip} on interface {bridge}");
        self.socket.send(&doing, Mode::Replace, RouteNetlinkMessage::NewNeighbour(message)).await
    }

    /// Lists the Ethernet addresses that somebody tied to ports of bridges, with the ports' indexes.
    pub async fn forwarding(&self) -> Result<BTreeSet<(u32, Mac)>, Error> {
        let mut filter = NeighbourMessage::default();
        filter.header.family = AddressFamily::Bridge;
        let tied = |message| match message {
            RouteNetlinkMessage::NewNeighbour(message) if message.header.state == NeighbourState::Noarp => {
                Some((message.header.ifindex, mac(&message)?))
            }
            _ => None,
        };
        let list = RouteNetlinkMessage::GetNeighbour(filter);
        Ok(self.socket.dump("list forwarding entries", list, tied).await?.into_iter().collect())
    }

    /// Lists the neighbours that somebody made known for good.
    pub async fn permanent_neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = NeighbourMessage::default();
            filter.header.family = family;
            let neighbour = |message| match message {
                RouteNetlinkMessage::NewNeighbour(message) => permanent(&message),
                _ => None,
            };
            let list = RouteNetlinkMessage::GetNeighbour(filter);
            all.extend(self.socket.dump("list neighbours", list, neighbour).await?);
        }
        Ok(all)
    }

    /// Forgets a neighbour. What is gone is success.
    pub async fn remove_neighbour(&self, bridge: u32, ip: IpAddr) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelNeighbour(neighbour(bridge, ip));
        let doing = format!("remove neighbour {ip} on interface {bridge}");
        gone_is_success(self.socket.send(&doing, Mode::Change, message).await)
    }
}

/// A static entry of the bridge; a permanent one would mean the host's own address (`net/bridge/br_fdb.c`).
fn fdb(port: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

/// Returns interface and address of an entry that somebody made; those of groups are the kernel's.
fn permanent(message: &NeighbourMessage) -> Option<Neighbour> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    let made = message.header.state == NeighbourState::Permanent && !address.is_multicast();
    made.then(|| Neighbour { ifindex: message.header.ifindex, ip: address, mac: mac(message) })
}

fn mac(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    })
}

fn permanent_neighbour(ifindex: u32, ip: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = neighbour(ifindex, ip);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

fn neighbour(ifindex: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    let (family, destination) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}
