//! ARP for IPv4 over Ethernet (RFC 826): offsets in bytes from the start of the ARP header.

/// Sender hardware address.
pub const SENDER: u32 = 8;
/// Sender protocol address.
pub const SENDER_IP: u32 = 14;
/// Target protocol address.
pub const TARGET_IP: u32 = 24;
/// Hardware and protocol types and lengths of IPv4 over Ethernet.
pub const ETHERNET_IPV4: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];
