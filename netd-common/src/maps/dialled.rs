//! What host sockets dialled.

use crate::net::{Addr6, Be16};

/// What the dialled address of a host socket was: the key of `DIALLED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DialledKey {
    /// The socket's cookie, as two words.
    pub cookie: [u32; 2],
    /// The backend's address, IPv4 as a mapped one.
    pub addr: Addr6,
    /// The backend's port.
    pub port: Be16,
    /// IP protocol number.
    pub proto: u16,
}

/// The address and port that a host process dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialled {
    /// The dialled address, IPv4 as a mapped one.
    pub addr: Addr6,
    /// The dialled port.
    pub port: Be16,
    /// One of [`names`].
    pub names: u16,
}

/// By how many names a socket knows a backend.
pub mod names {
    /// By what is kept.
    pub const ONE: u16 = 0;
    /// Unconnected, by what is kept first, then by others.
    pub const SEVERAL: u16 = 1;
    /// By its own address, perhaps after others.
    pub const ITS_OWN: u16 = 2;
}
