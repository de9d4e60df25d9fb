//! Addresses that the host answers for on an interface, though they are behind it: proxy entries of the neighbour tables (RFC 1027, RFC 4389).
//!
//! They are the kernel's, so that neighbours are answered while no daemon runs, and carry netd's protocol number.

use std::{collections::BTreeSet, net::IpAddr};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::RouteProtocol,
};

use super::{Error, Links, Mode, PROTOCOL, error::gone_is_success, parse_label};

/// An interface's index, and an address that is answered for there.
pub type Proxy = (u32, IpAddr);

impl Links {
    /// Makes these the addresses that this instance answers for; leaves those of others alone, and those of other instances: what lies in the subnet
    /// of a bridge that carries another's label.
    pub async fn ensure_proxies(&self, wanted: &BTreeSet<Proxy>, instance: &str) -> Result<(), Error> {
        let present = self.proxies().await?;
        for &(ifindex, ip) in wanted.difference(&present) {
            let doing = format!("answer for {ip} on interface {ifindex}");
            let mut message = proxy(ifindex, ip);
            message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
            self.socket.send(&doing, Mode::Replace, RouteNetlinkMessage::NewNeighbour(message)).await?;
        }
        let stale: Vec<&Proxy> = present.difference(wanted).collect();
        if stale.is_empty() {
            return Ok(());
        }
        let links = self.links().await?;
        let others: BTreeSet<u32> = links
            .iter()
            .filter(|link| {
                let label = link.alias.as_deref().and_then(parse_label);
                label.is_some_and(|label| label.instance != instance)
            })
            .map(|link| link.ifindex)
            .collect();
        let addresses = self.addresses(None).await?;
        let is_others = |ip: IpAddr| {
            addresses.iter().any(|address| others.contains(&address.ifindex) && address.net.contains(&ip))
        };
        for &(ifindex, ip) in stale.into_iter().filter(|(_, ip)| !is_others(*ip)) {
            let doing = format!("no longer answer for {ip} on interface {ifindex}");
            let message = RouteNetlinkMessage::DelNeighbour(proxy(ifindex, ip));
            gone_is_success(self.socket.send(&doing, Mode::Change, message).await)?;
        }
        Ok(())
    }

    /// Lists what instances of netd answer for.
    async fn proxies(&self) -> Result<BTreeSet<Proxy>, Error> {
        let mut all = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = NeighbourMessage::default();
            (filter.header.family, filter.header.flags) = (family, NeighbourFlags::Proxy);
            let proxy = |message| match message {
                RouteNetlinkMessage::NewNeighbour(message) => ours(&message),
                _ => None,
            };
            let list = RouteNetlinkMessage::GetNeighbour(filter);
            all.extend(self.socket.dump("list addresses that are answered for", list, proxy).await?);
        }
        Ok(all)
    }
}

fn proxy(ifindex: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    (message.header.ifindex, message.header.flags) = (ifindex, NeighbourFlags::Proxy);
    let (family, destination) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

/// Returns interface and address of a proxy entry that netd made.
fn ours(message: &NeighbourMessage) -> Option<Proxy> {
    let mut made = false;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Protocol(protocol) => made = u8::from(*protocol) == PROTOCOL,
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
            _ => {}
        }
    }
    let made = made && message.header.flags.contains(NeighbourFlags::Proxy);
    Some((message.header.ifindex, address?)).filter(|_| made)
}
