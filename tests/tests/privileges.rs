//! Rung: namespaces. What the daemon may do and who may ask it to: the service's capabilities, its unit, directories, socket.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, chown},
            net::{UnixDatagram, UnixListener},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use netd_tests::{
    Child, Dirs, H, Lab, Ns, Options, PATIENCE, Proto, R, Server, Snapshot, Topology, at, binary, eventually,
    tree,
};
use nix::sys::signal::Signal;

/// Whom nobody trusts.
const NOBODY: u32 = 65_534;
/// A group of the test's own; no daemon and no file has it otherwise.
const GROUP: u32 = 54_321;

fn unit_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("netd/dist/netd.service")
}

/// The unit's settings by section and key; each key stands once.
fn unit() -> BTreeMap<(String, String), String> {
    let text = fs::read_to_string(unit_path()).expect("the unit");
    let (mut section, mut settings) = (String::new(), BTreeMap::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
            continue;
        }
        let (key, value) =
            line.split_once('=').unwrap_or_else(|| panic!("neither section nor setting: {line}"));
        let double = settings.insert((section.clone(), key.to_owned()), value.to_owned());
        // What a second one takes away is in the first.
        assert!(double.is_none() || key == "SystemCallFilter", "{key}= stands twice");
    }
    settings
}

fn service(key: &str) -> String {
    unit().get(&("Service".to_owned(), key.to_owned())).unwrap_or_else(|| panic!("{key}= is missing")).clone()
}

/// The capabilities of the unit, in the words of setpriv(1).
fn shipped() -> Vec<String> {
    let words = service("CapabilityBoundingSet");
    words.split(' ').map(|word| word.strip_prefix("CAP_").expect("a capability").to_lowercase()).collect()
}

/// A command line before the daemon's: with these capabilities and no others, as systemd would start it.
fn confined(capabilities: &[String]) -> Vec<String> {
    let mut set = String::from("--bounding-set=-all");
    for capability in capabilities {
        set += ",+";
        set += capability;
    }
    ["setpriv", &set, "--inh-caps=-all", "--no-new-privs"].map(str::to_owned).to_vec()
}

fn with(capabilities: &[String]) -> Options {
    Options { launcher: confined(capabilities), ..Options::default() }
}

/// A process of another user in a network namespace of its own.
fn strangers_process(lab: &Lab) -> Child {
    let mut command = Command::new("unshare");
    command.args(["--net", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "600"]);
    let child = Child::from(lab.h.spawn(command.stdin(Stdio::null())));
    let status = format!("/proc/{}/status", child.id());
    eventually("the process to be another user's", || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        text.contains("Name:\tsleep") && text.contains("Uid:\t65534")
    });
    child
}

#[test]
fn the_units_capabilities_suffice_for_everything() {
    let mut lab = Lab::with(&with(&shipped()));
    let status = fs::read_to_string(format!("/proc/{}/status", lab.daemon.pid().expect("it runs")));
    let status = status.expect("the daemon's status");
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("capabilities");
    let bits = u64::from_str_radix(held, 16).expect("hexadecimal").count_ones();
    assert_eq!(bits as usize, shipped().len(), "the daemon holds no others: {held}");

    let net = lab.network("netA", 20, &[]);
    let a1 = lab
        .sandbox("a1", net, 2, &["-p", "80:80", "-p", "53:53/udp", "--hostname", "web"])
        .serving(&[80, 53]);
    let _r = Server::start(&lab.r, &[80]);
    let stranger = strangers_process(&lab);
    let wire = a1.capture();
    lab.netd(&["sandbox", "create", "--network", "netA", "--pid", &stranger.id().to_string(), "a2"]).ok();
    wire.wait("an announcement of a2's address", PATIENCE, |packet| {
        packet.ethertype == 0x0806 && !packet.outgoing
    });
    let works = |lab: &Lab| {
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 80)).server, "a1");
        assert_eq!(lab.r.reach(Proto::Udp, at(H.v6, 53)).server, "a1");
        assert_eq!(lab.h.reach(Proto::Tcp, at(std::net::Ipv4Addr::LOCALHOST, 80)).server, "a1");
        assert_eq!(a1.reach(Proto::Tcp, at(R.v6, 80)).source.ip(), std::net::IpAddr::from(H.v6));
    };
    works(&lab);
    lab.netd(&["run", "--name", "job", "--network", "netA", "--", "true"]).ok();
    lab.netd(&["network", "create", "netB"]).ok();
    lab.netd(&["network", "connect", "netB", "a1"]).ok();
    lab.netd(&["network", "disconnect", "netB", "a1"]).ok();
    lab.netd(&["publish", "a1", "81:80"]).ok();
    lab.netd(&["unpublish", "--kill", "a1", "81:80"]).ok();
    lab.netd(&["drops"]).ok();
    lab.netd(&["flow", "flush"]).ok();
    lab.daemon.end(Signal::SIGKILL);
    lab.daemon.restart();
    works(&lab);
    for name in ["job", "a2"] {
        lab.netd(&["sandbox", "rm", "-f", name]).ok();
    }
    lab.netd(&["network", "rm", "netB"]).ok();
    lab.netd(&["down"]).ok(); // by the daemon itself; the lab's end looks for what is left
}

