//! A daemon of its own for each test: directories, start, stop, and what it leaves when it is taken down.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{Child, Ledger, Ns, Run, conserve::COUNT_VERDICTS, files};

/// How long a daemon may take until it answers; it takes well under a second, but an emulated kernel verifies programs for long.
const START: Duration = Duration::from_mins(2);

/// How long a daemon may take to end. A killed one takes milliseconds, unless a thread of it waits in the kernel for the rtnl lock, which namespaces
/// of others that are taken down hold for seconds.
const END: Duration = Duration::from_mins(1);

/// The directories of one instance; gone on drop.
#[derive(Debug)]
pub struct Dirs {
    root: PathBuf,
    temporary: Option<TempDir>,
    bpffs: PathBuf,
    instance: String,
}

/// A `netd daemon` in a namespace; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    ns: Ns,
    dirs: Dirs,
    child: Option<Child>,
    /// What its programs counted; None: they count nothing.
    ledger: Option<Ledger>,
    launcher: Vec<String>,
}

/// Returns the `netd` binary: `NETD_BIN`, or the one that `cargo build` makes of this workspace.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("NETD_BIN") {
            return path.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let workspace =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above the package");
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "netd", "--bin", "netd"]).current_dir(workspace);
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        if profile == "release" {
            build.arg("--release"); // benchmarks
        }
        let built = build.status().expect("start cargo");
        assert!(built.success(), "build netd (set NETD_BIN to use another binary)");
        // The tests' own executables are in TARGET/PROFILE/deps.
        let target =
            std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.parent()?.to_owned()));
        target.expect("the target directory").join(profile).join("netd")
    })
}

impl Dirs {
    /// Makes directories that no other instance has.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let instance = format!("test-{}-{count}", std::process::id());
        let root = tempfile::Builder::new().prefix("netd-").tempdir().expect("a temporary directory");
        let mut dirs = Self::at(root.path(), &instance);
        dirs.temporary = Some(root);
        dirs
    }

    /// The directories of an instance that stays, below this one.
    pub fn at(root: &Path, instance: &str) -> Self {
        let bpffs = PathBuf::from(format!("/sys/fs/bpf/netd-{instance}"));
        Self { root: root.to_owned(), temporary: None, bpffs, instance: instance.to_owned() }
    }

    /// A directory or file below the instance's own temporary directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where the socket and the namespaces are.
    pub fn run(&self) -> PathBuf {
        self.path("run")
    }

    /// The instance's name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Where pins are.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.run().join("netd.sock")
    }

    /// The options that select this instance, for `daemon` and `down`.
    pub fn options(&self) -> Vec<String> {
        let text = |path: &Path| path.to_str().expect("paths of the lab are UTF-8").to_owned();
        let option = |name: &str, value: String| [name.to_owned(), value];
        [
            option("--instance", self.instance.clone()),
            option("--state-dir", text(&self.path("state"))),
            option("--run-dir", text(&self.run())),
            option("--bpffs", text(&self.bpffs)),
        ]
        .concat()
    }

    /// Lists what is left of the instance in the file system: pins, namespaces, mounts.
    pub fn leftovers(&self) -> Vec<String> {
        let own = [self.bpffs.clone(), self.run().join("netns")];
        let mut left: Vec<String> =
            own.iter().flat_map(|dir| files(dir)).map(|path| path.display().to_string()).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let root = self.root.to_string_lossy();
        // A mount's two numbers are the kernel's: one that is made again has others.
        let unnumbered = |line: &str| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
        left.extend(mounts.lines().filter(|line| line.contains(&*root)).map(unnumbered));
        left
    }

    /// Removes what a failed test left: mounts and pins.
    fn sweep(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let root = self.root.to_string_lossy().into_owned();
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|p| p.starts_with(&root))
        {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.bpffs);
    }
}

impl Default for Dirs {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        if self.temporary.is_some() {
            self.sweep();
        }
    }
}

/// Returns the configuration with what `NETD_TEST_DEVICE` says joins sandboxes to every network that does not say it itself: any test then runs over
/// other devices than veth pairs (`cargo xtask vm --device netkit`).
fn with_device(config: &str) -> String {
    match std::env::var("NETD_TEST_DEVICE") {
        Ok(device) => format!("{config}\n[default-network-opts.bridge]\n\"netd.device\" = \"{device}\"\n"),
        Err(_) => config.to_owned(),
    }
}

impl Daemon {
    /// Starts a daemon in a namespace with this configuration file, and waits until it is ready.
    pub fn start(ns: &Ns, config: &str) -> Self {
        Self::start_by(&[], ns, config)
    }

