//! A server of a field: our responder and, where it is installed, iperf3, both on one processor.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{PORT, SERVER_CPU, STREAM_PORT};
use crate::{
    peer::{self, Seen},
    stage::netns::Netns,
};

/// A running server.
#[derive(Debug)]
pub struct Server {
    responder: RefCell<Responder>,
    /// Runs as long as the server does.
    _iperf: Option<Ended>,
}

#[derive(Debug)]
struct Responder {
    child: Ended,
    out: BufReader<ChildStdout>,
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts both in a namespace.
    pub fn start(netns: &Netns, iperf: bool) -> Result<Self> {
        let program = peer::program()?;
        let mut respond = netns.pinned(SERVER_CPU, &program.to_string_lossy())?;
        respond.args(["peer", "respond", &PORT.to_string()]);
        respond.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Ended(respond.spawn().context("start a responder")?);
        let mut out = BufReader::new(child.0.stdout.take().context("the responder's output")?);
        let mut line = String::new();
        out.read_line(&mut line).context("read from a responder")?;
        ensure!(line.trim() == "ready", "the responder ended before it listened");
        let iperf = iperf.then(|| start_iperf(netns)).transpose()?;
        Ok(Self { responder: RefCell::new(Responder { child, out }), _iperf: iperf })
    }

    /// Returns what the responder has seen since it was last asked.
    pub fn seen(&self) -> Result<Seen> {
        let mut responder = self.responder.borrow_mut();
        let Responder { child, out } = &mut *responder;
        let stdin = child.0.stdin.as_mut().context("the responder's input")?;
        writeln!(stdin).context("ask a responder")?;
        let mut line = String::new();
        out.read_line(&mut line).context("read from a responder")?;
        serde_json::from_str(&line).context("parse what a responder saw")
    }
}

fn start_iperf(netns: &Netns) -> Result<Ended> {
    let mut iperf: Command = netns.pinned(SERVER_CPU, "iperf3")?;
    iperf.args(["-s", "-p", &STREAM_PORT.to_string()]);
    let child = iperf.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    Ok(Ended(child.context("start iperf3")?))
}