/// Starts a daemon that is expected to give up, and takes away what it has made.
fn gives_up(capabilities: &[String]) -> Output {
    let topology = Topology::new();
    let before = Snapshot::of(&topology.h);
    let dirs = Dirs::new();
    let words = confined(capabilities);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(binary()).arg("daemon").args(dirs.options());
    let output = topology.h.output(&mut command);
    let down = topology.h.output(Command::new(binary()).arg("down").args(dirs.options()));
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    before.assert_unchanged(&Snapshot::of(&topology.h), "a daemon that gave up");
    output
}

#[test]
fn none_of_the_units_capabilities_can_be_left_out() {
    let without = |gone: &str| -> Vec<String> {
        let rest: Vec<String> = shipped().into_iter().filter(|capability| capability != gone).collect();
        assert_eq!(rest.len() + 1, shipped().len(), "{gone} is among the unit's");
        rest
    };
    for gone in ["net_admin", "sys_admin"] {
        let output = gives_up(&without(gone));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains("Operation not permitted"),
            "without {gone}: {error}"
        );
    }
    {
        let lab = Lab::with(&with(&without("net_bind_service")));
        let line = lab.netd(&["sandbox", "create", "-p", "53:53/udp", "dns"]).refused(6);
        assert!(line.contains("0.0.0.0:53"), "{line}");
        lab.netd(&["sandbox", "create", "-p", "5353:53/udp", "dns"]).ok();
    }
    {
        let mut options = with(&without("net_raw"));
        options.launcher.splice(0..0, ["env", "NETD_LOG=debug"].map(str::to_owned));
        let lab = Lab::with(&options);
        lab.netd(&["sandbox", "create", "silent"]).ok();
        eventually("the refused announcement in the log", || {
            let log = lab.daemon.log();
            log.lines().any(|line| line.contains("not announced") && line.contains("Operation not permitted"))
        });
    }
    let lab = Lab::with(&with(&without("sys_ptrace")));
    let stranger = strangers_process(&lab);
    let refused = lab.netd(&["sandbox", "create", "--pid", &stranger.id().to_string(), "theirs"]);
    assert!(refused.code != 0 && refused.stderr.contains("Permission denied"), "{}", refused.stderr);
    // One of root's, without more rights than the daemon has.
    let own = Ns::new("own");
    let words = confined(&without("sys_ptrace"));
    let own = Child::from(own.spawn(Command::new(&words[0]).args(&words[1..]).args(["sleep", "600"])));
    let status = format!("/proc/{}/status", own.id());
    eventually("the process to have given up its rights", || {
        fs::read_to_string(&status).unwrap_or_default().contains("Name:\tsleep")
    });
    lab.netd(&["sandbox", "create", "--pid", &own.id().to_string(), "ours"]).ok();
    assert_eq!(shipped().len(), 5, "each of them has its part above");
}

#[test]
fn the_unit_gives_the_daemon_no_mount_namespace_of_its_own() {
    // systemd.exec(5): each of these makes one, or takes away what others must see.
    const TRAPS: &[&str] = &[
        "BindPaths",
        "BindReadOnlyPaths",
        "DynamicUser",
        "ExecPaths",
        "ExtensionImages",
        "InaccessiblePaths",
        "MountAPIVFS",
        "MountImages",
        "NetworkNamespacePath",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateMounts",
        "PrivateNetwork",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RootDirectory",
        "RootImage",
        "RuntimeDirectory",
        "TemporaryFileSystem",
    ];
    for ((section, key), _) in unit() {
        assert!(!TRAPS.contains(&key.as_str()), "[{section}] {key}= hides the daemon's mounts from the host");
    }
    for (key, value) in [
        ("Type", "notify"),
        ("Restart", "always"),
        ("WatchdogSec", "30"),
        ("KillMode", "mixed"),
        ("NoNewPrivileges", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "net"),
        ("UMask", "0077"),
    ] {
        assert_eq!(service(key), value, "{key}=");
    }
    let unit = unit();
    assert_eq!(
        unit[&("Unit".to_owned(), "StartLimitIntervalSec".to_owned())],
        "0",
        "a crash loop is not locked out"
    );
    assert!(unit[&("Unit".to_owned(), "Before".to_owned())].contains("docker.service"));
}

