//! Rung: namespaces, reliability F5, F6, F27. Damaged, foreign, missing and unwritable state: the daemon starts, traffic goes on, nothing is lost.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use netd_tests::{
    Family, H, Lab, Options, Proto, R, Sandbox, Stream, Topology, at, binary, files, invariants,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};

/// A sandbox with a published port, and streams to and from it.
struct World {
    streams: Vec<Stream>,
    a1: Sandbox,
    lab: Lab,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        let net = lab.network("netA", 20, &[]);
        let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "--hostname", "first"]).serving(&[80]);
        let streams = Family::BOTH.map(|family| lab.r.connect_stream(at(H.ip(family), 8080)).0);
        Self { streams: streams.into(), a1, lab }
    }

    fn state(&self) -> PathBuf {
        self.lab.daemon.dirs().path("state")
    }

    /// Everything is known and works as before.
    fn goes_on(&mut self, when: &str) {
        self.traffic_goes_on(when);
        let inspect = self.lab.inspect("a1");
        assert_eq!(inspect["Config"]["Hostname"], "first", "{when}: {inspect}");
        for family in Family::BOTH {
            assert_eq!(self.lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).server, "a1", "{when}");
            self.a1.ping(R.ip(family));
        }
        let wrong = self.violations();
        assert_eq!(wrong, Vec::<String>::new(), "{when}");
    }

    fn traffic_goes_on(&mut self, when: &str) {
        for stream in &mut self.streams {
            stream.echo(b"still here").unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(stream.retransmissions(), 0, "{when}");
        }
    }

    /// What is wrong, but for files that were set aside for people to look at, and lines of the answers' file that a test has damaged.
    fn violations(&self) -> Vec<String> {
        let daemon = &self.lab.daemon;
        let instance =
            invariants::Instance { ns: &self.lab.h, dirs: daemon.dirs(), pid: daemon.pid(), held: true };
        let damaged = format!("torn: {}", daemon.dirs().path("state/results.log").display());
        let wrong = invariants::violations(instance).into_iter();
        wrong.filter(|line| !line.contains(".bad-") && !line.starts_with(&damaged)).collect()
    }
}

#[test]
fn with_the_state_directory_gone_everything_goes_on() {
    let mut w = World::new();
    w.lab.daemon.end(Signal::SIGKILL);
    fs::remove_dir_all(w.state()).expect("the state directory");
    w.lab.daemon.restart();
    w.goes_on("without the state directory");
    let status = w.lab.netd(&["status", "--format", "json"]).json();
    assert!(status["State"].as_str().is_some_and(|state| state.starts_with("degraded")), "{status}");
    // What is recovered is stored again: the next start finds nothing wrong.
    w.lab.daemon.end(Signal::SIGTERM);
    w.lab.daemon.restart();
    w.goes_on("at the next start");
    assert_eq!(w.lab.netd(&["status", "--format", "json"]).json()["State"], "ready");
    // The lab's end compares the host's settings with those before the first start.
}

/// Spoils a file.
type Harm = fn(&Path);

#[test]
fn damaged_state_files_stop_nobody_and_lose_nothing() {
    let harms: [(&str, Harm); 5] = [
        ("empty", |path| fs::write(path, "").expect("writes")),
        ("cut", |path| {
            let text = fs::read(path).expect("reads");
            fs::write(path, &text[..text.len() / 2]).expect("writes");
        }),
        ("zeroes", |path| fs::write(path, [0; 700]).expect("writes")),
        ("random", |path| fs::write(path, b"\x7fELF\xff\xfe{\"kind\":").expect("writes")),
        ("of a newer netd", |path| {
            fs::write(
                path,
                "{\"kind\":\"sandbox\",\"schema\":9,\"length\":2,\"crc32\":\"00000000\",\"body\":{}}\n",
            )
            .expect("writes");
        }),
    ];
    let mut w = World::new();
    for (name, harm) in harms {
        w.lab.daemon.end(Signal::SIGKILL);
        let damaged = files(&w.state());
        let damaged = damaged
            .iter()
            .filter(|path| !path.to_string_lossy().contains(".bad-") && !path.ends_with("lock"));
        damaged.for_each(|path| harm(path));
        w.lab.daemon.restart();
        w.goes_on(name);
        assert!(w.lab.daemon.log().contains(".bad-"), "the damaged files are named in the log");
    }
}

#[test]
fn what_nobody_remembers_is_left_alone() {
    let mut w = World::new();
    w.lab.daemon.end(Signal::SIGKILL);
    fs::remove_dir_all(w.lab.daemon.dirs().run().join("state")).expect("the copies");
    for path in files(&w.state().join("sandboxes")) {
        fs::write(path, "garbage").expect("writes");
    }
    w.lab.daemon.restart();
    w.traffic_goes_on("without any record of the sandbox");
    w.lab.netd(&["sandbox", "inspect", "a1"]).refused(3);
    w.lab.daemon.end(Signal::SIGTERM);
    w.lab.daemon.restart();
    w.traffic_goes_on("at the next start");
    let status = w.lab.netd(&["status", "--format", "json"]).json();
    assert!(status["State"].as_str().is_some_and(|state| state.contains("*.bad-*")), "{status}");
}

