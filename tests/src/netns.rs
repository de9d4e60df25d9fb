//! Network namespaces as values: a namespace lives as long as the last clone, socket or process in it.

use std::{
    fs::File,
    io::Write as _,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::{eventually, process};

/// A network namespace, held open by a descriptor; no name of it exists in the file system.
#[derive(Debug, Clone)]
pub struct Ns {
    name: String,
    fd: Arc<OwnedFd>,
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// A namespace bind-mounted to a file; unmounted and removed on drop.
#[derive(Debug)]
pub struct NsPath(PathBuf);

impl Ns {
    /// Makes an empty namespace with loopback up and without duplicate address detection.
    pub fn new(name: &str) -> Self {
        let fd = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare a network namespace (the tests need root)");
            File::open("/proc/thread-self/ns/net").expect("open the new namespace")
        });
        let fd = Arc::new(OwnedFd::from(fd.join().expect("the thread that makes a namespace")));
        let ns = Self { name: name.to_owned(), fd };
        for scope in ["all", "default"] {
            ns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
        }
        ns.ip_batch("link set lo up");
        ns
    }

    /// Opens an existing namespace.
    pub fn open(name: &str, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let file = File::open(path).unwrap_or_else(|e| panic!("open namespace {}: {e}", path.display()));
        Self { name: name.to_owned(), fd: Arc::new(file.into()) }
    }

    /// The name that servers in it answer with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure on a fresh thread in this namespace, and passes on its panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
                work()
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Moves the calling thread into this namespace for good.
    pub(crate) fn run_here(&self) {
        setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
    }

    /// Runs a command in this namespace to its end.
    pub fn output(&self, command: &mut Command) -> Output {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn(command);
        child.wait_with_output().unwrap_or_else(|e| panic!("wait for {command:?}: {e}"))
    }

    /// Starts a command in this namespace.
    pub fn spawn(&self, command: &mut Command) -> std::process::Child {
        self.run(|| process::spawn(command).unwrap_or_else(|e| panic!("start {command:?}: {e}")))
    }

    /// Runs lines of `ip` commands in one batch.
    pub fn ip_batch(&self, batch: &str) {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(&mut command);
        child.stdin.take().expect("stdin of ip").write_all(batch.as_bytes()).expect("write to ip");
        let out = child.wait_with_output().expect("wait for ip");
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{}: ip -batch failed: {errors}\n{batch}", self.name);
    }

    /// Returns what `ip -json ARGS` prints; null when it prints nothing.
    pub fn ip_json(&self, args: &[&str]) -> serde_json::Value {
        let out = self.output(Command::new("ip").arg("-json").args(args));
        assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        if out.stdout.iter().all(u8::is_ascii_whitespace) {
            return serde_json::Value::Null;
        }
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("ip {args:?} printed no JSON: {e}"))
    }

    /// Sets a key below `/proc/sys` as this namespace sees it.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        let written = self.run(|| std::fs::write(&path, value));
        written.unwrap_or_else(|e| panic!("{}: set {path}: {e}", self.name));
    }

    /// Reads a key below `/proc/sys` as this namespace sees it.
    pub fn sysctl_get(&self, key: &str) -> String {
        let path = format!("/proc/sys/{key}");
        // One read: the kernel answers a second one with nothing, which would cut a list of ports.
        let read = || {
            let mut text = vec![0; 4096];
            let length = std::io::Read::read(&mut std::fs::File::open(&path)?, &mut text)?;
            std::io::Result::Ok(String::from_utf8_lossy(&text[..length]).trim().to_owned())
        };
        self.run(|| read().unwrap_or_else(|e| panic!("{}: read {path}: {e}", self.name)))
    }

    /// Returns an interface, if it exists.
    pub fn link(&self, name: &str) -> Option<Link> {
        let links = self.ip_json(&["link", "show"]);
        let link = links.as_array()?.iter().find(|l| l["ifname"] == name)?;
        let mac = parse_mac(link["address"].as_str()?)?;
        let number = |key: &str| link[key].as_u64().and_then(|n| u32::try_from(n).ok());
        Some(Link { index: number("ifindex")?, mac, mtu: number("mtu")? })
    }

    /// Returns the Ethernet address of a neighbour, where one is known.
    pub fn neighbour(&self, ip: IpAddr) -> Option<[u8; 6]> {
        let neighbours = self.ip_json(&["neigh", "show"]);
        let ip = ip.to_string();
        let entry =
            neighbours.as_array()?.iter().find(|n| n["dst"] == ip.as_str() && n["lladdr"].is_string())?;
        parse_mac(entry["lladdr"].as_str()?)
    }

    /// Pings a neighbour until the kernel lists its Ethernet address, and returns that.
    pub fn mac_of(&self, neighbour: IpAddr) -> [u8; 6] {
        let mut mac = None;
        eventually(&format!("the Ethernet address of {neighbour} in {}", self.name), || {
            self.ping(neighbour);
            mac = self.neighbour(neighbour);
            mac.is_some()
        });
        mac.expect("just found")
    }

    /// Returns the names of the interfaces, sorted.
    pub fn links(&self) -> Vec<String> {
        let links = self.ip_json(&["link", "show"]);
        let links = links.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut names: Vec<_> =
            links.iter().filter_map(|l| l["ifname"].as_str()).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// A path that other processes of this machine can open while this value lives.
    pub fn proc_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Bind-mounts the namespace at a new file, as `ip netns add` would.
    pub fn bind_at(&self, path: impl Into<PathBuf>) -> NsPath {
        let path = path.into();
        File::create(&path).expect("create the mount point of a namespace");
        mount(Some(self.proc_path().as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .expect("bind-mount a namespace");
        NsPath(path)
    }

    /// Connects two namespaces by a veth pair with these interface names; both ends are up.
    pub fn connect(&self, ifname: &str, peer: &Self, peer_ifname: &str) {
        self.ip_batch(&format!(
            "link add {ifname} type veth peer name {peer_ifname} netns {}",
            peer.proc_path()
        ));
        self.ip_batch(&format!("link set {ifname} up"));
        peer.ip_batch(&format!("link set {peer_ifname} up"));
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(mac)
}

impl NsPath {
    /// Where it is mounted.
    pub fn path(&self) -> &str {
        self.0.to_str().expect("paths of the lab are UTF-8")
    }
}

impl Drop for NsPath {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(&self.0);
    }
}
