//! One test's world: the topology, a daemon on `H`, watches on both uplinks, and the check that all of it goes away.

use std::{net::IpAddr, process::Command, str::FromStr, thread};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    Daemon, Dirs, Family, LeakWatch, Ns, Run, Sandbox, Snapshot, Topology, eventually,
    promotion::until_promoted,
};

/// How a lab differs from the usual one.
#[derive(Debug, Clone)]
pub struct Options {
    /// The daemon's configuration file.
    pub config: String,
    /// Whether `H` forwards packets before netd starts.
    pub forwarding: bool,
    /// Whether the daemon's programs count every verdict, for the check in the end that nothing vanished.
    pub counted: bool,
    /// A command that starts the daemon, which is its last arguments; empty: the daemon is started as it is.
    pub launcher: Vec<String>,
}

/// A topology with a daemon on `H`.
#[derive(Debug)]
pub struct Lab {
    /// The remote host on the first uplink.
    pub r: Ns,
    /// The host under test.
    pub h: Ns,
    /// The remote host on the second uplink.
    pub r2: Ns,
    /// The daemon.
    pub daemon: Daemon,
    watches: Vec<LeakWatch>,
    before: Option<Snapshot>,
}

/// A bridge network of the lab, with the subnets `172.N.0.0/24` and `fd00:c:N::/64`.
#[derive(Debug, Clone, Copy)]
pub struct Net {
    name: &'static str,
    number: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: "[flows]\nentries = 4096\n".into(),
            forwarding: true,
            counted: true,
            launcher: Vec::new(),
        }
    }
}

impl Lab {
    /// Builds the topology and starts a daemon with small tables.
    pub fn new() -> Self {
        Self::with(&Options::default())
    }

    /// Builds a lab that differs.
    pub fn with(options: &Options) -> Self {
        Self::on(Topology::new(), options)
    }

    /// Starts a daemon on the `H` of a topology that the test has made or extended.
    pub fn on(topology: Topology, options: &Options) -> Self {
        let Topology { r, h, r2 } = topology;
        if !options.forwarding {
            h.sysctl("net/ipv4/ip_forward", "0");
            h.sysctl("net/ipv6/conf/all/forwarding", "0");
        }
        let watches = vec![LeakWatch::start(&r, "eth0"), LeakWatch::start(&r2, "eth0")];
        let before = Some(Snapshot::of(&h));
        let daemon = if options.counted {
            Daemon::start_by(&options.launcher, &h, &options.config)
        } else {
            Daemon::plain(&h, Dirs::new(), &options.config)
        };
        Self { r, h, r2, daemon, watches, before }
    }

    /// Runs a `netd` command.
    pub fn netd(&self, args: &[&str]) -> Run {
        self.daemon.run(args)
    }

    /// Creates a dual-stack network with the subnets `172.N.0.0/24` and `fd00:c:N::/64`.
    pub fn network(&self, name: &'static str, number: u8, extra: &[&str]) -> Net {
        let (v4, v6) = (format!("172.{number}.0.0/24"), format!("fd00:c:{number}::/64"));
        let mut args = vec!["network", "create", "--subnet", &v4, "--ipv6", "--subnet", &v6];
        args.extend_from_slice(extra);
        args.push(name);
        let id = self.netd(&args).ok();
        assert!(
            id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "network create prints the id: {id:?}"
        );
        Net { name, number }
    }

    /// Returns the name of a network's bridge.
    pub fn bridge(&self, network: &str) -> String {
        let network = self.inspect_network(network);
        let chosen = network["Options"]["com.docker.network.bridge.name"].as_str();
        chosen.map_or_else(|| format!("br-{}", &network["Id"].as_str().expect("an id")[..12]), str::to_owned)
    }

    /// Creates a sandbox with the addresses `172.N.0.HOST` and `fd00:c:N::HOST`.
    pub fn sandbox(&self, name: &str, net: Net, host: u8, extra: &[&str]) -> Sandbox {
        let network =
            format!("{},ip={},ip6={}", net.name, net.ip(Family::V4, host), net.ip(Family::V6, host));
        let mut args = vec!["--network", network.as_str()];
        args.extend_from_slice(extra);
        self.sandbox_with(name, &args)
    }

    /// Creates a sandbox with exactly these options, and opens its namespace.
    pub fn sandbox_with(&self, name: &str, options: &[&str]) -> Sandbox {
        let mut args = vec!["sandbox", "create"];
        args.extend_from_slice(options);
        args.push(name);
        self.netd(&args).ok();
        self.open(name)
    }

    /// Opens the namespace of a sandbox that exists.
    pub fn open(&self, name: &str) -> Sandbox {
        let inspect = self.inspect(name);
        let path = inspect["NetNS"].as_str().unwrap_or_else(|| panic!("{name} has no NetNS: {inspect}"));
        let networks = inspect["NetworkSettings"]["Networks"].as_object();
        let address = |key: &str| {
            networks
                .and_then(|all| all.values().find_map(|n| n[key].as_str().filter(|text| !text.is_empty())))
        };
        Sandbox::new(Ns::open(name, path), parse(address("IPAddress")), parse(address("GlobalIPv6Address")))
    }

