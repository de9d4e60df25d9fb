//! Clients: what a connection or a datagram to an address comes to, in the words of the truth table (Docker semantics 5.2, "Results").

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    mem::offset_of,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    getsockopt_impl,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sockopt_impl,
    sys::socket::{
        self, AddressFamily, SockFlag, SockType, SockaddrStorage, getsockopt, setsockopt, sockopt,
    },
};

use crate::{Family, Ns};

/// How long an answer may take that has to come.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long silence has to last to count as a drop; on these links an answer takes well under a millisecond.
pub const SILENCE: Duration = Duration::from_millis(300);

/// A transport protocol of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    /// A connection, then the server's first line.
    Tcp,
    /// A datagram and the answer.
    Udp,
}

impl Proto {
    /// Both, in the order in which tests go through them.
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As `-p` and `netd port` write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// IANA's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Who answered.
    pub server: String,
    /// The client's address as the server saw it.
    pub source: SocketAddr,
}

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came from the address that was dialled.
    Ok(Seen),
    /// Nothing came.
    Timeout,
    /// Refused at once: RST, or an ICMP port unreachable.
    Refused,
    /// The local host, or a router, says that there is no way.
    Unreachable,
}

/// A TCP connection whose server echoes.
#[derive(Debug)]
pub struct Stream(TcpStream);

sockopt_impl!(
    /// The head of `tcp_info` in words, as every kernel has it; `libc`'s struct is longer than that of Linux 6.1.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; DSACK_DUPS + 1]
);

/// Index of `tcpi_total_retrans` among the words of `tcp_info`.
const TOTAL_RETRANS: usize = offset_of!(libc::tcp_info, tcpi_total_retrans) / size_of::<u32>();
/// Index of `tcpi_dsack_dups` among the words of `tcp_info`.
const DSACK_DUPS: usize = offset_of!(libc::tcp_info, tcpi_dsack_dups) / size_of::<u32>();

/// Short for a socket address.
pub fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

impl Ns {
    /// Dials and expects an answer; a TCP connection has to come about without a lost SYN.
    pub fn reach(&self, proto: Proto, to: SocketAddr) -> Seen {
        self.reach_from(proto, to, None)
    }

    /// As [`Self::reach`], from this local address or port.
    pub fn reach_from(&self, proto: Proto, to: SocketAddr, from: Option<SocketAddr>) -> Seen {
        match self.dial(proto, to, from, PATIENCE) {
            Outcome::Ok(seen) => seen,
            other => panic!("{}: {proto:?} to {to}: {other:?}, an answer was expected", self.name()),
        }
    }

    /// Dials and reports; silence of [`SILENCE`] is a timeout.
    pub fn probe(&self, proto: Proto, to: SocketAddr) -> Outcome {
        self.dial(proto, to, None, SILENCE)
    }

    /// As [`Self::probe`], from this local address.
    pub fn probe_from(&self, proto: Proto, to: SocketAddr, from: SocketAddr) -> Outcome {
        self.dial(proto, to, Some(from), SILENCE)
    }

    /// Dials and reports, with the patience of [`Self::reach`]: for every outcome but silence.
    pub fn attempt(&self, proto: Proto, to: SocketAddr) -> Outcome {
        self.dial(proto, to, None, PATIENCE)
    }

    /// Dials from a local address, if given, and waits at most this long for each step.
    pub fn dial(
        &self,
        proto: Proto,
        to: SocketAddr,
        from: Option<SocketAddr>,
        patience: Duration,
    ) -> Outcome {
        let answer = self.run(|| match proto {
            Proto::Tcp => tcp_greeting(to, from, patience),
            Proto::Udp => udp_answer(to, from, patience),
        });
        match answer {
            Ok(line) => Outcome::Ok(parse(&line)),
            Err(e) => outcome(&e),
        }
    }

    /// Sends a datagram with this many bytes and expects them back, intact.
    pub fn exchange_datagram(&self, to: SocketAddr, size: u16) {
        self.try_datagram(to, size).unwrap_or_else(|e| panic!("{}: {size} bytes to {to}: {e}", self.name()));
    }

    /// As [`Self::exchange_datagram`], and reports what the kernel says instead.
    pub fn try_datagram(&self, to: SocketAddr, size: u16) -> io::Result<()> {
        let payload: Vec<u8> = (0..size).map(|n| n.to_be_bytes()[1] ^ n.to_be_bytes()[0]).collect();
        let answer = self.run(|| exchange(to, None, PATIENCE, &payload))?;
        assert!(answer.ends_with(&payload), "{}: {size} bytes to {to} came back changed", self.name());
        Ok(())
    }

    /// Opens a connection that stays, and reads the server's first line.
    pub fn connect_stream(&self, to: SocketAddr) -> (Stream, Seen) {
        self.connect_stream_from(to, None)
    }

