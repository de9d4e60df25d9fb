//! Debian's firewalld at work in a namespace: the daemon itself, its bus and its files, on a machine that need not have it installed.
//!
//! It sees this machine's root with the packages laid over it that `cargo xtask test` unpacks below `target/tools`, in a mount namespace of its own:
//! what it writes stays in memory, and goes with it.

use std::{
    fs::{self, File},
    process::{Command, Output},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Child, Ns, eventually};

/// Where `cargo xtask test` unpacks firewalld and what it needs; nothing is there when the machine has all of it installed.
const UNPACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/firewalld");
/// Lays the packages over `/`, makes that the root of this mount namespace, lets go of everything else that was mounted, and becomes the bus.
const BUS: &str = r#"
mount -t tmpfs netd-firewalld "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" netd-firewalld "$1/root"
if [ -d "$2" ]; then tar -C "$2" -c . | tar -C "$1/root" -x --keep-directory-symlink; fi
cd "$1/root"
mount --bind /dev dev
mount -t proc proc proc
mount -t tmpfs netd-firewalld run
rm -rf etc/firewalld
mkdir -p etc/firewalld run/dbus run/old
echo "$3" > etc/firewalld/firewalld.conf
echo "$4" > run/bus.conf
pivot_root . run/old
umount -l run/old
exec dbus-daemon --nofork --print-address --config-file=/run/bus.conf
"#;
/// Everybody in this mount namespace may say everything.
const BUS_CONFIGURATION: &str = r#"<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/>
    <allow send_type="method_call"/><allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/><allow receive_type="signal"/>
    <allow receive_type="method_return"/><allow receive_type="error"/>
  </policy>
</busconfig>"#;
/// What helps where it is missing.
const NEEDED: &str =
    "`cargo xtask test` unpacks firewalld on Debian; elsewhere install firewalld and dbus-daemon";
/// How long it may take to take its rules away and end; it takes a tenth of a second.
const END: Duration = Duration::from_mins(1);

/// A firewalld; it ends when it is dropped.
#[derive(Debug)]
pub struct Firewalld {
    ns: Ns,
    daemon: Child,
    bus: Child,
    logs: TempDir,
    // The bus has its root mounted here, where nobody else sees it.
    _root: TempDir,
}

impl Firewalld {
    /// Starts it with this default zone, and waits until its rules are in force.
    pub fn start(ns: &Ns, default_zone: &str) -> Self {
        let [logs, root] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
        let configuration = format!(
            "DefaultZone={default_zone}\nFirewallBackend=nftables\nCleanupOnExit=yes\nCleanupModulesOnExit=no\n"
        );
        let mut bus = Command::new("unshare");
        bus.args(["--mount", "--propagation", "private", "sh", "-euc", BUS, "bus"]);
        bus.arg(root.path()).args([UNPACKED, &configuration, BUS_CONFIGURATION]);
        let mut bus = Child::from(ns.spawn(writing(&mut bus, &logs, "bus")));
        eventually("the bus to say where it listens", || {
            goes_on(&mut bus, &logs, "bus");
            log(&logs, "bus").contains("unix:path=")
        });
        let mut daemon = inside(&bus, "firewalld");
        daemon.args(["--nofork", "--nopid"]);
        let daemon = Child::from(ns.spawn(writing(&mut daemon, &logs, "firewalld")));
        let mut firewalld = Self { ns: ns.clone(), daemon, bus, logs, _root: root };
        eventually("firewalld to be running", || firewalld.is_running());
        firewalld
    }

    fn is_running(&mut self) -> bool {
        goes_on(&mut self.daemon, &self.logs, "firewalld");
        self.asked(&["--state"]).status.success()
    }

    /// Runs `firewall-cmd`, which waits until it is done.
    pub fn cmd(&self, args: &[&str]) {
        let out = self.asked(args);
        let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(out.status.success(), "firewall-cmd {args:?}: {}", said.concat());
    }

    fn asked(&self, args: &[&str]) -> Output {
        self.ns.output(inside(&self.bus, "firewall-cmd").args(args))
    }

    /// The number that the kernel gave its table; another one when it has been made anew.
    pub fn table(&self) -> Option<u64> {
        let out = self.ns.output(Command::new("nft").args(["--json", "--handle", "list", "tables"]));
        let all: Value = serde_json::from_slice(&out.stdout).expect("a list of tables");
        let tables = all["nftables"].as_array().expect("an array").iter().map(|object| &object["table"]);
        tables
            .into_iter()
            .find(|table| table["name"] == "firewalld")
            .and_then(|table| table["handle"].as_u64())
    }

    /// Ends it as systemd would; its rules go.
    pub fn stop(&mut self) {
        self.daemon.signal(Signal::SIGTERM);
        let ended = self.daemon.wait_for(END);
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", log(&self.logs, "firewalld"));
        assert_eq!(self.table(), None, "its rules are still there");
    }
}

/// A command in the mount namespace of the bus.
fn inside(bus: &Child, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", bus.id())).arg(program);
    command
}

fn goes_on(child: &mut Child, logs: &TempDir, name: &str) {
    let ended = child.try_wait().expect("the state of a child").is_some();
    assert!(!ended, "{name} has ended: {} ({NEEDED})", log(logs, name));
}

/// Lets a command write what it says to a file of its name.
fn writing<'a>(command: &'a mut Command, logs: &TempDir, name: &str) -> &'a mut Command {
    let file = File::create(logs.path().join(name)).expect("a log");
    command.stdout(file.try_clone().expect("another descriptor")).stderr(file)
}

fn log(logs: &TempDir, name: &str) -> String {
    fs::read_to_string(logs.path().join(name)).unwrap_or_default().trim().to_owned()
}
