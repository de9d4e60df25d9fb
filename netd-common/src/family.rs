//! IPv4 and IPv6 from one source: what differs between the two, as constants and a few functions.

use core::{fmt::Debug, hash::Hash};

use crate::{
    maps::{Config, Endpoint, Network, Uplink, endpoint_flags},
    net::{Addr4, Addr6, Be16, Mac},
    wire::{csum, ipv4, ipv6},
};

/// An IP address of either family.
pub trait Address: Copy + Default + PartialEq + Eq + Hash + Debug + Ord {
    /// `0.0.0.0` or `::`.
    const UNSPECIFIED: Self;
    /// Returns the unfolded ones' complement sum of its 16-bit words.
    fn sum(&self) -> u32;
    /// Whether both addresses agree in every bit that is set in `mask`.
    fn matches(&self, other: &Self, mask: &Self) -> bool;
    /// Whether it addresses a group, or (IPv4) everybody on the link.
    fn is_multicast(&self) -> bool;
    /// Whether it is in 127/8, or `::1`.
    fn is_loopback(&self) -> bool;
    /// Whether it is `::ffff:a.b.c.d`: an IPv4 backend behind an IPv6 publish.
    fn is_mapped(&self) -> bool;
    /// Returns an IPv4 address in this family.
    fn of_v4(addr: Addr4) -> Self;
    /// Whether it is in fe80::/10; IPv4's 169.254/16 is ordinary to netd.
    fn is_link_local(&self) -> bool;
    /// Whether it is of global scope among unicast addresses, by its first byte: not fe80::/10, nor fec0::/10 (RFC 4291 §2.4).
    fn is_global(&self) -> bool;
    /// Whether it is link-local and spells another Ethernet address than this one (RFC 4291 appendix A), so that it is somebody else's.
    fn is_of_other(&self, mac: &Mac) -> bool;
    /// Returns a number below 256 that neighbours in a subnet share: the index into the subnet filter of `Config`.
    fn filter_bit(&self) -> u32;
    /// Returns 32 bits that depend on all of it, for hashing.
    fn mix(&self) -> u32;
    /// Returns it as an IPv6 address, IPv4 as a mapped one.
    fn widened(&self) -> Addr6;
}

/// One of IPv4 and IPv6.
pub trait Family: Copy + 'static {
    /// Its addresses.
    type Addr: Address;
    /// Its ethertype.
    const ETHERTYPE: Be16;
    /// Length of its fixed header, in bytes.
    const HEADER: u32;
    /// Offset of the source address in the header; the destination follows at once.
    const SOURCE: u32;
    /// Length of an address.
    const ADDRESS: u32;
    /// Offset of TTL or hop limit.
    const TTL: u32;
    /// Offset of the protocol, in IPv6 of the first header's behind.
    const PROTOCOL: u32;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// ICMP type of an echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;
    /// Whether ICMP's checksum covers the addresses.
    const ICMP_PSEUDO_HEADER: bool;
    /// Whether a zero UDP checksum means "none", so that one that comes out as zero is written as ones (RFC 768; over IPv6 RFC 8200 §8.1, RFC 6935).
    const UDP_ZERO_IS_NONE: bool;
    /// Offset of the header's own checksum, where it has one.
    const HEADER_CHECKSUM: Option<u32>;
    /// Whether this is IPv6.
    const V6: bool;
    /// The endpoint flag of masqueraded egress.
    const MASQUERADE: u32;
    /// The endpoint flag of gateway mode `routed`.
    const ROUTED: u32;
    /// The endpoint flag of gateway mode `nat-unprotected`.
    const UNPROTECTED: u32;
    /// Whether an ICMP type is an error, which quotes a packet.
    fn is_error(icmp_type: u8) -> bool;
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub struct V6;

