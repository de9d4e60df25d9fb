//! Numbers of the network as types: byte order changes only in `From`.

use core::fmt;

/// A 16-bit number in network byte order, as it lies in packets and map keys.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Be16(u16);

/// An IPv4 address in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr4(u32);

/// An IPv6 address in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr6([u32; 4]);

/// An Ethernet address. Three 16-bit words: it lies on even offsets in frames and needs no padding in map values.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u16; 3]);

/// A kernel interface index; 0 is "none".
pub type IfIndex = u32;

/// Where a tuple is seen: the host side of an endpoint's veth by its index, or [`UPLINK_ZONE`].
///
/// Tuples of different networks never meet, and a packet from outside, which does not say which network it is for, still finds its flow.
pub type Zone = u32;

/// The zone of everything that arrives by an uplink.
pub const UPLINK_ZONE: Zone = 0;

/// The zone of what the host sends to itself: the index of `lo`, the same in every namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
pub const LOOPBACK_ZONE: Zone = 1;

/// The zone of what the host's stack was given to answer: no device has this index.
pub const HANDED_ZONE: Zone = u32::MAX;

/// Whether a zone is that of a sandbox's packets.
#[inline(always)]
pub const fn is_of_a_sandbox(zone: Zone) -> bool {
    zone != UPLINK_ZONE && zone != LOOPBACK_ZONE
}

impl From<u16> for Be16 {
    fn from(host: u16) -> Self {
        Self(host.to_be())
    }
}

impl From<Be16> for u16 {
    fn from(wire: Be16) -> Self {
        Self::from_be(wire.0)
    }
}

impl Be16 {
    /// Zero, the same in both orders.
    pub const ZERO: Self = Self(0);

    /// Returns the number as it lies in memory, for checksums.
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Takes two bytes as they lie in a packet.
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// Returns the two bytes as they lie in a packet.
    pub const fn to_wire(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }
}

impl Addr4 {
    /// Takes four bytes as they lie in a packet.
    pub const fn from_wire(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// Returns the four bytes as they lie in a packet.
    pub const fn to_wire(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// Returns the address as it lies in memory.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Takes an address as it lies in memory, as kernel structures hold it.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

impl Addr6 {
    /// Takes sixteen bytes as they lie in a packet.
    pub const fn from_wire(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// Returns the sixteen bytes as they lie in a packet.
    pub const fn to_wire(self) -> [u8; 16] {
        let [a, b, c, d] = [
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
            self.0[3].to_ne_bytes(),
        ];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// Returns the address as it lies in memory.
    pub const fn raw(self) -> [u32; 4] {
        self.0
    }

    /// Takes an address as it lies in memory, as kernel structures hold it.
    pub const fn from_raw(raw: [u32; 4]) -> Self {
        Self(raw)
    }

    /// Returns `::ffff:a.b.c.d`, the form in which IPv6 sockets name IPv4 peers (RFC 4291 §2.5.5.2).
    pub const fn mapped(v4: Addr4) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), v4.0])
    }

    /// Returns the IPv4 address inside `::ffff:a.b.c.d`, if it is one.
    pub const fn as_mapped(self) -> Option<Addr4> {
        if self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0xffff_u32.to_be() {
            Some(Addr4(self.0[3]))
        } else {
            None
        }
    }
}

impl From<core::net::Ipv4Addr> for Addr4 {
    fn from(addr: core::net::Ipv4Addr) -> Self {
        Self::from_wire(addr.octets())
    }
}

impl From<Addr4> for core::net::Ipv4Addr {
    fn from(addr: Addr4) -> Self {
        Self::from(addr.to_wire())
    }
}

impl From<core::net::Ipv6Addr> for Addr6 {
    fn from(addr: core::net::Ipv6Addr) -> Self {
        Self::from_wire(addr.octets())
    }
}

impl From<Addr6> for core::net::Ipv6Addr {
    fn from(addr: Addr6) -> Self {
        Self::from(addr.to_wire())
    }
}

impl From<[u8; 6]> for Mac {
    fn from(b: [u8; 6]) -> Self {
        Self([
            u16::from_ne_bytes([b[0], b[1]]),
            u16::from_ne_bytes([b[2], b[3]]),
            u16::from_ne_bytes([b[4], b[5]]),
        ])
    }
}

impl From<Mac> for [u8; 6] {
    fn from(mac: Mac) -> Self {
        let [a, b, c] = [mac.0[0].to_ne_bytes(), mac.0[1].to_ne_bytes(), mac.0[2].to_ne_bytes()];
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u16::from(*self))
    }
}

impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", core::net::Ipv4Addr::from(*self))
    }
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", core::net::Ipv6Addr::from(*self))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = <[u8; 6]>::from(*self);
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lie_in_memory_as_on_the_wire() {
        assert_eq!(Be16::from(0x1f90).to_wire(), [0x1f, 0x90]);
        assert_eq!(u16::from(Be16::from_wire([0x1f, 0x90])), 8080);
        assert_eq!(Addr4::from(core::net::Ipv4Addr::new(10, 0, 0, 3)).to_wire(), [10, 0, 0, 3]);
        let v6: core::net::Ipv6Addr = "fd00:a::3".parse().expect("valid");
        assert_eq!(Addr6::from(v6).to_wire(), v6.octets());
        assert_eq!(core::net::Ipv6Addr::from(Addr6::from(v6)), v6);
    }

    #[test]
    fn mapped_addresses_round_trip() {
        let v4 = Addr4::from(core::net::Ipv4Addr::new(172, 20, 0, 2));
        let mapped = Addr6::mapped(v4);
        assert_eq!(
            core::net::Ipv6Addr::from(mapped),
            "::ffff:172.20.0.2".parse::<core::net::Ipv6Addr>().expect("valid")
        );
        assert_eq!(mapped.as_mapped(), Some(v4));
        assert_eq!(Addr6::default().as_mapped(), None);
    }
}
