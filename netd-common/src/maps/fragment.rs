//! Fragmented datagrams.

use crate::{
    net::{Addr6, Be16, IfIndex, Zone},
    wire::fragment::Coverage,
};

/// A fragmented datagram as seen in a zone: the key of `DATAGRAM4` and `DATAGRAM6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// The datagram's identification.
    pub id: u32,
    /// Where it is seen.
    pub zone: Zone,
    /// IP protocol number; zero in IPv6, where the fragments of one datagram may differ in it (RFC 8200 §4.5).
    pub proto: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// What is known of a fragmented datagram whose first fragment has been seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagram {
    /// Source port.
    pub sport: Be16,
    /// Destination port.
    pub dport: Be16,
    /// IP protocol number of its transport.
    pub proto: u8,
    /// `datagram_flags`.
    pub flags: u8,
    /// Its length in units of eight bytes; 0: the last fragment has not been seen.
    pub units: u16,
    /// When a fragment was last seen, in ticks.
    pub last_seen: u32,
    /// What has been seen.
    pub covered: Coverage,
}

/// Bits of [`Datagram::flags`].
pub mod datagram_flags {
    /// Nothing of it is missing: what comes under its identification belongs to a new one.
    pub const COMPLETE: u8 = 1 << 0;
    /// It goes to the host's stack, whatever its ports are.
    pub const STRAY: u8 = 1 << 1;
}

/// A later fragment that waits for its first: an element of `HELD`. What it carries lies at the same index of `HELD_BYTES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `held::FREE`, `BUSY` or `READY`.
    pub state: u32,
    /// When it came, in ticks.
    pub since: u32,
    /// The device it came by.
    pub device: IfIndex,
    /// Its length from the IP header on, in bytes.
    pub length: u32,
    /// Its datagram, IPv4 addresses as mapped ones.
    pub key: FragmentKey<Addr6>,
}

/// How waiting fragments are kept: on shelves of so many places each. A shelf is a ring: its newest fragment takes the place of its oldest.
pub mod held {
    /// Nothing is there.
    pub const FREE: u32 = 0;
    /// A program is about to fill or to clear it.
    pub const BUSY: u32 = 1;
    /// A fragment waits.
    pub const READY: u32 = 2;

    /// Shelves: half of them for what comes from outside, by sender, half for sandboxes. A flood empties one shelf.
    pub const SHELVES: u32 = 8;
    /// Places of a shelf: a reversed datagram of 64 KiB in fragments for Ethernet takes 44.
    pub const PLACES: u32 = 64;
    /// Most bytes of a fragment from the IP header on: the largest frames in use (9,000 bytes), and room.
    pub const BYTES: usize = 9_216;
    const _: () = assert!(SHELVES.is_power_of_two() && PLACES.is_power_of_two());
}

/// Ticks (two seconds) after which a datagram is forgotten that nothing is added to. The kernel waits for 30 s (`ipfrag_time`), on slow links too;
/// nothing puts fragments out of order by more than a fraction of a second, and identifications come back (RFC 4963).
pub const DATAGRAM_IDLE: u32 = 30;