#[test]
fn systemd_itself_takes_the_unit_and_finds_little_exposed() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("netd.service");
    let text = fs::read_to_string(unit_path()).expect("the unit");
    let here = binary().to_str().expect("UTF-8");
    fs::write(&copy, text.replace("/usr/sbin/netd", here)).expect("a copy that starts this build");
    let analyze = |args: &[&str]| {
        let output = Command::new("systemd-analyze").args(args).arg(&copy).output().expect("systemd-analyze");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (fine, said) = analyze(&["verify", "--man=no"]);
    let about_it: Vec<&str> = said.lines().filter(|line| line.contains("netd.service:")).collect();
    assert!(fine || about_it.is_empty(), "{said}");
    // 10 times the figure, as systemd takes it: it may fall, and not rise.
    let (below, said) = analyze(&["security", "--offline=true", "--no-pager", "--threshold=48"]);
    assert!(below || !said.contains("Overall exposure level"), "{said}");
}

#[test]
fn the_daemon_gives_up_new_privileges_and_core_dumps_by_itself() {
    let lab = Lab::new();
    let process = format!("/proc/{}", lab.daemon.pid().expect("a daemon"));
    let read = |path: &str| fs::read_to_string(path).expect("a file of the process");
    let limits = read(&format!("{process}/limits"));
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let threads: Vec<_> = fs::read_dir(format!("{process}/task")).expect("threads").flatten().collect();
    assert!(threads.len() > 1, "{threads:?}");
    for thread in threads {
        let status = read(&format!("{}/status", thread.path().display()));
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }
    // The control: whoever starts it has given up nothing.
    assert!(read("/proc/self/status").contains("NoNewPrivs:\t0\n"));
}

/// What is not to be dumped belongs to root under /proc, and not to the process's own group (`task_dump_owner`, fs/proc/base.c).
#[test]
fn the_daemons_memory_is_not_for_other_processes_of_its_user() {
    let launcher = ["setpriv", "--regid=54321", "--keep-groups"].map(str::to_owned);
    let group = |process: u32| {
        let status = format!("/proc/{process}/status");
        let groups = fs::read_to_string(&status).expect("a process's status");
        assert!(groups.contains("\nGid:\t54321\t54321\t"), "{groups}");
        ["status", "maps", "environ"]
            .map(|file| fs::metadata(format!("/proc/{process}/{file}")).expect("a file of the process").gid())
    };
    let lab = Lab::with(&Options { launcher: launcher.to_vec(), ..Options::default() });
    assert_eq!(group(lab.daemon.pid().expect("it runs")), [0; 3]);
    // The control: a process that has given up nothing.
    let mut command = Command::new(&launcher[0]);
    command.args(&launcher[1..]).args(["sleep", "600"]).stdin(Stdio::null());
    let plain = Child::from(lab.h.spawn(&mut command));
    let name = format!("/proc/{}/comm", plain.id());
    eventually("the process to have begun", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
    assert_eq!(group(plain.id()), [GROUP; 3]);
}

#[test]
fn a_socket_that_the_service_manager_holds_outlives_the_daemon() {
    // The service manager passes sockets from the third descriptor on, and says to whom (sd_listen_fds(3)).
    const PASS: &str = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let (topology, dirs) = (Topology::new(), Dirs::new());
    fs::create_dir(dirs.run()).expect("the run directory");
    let listener = UnixListener::bind(dirs.socket()).expect("the service manager's socket");
    let inode = || fs::metadata(dirs.socket()).expect("the socket").ino();
    let first = inode();
    let start = || -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", PASS, "sh"]).arg(binary()).arg("daemon").args(dirs.options());
        let passed = OwnedFd::from(listener.try_clone().expect("a second descriptor"));
        topology.h.spawn(command.stdin(Stdio::from(passed)).stderr(Stdio::null())).into()
    };
    let ask = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.args(args).env("NETD_HOST", format!("unix://{}", dirs.socket().display()));
        command.env("NETD_RETRY", "0").stdout(Stdio::piped()).stderr(Stdio::piped());
        topology.h.spawn(&mut command)
    };
    let answered = |child: std::process::Child| {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    // Whoever connects while no daemon runs is served by the next one, the first and any other.
    let waiting = ask(&["network", "create", "app"]);
    let daemon = start();
    let id = answered(waiting);
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    let waiting = ask(&["network", "inspect", "--format", "{{.Id}}", "app"]);
    let daemon = start();
    assert_eq!(answered(waiting), id);
    assert_eq!(inode(), first, "no daemon has made a socket of its own");
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    // The control: a socket that nobody holds refuses.
    drop(listener);
    let refused = ask(&["network", "ls"]).wait_with_output().expect("it ends");
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let mut down = Command::new(binary());
    let down = topology.h.output(down.arg("down").args(dirs.options()));
    assert!(down.status.success(), "{down:?}");
}

