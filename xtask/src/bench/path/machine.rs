//! What a benchmark ran on: kernel, processors, versions of everything that took part.

use std::{collections::BTreeMap, fmt, fs, path::Path, process::Command};

use anyhow::Result;
use serde::Serialize;

use super::{
    field::{SERVER_CPU, docker_proxy},
    measure,
};
use crate::{bench::docker, command, debian, layout::Layout, ui};

/// Programs of contenders and generators, the Debian package each comes in, and how it tells its version.
const PROGRAMS: [(&str, &str, &str); 5] = [
    ("ip", "iproute2", "-V"),
    ("iptables-legacy-restore", "iptables", "--version"),
    ("iptables-nft-restore", "iptables", "--version"),
    ("nft", "nftables", "--version"),
    ("iperf3", "iperf3", "--version"),
];

/// The machine, as far as results depend on it.
#[derive(Debug, Serialize)]
pub struct Machine {
    kernel: String,
    processor: String,
    processors: usize,
    memory_gib: u64,
    server_cpu: usize,
    client_cpu: usize,
    load_before: String,
    /// Whether idle processors poll, and need not be woken.
    awake: bool,
    /// First lines of `--version`, by program; of those that are there.
    versions: BTreeMap<String, String>,
}

/// Installs what is missing where that is possible; what stays missing is skipped later, with a line.
pub fn install() -> Result<()> {
    let mut packages: Vec<&str> =
        PROGRAMS.iter().filter(|program| find(program.0).is_none()).map(|program| program.1).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if !debian::can_install() {
        ui::note(&format!("not installed here, and skipped: {}", packages.join(", ")));
        return Ok(());
    }
    debian::install(&packages)
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    command::find(program, &command::sbin())
}

impl Machine {
    /// Looks around.
    pub fn look(netd: &Path, layout: &Layout, awake: bool) -> Self {
        let mut versions = BTreeMap::new();
        let mut add = |name: &str, path: &Path, option: &str| {
            let output = Command::new(path).arg(option).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            let line = text.unwrap_or_default().lines().next().unwrap_or("unknown").to_owned();
            versions.insert(name.to_owned(), line);
        };
        for (name, _, option) in PROGRAMS {
            if let Some(path) = find(name) {
                add(name, &path, option);
            }
        }
        // docker-proxy tells no version; it comes with dockerd.
        let proxy = [docker_proxy::PROGRAM, "dockerd"].map(|name| docker::program(layout, name));
        if let [Some(proxy), dockerd] = proxy {
            add(docker_proxy::PROGRAM, &dockerd.unwrap_or(proxy), "--version");
        }
        add("netd", netd, "--version");
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_gib: kib >> 20,
            server_cpu: SERVER_CPU,
            client_cpu: measure::client_cpu(),
            load_before: read("/proc/loadavg").trim().to_owned(),
            awake,
            versions,
        }
    }

    /// Whether a program is there.
    pub fn has(&self, program: &str) -> bool {
        self.versions.contains_key(program)
    }

    /// Kernel and processors in a line.
    pub fn line(&self) -> String {
        format!("Linux {}, {} processors ({})", self.kernel, self.processors, self.processor)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {} GiB; load {}", self.line(), self.memory_gib, self.load_before)?;
        writeln!(
            f,
            "servers on processor {}, clients on {}, {} between packets; MTU 1500, offloads as the kernel sets them for a veth",
            self.server_cpu,
            self.client_cpu,
            if self.awake { "which stay awake" } else { "which may sleep" }
        )?;
        let versions: Vec<String> =
            self.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect();
        f.write_str(&versions.join("; "))
    }
}
