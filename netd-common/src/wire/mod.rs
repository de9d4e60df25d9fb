//! Frames as values: where fields lie, and what a packet says.

pub mod arp;
pub mod crc32c;
pub mod csum;
pub mod ethernet;
pub mod fragment;
pub mod headers;
pub mod ipv4;
pub mod ipv6;
pub mod l4;
pub mod reset;
pub mod sane;

pub use fragment::{Fragment, Place, Span};
pub use headers::{Headers, L4};
