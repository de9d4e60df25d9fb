//! The stage: namespaces of our own, in which a daemon and its world live without touching this machine's network.
//!
//! The command runs itself again as process 1 of new mount, network and process namespaces. Whatever happens on stage,
//! when that process ends the kernel takes everything along: processes, interfaces, mounts, pinned BPF objects. Only the
//! cgroup outlives it, and the process that waits outside removes that.

pub mod cable;
pub mod daemon;
pub mod iptables;
pub mod netns;

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
};

use crate::command;

/// Name of directories and cgroups, before the process id of who made them.
const PREFIX: &str = "netd-stage.";
/// Tells the inner process its directory.
const STAGE_DIR: &str = "NETD_XTASK_STAGE";

/// What the inner process finds: a directory of its own on a tmpfs.
#[derive(Debug, Clone)]
pub struct Stage {
    dir: PathBuf,
}

impl Stage {
    /// Returns the stage this process stands on, once its `/proc` and cgroup are set; none before [`raise`].
    pub fn enter() -> Result<Option<Self>> {
        let Some(dir) = env::var_os(STAGE_DIR) else { return Ok(None) };
        let stage = Self { dir: dir.into() };
        prctl::set_pdeathsig(Signal::SIGKILL).context("tie this process to its parent")?;
        watched().thread_unblock().context("unblock signals")?;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).context("mount /proc")?;
        fs::write(stage.cgroup().join("cgroup.procs"), "0").context("enter the stage's cgroup")?;
        Ok(Some(stage))
    }

    /// A directory for files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A bpffs of its own.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The cgroup of every process here.
    pub fn cgroup(&self) -> PathBuf {
        cgroup(&self.dir)
    }
}

fn cgroup(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default();
    dir.join("cgroup").join(name)
}

/// Runs this very command again on a new stage, and returns its exit code after everything is gone.
pub fn raise() -> Result<ExitCode> {
    if !command::is_root() {
        return again_as_root();
    }
    sweep(Path::new("/tmp"));
    let dir = PathBuf::from(format!("/tmp/{PREFIX}{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    let outcome = perform(&dir);
    // In the order in which they lie upon each other; what was never mounted is no reason to fail.
    remove_cgroups(&cgroup(&dir));
    for mounted in [dir.join("cgroup"), dir.join("bpf"), dir.clone()] {
        let _ = umount2(&mounted, MntFlags::MNT_DETACH);
    }
    fs::remove_dir(&dir).with_context(|| format!("remove {}", dir.display()))?;
    outcome
}

/// Removes a control group with all below it; what is still in use stays.
fn remove_cgroups(top: &Path) {
    for inner in fs::read_dir(top).into_iter().flatten().flatten() {
        if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&inner.path());
        }
    }
    let _ = fs::remove_dir(top);
}

fn perform(dir: &Path) -> Result<ExitCode> {
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET;
    unshare(flags).context("make namespaces (is this a container without CAP_SYS_ADMIN?)")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make mounts private")?;
    for (kind, at) in
        [("tmpfs", dir.to_path_buf()), ("bpf", dir.join("bpf")), ("cgroup2", dir.join("cgroup"))]
    {
        fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
        mount(Some(kind), &at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount a {kind} at {}", at.display()))?;
    }
    sweep(&dir.join("cgroup"));
    fs::create_dir(cgroup(dir)).context("create a cgroup")?;
    watched().thread_block().context("block signals")?;
    let child = Command::new("/proc/self/exe")
        .args(env::args_os().skip(1))
        .env(STAGE_DIR, dir)
        .spawn()
        .context("start the inner process")?;
    wait(child)
}

/// Removes the empty directories of runs that were killed and could not.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove_cgroups(&entry.path());
        }
    }
}

/// Waits for the inner process; a signal to this one ends it.
fn wait(mut child: Child) -> Result<ExitCode> {
    loop {
        let signal = watched().wait().context("wait for a signal")?;
        if signal != Signal::SIGCHLD {
            let _ = child.kill();
            child.wait().context("wait for the inner process")?;
            eprintln!("\ninterrupted; everything is cleaned up");
            return Ok(ExitCode::from(128 + u8::try_from(signal as i32).unwrap_or(0)));
        }
        if let Some(status) = child.try_wait().context("wait for the inner process")? {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
    }
}

/// The signals that the outer process waits for.
fn watched() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

fn again_as_root() -> Result<ExitCode> {
    let Some(sudo) = command::find("sudo", &[]) else {
        bail!("namespaces and eBPF need root: run this as root, or install sudo");
    };
    eprintln!("Namespaces and eBPF need root: continuing with sudo -E.");
    let mut again = Command::new(sudo);
    again.arg("-E").arg(env::current_exe().context("find this program")?).args(env::args_os().skip(1));
    // What was built as this user need not be built again as root.
    if env::args_os().all(|arg| arg != "--built") {
        again.arg("--built");
    }
    Err(again.exec()).context("run sudo")
}
