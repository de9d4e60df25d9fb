//! Asks the kernel whether a socket of the host holds a port, by binding it for a moment.
//!
//! The ports are guarded before, so nobody slips in between question and use; the guard lets these sockets pass by their mark.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    thread,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
        sockopt::{Ipv6V6Only, Mark, ReuseAddr},
    },
};

use super::{Code, Error, object::Listen, publish::Address};
use crate::model::Protocol;

/// `SO_MARK` of the probes, `netd` in ASCII; the guard program exempts it.
const MARK: u32 = 0x6e65_7464;

/// From this many ports on, every processor helps: each port costs the kernel ten microseconds.
const MANY: usize = 4096;

/// Fails when any of these ports is held by a socket of the host.
///
/// # Errors
/// Docker's text, `failed to bind host port 0.0.0.0:8080/tcp: address already in use` (semantics E11, E13).
pub fn probe(listens: &[Listen]) -> Result<(), Error> {
    // How many there are takes a look at the daemon's control group.
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    let threads = if listens.len() < MANY { 1 } else { processors() };
    if threads == 1 {
        return one_after_the_other(listens);
    }
    thread::scope(|scope| {
        let chunks = listens.chunks(listens.len().div_ceil(threads));
        let probes: Vec<_> = chunks.map(|chunk| scope.spawn(|| one_after_the_other(chunk))).collect();
        let panicked = |_| Err(Error::new(Code::Failure, "a thread that probed host ports panicked"));
        probes.into_iter().try_for_each(|probe| probe.join().unwrap_or_else(panicked))
    })
}

fn one_after_the_other(listens: &[Listen]) -> Result<(), Error> {
    let mut rest = listens;
    while let [first, tail @ ..] = rest {
        // One socket for both families asks twice as fast; only a refusal makes it worth asking one by one.
        rest = match tail {
            [second, others @ ..] if is_pair(first, second) && both(first).is_ok() => others,
            _ => {
                one(first).map_err(|errno| refused(first, errno))?;
                tail
            }
        };
    }
    Ok(())
}

/// Whether the host can have IPv6 sockets.
pub fn has_ipv6() -> bool {
    socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).is_ok()
}

fn is_pair(first: &Listen, second: &Listen) -> bool {
    first.ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        && second.ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && (first.port, first.protocol) == (second.port, second.protocol)
}

fn both(listen: &Listen) -> nix::Result<()> {
    let socket = open(AddressFamily::Inet6, listen.protocol)?;
    setsockopt(&socket, Ipv6V6Only, &false)?;
    hold(&socket, Ipv6Addr::UNSPECIFIED.into(), listen)
}

fn one(listen: &Listen) -> nix::Result<()> {
    let family = if listen.ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = match open(family, listen.protocol) {
        // A kernel without SCTP: nobody has a socket of it.
        Err(Errno::ESOCKTNOSUPPORT | Errno::EPROTONOSUPPORT) if listen.protocol == Protocol::Sctp => {
            return Ok(());
        }
        opened => opened?,
    };
    if listen.ip.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    hold(&socket, listen.ip, listen)
}

fn open(family: AddressFamily, protocol: Protocol) -> nix::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
        // Without naming SCTP: that would load its module, and where it is not loaded nobody holds a port.
        Protocol::Sctp => SockType::SeqPacket,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, Mark, &MARK)?;
    Ok(socket)
}

fn hold(socket: &OwnedFd, ip: IpAddr, at: &Listen) -> nix::Result<()> {
    let address = SockaddrStorage::from(SocketAddr::new(ip, at.port));
    match at.protocol {
        Protocol::Tcp => {
            // Listeners refuse all the same; what is left of closed connections does not (Docker semantics E21).
            setsockopt(socket, ReuseAddr, &true)?;
            bind(socket.as_raw_fd(), &address)?;
            listen(socket, Backlog::new(0)?)
        }
        Protocol::Udp | Protocol::Sctp => bind(socket.as_raw_fd(), &address),
    }
}

fn refused(listen: &Listen, errno: Errno) -> Error {
    let address = Address(listen.ip, listen.port);
    let (code, why) = match errno {
        Errno::EADDRINUSE => (Code::Conflict, "address already in use".to_owned()),
        Errno::EADDRNOTAVAIL => (Code::Failure, "cannot assign requested address".to_owned()),
        Errno::EACCES | Errno::EPERM => (Code::Permission, "permission denied".to_owned()),
        other => (Code::Failure, io::Error::from(other).to_string()),
    };
    let error = Error::new(code, format!("failed to bind host port {address}/{}: {why}", listen.protocol));
    match errno {
        Errno::EADDRINUSE => error.hint("a process of the host holds it: `ss -lntup` shows which"),
        Errno::EADDRNOTAVAIL => error.hint("the host has no such address: `ip address` lists those it has"),
        _ => error,
    }
}