    /// As [`Self::connect_stream`], from this local address or port.
    pub fn connect_stream_from(&self, to: SocketAddr, from: Option<SocketAddr>) -> (Stream, Seen) {
        let mut stream = self
            .run(|| connect(to, from, PATIENCE))
            .unwrap_or_else(|e| panic!("{}: connect to {to}: {e}", self.name()));
        let line =
            read_line(&mut stream).unwrap_or_else(|e| panic!("{}: greeting of {to}: {e}", self.name()));
        (Stream(stream), parse(&line))
    }
}

impl Outcome {
    /// The server's answer, if there was one.
    pub fn seen(self) -> Option<Seen> {
        match self {
            Self::Ok(seen) => Some(seen),
            _ => None,
        }
    }
}

impl Stream {
    /// Sends bytes and reads them back, both at once: no buffer on the way need hold them all.
    pub fn echo(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut reader, mut writer) = (&self.0, &self.0);
        let mut back = vec![0; bytes.len()];
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || writer.write_all(bytes));
            let read = reader.read_exact(&mut back);
            sent.join().expect("a write").and(read)
        })?;
        if back == bytes {
            Ok(())
        } else {
            Err(io::Error::new(ErrorKind::InvalidData, "other bytes came back"))
        }
    }

    /// The connection itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.0
    }

    /// Waits at most this long for each read and write from now on.
    pub fn patience(&self, limit: Duration) {
        self.0.set_read_timeout(Some(limit)).expect("set a timeout");
        self.0.set_write_timeout(Some(limit)).expect("set a timeout");
    }

    /// Bytes that went out a second time, and segments; a stream on these links loses nothing.
    pub fn retransmissions(&self) -> u32 {
        getsockopt(&self.0, TcpInfo).expect("TCP_INFO")[TOTAL_RETRANS]
    }

    /// Segments that went out a second time, less those whose first copy the peer had received (RFC 2883): a busy machine's acknowledgements may
    /// come too late, and nothing was lost then.
    pub fn lost(&self) -> u32 {
        let info = getsockopt(&self.0, TcpInfo).expect("TCP_INFO");
        info[TOTAL_RETRANS].saturating_sub(info[DSACK_DUPS])
    }
}

fn outcome(error: &io::Error) -> Outcome {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED | Errno::ECONNRESET) => Outcome::Refused,
        Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH) => Outcome::Unreachable,
        Some(Errno::EAGAIN | Errno::ETIMEDOUT) => Outcome::Timeout,
        _ => panic!("a probe failed in an unexpected way: {error}"),
    }
}

pub(crate) fn parse(line: &str) -> Seen {
    let first = line.lines().next().unwrap_or_default();
    let parsed = first
        .split_once(" sees ")
        .and_then(|(server, source)| Some(Seen { server: server.to_owned(), source: source.parse().ok()? }));
    parsed.unwrap_or_else(|| panic!("a server answered {line:?}"))
}

fn tcp_greeting(to: SocketAddr, from: Option<SocketAddr>, patience: Duration) -> io::Result<String> {
    let mut stream = connect(to, from, patience)?;
    read_line(&mut stream)
}

fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Opens a connection in the calling thread's namespace, from this local address or port.
pub fn connect(to: SocketAddr, from: Option<SocketAddr>, patience: Duration) -> io::Result<TcpStream> {
    let fd = opened(SockType::Stream, to, from)?;
    match socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Err(Errno::EINPROGRESS) => {
            let mut waiting = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
            let limit = PollTimeout::try_from(patience).map_err(|_| Errno::EINVAL)?;
            if poll(&mut waiting, limit)? == 0 {
                return Err(Errno::ETIMEDOUT.into());
            }
            match getsockopt(&fd, sockopt::SocketError)? {
                0 => {}
                code => return Err(io::Error::from_raw_os_error(code)),
            }
        }
        other => other?,
    }
    let lost = getsockopt(&fd, TcpInfo)?[TOTAL_RETRANS];
    assert_eq!(lost, 0, "a SYN to {to} was lost on the way");
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

fn udp_answer(to: SocketAddr, from: Option<SocketAddr>, patience: Duration) -> io::Result<String> {
    let answer = exchange(to, from, patience, b"who?")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Sends a datagram and returns the answer that comes from the dialled address.
fn exchange(
    to: SocketAddr,
    from: Option<SocketAddr>,
    patience: Duration,
    payload: &[u8],
) -> io::Result<Vec<u8>> {
    let fd = opened(SockType::Datagram, to, from)?;
    // Connected: the kernel takes answers from the dialled address alone.
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    let socket = UdpSocket::from(fd);
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(payload)?;
    let mut answer = vec![0; payload.len() + 128];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn opened(kind: SockType, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if let Some(from) = from {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    Ok(fd)
}

impl Family {
    /// The wildcard address with this port, to dial from a fixed port.
    pub const fn from_port(self, port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.any(), port))
    }
}
