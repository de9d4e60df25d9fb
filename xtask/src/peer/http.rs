//! A small HTTP client that knows how long things took.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// A page that was fetched.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fetched {
    /// The body, without surrounding blanks.
    pub body: String,
    /// From before the connection until the last byte, in microseconds.
    pub micros: u64,
}

/// Fetches `http://ADDRESS/`.
pub fn fetch(address: SocketAddr, timeout: Duration) -> Result<Fetched> {
    let started = Instant::now();
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(timeout)).context("set a timeout")?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n").context("send a request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("read the answer of {address}"))?;
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("{address} does not speak HTTP") };
    if head.split(' ').nth(1) != Some("200") {
        bail!("{address} answered: {}", head.lines().next().unwrap_or_default());
    }
    Ok(Fetched { body: body.trim().to_owned(), micros })
}
