//! ICMP echo, IPv4 and IPv6, over raw sockets.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
            SockaddrStorage, recvfrom, sendto, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

use crate::{Ns, Outcome, PATIENCE, SILENCE, Seen};

static NEXT_ID: AtomicU16 = AtomicU16::new(1);
const PAYLOAD: &[u8] = b"netd lab echo payload";

impl Ns {
    /// Pings and expects the reply.
    pub fn ping(&self, to: impl Into<IpAddr>) {
        let (to, id) = (to.into(), NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let outcome = self.ping_with(to, id, PATIENCE);
        assert!(
            matches!(outcome, Outcome::Ok(_)),
            "{}: ping {to}: {outcome:?}, a reply was expected",
            self.name()
        );
    }

    /// Pings and reports; silence of [`SILENCE`] is a timeout.
    pub fn probe_ping(&self, to: impl Into<IpAddr>) -> Outcome {
        self.ping_with(to.into(), NEXT_ID.fetch_add(1, Ordering::Relaxed), SILENCE)
    }

    /// Pings with a chosen echo identifier. A reply counts only with the same identifier and payload, from the pinged address.
    pub fn ping_with(&self, to: IpAddr, id: u16, patience: Duration) -> Outcome {
        self.run(|| match exchange(to, id, patience) {
            Ok(()) => Outcome::Ok(Seen { server: to.to_string(), source: SocketAddr::new(to, 0) }),
            Err(Errno::EAGAIN) => Outcome::Timeout,
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH) => Outcome::Unreachable,
            Err(e) => panic!("{}: ping {to}: {e}", self.name()),
        })
    }
}

fn exchange(to: IpAddr, id: u16, patience: Duration) -> nix::Result<()> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let destination = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(fd.as_raw_fd(), &request(to, id), &destination, MsgFlags::empty())?;
    let end = Instant::now() + patience;
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::EAGAIN);
        }
        let limit = TimeVal::new(left.as_secs().cast_signed(), i64::from(left.subsec_micros().max(1)));
        setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
        let (length, from) = recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer)?;
        match read_reply(to, id, &buffer[..length], from) {
            Some(Reply::Echo) => return Ok(()),
            Some(Reply::Unreachable) => return Err(Errno::EHOSTUNREACH),
            None => {}
        }
    }
}

fn request(to: IpAddr, id: u16) -> Vec<u8> {
    let echo = IcmpEchoHeader { id, seq: 1 };
    let mut bytes = match to {
        IpAddr::V4(_) => {
            Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), PAYLOAD).to_bytes().to_vec()
        }
        // The kernel fills in the checksum of ICMPv6 (RFC 3542 §3.1).
        IpAddr::V6(_) => Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes().to_vec(),
    };
    bytes.extend_from_slice(PAYLOAD);
    bytes
}

enum Reply {
    Echo,
    Unreachable,
}

/// Reads a received message; None: it is about something else.
fn read_reply(to: IpAddr, id: u16, bytes: &[u8], from: Option<SockaddrStorage>) -> Option<Reply> {
    let (icmp, echo_reply, unreachable) = match to {
        // Raw IPv4 sockets deliver the IP header too.
        IpAddr::V4(_) => (bytes.get(usize::from(bytes.first()? & 0xf) * 4..)?, 0, 3),
        IpAddr::V6(_) => (bytes, 129, 1),
    };
    let from = from.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(SockaddrIn::ip).map(IpAddr::V4);
        v4.or_else(|| address.as_sockaddr_in6().map(SockaddrIn6::ip).map(IpAddr::V6))
    });
    let kind = *icmp.first()?;
    if kind == echo_reply && from == Some(to) && icmp.get(4..6)? == id.to_be_bytes() {
        assert_eq!(icmp.get(8..)?, PAYLOAD, "the payload of a ping changed on the way");
        return Some(Reply::Echo);
    }
    // The quoted request carries the identifier behind its own IP header.
    let quoted = match to {
        IpAddr::V4(_) => 8 + 20 + 4,
        IpAddr::V6(_) => 8 + 40 + 4,
    };
    (kind == unreachable && icmp.get(quoted..quoted + 2)? == id.to_be_bytes()).then_some(Reply::Unreachable)
}