#[test]
fn a_daemon_that_hangs_no_longer_tells_the_service_manager_that_it_lives() {
    /// The unit's time is for slow disks; the daemon looks ten times in it.
    const PATIENCE_OF_THE_MANAGER: Duration = Duration::from_secs(2);
    let mut lab = Lab::new();
    let dirs = lab.daemon.dirs();
    let (gate, path) = (dirs.path("gate"), dirs.path("notify"));
    let manager = UnixDatagram::bind(&path).expect("the service manager's socket");
    manager.set_read_timeout(Some(PATIENCE_OF_THE_MANAGER)).expect("a time to wait");
    let lives = || {
        let mut message = [0; 256];
        loop {
            let Ok(length) = manager.recv(&mut message) else { return false };
            if message[..length].starts_with(b"WATCHDOG=1") {
                return true;
            }
        }
    };
    lab.daemon.end(Signal::SIGTERM);
    lab.daemon.restart_with(&[
        ("NOTIFY_SOCKET", path.to_str().expect("UTF-8")),
        ("WATCHDOG_USEC", &PATIENCE_OF_THE_MANAGER.as_micros().to_string()),
        ("NETD_FAILPOINTS", &format!("bridge.put.before=until:{}", gate.display())),
    ]);
    eventually("a sign of life of a daemon at rest", lives);
    thread::scope(|scope| {
        let created = scope.spawn(|| lab.daemon.run(&["network", "create", "app"]).code);
        // It is read all the time, as a service manager does.
        eventually("silence", || !lives() && lab.daemon.log().contains("failpoint reached"));
        fs::write(&gate, "").expect("the gate opens");
        assert_eq!(created.join().expect("the change"), 0);
    });
    eventually("a sign of life of a daemon that goes on", lives);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o7777
}

#[test]
fn cve_2021_41091_only_root_gets_into_the_directories_whatever_the_umask() {
    for umask in ["0077", "0000"] {
        let launcher = ["sh", "-c", "umask $0 && exec \"$@\"", umask].map(str::to_owned).to_vec();
        let lab = Lab::with(&Options { launcher, ..Options::default() });
        let net = lab.network("netA", 20, &[]);
        let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]);
        let dirs = lab.daemon.dirs();
        for path in tree(&dirs.path("state")) {
            assert_eq!(mode(&path) & 0o077, 0, "umask {umask}: {}", path.display());
        }
        for path in tree(dirs.bpffs()) {
            assert_eq!(mode(&path) & 0o022, 0, "umask {umask}: {}", path.display());
        }
        assert_eq!(mode(dirs.bpffs()), 0o700, "umask {umask}");
        assert_eq!(mode(&dirs.run()) & 0o7727, 0o700, "umask {umask}: nobody but the group gets in");
        assert_eq!(mode(&dirs.socket()), 0o660, "umask {umask}");
        for path in tree(&dirs.run()) {
            let inside = path.starts_with(dirs.run().join("netns"));
            assert!(
                inside || path == dirs.socket() || mode(&path) & 0o022 == 0,
                "umask {umask}: {}",
                path.display()
            );
        }
        let hosts = tree(&dirs.run().join("sandboxes")).into_iter().find(|path| path.ends_with("hosts"));
        assert_eq!(mode(&hosts.expect("the hosts file")), 0o644, "umask {umask}: its users read it");
    }
}