    /// The same, by a command whose last arguments are the daemon's.
    pub fn start_by(launcher: &[String], ns: &Ns, config: &str) -> Self {
        Self::new(launcher, ns, Dirs::new(), config, Some(Ledger::open()))
    }

    /// A daemon as people run it: its programs count no verdicts, and nobody holds those that are replaced.
    pub fn plain(ns: &Ns, dirs: Dirs, config: &str) -> Self {
        Self::new(&[], ns, dirs, config, None)
    }

    fn new(launcher: &[String], ns: &Ns, dirs: Dirs, config: &str, ledger: Option<Ledger>) -> Self {
        fs::write(dirs.path("netd.toml"), with_device(config)).expect("write the configuration");
        let mut daemon = Self { ns: ns.clone(), dirs, child: None, ledger, launcher: launcher.to_vec() };
        daemon.restart();
        daemon
    }

    /// Its directories.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.id())
    }

    /// Starts it again with the same directories, and waits until it is ready.
    pub fn restart(&mut self) {
        self.launch(&[]);
        self.wait_until_ready();
        self.note();
    }

    /// Starts it again with these variables in its environment, and waits until it is ready.
    pub fn restart_with(&mut self, variables: &[(&str, &str)]) {
        self.launch(variables);
        self.wait_until_ready();
        self.note();
    }

    /// Starts it, and does not wait.
    pub fn launch(&mut self, variables: &[(&str, &str)]) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log =
            File::options().create(true).append(true).open(self.dirs.path("log")).expect("open the log");
        let mut words = self.launcher.iter().map(PathBuf::from).chain([binary().to_owned()]);
        let mut command = Command::new(words.next().expect("a command"));
        command.args(words);
        command.arg("daemon").arg("--config").arg(self.dirs.path("netd.toml")).args(self.dirs.options());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        if self.ledger.is_some() {
            command.env(COUNT_VERDICTS, "1");
        }
        command.envs(variables.iter().copied());
        self.child = Some(self.ns.spawn(&mut command).into());
    }

    /// Sends it a signal and does not wait.
    pub fn signal(&self, signal: Signal) {
        self.child.as_ref().expect("a daemon").signal(signal);
    }

    /// Writes another configuration, for the next start.
    pub fn configure(&self, config: &str) {
        fs::write(self.dirs.path("netd.toml"), with_device(config)).expect("write the configuration");
    }

    fn wait_until_ready(&mut self) {
        let end = Instant::now() + START;
        while !self.answers() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("wait for the daemon"));
            assert!(ended.is_none(), "the daemon ended with {ended:?}:\n{}", self.log());
            assert!(Instant::now() < end, "the daemon is not ready within {START:?}:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether `GET /_ping` is answered with `OK`.
    pub fn answers(&self) -> bool {
        let Ok(mut socket) = UnixStream::connect(self.dirs.socket()) else { return false };
        let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
        let mut answer = String::new();
        let asked = socket.write_all(b"GET /_ping HTTP/1.1\r\nHost: netd\r\nConnection: close\r\n\r\n");
        asked.is_ok()
            && socket.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
            && answer.trim_end().ends_with("OK")
    }

    /// Ends it with this signal and waits for its end.
    pub fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        self.note();
        child.signal(signal);
        let ended = child.wait_for(END);
        assert!(ended.is_some(), "the daemon still runs {END:?} after {signal}:\n{}", self.log());
        self.note(); // it may have been about to load some
    }

    /// Runs the `netd` command against this daemon, in the namespace of the host.
    pub fn run(&self, args: &[&str]) -> Run {
        Run::new(args, &self.ns.output(&mut self.command(args)))
    }

    /// The `netd` command against this daemon, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.env("NETD_HOST", format!("unix://{}", self.dirs.socket().display()));
        command.env("NETD_RETRY", "0"); // a test that kills the daemon says itself whether it waits for the next one
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs `netd down` for this instance; the daemon may be up or dead.
    pub fn down(&self) -> Run {
        let options = self.dirs.options();
        let args: Vec<&str> = ["down"].into_iter().chain(options.iter().map(String::as_str)).collect();
        self.run(&args)
    }

    /// Lists packets that vanished, or were counted twice.
    pub fn unaccounted(&mut self) -> Vec<String> {
        self.ledger.as_mut().map(|ledger| ledger.faults(&self.dirs.bpffs)).unwrap_or_default()
    }

    fn note(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.note(&self.dirs.bpffs);
        }
    }

    /// What the daemon logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dirs.path("log")).unwrap_or_default()
    }
}
