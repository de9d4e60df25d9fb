//! A real dockerd with directories, namespaces and a control group of its own, and how many programs it runs.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{bench::docker, command, layout::Layout, stage::Stage};

/// The image's name; busybox alone is in it.
pub const IMAGE: &str = "bench";

/// A running dockerd.
#[derive(Debug)]
pub struct Dockerd {
    child: Child,
    cli: PathBuf,
    dir: PathBuf,
}

/// Mounts what dockerd expects, in a mount and network namespace of its own, then becomes dockerd.
const START: &str = r#"
mount -t tmpfs tmpfs /run && mount -t cgroup2 cgroup2 /sys/fs/cgroup && ip link set lo up || exit 1
exec "$@"
"#;

impl Dockerd {
    /// Starts dockerd and gives it an image; none where Docker is not there. `traced` counts programs, and slows it down.
    pub fn start(layout: &Layout, stage: &Stage, traced: bool) -> Result<Option<Self>> {
        let found = ["dockerd", "docker", "busybox"].map(|name| docker::program(layout, name));
        let [Some(dockerd), Some(cli), Some(busybox)] = found else { return Ok(None) };
        if traced && command::find("strace", &[]).is_none() {
            return Ok(None);
        }
        let dir = stage.dir().join(if traced { "docker-traced" } else { "docker" });
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let log = fs::File::create(dir.join("log")).context("create dockerd's log")?;
        let mut start = Command::new("unshare");
        start.args(["--mount", "--net", "--", "sh", "-c", START, "sh"]);
        if traced {
            start.args(["strace", "-f", "-qq", "-e", "trace=execve", "-o"]).arg(dir.join("execs"));
        }
        start.arg(dockerd);
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            start.arg(option).arg(dir.join(name));
        }
        start.args(["--storage-driver", "vfs", "--cgroup-parent", &parent(stage)]);
        start.arg("-H").arg(format!("unix://{}", dir.join("sock").display()));
        start.env("PATH", docker::path(layout)).stdin(Stdio::null());
        start.stdout(log.try_clone().context("share dockerd's log")?).stderr(log);
        let child = start.spawn().context("start dockerd")?;
        let dockerd = Self { child, cli, dir };
        dockerd.wait_ready()?;
        dockerd.import(&busybox)?;
        Ok(Some(dockerd))
    }

    fn wait_ready(&self) -> Result<()> {
        const DEADLINE: Duration = Duration::from_mins(1);
        let started = Instant::now();
        while self.run(&["version"]).is_err() {
            if started.elapsed() > DEADLINE {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                bail!("dockerd does not answer; its log ends so: {}", log.lines().last().unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn import(&self, busybox: &std::path::Path) -> Result<()> {
        let (image, tar) = (self.dir.join("image"), self.dir.join("image.tar"));
        fs::create_dir_all(&image).context("create an image's directory")?;
        fs::copy(busybox, image.join("busybox")).context("copy busybox")?;
        command::capture(Command::new("tar").arg("-C").arg(&image).arg("-cf").arg(&tar).arg("."))?;
        self.run(&["import", &tar.display().to_string(), IMAGE]).map(drop)
    }

    /// Runs `docker ARGS`.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let socket = format!("unix://{}", self.dir.join("sock").display());
        command::capture(Command::new(&self.cli).env("DOCKER_HOST", socket).args(args))
    }

    /// Returns how many programs dockerd and its children have run so far; none when nobody counts.
    pub fn execs(&self) -> Option<usize> {
        let text = fs::read_to_string(self.dir.join("execs")).ok()?;
        Some(text.lines().filter(|line| line.contains("execve(") && line.ends_with("= 0")).count())
    }

    /// What `docker version` says of the daemon.
    pub fn version(&self) -> Result<String> {
        Ok(self.run(&["version", "--format", "{{.Server.Version}}"])?.trim().to_owned())
    }
}

/// Where containers go: below the stage's own control group, which is removed with it.
fn parent(stage: &Stage) -> String {
    let name = stage.cgroup().file_name().map(|name| name.to_string_lossy().into_owned());
    format!("/{}/docker", name.unwrap_or_default())
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "-f", "bench"]);
        // The child is strace or dockerd itself: asked to end, dockerd ends its containerd.
        let pid = fs::read_to_string(self.dir.join("pid")).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}
