//! A daemon that is killed again and again: its world, its commands, and what it all looks like.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::tracer::{Traced, Trap};
use crate::{
    Dirs, Ns, Run, Snapshot, Topology, binary, eventually,
    invariants::{self, Instance, MapDump},
    promotion::until_promoted,
};

/// How long a start may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// Small tables: the daemon starts some five hundred times.
const CONFIG: &str = "[flows]\nentries = 4096\n";

/// What there is before any operation: two networks, one without ICC, and sandboxes that publish and link.
const WORLD: [&[&str]; 5] = [
    &["network", "create", "--subnet", "172.20.0.0/24", "--ipv6", "--subnet", "fd00:c:20::/64", "netA"],
    &[
        "network",
        "create",
        "--subnet",
        "172.21.0.0/24",
        "--ipv6",
        "--subnet",
        "fd00:c:21::/64",
        "-o",
        "com.docker.network.bridge.enable_icc=false",
        "netB",
    ],
    &["sandbox", "create", "--network", "netB", "--expose", "80", "b0"],
    &[
        "sandbox",
        "create",
        "--network",
        "netA",
        "-p",
        "8080:80",
        "-p",
        "9000-9003:9000-9003/udp,allow=10.0.0.0/8",
        "a1",
    ],
    &["sandbox", "create", "--network", "netB", "--link", "b0:bee", "b1"],
];

/// A host with a daemon that can be killed at any system call.
#[derive(Debug)]
pub struct Subject {
    daemon: Option<Traced>,
    dirs: Dirs,
    topology: Topology,
    before: Snapshot,
    /// Whether calls that need a descriptor count.
    opens: bool,
    /// Failpoints of the next daemon (`NETD_FAILPOINTS`).
    failpoints: String,
}

/// All that an operation could have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    kernel: Snapshot,
    maps: MapDump,
    said: Vec<Value>,
    /// Names of interfaces by index.
    names: BTreeMap<String, String>,
}

impl Picture {
    /// Lists the differences, interface indexes among them.
    pub fn diff(&self, after: &Self) -> Vec<String> {
        let mut lines = self.kernel.diff(&after.kernel);
        lines.extend(self.maps.diff(&after.maps));
        let gone = self.said.iter().filter(|object| !after.said.contains(object));
        lines.extend(gone.map(|object| format!("- said {object}")));
        let new = after.said.iter().filter(|object| !self.said.contains(object));
        lines.extend(new.map(|object| format!("+ said {object}")));
        lines
    }

    /// Lists the differences, where an interface that was made again under its name is the same one.
    pub fn diff_by_name(&self, after: &Self) -> Vec<String> {
        let diff = self.diff(after);
        let nameless = |sign: char, names: &BTreeMap<String, String>| -> BTreeSet<String> {
            let lines = diff.iter().filter(|line| line.starts_with(sign));
            lines.map(|line| by_name(&line[1..], names)).collect()
        };
        let (old, new) = (nameless('-', &self.names), nameless('+', &after.names));
        let gone = old.difference(&new).map(|line| format!("-{line}"));
        gone.chain(new.difference(&old).map(|line| format!("+{line}"))).collect()
    }
}

/// Puts names in the place of interface indexes.
fn by_name(line: &str, names: &BTreeMap<String, String>) -> String {
    let mut line = line.to_owned();
    for mark in ["ifindex=", "ifindex: ", "bridge: ", "/links/", "ENDPOINT ", "UPLINK "] {
        let parts: Vec<&str> = line.split(mark).collect();
        let rest = parts[1..].iter().map(|part| {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let name = names.get(&part[..end]).map_or(&part[..end], String::as_str);
            format!("{mark}{name}{}", &part[end..])
        });
        line = [parts[0].to_owned()].into_iter().chain(rest).collect();
    }
    line
}

impl Subject {
    /// A host on which no daemon has run yet; with `opens`, the daemon's calls that need a descriptor count as those that change something do.
    pub fn bare(opens: bool) -> Self {
        let topology = Topology::new();
        let before = Snapshot::of(&topology.h);
        let dirs = Dirs::new();
        fs::write(dirs.path("netd.toml"), CONFIG).expect("write the configuration");
        Self { daemon: None, dirs, topology, before, opens, failpoints: String::new() }
    }

    /// A host with a daemon and the usual world.
    pub fn new(opens: bool) -> Self {
        let mut subject = Self::bare(opens);
        subject.settle();
        subject
    }

    /// Starts the daemon and makes the usual world.
    pub fn settle(&mut self) {
        self.start();
        for command in WORLD {
            self.run(command).ok();
        }
    }