#[test]
fn a_default_network_that_nobody_remembers_keeps_nobody_from_serving_the_rest() {
    let mut w = World::new();
    let id = w.lab.netd(&["network", "inspect", "bridge", "--format", "{{.Id}}"]).ok().trim().to_owned();
    w.lab.daemon.end(Signal::SIGKILL);
    let all = [files(&w.state()), files(&w.lab.daemon.dirs().run().join("state"))].concat();
    let its: Vec<_> = all.iter().filter(|path| path.to_string_lossy().contains(&id)).collect();
    assert!(its.len() >= 2, "its file and the copy: {all:?}");
    for path in its {
        fs::write(path, "garbage").expect("writes");
    }
    for when in ["without any record of the network", "at the next start"] {
        w.lab.daemon.restart();
        w.traffic_goes_on(when);
        for family in Family::BOTH {
            assert_eq!(w.lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).server, "a1", "{when}");
        }
        w.lab.netd(&["network", "inspect", "bridge"]).refused(3);
        let status = w.lab.netd(&["status", "--format", "json"]).json();
        assert!(status["State"].as_str().is_some_and(|state| state.starts_with("degraded")), "{status}");
        w.lab.daemon.end(Signal::SIGTERM);
    }
    w.lab.daemon.restart();
}

#[test]
fn with_the_state_and_its_copies_gone_the_host_still_gets_its_reserved_ports_back() {
    let reserved = "net/ipv4/ip_local_reserved_ports";
    let topology = Topology::new();
    topology.h.sysctl(reserved, "77,40000-40010\n");
    let mut lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    drop(lab.sandbox("a1", net, 2, &["-p", "50000-50003:80-83"]));
    let with_netds = lab.h.sysctl_get(reserved);
    assert!(with_netds.contains("50000-50003"), "{with_netds}");
    lab.daemon.end(Signal::SIGKILL);
    let dirs = lab.daemon.dirs();
    for dir in [dirs.path("state"), dirs.run().join("state")] {
        fs::remove_dir_all(dir).expect("removed");
    }
    lab.daemon.restart();
    lab.netd(&["network", "ls"]).ok();
    // The lab's end compares the host's settings with those before the first start.
}

#[test]
fn a_second_daemon_on_one_directory_exits_at_once_and_names_the_first() {
    let mut w = World::new();
    let other = w.lab.daemon.dirs().path("other");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let mut command = Command::new(binary());
    command.args(["daemon", "--instance", "second", "--state-dir", &text(&w.state())]);
    command.args([
        "--run-dir",
        &text(&other),
        "--bpffs",
        &text(&w.lab.daemon.dirs().bpffs().with_extension("second")),
    ]);
    let before = w.lab.snapshot();
    let out = w.lab.h.output(&mut command);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{said}");
    let pid = w.lab.daemon.pid().expect("the first daemon");
    assert!(said.contains(&format!("another netd daemon (pid {pid}) uses the state directory")), "{said}");
    before.assert_unchanged(&w.lab.snapshot(), "the second daemon");
    w.goes_on("beside a second daemon");
}

/// A file system of 192 KiB; unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=192k")).expect("a small disk");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_fails_one_operation_and_keeps_nobody_from_removing() {
    let mut w = World::new();
    w.lab.daemon.end(Signal::SIGTERM);
    let (state, kept) = (w.state(), w.lab.daemon.dirs().path("kept"));
    fs::rename(&state, &kept).expect("moves");
    fs::create_dir(&state).expect("makes");
    let disk = SmallDisk::mount(&state);
    let copied = Command::new("cp").args(["-a", &format!("{}/.", kept.display())]).arg(&state).status();
    assert!(copied.is_ok_and(|status| status.success()));
    w.lab.daemon.restart();
    w.goes_on("on a small disk");
    let filler = state.join("filler");
    fs::write(&filler, vec![0; 1 << 20]).expect_err("the disk is full");
    let before = w.lab.snapshot();
    for args in [
        &["network", "create", "--subnet", "172.30.0.0/24", "netF"][..],
        &["sandbox", "create", "--network", "netA", "f1"],
        &["publish", "a1", "8081:80"],
    ] {
        let line = w.lab.netd(args).refused(1);
        assert!(line.contains("No space left on device); nothing was changed"), "{line}");
        before.assert_unchanged(&w.lab.snapshot(), "a command on a full disk");
    }
    w.traffic_goes_on("on a full disk");
    // A daemon starts there, too, and things can be removed.
    w.lab.daemon.end(Signal::SIGKILL);
    w.lab.daemon.restart();
    w.traffic_goes_on("started on a full disk");
    w.streams.clear();
    w.lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    fs::remove_file(&filler).expect("frees the disk");
    w.lab.netd(&["network", "create", "--subnet", "172.30.0.0/24", "netF"]).ok();
    w.lab.netd(&["network", "rm", "netF"]).ok();
    assert_eq!(w.violations(), Vec::<String>::new());
    w.lab.daemon.end(Signal::SIGKILL);
    drop(disk);
    fs::remove_dir(&state).expect("removes");
    fs::rename(&kept, &state).expect("moves back");
}