#[test]
fn cve_2021_41091_directories_that_others_could_write_in_are_closed_or_refused() {
    let mut lab = Lab::new();
    let dirs =
        [lab.daemon.dirs().path("state"), lab.daemon.dirs().run(), lab.daemon.dirs().bpffs().to_owned()];
    lab.daemon.end(Signal::SIGTERM);
    for dir in &dirs {
        fs::set_permissions(dir, Permissions::from_mode(0o777)).expect("open a directory");
    }
    lab.daemon.restart();
    for dir in &dirs {
        assert_eq!(mode(dir) & 0o022, 0, "{}", dir.display());
    }
    lab.daemon.end(Signal::SIGTERM);
    for dir in &dirs {
        chown(dir, Some(NOBODY), None).expect("give a directory away");
        let mut command = Command::new(binary());
        let output = lab.h.output(command.arg("daemon").args(lab.daemon.dirs().options()));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains("belongs to uid 65534"),
            "{}: {error}",
            dir.display()
        );
        chown(dir, Some(0), None).expect("take a directory back");
    }
    lab.daemon.restart(); // the positive control
}

#[test]
fn cve_2022_29178_the_socket_is_for_root_and_the_configured_group_alone() {
    let list = |lab: &Lab, uid: u32, gid: u32| {
        let mut command = lab.command(&["network", "ls"]);
        command.uid(uid).gid(gid);
        lab.h.output(&mut command).status.code()
    };
    let dirs_are_open = |lab: &Lab| {
        // The way there is free: what refuses is the socket and its directory.
        let root = lab.daemon.dirs().path("");
        fs::set_permissions(root, Permissions::from_mode(0o755)).expect("open the way");
    };
    let lab = Lab::new();
    dirs_are_open(&lab);
    for (uid, gid) in [(NOBODY, NOBODY), (1000, 1000), (NOBODY, GROUP)] {
        assert_eq!(list(&lab, uid, gid), Some(6), "uid {uid}, gid {gid}");
    }
    assert_eq!(list(&lab, NOBODY, 0), Some(0), "the group of the socket");
    // Root of a user namespace is nobody outside of it.
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "unshare",
        "--user",
        "--map-root-user",
    ]);
    command.arg(binary()).args(["network", "ls"]);
    command.env("NETD_HOST", format!("unix://{}", lab.daemon.dirs().socket().display()));
    assert_eq!(lab.h.output(&mut command).status.code(), Some(6), "root of a user namespace");
    let sockets =
        lab.h.run(|| fs::read_to_string("/proc/thread-self/net/unix")).expect("the list of sockets");
    assert!(sockets.contains(&*lab.daemon.dirs().socket().to_string_lossy()), "{sockets}");
    assert!(
        !sockets.lines().any(|line| line.contains('@') && line.contains("netd")),
        "no abstract ones: {sockets}"
    );
    drop(lab);

    let missing = Dirs::new();
    fs::write(missing.path("netd.toml"), "socket-group = \"no-such-group\"\n").expect("a configuration");
    let mut command = Command::new(binary());
    command.arg("daemon").arg("--config").arg(missing.path("netd.toml")).args(missing.options());
    let topology = Topology::new();
    let output = topology.h.output(&mut command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("no-such-group"), "{error}");
    drop(topology.h.output(Command::new(binary()).arg("down").args(missing.options())));
}

#[test]
fn members_of_the_configured_group_may_use_the_socket_without_cap_chown() {
    let Some((name, gid)) = a_group() else {
        eprintln!("skipped: this machine has no group but root's");
        return;
    };
    let mut launcher = confined(&shipped());
    launcher.push(format!("--groups={gid}")); // as SupplementaryGroups= does
    let config = format!("socket-group = {name:?}\n{}", Options::default().config);
    let lab = Lab::with(&Options { config, launcher, ..Options::default() });
    fs::set_permissions(lab.daemon.dirs().path(""), Permissions::from_mode(0o755)).expect("open the way");
    let socket = fs::metadata(lab.daemon.dirs().socket()).expect("the socket");
    assert_eq!((socket.gid(), socket.uid(), mode(&lab.daemon.dirs().socket())), (gid, 0, 0o660));
    let list = |gid: u32| {
        let mut command = lab.command(&["network", "ls"]);
        command.uid(NOBODY).gid(gid);
        lab.h.output(&mut command).status.code()
    };
    assert_eq!(list(gid), Some(0), "a member of {name}");
    assert_eq!(list(GROUP), Some(6), "another");
}

/// A group of this machine that is not root's.
fn a_group() -> Option<(String, u32)> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        (gid != 0).then(|| (name.to_owned(), gid))
    })
}
