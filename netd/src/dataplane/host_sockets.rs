//! Sockets of host processes that a published port has led to a sandbox, ended when that port goes.
//!
//! The socket programs exchange the address once, at `connect`: a connected UDP socket would go on sending to a sandbox that is gone, or to the
//! next one with its address. `SOCK_DESTROY` (kernel 4.9, `CONFIG_INET_DIAG_DESTROY`) wakes who waits with ECONNABORTED and takes the
//! connection away, so that who sends gets EDESTADDRREQ: the program connects again. Which sockets those are is what the socket programs have noted: sockets that
//! dialled the sandbox's own address are left alone.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use netd_common::{
    maps::{Dialled, DialledKey, names},
    net::{Addr6, Be16},
    wire::l4,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::{Error, PublishEntry, maps::Table};
use crate::model::Protocol;

/// Message types and flags (`include/uapi/linux/{netlink,sock_diag}.h`).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`: ports and addresses in network order, interface, cookie.
const ID: usize = 48;
/// Where it starts in `struct inet_diag_req_v2`, and its place in `struct inet_diag_msg`.
const REQUEST_ID: usize = 8;
const ANSWER_ID: usize = 4;
/// Established, opening, closing by either side; a connected UDP socket is "established".
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8;

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
        let diag = Diag::open().map_err(|source| failed("open a socket for sock_diag", source))?;
        // An IPv6 socket may be connected to a mapped address.
        for family in [libc::AF_INET, libc::AF_INET6] {
            let found = diag.list(family, protocol).map_err(|source| failed("list sockets", source))?;
            for socket in found.iter().filter(|socket| was_led(socket, protocol, &backends, dialled)) {
                // One that has closed meanwhile is fine.
                if let Err(source) = diag.destroy(family, protocol, socket) {
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
    socket: &Socket,
    protocol: u8,
    backends: &HashMap<Backend, Vec<&PublishEntry>>,
    dialled: &Table<DialledKey, Dialled>,
) -> bool {
    let Some(entries) = backends.get(&(socket.addr, socket.port, protocol)) else { return false };
    let (addr, port, proto) = (socket.addr, socket.port, u16::from(protocol));
    let key = DialledKey { cookie: socket.cookie, addr, port, proto };
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

/// A socket as the kernel lists it.
struct Socket {
    /// `struct inet_diag_sockid`.
    id: [u8; ID],
    addr: Addr6,
    port: Be16,
    cookie: [u32; 2],
}

impl Socket {
    fn read(family: i32, id: [u8; ID]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]);
        let wire: [u8; 16] = std::array::from_fn(|index| id[20 + index]);
        let addr = if family == libc::AF_INET {
            IpAddr::from([wire[0], wire[1], wire[2], wire[3]])
        } else {
            IpAddr::from(wire)
        };
        Self { id, addr: wide(addr), port: Be16::from_wire([id[2], id[3]]), cookie: [word(40), word(44)] }
    }
}

/// A `NETLINK_SOCK_DIAG` socket.
struct Diag(OwnedFd);

impl Diag {
    fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?))
    }

    /// Lists the connected sockets of a family and protocol.
    fn list(&self, family: i32, protocol: u8) -> io::Result<Vec<Socket>> {
        self.send(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, &request(family, protocol, STATES, &[0; ID]))?;
        let mut sockets = Vec::new();
        while self.receive(|kind, payload| {
            if let Some(id) = payload.get(ANSWER_ID..ANSWER_ID + ID).filter(|_| kind == SOCK_DIAG_BY_FAMILY) {
                sockets.extend(id.try_into().map(|id| Socket::read(family, id)));
            }
        })? {}
        Ok(sockets)
    }

    /// Ends a socket; whoever has it gets ECONNABORTED.
    fn destroy(&self, family: i32, protocol: u8, socket: &Socket) -> io::Result<()> {
        self.send(SOCK_DESTROY, REQUEST | ACKNOWLEDGE, &request(family, protocol, u32::MAX, &socket.id))?;
        while self.receive(|_, _| {})? {}
        Ok(())
    }

    fn send(&self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[0; 8]); // sequence and port: one question at a time
        message.extend_from_slice(payload);
        sendto(self.0.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// Hands one datagram's messages to `visit`. False: that was the end.
    fn receive(&self, mut visit: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut buffer = vec![0; 32 << 10];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((length, kind)) = header(rest) {
            let payload = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
            match kind {
                NLMSG_DONE => return Ok(false),
                NLMSG_ERROR => return acknowledged(payload).map(|()| false),
                _ => visit(kind, payload),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(true)
    }
}

/// Returns length and type of the next message.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    Some((usize::try_from(length).ok()?, kind)).filter(|(length, _)| *length >= HEADER)
}

fn acknowledged(payload: &[u8]) -> io::Result<()> {
    match payload {
        [a, b, c, d, ..] => match i32::from_ne_bytes([*a, *b, *c, *d]) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Writes `struct inet_diag_req_v2`.
fn request(family: i32, protocol: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut request = vec![u8::try_from(family).unwrap_or_default(), protocol, 0, 0];
    request.extend_from_slice(&states.to_ne_bytes());
    debug_assert_eq!(request.len(), REQUEST_ID);
    request.extend_from_slice(id);
    request
}

/// Returns those whose sockets keep sending by themselves: a connection notices that its other end is gone, a datagram does not.
pub fn connectionless(entries: &[PublishEntry]) -> Vec<PublishEntry> {
    entries.iter().filter(|entry| entry.protocol == Protocol::Udp).cloned().collect()
}

const _: () = assert!(l4::UDP == Protocol::Udp as u8 && l4::TCP == Protocol::Tcp as u8);
