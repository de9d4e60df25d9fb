//! A network namespace that lives as long as its value.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{command, peer};

/// A network namespace; programs run in it through [`Netns::command`].
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    /// Where its processes go; none for the cgroup of this process.
    cgroup: Option<PathBuf>,
    /// Keeps the namespace alive; none for the namespace this process stands in.
    holder: Option<Child>,
}

impl Netns {
    /// The namespace of this process.
    pub fn here() -> Self {
        Self::at("/proc/self/ns/net".into())
    }

    /// Somebody else's namespace.
    pub fn at(path: PathBuf) -> Self {
        Self { path, cgroup: None, holder: None }
    }

    /// The same, but its processes run in a cgroup of their own.
    #[must_use]
    pub fn in_cgroup(mut self, cgroup: PathBuf) -> Self {
        self.cgroup = Some(cgroup);
        self
    }

    /// Makes a namespace with its loopback up.
    pub fn new() -> Result<Self> {
        let mut hold = peer::command(&["hold"])?;
        hold.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = hold.spawn().context("start a namespace's holder")?;
        let mut ready = String::new();
        if let Some(out) = holder.stdout.take() {
            BufReader::new(out).read_line(&mut ready).context("read from a namespace's holder")?;
        }
        if ready.trim() != "ready" {
            bail!("make a network namespace: its holder ended");
        }
        let path = PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
        let netns = Self { path, cgroup: None, holder: Some(holder) };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Where the namespace can be opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process to name when an interface is moved here.
    pub fn pid(&self) -> u32 {
        self.holder.as_ref().map_or_else(std::process::id, Child::id)
    }

    /// Returns a command that will run here.
    pub fn command(&self, program: &str) -> Result<Command> {
        if self.path == Path::new("/proc/self/ns/net") {
            return Ok(Command::new(program));
        }
        self.entering(program, None)
    }

    /// Returns a command that will run here, on one processor alone, before whatever else wants to run on it.
    pub fn pinned(&self, cpu: usize, program: &str) -> Result<Command> {
        if command::find("nice", &[]).is_none() {
            return self.entering(program, Some(cpu));
        }
        let mut first = self.entering("nice", Some(cpu))?;
        first.args(["-n", "-20", program]);
        Ok(first)
    }

    fn entering(&self, program: &str, cpu: Option<usize>) -> Result<Command> {
        let mut enter = peer::command(&["enter"])?;
        if let Some(cpu) = cpu {
            enter.args(["--cpu", &cpu.to_string()]);
        }
        if let Some(cgroup) = &self.cgroup {
            enter.arg("--cgroup").arg(cgroup);
        }
        enter.arg(&self.path).arg("--").arg(program);
        Ok(enter)
    }

    /// Returns one of our own peers, to run here.
    pub fn peer(&self, args: &[&str]) -> Result<Command> {
        let program = peer::program()?;
        let mut command = self.command(&program.to_string_lossy())?;
        command.arg("peer").args(args);
        Ok(command)
    }

    /// Runs `ip` here.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        command::capture(self.command("ip")?.args(args)).map(drop)
    }

    /// Gives `interface` an address of a network whose prefix has `length` bits, and sets it up.
    pub fn address(&self, interface: &str, address: IpAddr, length: u8) -> Result<()> {
        let cidr = format!("{address}/{length}");
        let mut args = vec!["address", "add", cidr.as_str(), "dev", interface];
        if address.is_ipv6() {
            // Duplicate address detection would hold the address back for a second; there is nobody to duplicate it.
            args.push("nodad");
        }
        self.ip(&args)?;
        self.ip(&["link", "set", interface, "up"])
    }

    /// Sets a kernel parameter of this namespace, such as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let script = r#"printf %s "$2" > "$1""#;
        command::capture(self.command("sh")?.args(["-c", script, "sh", &path, value])).map(drop)
    }

    /// Opens the namespace.
    pub fn open(path: &Path) -> Result<File> {
        File::open(path).with_context(|| format!("open {}", path.display()))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            // It ends at the end of its stdin; waiting makes sure that the interfaces are gone with it.
            drop(holder.stdin.take());
            let _ = holder.wait();
        }
    }
}
