//! The parties of the topology, and the addresses they have in each family.

use etherparse::{PacketBuilder, PacketBuilderStep};

use super::{Fake, Tables};
use crate::{
    family::{Ip, V4, V6},
    net::{Addr4, Addr6, Mac},
};

/// Host sides and devices of the topology.
pub mod ifindex {
    /// Host side of a1's veth.
    pub const A1: u32 = 11;
    /// Host side of a2's veth.
    pub const A2: u32 = 12;
    /// Host side of b1's veth.
    pub const B1: u32 = 21;
    /// Network A's bridge.
    pub const BRIDGE_A: u32 = 30;
    /// Network B's bridge.
    pub const BRIDGE_B: u32 = 31;
    /// The uplink.
    pub const UP0: u32 = 5;
    /// Another uplink.
    pub const UP1: u32 = 6;
}

/// The parties of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// A sandbox on network A.
    A1,
    /// Another sandbox on network A.
    A2,
    /// A sandbox on network B.
    B1,
    /// Network A's gateway.
    GatewayA,
    /// Network B's gateway.
    GatewayB,
    /// The host's address on the uplink.
    Host,
    /// A machine outside.
    Remote,
    /// Another machine outside.
    Remote2,
}

/// A family whose addresses the topology has.
pub trait Cast: Ip {
    /// Returns a party's address.
    fn of(party: Party) -> Self::Addr;
    /// Returns the netmask of both networks.
    fn netmask() -> Self::Addr;
    /// Starts a frame between two addresses.
    fn frame(
        from: Mac,
        to: Mac,
        src: &Self::Addr,
        dst: &Self::Addr,
        ttl: u8,
    ) -> PacketBuilderStep<etherparse::IpHeaders>;
    /// Returns the fake's tables for the family.
    fn tables(fake: &Fake) -> &Tables<Self::Addr>;
    /// Returns the fake's tables for the family, to change them.
    fn tables_mut(fake: &mut Fake) -> &mut Tables<Self::Addr>;
}

/// Returns a party's Ethernet address; outside and gateways have one too.
pub fn mac(party: Party) -> Mac {
    Mac::from([2, 0, 0, 0, 0, party as u8 + 1])
}

fn addr4(text: [u8; 4]) -> Addr4 {
    Addr4::from_wire(text)
}

fn addr6(text: &str) -> Addr6 {
    text.parse::<core::net::Ipv6Addr>().map(Addr6::from).unwrap_or_default()
}

impl Cast for V4 {
    fn of(party: Party) -> Addr4 {
        addr4(match party {
            Party::A1 => [172, 30, 0, 2],
            Party::A2 => [172, 30, 0, 3],
            Party::B1 => [172, 31, 0, 2],
            Party::GatewayA => [172, 30, 0, 1],
            Party::GatewayB => [172, 31, 0, 1],
            Party::Host => [198, 51, 100, 1],
            Party::Remote => [198, 51, 100, 2],
            Party::Remote2 => [203, 0, 113, 2],
        })
    }
    fn netmask() -> Addr4 {
        addr4([255, 255, 255, 0])
    }
    fn frame(
        from: Mac,
        to: Mac,
        src: &Addr4,
        dst: &Addr4,
        ttl: u8,
    ) -> PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(from.into(), to.into()).ipv4(src.to_wire(), dst.to_wire(), ttl)
    }
    fn tables(fake: &Fake) -> &Tables<Addr4> {
        &fake.v4
    }
    fn tables_mut(fake: &mut Fake) -> &mut Tables<Addr4> {
        &mut fake.v4
    }
}

impl Cast for V6 {
    fn of(party: Party) -> Addr6 {
        addr6(match party {
            Party::A1 => "fd30::2",
            Party::A2 => "fd30::3",
            Party::B1 => "fd31::2",
            Party::GatewayA => "fd30::1",
            Party::GatewayB => "fd31::1",
            Party::Host => "2001:db8:e::1",
            Party::Remote => "2001:db8:e::2",
            Party::Remote2 => "2001:db8:f::2",
        })
    }
    fn netmask() -> Addr6 {
        addr6("ffff:ffff:ffff:ffff::")
    }
    fn frame(
        from: Mac,
        to: Mac,
        src: &Addr6,
        dst: &Addr6,
        ttl: u8,
    ) -> PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(from.into(), to.into()).ipv6(src.to_wire(), dst.to_wire(), ttl)
    }
    fn tables(fake: &Fake) -> &Tables<Addr6> {
        &fake.v6
    }
    fn tables_mut(fake: &mut Fake) -> &mut Tables<Addr6> {
        &mut fake.v6
    }
}