impl Family for V4 {
    type Addr = Addr4;
    const ETHERTYPE: Be16 = Be16::from_wire([0x08, 0x00]);
    const HEADER: u32 = ipv4::HEADER;
    const SOURCE: u32 = ipv4::SOURCE;
    const ADDRESS: u32 = 4;
    const TTL: u32 = ipv4::TTL;
    const PROTOCOL: u32 = ipv4::PROTOCOL;
    const ICMP: u8 = 1;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const ICMP_PSEUDO_HEADER: bool = false;
    const UDP_ZERO_IS_NONE: bool = true;
    const HEADER_CHECKSUM: Option<u32> = Some(ipv4::CHECKSUM);
    const V6: bool = false;
    const MASQUERADE: u32 = endpoint_flags::MASQUERADE4;
    const ROUTED: u32 = endpoint_flags::ROUTED4;
    const UNPROTECTED: u32 = endpoint_flags::UNPROTECTED4;
    fn is_error(icmp_type: u8) -> bool {
        // Unreachable, source quench, time exceeded, parameter problem (RFC 792); redirects are for the link they come from.
        matches!(icmp_type, 3 | 4 | 11 | 12)
    }
}

impl Family for V6 {
    type Addr = Addr6;
    const ETHERTYPE: Be16 = Be16::from_wire([0x86, 0xdd]);
    const HEADER: u32 = ipv6::HEADER;
    const SOURCE: u32 = ipv6::SOURCE;
    const ADDRESS: u32 = 16;
    const TTL: u32 = ipv6::HOP_LIMIT;
    const PROTOCOL: u32 = ipv6::NEXT_HEADER;
    const ICMP: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const ICMP_PSEUDO_HEADER: bool = true;
    const UDP_ZERO_IS_NONE: bool = true;
    const HEADER_CHECKSUM: Option<u32> = None;
    const V6: bool = true;
    const MASQUERADE: u32 = endpoint_flags::MASQUERADE6;
    const ROUTED: u32 = endpoint_flags::ROUTED6;
    const UNPROTECTED: u32 = endpoint_flags::UNPROTECTED6;
    fn is_error(icmp_type: u8) -> bool {
        // Error messages have types below 128 (RFC 4443 §2.1).
        icmp_type < 128
    }
}

impl Address for Addr4 {
    const UNSPECIFIED: Self = Self::from_wire([0; 4]);
    fn sum(&self) -> u32 {
        csum::words(self.raw())
    }
    fn matches(&self, other: &Self, mask: &Self) -> bool {
        (self.raw() ^ other.raw()) & mask.raw() == 0
    }
    fn is_multicast(&self) -> bool {
        self.to_wire()[0] & 0xf0 == 0xe0 || self.raw() == u32::MAX
    }
    fn is_loopback(&self) -> bool {
        self.to_wire()[0] == 127
    }
    fn is_mapped(&self) -> bool {
        false
    }
    fn of_v4(addr: Addr4) -> Self {
        addr
    }
    fn is_link_local(&self) -> bool {
        false
    }
    fn is_global(&self) -> bool {
        true
    }
    fn is_of_other(&self, _: &Mac) -> bool {
        false
    }
    fn filter_bit(&self) -> u32 {
        u32::from(self.to_wire()[0])
    }
    fn mix(&self) -> u32 {
        self.raw()
    }
    fn widened(&self) -> Addr6 {
        Addr6::mapped(*self)
    }
}

