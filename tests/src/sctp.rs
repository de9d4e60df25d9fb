//! SCTP as far as a question and its answer go (RFC 9260 §3.3.2, §3.3.3): INIT and INIT ACK over raw sockets, with and without a kernel that
//! speaks SCTP. The answer says what the server saw, in place of a state cookie.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvfrom, sendto},
};

use crate::{Ns, Outcome, Seen};

/// IANA's protocol number.
pub const SCTP: u8 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// Common header and fixed part of INIT and INIT ACK.
const HEADER: usize = 12;
const FIXED: usize = 20;
/// The parameter that carries the server's answer.
const COOKIE: u16 = 7;

impl Ns {
    /// Sends an INIT from a port and reports what comes back; silence of this length is a timeout.
    pub fn init_sctp(&self, to: SocketAddr, from: u16, patience: Duration) -> Outcome {
        self.init_sctp_with(to, from, &[], patience)
    }

    /// As [`Self::init_sctp`], from a client that says it has these addresses too.
    pub fn init_sctp_with(&self, to: SocketAddr, from: u16, more: &[IpAddr], patience: Duration) -> Outcome {
        match self.run(|| exchange(to, from, more, patience)) {
            Ok(seen) => Outcome::Ok(seen),
            Err(Errno::EAGAIN) => Outcome::Timeout,
            Err(Errno::ECONNREFUSED) => Outcome::Refused,
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH) => Outcome::Unreachable,
            Err(e) => panic!("{}: SCTP to {to}: {e}", self.name()),
        }
    }
}

/// Opens a raw SCTP socket in the calling thread's namespace.
pub fn open(family: AddressFamily) -> nix::Result<OwnedFd> {
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain integers; nix has no name for the protocol.
    let fd = unsafe { libc::socket(family as libc::c_int, flags, libc::c_int::from(SCTP)) };
    // SAFETY: the descriptor was just made, or the call failed.
    Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn exchange(to: SocketAddr, from: u16, more: &[IpAddr], patience: Duration) -> nix::Result<Seen> {
    let fd = open(if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 })?;
    let host = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    let addresses: Vec<_> = more.iter().map(own_address).collect();
    sendto(fd.as_raw_fd(), &message(from, to.port(), INIT, &addresses.concat()), &host, MsgFlags::empty())?;
    let (end, mut buffer) = (Instant::now() + patience, [0; 2048]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::EAGAIN);
        }
        let mut waiting = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))? == 0 {
            continue;
        }
        let (length, source) = recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer)?;
        let Some(answer) = read(&buffer[..length], to.is_ipv4()) else { continue };
        if source.and_then(address) != Some(to.ip()) || (answer.from, answer.to) != (to.port(), from) {
            continue;
        }
        assert!(answer.intact, "the CRC32c of an SCTP packet from {to} is wrong");
        if answer.kind == INIT_ACK {
            let text = String::from_utf8_lossy(&answer.cookie).into_owned();
            return Ok(crate::client::parse(text.trim_end_matches('\0')));
        }
    }
}

/// Answers an INIT to one of these ports; None: the packet is none.
pub fn answer(packet: &[u8], v4: bool, ports: &[u16], says: impl Fn(u16) -> String) -> Option<Vec<u8>> {
    let init = read(packet, v4).filter(|p| p.intact && p.kind == INIT && ports.contains(&p.to))?;
    Some(message(init.to, init.from, INIT_ACK, &parameter(COOKIE, says(init.from).as_bytes())))
}

/// Builds a parameter, padded to four bytes.
fn parameter(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short parameter");
    let mut bytes = [&kind.to_be_bytes()[..], &length.to_be_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Builds the parameter that names one more address of the sender (RFC 9260 §3.3.2.1).
fn own_address(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => parameter(5, &v4.octets()),
        IpAddr::V6(v6) => parameter(6, &v6.octets()),
    }
}

/// A received packet's first chunk.
struct Packet {
    from: u16,
    to: u16,
    kind: u8,
    cookie: Vec<u8>,
    intact: bool,
}

fn read(bytes: &[u8], v4: bool) -> Option<Packet> {
    // Raw IPv4 sockets deliver the IP header too.
    let packet = if v4 { bytes.get(usize::from(bytes.first()? & 0xf) * 4..)? } else { bytes };
    let short = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let mut plain = packet.to_vec();
    plain.get_mut(8..12)?.fill(0);
    Some(Packet {
        from: short(0)?,
        to: short(2)?,
        kind: *packet.get(HEADER)?,
        cookie: packet.get(HEADER + FIXED + 4..).unwrap_or_default().to_vec(),
        intact: packet[8..12] == crc32c(&plain).to_le_bytes(),
    })
}

/// Builds INIT or INIT ACK with these parameters, its checksum complete.
pub fn message(from: u16, to: u16, kind: u8, parameters: &[u8]) -> Vec<u8> {
    let length = u16::try_from(FIXED + parameters.len()).expect("a short chunk");
    let mut bytes =
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 8], &[kind, 0], &length.to_be_bytes()].concat();
    // Initiate tag, receiver window, one stream each way, initial TSN.
    bytes.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    bytes.extend(parameters);
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The checksum of RFC 9260 appendix A, bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}

/// The address of a socket address.
pub fn address(storage: SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(SockaddrIn::ip).map(IpAddr::V4);
    v4.or_else(|| storage.as_sockaddr_in6().map(SockaddrIn6::ip).map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283); // RFC 3720 appendix B.4's check value
    }

    #[test]
    fn an_init_is_answered_with_what_was_seen() {
        let init = message(42_000, 80, INIT, &[]);
        let answer =
            answer(&init, false, &[80], |port| format!("a1 sees 10.0.0.3:{port}\n")).expect("an answer");
        let read = read(&answer, false).expect("a packet");
        assert!(read.intact && (read.from, read.to, read.kind) == (80, 42_000, INIT_ACK));
        assert!(String::from_utf8_lossy(&read.cookie).starts_with("a1 sees 10.0.0.3:42000\n"));
    }
}
