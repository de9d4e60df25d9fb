//! Hidden subcommands that run inside namespaces: holding one, entering one, fetching a page, making load.

mod ask;
mod datagrams;
mod http;
mod load;
mod respond;

use std::{
    env, fs,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare},
    unistd::Pid,
};

use crate::stage::netns::Netns;

pub use ask::Asked;
pub use datagrams::Blast;
pub use http::Fetched;
pub use load::Load;
pub use respond::Seen;

/// Helpers for namespaces, for xtask itself
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    peer: Peer,
}

#[derive(Debug, clap::Subcommand)]
enum Peer {
    /// Make a network namespace and keep it until stdin ends
    Hold,
    /// Run a program in a network namespace
    Enter {
        /// On this processor alone
        #[arg(long)]
        cpu: Option<usize>,
        /// In this cgroup
        #[arg(long)]
        cgroup: Option<PathBuf>,
        netns: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Fetch a page and print what came as JSON
    Fetch { address: SocketAddr, timeout_ms: u64 },
    /// Answer each connection with a few bytes and close it
    Serve { port: u16 },
    /// Connect, ask, read to the end, close; again and again; then print the count as JSON
    Load { address: SocketAddr, millis: u64 },
    /// Answer requests and count datagrams; a line on stdin is answered by what was seen
    Respond { port: u16 },
    /// Ask again and again on one connection; then print rate and times as JSON
    Ask { address: SocketAddr, millis: u64 },
    /// Send small datagrams as fast as possible; then print their number as JSON
    Blast { address: SocketAddr, millis: u64 },
    /// Open many flows, each from a source of its own; then print how many were answered
    Spray { address: SocketAddr, flows: u32 },
}

/// Runs a peer.
pub fn run(args: Args) -> Result<ExitCode> {
    match args.peer {
        Peer::Hold => hold(),
        Peer::Enter { cpu, cgroup, netns, command } => {
            if let Some(cpu) = cpu {
                pin(cpu)?;
            }
            if let Some(cgroup) = cgroup {
                fs::write(cgroup.join("cgroup.procs"), "0")
                    .with_context(|| format!("enter {}", cgroup.display()))?;
            }
            enter(&netns, &command)
        }
        Peer::Fetch { address, timeout_ms } => {
            print(&http::fetch(address, Duration::from_millis(timeout_ms))?)
        }
        Peer::Serve { port } => load::serve(port),
        Peer::Load { address, millis } => print(&load::run(address, Duration::from_millis(millis))?),
        Peer::Respond { port } => respond::run(port),
        Peer::Ask { address, millis } => print(&ask::run(address, Duration::from_millis(millis))?),
        Peer::Blast { address, millis } => print(&datagrams::blast(address, Duration::from_millis(millis))?),
        Peer::Spray { address, flows } => print(&datagrams::spray(address, flows)?),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// This program's path, as processes in other namespaces of the stage see it.
pub fn program() -> Result<PathBuf> {
    env::current_exe().context("find this program")
}

/// Returns a peer as a command.
pub fn command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.arg("peer").args(args);
    Ok(command)
}

fn hold() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of stdin")?;
    Ok(())
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("there is no processor {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("stay on processor {cpu}"))
}

fn enter(netns: &std::path::Path, words: &[String]) -> Result<()> {
    let (program, args) = words.split_first().context("no program given")?;
    setns(Netns::open(netns)?, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("enter {}", netns.display()))?;
    Err(Command::new(program).args(args).exec()).with_context(|| format!("run {program}"))
}

fn print(value: &impl serde::Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).context("write JSON")?;
    out.write_all(b"\n").context("write JSON")
}
