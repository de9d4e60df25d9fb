//! A `netd daemon` on the stage, and its CLI.

use std::{
    fs,
    io::{Read, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Stage, cable::UPLINK, netns::Netns};
use crate::command;

/// The daemon's configuration, in its directory.
const CONFIG: &str = "netd.toml";

/// A running daemon with directories of its own.
#[derive(Debug)]
pub struct Daemon {
    netd: PathBuf,
    place: Place,
    child: Child,
}

/// Where a daemon runs and keeps its things.
#[derive(Debug)]
struct Place {
    /// None for the network namespace of this process.
    netns: Option<PathBuf>,
    dir: PathBuf,
    bpffs: PathBuf,
    cgroup: PathBuf,
}

impl Daemon {
    /// Starts a daemon in this process's network namespace and waits until it answers.
    pub fn start(netd: &Path, stage: &Stage) -> Result<Self> {
        let (dir, bpffs) = (stage.dir().join("netd"), stage.bpffs().join("netd"));
        fs::create_dir_all(&dir).context("create the daemon's directory")?;
        Self::launch(netd, Place { netns: None, dir, bpffs, cgroup: stage.cgroup() })
    }

    /// Starts one among others: in a network namespace of its own, with a cgroup, directories and a configuration.
    pub fn start_in(netd: &Path, stage: &Stage, name: &str, host: &Netns, config: &str) -> Result<Self> {
        let (dir, bpffs) = (stage.dir().join(name), stage.bpffs().join(name));
        let cgroup = stage.cgroup().join(name);
        for dir in [&dir, &cgroup] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        fs::write(dir.join(CONFIG), config).context("write the daemon's configuration")?;
        Self::launch(netd, Place { netns: Some(host.path().to_path_buf()), dir, bpffs, cgroup })
    }

    fn launch(netd: &Path, place: Place) -> Result<Self> {
        let child = spawn(netd, &place)?;
        let mut daemon = Self { netd: netd.to_path_buf(), place, child };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Where the daemon guards published ports for the processes of its host.
    pub fn cgroup(&self) -> &Path {
        &self.place.cgroup
    }

    /// The network namespace of a sandbox, its processes in the daemon's cgroup.
    pub fn sandbox(&self, name: &str) -> Netns {
        Netns::at(self.place.dir.join("run/netns").join(name)).in_cgroup(self.place.cgroup.clone())
    }

    /// Kills the daemon as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill the daemon")?;
        self.child.wait().context("wait for the daemon").map(drop)
    }

    /// Starts it again after [`Daemon::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.netd, &self.place)?;
        self.wait_ready()
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).context("read the daemon's status")?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in its status")?;
        line.trim().trim_end_matches(" kB").parse().context("parse VmRSS")
    }

    /// Returns `netd ARGS`, talking to this daemon.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.netd);
        command.env("NETD_HOST", format!("unix://{}", self.socket().display())).args(args);
        command
    }

    /// Runs `netd ARGS` and returns what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        command::capture(&mut self.command(args))
    }

    /// Returns what `netd NOUN inspect NAME` prints about the one object.
    pub fn inspect(&self, noun: &str, name: &str) -> Result<Value> {
        let text = self.run(&[noun, "inspect", name])?;
        let mut list: Value =
            serde_json::from_str(&text).with_context(|| format!("parse netd {noun} inspect"))?;
        Ok(list.get_mut(0).map(Value::take).unwrap_or_default())
    }

    /// Returns the addresses of a sandbox in a network, IPv4 first.
    pub fn addresses(&self, sandbox: &str, network: &str) -> Result<Vec<IpAddr>> {
        let inspected = self.inspect("sandbox", sandbox)?;
        let endpoint = &inspected["NetworkSettings"]["Networks"][network];
        let fields =
            ["IPAddress", "GlobalIPv6Address"].map(|field| endpoint[field].as_str().unwrap_or_default());
        let addresses: Vec<IpAddr> = fields.iter().filter_map(|text| text.parse().ok()).collect();
        if addresses.is_empty() {
            bail!("netd sandbox inspect {sandbox} names no address in network {network}");
        }
        Ok(addresses)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        const LINES: usize = 15;
        let log = fs::read_to_string(self.place.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn socket(&self) -> PathBuf {
        self.place.dir.join("run/netd.sock")
    }

    fn wait_ready(&mut self) -> Result<()> {
        const DEADLINE: Duration = Duration::from_mins(1);
        let started = Instant::now();
        while !self.answers() {
            if let Some(status) = self.child.try_wait().context("wait for the daemon")? {
                bail!("netd daemon ended with {status}; its log:\n{}", self.log_tail());
            }
            if started.elapsed() > DEADLINE {
                bail!("netd daemon does not answer; its log:\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(self.socket())?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: netd\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.ends_with("OK"))
    }
}

fn spawn(netd: &Path, place: &Place) -> Result<Child> {
    let Place { netns, dir, bpffs, cgroup } = place;
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .context("open the daemon's log")?;
    let mut daemon = match netns {
        None => Command::new(netd),
        Some(netns) => Netns::at(netns.clone()).command(&netd.to_string_lossy())?,
    };
    daemon.args(["daemon", "--instance", "stage", "--uplink", UPLINK]);
    for (option, path) in [
        ("--state-dir", &dir.join("state")),
        ("--run-dir", &dir.join("run")),
        ("--bpffs", bpffs),
        ("--cgroup", cgroup),
    ] {
        daemon.arg(option).arg(path);
    }
    let config = dir.join(CONFIG);
    if config.exists() {
        daemon.arg("--config").arg(config);
    }
    daemon
        .env_remove("NETD_HOST")
        .stdout(log.try_clone().context("share the daemon's log")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {}", netd.display()))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
