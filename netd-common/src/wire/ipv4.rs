//! IPv4 (RFC 791 §3.1): offsets in bytes from the start of its header.

/// Version and header length.
pub const VERSION_IHL: u32 = 0;
/// Total length.
pub const TOTAL_LENGTH: u32 = 2;
/// Flags and fragment offset.
pub const FRAGMENT: u32 = 6;
/// Time to live.
pub const TTL: u32 = 8;
/// Protocol.
pub const PROTOCOL: u32 = 9;
/// Header checksum.
pub const CHECKSUM: u32 = 10;
/// Source address.
pub const SOURCE: u32 = 12;
/// Destination address.
pub const DESTINATION: u32 = 16;
/// Length without options.
pub const HEADER: u32 = 20;

/// Version 4 without options, as the first byte has it.
pub const PLAIN: u8 = 0x45;
/// Fragment offset, in units of eight bytes.
pub const OFFSET_MASK: u16 = 0x1fff;
/// More fragments follow.
pub const MORE: u16 = 0x2000;

/// Option: the options end here (RFC 791 §3.1).
pub const OPTIONS_END: u8 = 0;
/// Option: one byte that says nothing.
pub const NO_OPERATION: u8 = 1;
/// Option: loose source route.
pub const LOOSE_ROUTE: u8 = 131;
/// Option: strict source route.
pub const STRICT_ROUTE: u8 = 137;
/// Options that are walked; a header of more is refused. Real ones have one or two, and up to three bytes that say nothing beside each.
pub const MOST_OPTIONS: u32 = 10;
