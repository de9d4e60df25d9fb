//! Requests and responses on one connection, one at a time: what a packet's way there and back takes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{load::REQUEST, respond::GO_ON};

/// Exchanges that do not count.
const WARM_UP: u32 = 200;

/// What a client achieved.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Asked {
    /// Requests answered, per second.
    pub rate: f64,
    /// Half of all answers took no longer, in microseconds.
    pub p50: f64,
    /// 99 of 100 answers took no longer, in microseconds.
    pub p99: f64,
}

/// Asks `address` for `duration`.
pub fn run(address: SocketAddr, duration: Duration) -> Result<Asked> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    stream.set_nodelay(true).context("send at once")?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
    for _ in 0..WARM_UP {
        once(&mut stream)?;
    }
    let mut nanos: Vec<u32> = Vec::with_capacity(1 << 20);
    let started = Instant::now();
    let mut now = started;
    while now - started < duration {
        once(&mut stream)?;
        let then = std::mem::replace(&mut now, Instant::now());
        nanos.push(u32::try_from((now - then).as_nanos()).unwrap_or(u32::MAX));
    }
    let seconds = (now - started).as_secs_f64();
    nanos.sort_unstable();
    let at = |percent: usize| {
        let nanos = nanos.get(nanos.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
        f64::from(nanos) / 1e3
    };
    let count = f64::from(u32::try_from(nanos.len()).unwrap_or(u32::MAX));
    Ok(Asked { rate: count / seconds, p50: at(50), p99: at(99) })
}

fn once(stream: &mut TcpStream) -> Result<()> {
    let mut bytes = *REQUEST;
    bytes[0] = GO_ON;
    stream.write_all(&bytes).context("send")?;
    stream.read_exact(&mut bytes).context("receive")
}