    /// The instance, for the checker.
    pub fn instance(&self) -> Instance<'_> {
        Instance {
            ns: &self.topology.h,
            dirs: &self.dirs,
            pid: self.daemon.as_ref().map(Traced::pid),
            held: false,
        }
    }

    /// Its directories.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// The host.
    pub fn host(&self) -> &Ns {
        &self.topology.h
    }

    /// Sets the failpoints of the daemons that are started from now on.
    pub fn set_failpoints(&mut self, failpoints: &str) {
        failpoints.clone_into(&mut self.failpoints);
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) {
        let ended = self.try_start(None);
        assert_eq!(ended, None, "the daemon ended:\n{}", self.log());
    }

    /// Starts the daemon under a trap; returns its exit code when it ends instead of answering.
    pub fn try_start(&mut self, trap: Option<Trap>) -> Option<i32> {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let log =
            File::options().create(true).append(true).open(self.dirs.path("log")).expect("open the log");
        let mut command = Command::new(binary());
        command.arg("daemon").arg("--config").arg(self.dirs.path("netd.toml")).args(self.dirs.options());
        command.env("NETD_FAILPOINTS", &self.failpoints);
        command.stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        let daemon = Traced::start(&self.topology.h, command, self.opens, trap);
        let end = Instant::now() + PATIENCE;
        while !self.answers() {
            if let Some(code) = daemon.ended() {
                self.daemon = Some(daemon);
                return Some(code);
            }
            assert!(Instant::now() < end, "the daemon is not ready within {PATIENCE:?}:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
        self.daemon = Some(daemon);
        None
    }

    fn answers(&self) -> bool {
        let Ok(mut socket) = UnixStream::connect(self.dirs.socket()) else { return false };
        let mut answer = String::new();
        socket.write_all(b"GET /_ping HTTP/1.1\r\nHost: netd\r\nConnection: close\r\n\r\n").is_ok()
            && socket.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }

    /// The daemon's process.
    ///
    /// # Panics
    /// When none was started.
    pub fn daemon(&self) -> &Traced {
        self.daemon.as_ref().expect("a daemon")
    }

    /// Waits for the daemon's end and buries it.
    pub fn bury(&mut self) -> Option<i32> {
        let daemon = self.daemon.take()?;
        daemon.wait(PATIENCE)
    }

    /// Ends the daemon.
    pub fn kill(&mut self) {
        if let Some(daemon) = &self.daemon {
            daemon.signal(Signal::SIGKILL);
        }
        self.bury();
    }

    /// Runs a command against the daemon.
    pub fn run(&self, args: &[&str]) -> Run {
        Run::new(args, &self.topology.h.output(&mut self.command(args)))
    }

    /// Runs a command under an operation's id.
    pub fn run_as(&self, id: &str, args: &[&str]) -> Run {
        Run::new(args, &self.topology.h.output(self.command(args).env("NETD_OPERATION_ID", id)))
    }

    /// A command against the daemon, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.env("NETD_HOST", format!("unix://{}", self.dirs.socket().display()));
        command.env("NETD_RETRY", "0"); // the next daemon comes when the command has ended
        command.env("HOME", self.dirs.path("home")); // logs of `netd run`
        command.args(args).stdin(Stdio::null());
        command
    }

    /// `netd down` for this instance, not yet started.
    pub fn down(&self) -> Command {
        let options = self.dirs.options();
        let args: Vec<&str> = ["down"].into_iter().chain(options.iter().map(String::as_str)).collect();
        self.command(&args)
    }

    /// Waits until the daemon has nothing left to put right.
    pub fn until_ready(&self) {
        let state = || self.run(&["status", "--format", "{{.State}}"]).stdout;
        eventually("a daemon that is ready", || state().trim() == "ready");
    }

    /// What it all looks like, once nothing is on its way.
    pub fn picture(&self) -> Picture {
        until_promoted(&self.topology.h, &self.dirs);
        let lists = ["/networks", "/netd/v1/sandboxes", "/containers/json"];
        let said = lists.iter().filter_map(|path| invariants::get(&self.dirs, path));
        let objects = said.flat_map(|list| list.as_array().cloned().unwrap_or_default()).map(without_ages);
        Picture {
            kernel: Snapshot::with_files(&self.topology.h, &self.dirs),
            maps: MapDump::of(&self.dirs),
            said: objects.collect(),
            names: self.names(),
        }
    }

    fn names(&self) -> BTreeMap<String, String> {
        let links = self.topology.h.ip_json(&["link", "show"]);
        let links = links.as_array().into_iter().flatten();
        links
            .map(|link| (link["ifindex"].to_string(), link["ifname"].as_str().unwrap_or_default().to_owned()))
            .collect()
    }

    /// What is not as it must be.
    pub fn violations(&self) -> Vec<String> {
        invariants::violations(self.instance())
    }

    /// The same, of files and the daemon's process alone.
    pub fn violations_of_files(&self) -> Vec<String> {
        invariants::violations_of_files(self.instance())
    }

    /// What the instance left behind after `netd down`.
    pub fn remains(&self, programs: &[u32]) -> Vec<String> {
        let mut left = invariants::remains(self.instance(), programs);
        left.extend(self.before.diff(&Snapshot::of(&self.topology.h)));
        left
    }

    /// What the daemons logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dirs.path("log")).unwrap_or_default()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if self.dirs.path("state").exists() {
            self.kill();
            let _ = self.topology.h.output(&mut self.down());
        }
    }
}

/// Leaves out how long something has been there.
fn without_ages(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("Status");
    }
    object
}
