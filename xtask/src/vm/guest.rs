//! Running a guest: QEMU, its serial console, and a deadline.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::kernel::Unpacked;
use crate::{command, ui::Task};

/// Processors of a guest.
const CPUS: &str = "2";
/// Memory of a guest in MiB; the root file system lies in it.
const MEMORY: &str = "2048";

/// Lines of a console that an error shows.
const TAIL: usize = 20;

/// How guests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Accelerator {
    /// The processor's own virtualisation
    Kvm,
    /// Emulation: works everywhere, ten to twenty times slower
    Tcg,
    /// Emulation whose clock counts instructions, one a nanosecond: what else this machine does changes no figure
    Counted,
}

impl Accelerator {
    /// Returns KVM where it works: some machines show a `/dev/kvm` that their processor cannot serve.
    pub fn of_this_machine() -> Self {
        let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let virtualises = flags.split_whitespace().any(|word| word == "vmx" || word == "svm");
        let usable = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if virtualises && usable { Self::Kvm } else { Self::Tcg }
    }

    /// As QEMU and people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Counted => "counted",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // Without cmpxchg16b: on a busy machine QEMU 7.2 at times loses its flags, and the slab allocator its free list.
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"],
            Self::Counted => &["-accel", "tcg,thread=single", "-icount", "shift=0", "-cpu", "max,-cx16"],
        }
    }
}

/// A guest that has not been started.
#[derive(Debug)]
pub struct Guest<'a> {
    /// What boots.
    pub kernel: &'a Unpacked,
    /// Its root file system.
    pub image: PathBuf,
    /// How it runs.
    pub accelerator: Accelerator,
    /// Its disks, qcow2.
    pub disks: Vec<PathBuf>,
}

impl Guest<'_> {
    /// Starts the guest; it ends with what is returned.
    pub fn start(&self) -> Result<Running> {
        let mut qemu = self.command();
        let child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut qemu = Ended(child.with_context(|| format!("run `{}`", command::line(&qemu)))?);
        let console = qemu.0.stdout.take().context("the guest's console")?;
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Running { qemu, lines, reader })
    }

    /// Runs the guest to its end, and returns what it wrote to its console; the file `log` has every line as soon as it is there.
    pub fn run(&self, task: &Task, log: &Path, limit: Duration) -> Result<String> {
        let mut file = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
        let guest = self.start()?;
        let (mut text, deadline) = (String::new(), Instant::now() + limit);
        let in_time = loop {
            match guest.line(deadline) {
                Ok(line) => {
                    task.detail(&line);
                    writeln!(file, "{line}").with_context(|| format!("write {}", log.display()))?;
                    text.push_str(&line);
                    text.push('\n');
                }
                Err(error) => break error == RecvTimeoutError::Disconnected,
            }
        };
        guest.cut();
        if !in_time {
            let from = text.lines().count().saturating_sub(TAIL);
            let tail: Vec<&str> = text.lines().skip(from).collect();
            bail!("the guest did not end within {} s:\n{}", limit.as_secs(), tail.join("\n"));
        }
        Ok(text)
    }

    /// Hands the guest's console to the person at this terminal.
    pub fn shell(&self) -> Result<()> {
        command::run(&mut self.command())
    }

    fn command(&self) -> Command {
        let mut qemu = Command::new(format!("qemu-system-{}", std::env::consts::ARCH));
        qemu.args(self.accelerator.arguments());
        qemu.args(["-machine", "q35", "-smp", CPUS, "-m", MEMORY, "-nic", "none"]);
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        for disk in &self.disks {
            qemu.arg("-drive").arg(format!(
                "file={},if=virtio,format=qcow2,cache=writeback,discard=ignore",
                disk.display()
            ));
        }
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(&self.image);
        // A panic reboots at once, and `-no-reboot` makes that the guest's end.
        qemu.args(["-append", "console=ttyS0 quiet panic=-1"]);
        qemu
    }
}

/// A child that ends with this value.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A guest that runs.
#[derive(Debug)]
pub struct Running {
    qemu: Ended,
    lines: Receiver<String>,
    reader: JoinHandle<()>,
}

impl Running {
    /// Returns the next line of the console, if it comes in time and the guest lives.
    pub fn line(&self, deadline: Instant) -> Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// Cuts the power, unless the guest has ended; returns what it had written to the console by then and nobody has read.
    pub fn cut(self) -> Vec<String> {
        drop(self.qemu);
        let rest = self.lines.iter().collect();
        let _ = self.reader.join();
        rest
    }
}
