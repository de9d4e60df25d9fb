//! What a call's socket is: bound to what, connected to whom. It decides whether the socket can be led to a sandbox.

use netd_common::{
    family::Address,
    net::{Addr4, Addr6, Be16},
};

use crate::sock::Call;

/// `TCP_ESTABLISHED`, the state of a connected UDP socket too.
const ESTABLISHED: u32 = 1;

/// Reads a field of the socket of a call; 0 when it is not to be had.
macro_rules! field {
    ($call:expr, $($field:tt)+) => {{
        // SAFETY: the context the kernel passed to this program; the socket lives as long as the call.
        let socket = unsafe { (&raw const (*$call.0).__bindgen_anon_1.sk).read_volatile() };
        // SAFETY: as above.
        if socket.is_null() {
            Default::default()
        } else {
            unsafe { (&raw const (*socket).$($field)+).read_volatile() }
        }
    }};
}

/// Reads an IPv6 address of the socket word by word, as the kernel wants it.
macro_rules! field6 {
    ($call:expr, $name:ident) => {
        Addr6::from_raw([
            field!($call, $name[0]),
            field!($call, $name[1]),
            field!($call, $name[2]),
            field!($call, $name[3]),
        ])
    };
}

impl Call {
    /// Whether the socket cannot send to a sandbox: it is bound to a device. What it dials stays as it is, and goes by `lo`.
    #[inline(always)]
    pub fn is_bound_to_a_device(self) -> bool {
        let device: u32 = field!(self, bound_dev_if);
        device != 0
    }

    /// Whether the socket is connected, so that it hears nobody but its peer. What an IPv6 socket sends to an IPv4 peer comes to `sendmsg4` all the
    /// same (`udpv6_sendmsg`), under the peer's own address.
    #[inline(always)]
    pub fn is_connected(self) -> bool {
        let state: u32 = field!(self, state);
        state == ESTABLISHED
    }

    /// Whether answers of this IPv4 backend reach the socket.
    #[inline(always)]
    pub fn hears4(self, backend: Addr4, port: Be16) -> bool {
        !self.is_connected()
            || (Addr4::from_raw(field!(self, dst_ip4)) == backend && self.peer_port() == port)
    }

    /// As [`Self::hears4`] for IPv6.
    #[inline(always)]
    pub fn hears6(self, backend: Addr6, port: Be16) -> bool {
        !self.is_connected() || (field6!(self, dst_ip6) == backend && self.peer_port() == port)
    }

    #[inline(always)]
    fn peer_port(self) -> Be16 {
        let port: u16 = field!(self, dst_port);
        Be16::from_wire(port.to_ne_bytes())
    }

    /// Returns the address that an IPv4 socket is bound to.
    #[inline(always)]
    pub fn bound4(self) -> Addr4 {
        Addr4::from_raw(field!(self, src_ip4))
    }

    /// Whether an IPv4 socket cannot send to a sandbox: it is bound to a loopback address (the kernel answers EINVAL) or a device.
    #[inline(always)]
    pub fn stays4(self) -> bool {
        self.bound4().is_loopback() || self.is_bound_to_a_device()
    }

    /// Returns the address that an IPv6 socket is bound to.
    #[inline(always)]
    pub fn bound6(self) -> Addr6 {
        field6!(self, src_ip6)
    }

    /// As [`Self::stays4`] for IPv6, with IPv4 in it.
    #[inline(always)]
    pub fn stays6(self) -> bool {
        let source = self.bound6();
        let mapped = source.as_mapped().is_some_and(|v4| v4.is_loopback());
        source.is_loopback() || mapped || self.is_bound_to_a_device()
    }
}
