//! The server of a benchmark: it answers, counts, and says where the last request came from.

use std::{
    io::{self, BufRead, IoSliceMut, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrLike, SockaddrStorage, recvmmsg, setsockopt, sockopt::RcvBufForce,
};
use serde::{Deserialize, Serialize};

use super::load::{ANSWER, REQUEST};

/// The first byte of a request on a connection that goes on; any other is answered and the connection closed.
pub const GO_ON: u8 = b'+';
/// The first byte of a datagram that is sent back; any other is counted.
pub const ECHO: u8 = b'e';
/// Datagrams of one system call.
pub const BATCH: usize = 64;
/// Enough for the receiver to be away for some milliseconds.
const RECEIVE_BUFFER: usize = 8 << 20;

/// What a server has seen since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// TCP connections.
    pub connections: u64,
    /// UDP datagrams.
    pub datagrams: u64,
    /// Where the last of either came from.
    pub source: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    datagrams: AtomicU64,
    source: Mutex<Option<IpAddr>>,
}

impl Counters {
    fn from(&self, source: IpAddr) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = Some(source.to_canonical());
    }

    fn take(&self) -> Seen {
        Seen {
            connections: self.connections.swap(0, Ordering::Relaxed),
            datagrams: self.datagrams.swap(0, Ordering::Relaxed),
            source: self.source.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

/// Serves TCP and UDP on `port`, of both families; every line on stdin is answered by a [`Seen`], its end is the end.
pub fn run(port: u16) -> Result<()> {
    let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
    let v4: SocketAddr = ([0; 4], port).into();
    let listener = TcpListener::bind(any).or_else(|_| TcpListener::bind(v4));
    let listener = listener.with_context(|| format!("listen on port {port}"))?;
    let socket = UdpSocket::bind(any).or_else(|_| UdpSocket::bind(v4));
    let socket = socket.with_context(|| format!("receive on port {port}"))?;
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).context("size the receive buffer")?;
    let counters = Arc::new(Counters::default());
    let shared = Arc::clone(&counters);
    thread::spawn(move || accept(&listener, &shared));
    let shared = Arc::clone(&counters);
    thread::spawn(move || receive(&socket, &shared));
    println!("ready");
    for line in io::stdin().lock().lines() {
        line.context("read from stdin")?;
        super::print(&counters.take())?;
    }
    Ok(())
}

/// One connection after the other: a benchmark has one client.
fn accept(listener: &TcpListener, counters: &Counters) {
    loop {
        let Ok((stream, peer)) = listener.accept() else { continue };
        counters.connections.fetch_add(1, Ordering::Relaxed);
        counters.from(peer.ip());
        // A client that went away is no reason to stop serving the others.
        let _ = answer(stream);
    }
}

/// Answers one request, or all until the client closes. After one the server closes first, so that TIME-WAIT does not
/// eat the client's ports.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; REQUEST.len()];
    stream.read_exact(&mut request)?;
    stream.write_all(ANSWER)?;
    if request[0] == GO_ON {
        stream.set_nodelay(true)?;
        loop {
            stream.read_exact(&mut request)?;
            stream.write_all(ANSWER)?;
        }
    }
    Ok(())
}

/// Counts datagrams, many for each system call, and returns those that ask for it.
fn receive(socket: &UdpSocket, counters: &Counters) {
    const LENGTH: usize = 64;
    let mut buffers = vec![[0_u8; LENGTH]; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    loop {
        let mut slices: Vec<[IoSliceMut; 1]> =
            buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received =
            recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None);
        let Ok(received) = received else { continue };
        let peers: Vec<Option<SocketAddr>> =
            received.map(|message| message.address.as_ref().and_then(address)).collect();
        counters.datagrams.fetch_add(peers.len() as u64, Ordering::Relaxed);
        if let Some(Some(last)) = peers.last() {
            counters.from(last.ip());
        }
        for (buffer, peer) in buffers.iter().zip(&peers) {
            if let (ECHO, Some(peer)) = (buffer[0], peer) {
                let _ = socket.send_to(&buffer[..1], peer);
            }
        }
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v6 = storage.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())));
    v6.or_else(|| storage.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port()))))
        .filter(|_| storage.len() > 0)
}
