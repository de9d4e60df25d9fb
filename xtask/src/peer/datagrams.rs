//! Small datagrams: as fast as one socket sends them, or one from each of many sources.

use std::{
    io::{ErrorKind, IoSlice},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt, sockopt::SndBuf},
};
use serde::{Deserialize, Serialize};

use super::respond::{BATCH, ECHO};

/// Bytes of a datagram: with UDP, IPv4 and Ethernet in front it is a frame of 106 bytes.
const PAYLOAD: [u8; 64] = [0; 64];

/// What a sender achieved.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Blast {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Time spent.
    pub seconds: f64,
}

/// Sends datagrams to `address` for `duration`, a batch for each system call.
pub fn blast(address: SocketAddr, duration: Duration) -> Result<Blast> {
    let socket = UdpSocket::bind(unspecified(address)).context("open a socket")?;
    socket.connect(address).with_context(|| format!("connect to {address}"))?;
    setsockopt(&socket, SndBuf, &(1 << 20)).context("size the send buffer")?;
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let payload = [IoSlice::new(&PAYLOAD)];
    let slices = [payload; BATCH];
    let addresses = [None; BATCH];
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < duration {
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addresses, [], MsgFlags::empty()) {
            Ok(messages) => sent += messages.count() as u64,
            Err(Errno::EAGAIN | Errno::ENOBUFS) => {}
            Err(error) => return Err(error).with_context(|| format!("send to {address}")),
        }
    }
    Ok(Blast { sent, seconds: started.elapsed().as_secs_f64() })
}

fn unspecified(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Opens `flows` flows to `address`, each from an address of 198.18.0.0/15 and a port of its own, and waits for an answer
/// to each; returns how many were answered. The addresses have to be local (`ip route add local 198.18.0.0/15 dev lo`).
pub fn spray(address: SocketAddr, flows: u32) -> Result<u32> {
    const SOURCES: u32 = 1 << 17;
    const FIRST_PORT: u16 = 1024;
    const AT_ONCE: u32 = 256;
    const TRIES: usize = 5;
    let source = |flow: u32| -> Result<SocketAddr> {
        let port = FIRST_PORT + u16::try_from(flow / SOURCES).context("too many flows")?;
        Ok((IpAddr::V4(Ipv4Addr::from(0xc612_0000 + flow % SOURCES)), port).into())
    };
    let mut answered = 0;
    for first in (0..flows).step_by(AT_ONCE as usize) {
        let sockets: Vec<UdpSocket> = (first..flows.min(first + AT_ONCE))
            .map(|flow| {
                let socket = UdpSocket::bind(source(flow)?).context("bind a source")?;
                socket.set_read_timeout(Some(Duration::from_millis(200))).context("set a timeout")?;
                socket.connect(address).context("connect")?;
                Ok(socket)
            })
            .collect::<Result<_>>()?;
        let mut waiting: Vec<&UdpSocket> = sockets.iter().collect();
        for _ in 0..TRIES {
            for socket in &waiting {
                socket.send(&[ECHO]).context("send")?;
            }
            waiting.retain(|socket| !answers(socket));
        }
        answered += u32::try_from(sockets.len() - waiting.len()).unwrap_or_default();
        ensure!(answered > 0, "nobody answers at {address}");
    }
    Ok(answered)
}

fn answers(socket: &UdpSocket) -> bool {
    loop {
        match socket.recv(&mut [0; 8]) {
            Ok(_) => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}
