//! Connections as fast as one client can make them, one after the other: what setting up a connection costs.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What a client sends.
pub const REQUEST: &[u8; 64] = &[b'?'; 64];
/// What a server answers.
pub const ANSWER: &[u8; 64] = &[b'!'; 64];

/// What a client achieved.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Load {
    /// Connections made, used and closed.
    pub connections: u64,
    /// Time spent.
    pub seconds: f64,
}

impl Load {
    /// Connections per second.
    #[expect(clippy::cast_precision_loss, reason = "a count of connections is far below 2^52")]
    pub fn rate(self) -> f64 {
        self.connections as f64 / self.seconds
    }
}

/// Serves on `port` until killed. The server closes first, so that TIME-WAIT does not eat the client's ports.
pub fn serve(port: u16) -> Result<()> {
    let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
    let listener = TcpListener::bind(any).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    let listener = listener.with_context(|| format!("listen on port {port}"))?;
    println!("ready");
    let mut request = [0; REQUEST.len()];
    loop {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        // A client that went away is no reason to stop serving the others.
        let _ = stream.read_exact(&mut request).and_then(|()| stream.write_all(ANSWER));
    }
}

/// Makes connections to `address` for `duration`.
pub fn run(address: SocketAddr, duration: Duration) -> Result<Load> {
    let started = Instant::now();
    let mut connections = 0;
    while started.elapsed() < duration {
        once(address).with_context(|| format!("connection {connections} to {address}"))?;
        connections += 1;
    }
    Ok(Load { connections, seconds: started.elapsed().as_secs_f64() })
}

fn once(address: SocketAddr) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
    stream.write_all(REQUEST).context("send")?;
    let mut answer = Vec::with_capacity(ANSWER.len());
    stream.read_to_end(&mut answer).context("receive")?;
    if answer != ANSWER {
        bail!("{} bytes came back instead of {}", answer.len(), ANSWER.len());
    }
    Ok(())
}
