//! Sockets of host processes that a published port has led to a sandbox, ended when that port goes.
//!
//! The socket programs exchange the address once, at `connect`: a connected UDP socket would go on sending to a sandbox that is gone, or to the
//! next one with its address. `SOCK_DESTROY` (kernel 4.9, `CONFIG_INET_DIAG_DESTROY`) wakes who waits with ECONNABORTED and takes the
//! connection away, so that who sends gets EDESTADDRREQ: the program connects again. Which sockets those are is what the socket programs have noted: sockets that
//! dialled the sandbox's own address are left alone.

use std::{
    array,
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
};

use netd_common::{
    maps::{Dialled, DialledKey, names},
    net::{Addr6, Be16},
    wire::l4,
};
use netlink_packet_sock_diag::inet::SocketId;

use super::{
    Error, PublishEntry,
    maps::Table,
    sock_diag::{FAMILIES, SockDiag},
};
use crate::model::Protocol;

/// Where sockets were led: address (IPv4 as a mapped one), port, protocol.
type Backend = (Addr6, Be16, u8);

/// Ends the sockets that reached their sandbox by one of these published ports. Returns how many.
///
/// # Errors
/// The kernel's, with what was being asked for.
pub fn end(dialled: &Table<DialledKey, Dialled>, gone: &[PublishEntry]) -> Result<usize, Error> {
    let mut backends: HashMap<Backend, Vec<&PublishEntry>> = HashMap::new();
    for entry in gone {
        let key = (wide(entry.backend), Be16::from(entry.backend_port), entry.protocol as u8);
        backends.entry(key).or_default().push(entry);
    }
    let mut ended = 0;
    for protocol in gone.iter().map(|entry| entry.protocol as u8).collect::<BTreeSet<u8>>() {
        let diag = SockDiag::open().map_err(|source| failed("open a socket for sock_diag", source))?;
        // An IPv6 socket may be connected to a mapped address.
        for family in FAMILIES {
            let found = diag.connected(family, protocol).map_err(|source| failed("list sockets", source))?;
            for socket in found.iter().filter(|socket| was_led(socket, protocol, &backends, dialled)) {
                // One that has closed meanwhile is fine.
                if let Err(source) = diag.end(family, protocol, socket) {
                    let closed = source.raw_os_error() == Some(libc::ENOENT);
                    closed.then_some(()).ok_or_else(|| failed("end a socket", source))?;
                } else {
                    ended += 1;
                }
            }
        }
    }
    Ok(ended)
}

fn failed(doing: &str, source: io::Error) -> Error {
    Error::kernel(doing.to_owned(), source)
}

fn wide(addr: IpAddr) -> Addr6 {
    match addr {
        IpAddr::V4(addr) => Addr6::mapped(addr.into()),
        IpAddr::V6(addr) => addr.into(),
    }
}

/// Whether the socket programs led a socket to one of the backends by one of its ports.
fn was_led(
    socket: &SocketId,
    protocol: u8,
    backends: &HashMap<Backend, Vec<&PublishEntry>>,
    dialled: &Table<DialledKey, Dialled>,
) -> bool {
    let (addr, port) = (wide(socket.destination_address), Be16::from(socket.destination_port));
    let Some(entries) = backends.get(&(addr, port, protocol)) else { return false };
    let word = |at| u32::from_ne_bytes(array::from_fn(|index| socket.cookie[at + index]));
    let key = DialledKey { cookie: [word(0), word(4)], addr, port, proto: u16::from(protocol) };
    let Ok(Some(dialled)) = dialled.get(&key) else { return false };
    if dialled.names == names::ITS_OWN {
        return false;
    }
    entries.iter().any(|entry| {
        let any =
            entry.host_ip.is_unspecified() && entry.host_ip.is_ipv4() == dialled.addr.as_mapped().is_some();
        u16::from(dialled.port) == entry.host_port && (any || wide(entry.host_ip) == dialled.addr)
    })
}

/// Returns those whose sockets keep sending by themselves: a connection notices that its other end is gone, a datagram does not.
pub fn connectionless(entries: &[PublishEntry]) -> Vec<PublishEntry> {
    entries.iter().filter(|entry| entry.protocol == Protocol::Udp).cloned().collect()
}

const _: () = assert!(l4::UDP == Protocol::Udp as u8 && l4::TCP == Protocol::Tcp as u8);
