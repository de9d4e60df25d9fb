//! Addresses of interfaces.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{
        AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
    },
};

use super::{Error, Links, Mode, PROTOCOL, error::gone_is_success};

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's")]
pub struct HostAddress {
    /// The interface it is on.
    pub ifindex: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// How far it is valid.
    pub scope: Scope,
    /// IPv4: another address of the same subnet came first. IPv6: a temporary privacy address (RFC 8981).
    pub secondary: bool,
    /// Not for new connections (IPv6).
    pub deprecated: bool,
    /// Duplicate detection is not done, or found a duplicate (IPv6): nothing can be sent from it.
    pub unusable: bool,
    /// Whether netd put it there.
    pub ours: bool,
}

/// How far an address is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On its link.
    Link,
    /// On the host.
    Host,
    /// Anything else.
    Other,
}

impl HostAddress {
    pub(super) fn parse(message: &AddressMessage) -> Option<Self> {
        let (mut address, mut local, mut ours) = (None, None, false);
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
                _ => {}
            }
        }
        // On a point-to-point link, `Address` is the peer's.
        let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
        Some(Self {
            ifindex: message.header.index,
            net,
            scope: match message.header.scope {
                AddressScope::Universe => Scope::Global,
                AddressScope::Link => Scope::Link,
                AddressScope::Host => Scope::Host,
                _ => Scope::Other,
            },
            secondary: flags.contains(AddressFlags::Secondary),
            deprecated: flags.contains(AddressFlags::Deprecated),
            unusable: flags.contains(AddressFlags::Dadfailed)
                || flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic),
            ours,
        })
    }
}

/// Builds the message that adds or deletes an address: without duplicate detection, since netd hands out each one once.
fn message(ifindex: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.prefix_len = net.prefix_len();
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![
        AddressAttribute::Local(net.addr()),
        AddressAttribute::Address(net.addr()),
        AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)),
    ];
    match net {
        IpNet::V4(net) => {
            message.header.family = AddressFamily::Inet;
            if net.prefix_len() < 31 {
                message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            }
        }
        IpNet::V6(_) => message.header.family = AddressFamily::Inet6,
    }
    message
}

impl Links {
    /// Reads the addresses of one interface, or of all, undisturbed.
    pub async fn addresses(&self, ifindex: Option<u32>) -> Result<Vec<HostAddress>, Error> {
        let mut filter = AddressMessage::default();
        filter.header.index = ifindex.unwrap_or(0);
        // An old kernel ignores the filter.
        let wanted = |address: &HostAddress| ifindex.is_none_or(|ifindex| ifindex == address.ifindex);
        let address = |message| match message {
            RouteNetlinkMessage::NewAddress(message) => HostAddress::parse(&message).filter(wanted),
            _ => None,
        };
        self.socket.dump("list addresses", RouteNetlinkMessage::GetAddress(filter), address).await
    }

    /// Gives an interface an address, replacing one that differs in its prefix length.
    pub async fn add_address(&self, ifindex: u32, net: IpNet) -> Result<(), Error> {
        let doing = format!("add address {net} to interface {ifindex}");
        let message = RouteNetlinkMessage::NewAddress(message(ifindex, net));
        self.socket.send(&doing, Mode::Replace, message).await
    }

    /// Takes an address from an interface. What is gone is success.
    pub async fn remove_address(&self, ifindex: u32, net: IpNet) -> Result<(), Error> {
        let doing = format!("remove address {net} from interface {ifindex}");
        let message = RouteNetlinkMessage::DelAddress(message(ifindex, net));
        gone_is_success(self.socket.send(&doing, Mode::Change, message).await)
    }

    /// Makes these the addresses that netd has put on an interface; leaves those of others alone.
    ///
    /// An address that others put there counts as present.
    pub async fn ensure_addresses(&self, ifindex: u32, wanted: &[IpNet]) -> Result<(), Error> {
        let present = self.addresses(Some(ifindex)).await?;
        for address in present.iter().filter(|address| address.ours && !wanted.contains(&address.net)) {
            self.remove_address(ifindex, address.net).await?;
        }
        let present: HashSet<IpNet> = present.into_iter().map(|address| address.net).collect();
        for net in wanted.iter().filter(|net| !present.contains(net)) {
            self.add_address(ifindex, *net).await?;
        }
        Ok(())
    }

    /// Returns the host's own addresses of both families, loopback ones left out.
    pub async fn local_addresses(&self) -> Result<Vec<IpAddr>, Error> {
        Ok(super::snapshot::local_addresses(&self.addresses(None).await?))
    }
}