impl Address for Addr6 {
    const UNSPECIFIED: Self = Self::from_wire([0; 16]);
    fn sum(&self) -> u32 {
        let [a, b, c, d] = self.raw();
        csum::words(a) + csum::words(b) + csum::words(c) + csum::words(d)
    }
    fn matches(&self, other: &Self, mask: &Self) -> bool {
        let (a, b, m) = (self.raw(), other.raw(), mask.raw());
        ((a[0] ^ b[0]) & m[0]) | ((a[1] ^ b[1]) & m[1]) | ((a[2] ^ b[2]) & m[2]) | ((a[3] ^ b[3]) & m[3]) == 0
    }
    fn is_multicast(&self) -> bool {
        self.raw()[0].to_ne_bytes()[0] == 0xff
    }
    fn is_loopback(&self) -> bool {
        self.raw() == [0, 0, 0, 1_u32.to_be()]
    }
    fn is_mapped(&self) -> bool {
        self.as_mapped().is_some()
    }
    fn of_v4(addr: Addr4) -> Self {
        Self::mapped(addr)
    }
    fn is_link_local(&self) -> bool {
        let first = self.raw()[0].to_ne_bytes();
        first[0] == 0xfe && first[1] & 0xc0 == 0x80
    }
    fn is_global(&self) -> bool {
        self.raw()[0].to_ne_bytes()[0] != 0xfe
    }
    fn is_of_other(&self, mac: &Mac) -> bool {
        let [.., high, low] = self.raw();
        let spells = high.to_ne_bytes()[3] == 0xff && low.to_ne_bytes()[0] == 0xfe;
        let [a, b, c, d, e, f] = (*mac).into();
        let own = (u32::from_ne_bytes([a ^ 2, b, c, 0xff]), u32::from_ne_bytes([0xfe, d, e, f]));
        self.is_link_local() && spells && (high, low) != own
    }
    fn filter_bit(&self) -> u32 {
        u32::from(self.raw()[0].to_ne_bytes()[1])
    }
    fn mix(&self) -> u32 {
        let [a, b, c, d] = self.raw();
        a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d.rotate_left(24)
    }
    fn widened(&self) -> Addr6 {
        *self
    }
}

/// Where the maps that serve both families keep a family's part.
pub trait Fields: Family {
    /// Returns the endpoint's address; unspecified: it has none.
    fn addr(endpoint: &Endpoint) -> Self::Addr;
    /// Returns the netmask of the endpoint's network.
    fn mask(endpoint: &Endpoint) -> Self::Addr;
    /// Returns the bridge's address as the endpoint knows it.
    fn gateway(endpoint: &Endpoint) -> Self::Addr;
    /// Returns the bridge's address.
    fn network_gateway(network: &Network) -> Self::Addr;
    /// Returns the fixed source of masqueraded flows; unspecified: the uplink's.
    fn fixed_source(network: &Network) -> Self::Addr;
    /// Returns the uplink's address.
    fn uplink_addr(uplink: &Uplink) -> Self::Addr;
    /// Returns how many flows one endpoint may pay for, and its places for the latest, less one.
    fn quota(config: &Config) -> (u32, u32);
    /// Whether an address may lie in one of netd's subnets: false is certain.
    fn may_be_ours(config: &Config, addr: &Self::Addr) -> bool;
}

/// What the hooks need of a family.
pub trait Ip: Fields + crate::wire::headers::Readable {}
impl<F: Fields + crate::wire::headers::Readable> Ip for F {}

macro_rules! fields {
    ($family:ty, $addr:ident, $mask:ident, $gateway:ident, $source:ident, $filter:ident, $quota:ident, $places:ident) => {
        impl Fields for $family {
            fn addr(endpoint: &Endpoint) -> Self::Addr {
                endpoint.$addr
            }
            fn mask(endpoint: &Endpoint) -> Self::Addr {
                endpoint.$mask
            }
            fn gateway(endpoint: &Endpoint) -> Self::Addr {
                endpoint.$gateway
            }
            fn network_gateway(network: &Network) -> Self::Addr {
                network.$gateway
            }
            fn fixed_source(network: &Network) -> Self::Addr {
                network.$source
            }
            fn uplink_addr(uplink: &Uplink) -> Self::Addr {
                uplink.$addr
            }
            fn quota(config: &Config) -> (u32, u32) {
                (config.$quota, config.$places)
            }
            #[inline(always)]
            fn may_be_ours(config: &Config, addr: &Self::Addr) -> bool {
                let bit = addr.filter_bit();
                config.$filter[(bit >> 5) as usize & 7] >> (bit & 31) & 1 == 1
            }
        }
    };
}
fields!(V4, addr4, mask4, gateway4, source4, filter4, quota4, places4);
fields!(V6, addr6, mask6, gateway6, source6, filter6, quota6, places6);
