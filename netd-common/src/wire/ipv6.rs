//! IPv6 (RFC 8200): offsets in bytes from the start of its header, and the extension headers netd walks.

/// Payload length.
pub const PAYLOAD_LENGTH: u32 = 4;
/// Next header.
pub const NEXT_HEADER: u32 = 6;
/// Hop limit.
pub const HOP_LIMIT: u32 = 7;
/// Source address.
pub const SOURCE: u32 = 8;
/// Destination address.
pub const DESTINATION: u32 = 24;
/// Length of the fixed header.
pub const HEADER: u32 = 40;

/// Hop-by-hop options (RFC 8200 §4.3).
pub const HOP_BY_HOP: u8 = 0;
/// Routing (§4.4).
pub const ROUTING: u8 = 43;
/// Fragment (§4.5), eight bytes.
pub const FRAGMENT: u8 = 44;
/// Authentication header (RFC 4302): its length counts 4-byte words minus 2.
pub const AUTH: u8 = 51;
/// Destination options (§4.6).
pub const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers that are walked; more are refused (reliability: S31).
pub const MAX_EXTENSIONS: usize = 6;

/// Whether another header follows this one. All of these are at least eight bytes long.
pub const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTH | DESTINATION_OPTIONS)
}
