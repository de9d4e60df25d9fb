//! A race: the same load over several paths, in interleaved rounds, so that a slow moment slows everyone.

use std::{
    fmt::Write,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::statistics::Samples;
use crate::{
    command,
    peer::Load,
    stage::{
        cable::{HOST4, World},
        daemon::Daemon,
        iptables::Twin,
        netns::Netns,
    },
};

/// The port that servers listen on.
const PORT: u16 = 9000;
/// The port they are published as.
const PUBLISHED: u16 = 9001;
/// Host networking's own port, on the same host as netd.
const HOST_PORT: u16 = 9002;

/// One path with a server at its end.
#[derive(Debug)]
pub struct Contender {
    name: &'static str,
    note: String,
    /// The namespace of the client.
    client: String,
    target: SocketAddr,
    server: Child,
    /// Where it runs, if that is its own: its namespaces end with it.
    twin: Option<Twin>,
    samples: Samples,
}

impl Contender {
    /// The published port of a sandbox.
    pub fn netd(daemon: &Daemon, sandbox: &str, world: &World) -> Result<Self> {
        daemon.run(&["publish", sandbox, &format!("{PUBLISHED}:{PORT}")])?;
        let mut exec = daemon.command(&["exec", sandbox, "--"]);
        exec.arg(crate::peer::program()?).args(["peer", "serve", &PORT.to_string()]);
        Self::new("netd", "published port", exec, &world.outside, PUBLISHED)
    }

    /// A server in the host itself: no NAT, the limit.
    pub fn host(world: &World) -> Result<Self> {
        let serve = world.host.peer(&["serve", &HOST_PORT.to_string()])?;
        Self::new("host", "host networking, no NAT: the limit", serve, &world.outside, HOST_PORT)
    }

    /// The published port of a container as Docker makes it; none where iptables is not installed.
    pub fn iptables() -> Result<Option<Self>> {
        let Some(twin) = Twin::build(PUBLISHED, PORT)? else { return Ok(None) };
        let serve = twin.container.peer(&["serve", &PORT.to_string()])?;
        let mut contender = Self::new("iptables", &twin.version, serve, &twin.world.outside, PUBLISHED)?;
        contender.twin = Some(twin);
        Ok(Some(contender))
    }

    fn new(name: &'static str, note: &str, serve: Command, client: &Netns, port: u16) -> Result<Self> {
        Ok(Self {
            name,
            note: note.to_owned(),
            client: client.path().to_string_lossy().into_owned(),
            target: SocketAddr::new(HOST4.into(), port),
            server: start(serve).with_context(|| format!("start the server of {name}"))?,
            twin: None,
            samples: Samples::default(),
        })
    }

    fn round(&mut self, duration: Duration) -> Result<()> {
        let program = crate::peer::program()?;
        let mut load = crate::peer::command(&["enter", &self.client, "--"])?;
        load.arg(program).args(["peer", "load", &self.target.to_string(), &duration.as_millis().to_string()]);
        let load = command::capture(&mut load).with_context(|| format!("load on {}", self.name))?;
        let load: Load = serde_json::from_str(&load).context("parse a client's result")?;
        self.samples.push(load.rate());
        Ok(())
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Contenders that take turns.
#[derive(Debug, Default)]
pub struct Race {
    contenders: Vec<Contender>,
}

impl Race {
    /// Adds a contender.
    pub fn enter(&mut self, contender: Contender) {
        self.contenders.push(contender);
    }

    /// Runs all rounds, after one that does not count.
    pub fn run(mut self, rounds: usize, duration: Duration) -> Result<Self> {
        for contender in &mut self.contenders {
            contender.round(duration)?;
            contender.samples = Samples::default();
        }
        for _ in 0..rounds {
            for contender in &mut self.contenders {
                contender.round(duration)?;
            }
        }
        Ok(self)
    }

    /// The ratio of two medians.
    pub fn ratio(&self, of: &str, to: &str) -> Option<f64> {
        Some(self.median(of)? / self.median(to)?)
    }

    /// Every contender's median, spread and ratio to host networking.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for contender in &self.contenders {
            let (low, high) = contender.samples.range();
            let ratio = self
                .ratio(contender.name, "host")
                .map(|ratio| format!("{ratio:>5.2} of host"))
                .unwrap_or_default();
            let median = contender.samples.median();
            let (name, note) = (contender.name, &contender.note);
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{name:<9} {median:>7.0}/s  ({low:.0} to {high:.0})  {ratio}   {note}");
        }
        table
    }

    fn median(&self, name: &str) -> Option<f64> {
        self.contenders
            .iter()
            .find(|contender| contender.name == name)
            .map(|contender| contender.samples.median())
    }
}

/// Starts a server and waits until it listens.
fn start(mut serve: Command) -> Result<Child> {
    let mut server = serve.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("run it")?;
    let mut line = String::new();
    if let Some(out) = server.stdout.as_mut() {
        BufReader::new(out).read_line(&mut line).context("read from it")?;
    }
    ensure!(line.trim() == "ready", "it ended before it listened");
    Ok(server)
}
