//! Ethernet II: offsets in bytes from the start of the frame.

use crate::net::Be16;

/// Destination address.
pub const DESTINATION: u32 = 0;
/// Source address.
pub const SOURCE: u32 = 6;
/// Ethertype.
pub const ETHERTYPE: u32 = 12;
/// Length of the header.
pub const HEADER: u32 = 14;

/// ARP (RFC 826).
pub const ARP: Be16 = Be16::from_wire([0x08, 0x06]);