    /// Returns what `sandbox inspect` says about one sandbox.
    pub fn inspect(&self, name: &str) -> Value {
        only(self.netd(&["sandbox", "inspect", "--format", "json", name]).json())
    }

    /// Returns what `network inspect` says about one network.
    pub fn inspect_network(&self, name: &str) -> Value {
        only(self.netd(&["network", "inspect", "--format", "json", name]).json())
    }

    /// Returns the connection table, perhaps filtered.
    pub fn flows(&self, filter: &[&str]) -> Vec<Value> {
        let mut args = vec!["flow", "ls", "--format", "json"];
        args.extend(filter.iter().flat_map(|f| ["--filter", f]));
        match self.netd(&args).json() {
            Value::Array(flows) => flows,
            other => panic!("flow ls printed no array: {other}"),
        }
    }

    /// Waits until the daemon counts an interface among the uplinks.
    pub fn until_uplink(&self, ifname: &str) {
        self.until_uplinks(&format!("{ifname} to be an uplink"), |uplinks| {
            uplinks.iter().any(|up| up.starts_with(&format!("{ifname} ")))
        });
    }

    /// Waits until the daemon does not count an interface among the uplinks any more.
    pub fn until_no_uplink(&self, ifname: &str) {
        self.until_uplinks(&format!("{ifname} to be none of the uplinks"), |uplinks| {
            !uplinks.iter().any(|up| up.starts_with(&format!("{ifname} ")))
        });
    }

    /// Waits until the uplinks, each as `NAME (ADDRESS, ADDRESS)`, are as wanted.
    pub fn until_uplinks(&self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        eventually(what, || {
            let status = self.netd(&["status", "--format", "json"]).json();
            let uplinks: Vec<String> = serde_json::from_value(status["Uplinks"].clone()).expect("uplinks");
            wanted(&uplinks)
        });
    }

    /// What the kernel and the file system hold, once nothing is on its way.
    pub fn snapshot(&self) -> Snapshot {
        self.until_promoted();
        Snapshot::with_files(&self.h, self.daemon.dirs())
    }

    /// Waits until every sandbox's program is what it stays.
    pub fn until_promoted(&self) {
        until_promoted(&self.h, self.daemon.dirs());
    }

    /// Excepts a subnet from the watch on the uplinks: a routed or unmasqueraded network.
    pub fn allow_on_uplinks(&self, subnet: &str) {
        self.watches.iter().for_each(|watch| watch.allow(subnet));
    }

    /// A `netd` command, not yet started, that will run on `H`.
    pub fn command(&self, args: &[&str]) -> Command {
        self.daemon.command(args)
    }

    /// Ends the daemon and everything it made; lists what is left and what was seen on the uplinks.
    fn close(&mut self) -> Vec<String> {
        let mut faults = self.daemon.unaccounted();
        let down = self.daemon.down();
        self.daemon.end(Signal::SIGKILL); // it has ended by itself, unless something went wrong
        if down.code != 0 {
            faults.push(format!("netd down failed with {}: {}", down.code, down.stderr));
        }
        let dirs = self.daemon.dirs();
        let mut left = dirs.leftovers();
        // The directories too: nothing of the instance stays.
        let all = [dirs.path("state"), dirs.run(), dirs.bpffs().to_owned()];
        left.extend(all.iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
        faults.extend(left.into_iter().take(20).map(|line| format!("left after netd down: {line}")));
        if let Some(before) = self.before.take() {
            let diff = before.diff(&Snapshot::of(&self.h));
            let count = diff.len();
            faults.extend(diff.into_iter().take(20).map(|line| format!("changed after netd down: {line}")));
            faults.extend((count > 20).then(|| format!("changed after netd down: {count} lines in all")));
        }
        for watch in self.watches.drain(..) {
            let leaks = watch.finish().0;
            faults.extend(
                leaks.into_iter().take(3).map(|p| format!("a sandbox's address on an uplink: {p:x?}")),
            );
        }
        faults
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the daemon's log\n{}---", self.daemon.log());
        }
        let closed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.close()));
        let faults = closed.unwrap_or_else(|_| vec!["taking the lab down panicked".into()]);
        if faults.is_empty() {
            return;
        }
        let text = faults.join("\n");
        if thread::panicking() {
            eprintln!("{text}"); // a second panic would abort and hide the first
        } else {
            panic!("{text}\n--- the daemon's log\n{}", self.daemon.log());
        }
    }
}

impl Net {
    /// A network that exists already, with subnets as the lab numbers them.
    pub const fn existing(name: &'static str, number: u8) -> Self {
        Self { name, number }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// An address in its subnet.
    pub fn ip(self, family: Family, host: u8) -> IpAddr {
        let text = match family {
            Family::V4 => format!("172.{}.0.{host}", self.number),
            Family::V6 => format!("fd00:c:{}::{host:x}", self.number),
        };
        text.parse().expect("an address of the lab")
    }

    /// Its gateway's address.
    pub fn gateway(self, family: Family) -> IpAddr {
        self.ip(family, 1)
    }
}

fn parse<T: FromStr>(text: Option<&str>) -> Option<T> {
    text.and_then(|text| text.parse().ok())
}

fn only(list: Value) -> Value {
    match list {
        Value::Array(mut items) if items.len() == 1 => items.remove(0),
        other => panic!("inspect printed something else than one object in an array: {other}"),
    }
}
