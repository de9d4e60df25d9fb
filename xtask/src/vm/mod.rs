//! `cargo xtask vm`: netd on kernels that this machine does not run.

mod guest;
mod image;
mod kernel;
mod modules;
mod power_cuts;
mod report;
mod systemd;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    build, command, debian,
    layout::Layout,
    ui::{self, Task},
};
use guest::{Accelerator, Guest};
use image::{Image, Steps};
use kernel::{Kernel, Unpacked};
use report::Report;

/// What it takes, and the Debian package it comes in.
const PROGRAMS: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox"),
    ("depmod", "kmod"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("strip", "binutils"),
    ("wg", "wireguard-tools"),
    ("xz", "xz-utils"),
];
/// What disks take besides.
const DISKS: [(&str, &str); 2] = [("qemu-img", "qemu-utils"), ("mkfs.ext4", "e2fsprogs")];
/// The tests that run unless others are asked for: the files of `tests/tests`.
const TESTS: [&str; 2] = ["parity", "smoke"];
/// What a guest's benchmark measures unless something else is asked for: a processor that is emulated needs long rounds.
const BENCH: &str = "--path published --path egress --workload rr --workload connect --workload udp \
                     --peer iptables-legacy --peer iptables-nft --peer netd --rounds 3 --seconds 1";
/// The benchmark of every program on every kind of packet: the file of `tests/benches`.
const PROGRAM: &str = "program";
/// Where a guest's benchmark finds netd: as below a workspace.
const WORKSPACE: &str = "netd";

/// The last step of a guest: its kernel has met nothing that must not be (reliability I12). An emulated processor that waits for a real one looks locked up.
const KERNEL_LOG: &str =
    "! dmesg | grep -v lockup | grep -E 'cut here|BUG: |Oops: |unregister_netdevice: waiting'";

/// Boot Debian's kernels in QEMU and run netd on them
///
/// Each guest's root file system is made of this machine's own programs. In it, `netd doctor` looks around, the verifier
/// takes every program, and the parity and smoke tests run. Guests are emulated where KVM does not work. Kernels come
/// from the Debian mirror that apt uses here, and stay below `target/vm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do in each guest
    #[arg(value_enum, default_value_t = Action::Test)]
    action: Action,
    /// Only this kernel; may be repeated
    #[arg(long = "kernel", value_enum, value_name = "KERNEL")]
    kernels: Vec<Kernel>,
    /// Run this file of tests/tests instead of parity and smoke; may be repeated
    #[arg(long = "test", value_name = "FILE")]
    tests: Vec<String>,
    /// Run the tests over networks of these devices
    #[arg(long, value_name = "veth|netkit")]
    device: Option<String>,
    /// Arguments for the test binaries, such as a part of a test's name; for `bench`, what it measures
    #[arg(last = true)]
    rest: Vec<String>,
    /// Fetch the kernels again: Debian may have newer ones
    #[arg(long)]
    fetch: bool,
    /// Go on without a kernel that cannot be fetched, and say so
    #[arg(long)]
    skip_unavailable: bool,
    /// Run guests like this, instead of by KVM where it works
    #[arg(long, value_enum)]
    accelerator: Option<Accelerator>,
    /// Give up on a guest after this many seconds
    #[arg(long, default_value_t = 1500)]
    limit: u64,
    /// How often `power-cuts` cuts the power
    #[arg(long, default_value_t = 5)]
    cuts: u32,
    /// What the moments of `power-cuts` come from
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Load every program, run the parity and smoke tests
    Test,
    /// Measure two paths beside host networking and iptables: ratios, since an emulated processor is slow
    Bench,
    /// Measure every program on every kind of packet; by `counted` unless told otherwise: instructions, which nothing else on the machine changes
    Program,
    /// Hand the guest's console to you; `poweroff -f` ends it
    Shell,
    /// Kill QEMU at random moments while the daemon works, boot again from the same disk, and look for all that was acknowledged
    PowerCuts,
    /// Run netd's unit under a systemd that is process 1: start, restart, kill, stop, and `netd down`, with a stream going on
    Systemd,
}

/// What runs in every guest.
struct Load {
    netd: PathBuf,
    tests: BTreeMap<String, PathBuf>,
    steps: Steps,
    /// What the fuzzers have found, which parity plays.
    corpus: PathBuf,
}

/// Runs `cargo xtask vm`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let layout = Layout::find();
    install_programs(args.action)?;
    let load = Load::build(args, &layout)?;
    let cache = layout.root().join("target/vm");
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let counted = (args.action == Action::Program).then_some(Accelerator::Counted);
    let accelerator = args.accelerator.or(counted).unwrap_or_else(Accelerator::of_this_machine);
    let all = if args.action == Action::Test { &Kernel::TESTED[..] } else { &Kernel::ALL };
    let kernels: &[Kernel] = if args.kernels.is_empty() { all } else { &args.kernels };
    ensure!(args.action != Action::Shell || kernels.len() == 1, "a shell needs one kernel: add --kernel");
    let (mut reports, mut left_out) = (Vec::new(), 0);
    for kernel in kernels {
        let unpacked = match kernel.fetch(&cache, args.fetch) {
            Err(error) if args.skip_unavailable => {
                ui::note(&format!("Linux {} is left out: {error:#}", kernel.name()));
                left_out += 1;
                continue;
            }
            fetched => fetched?,
        };
        let image = cache.join(format!("{}.cpio", kernel.name()));
        let steps = if *kernel == Kernel::TooOld { &refusal() } else { &load.steps };
        load.write(&image, &unpacked, steps, args.action, &layout, &cache)?;
        if args.action == Action::PowerCuts {
            let limit = Duration::from_secs(args.limit);
            let scene = power_cuts::Scene { kernel: &unpacked, image, accelerator, cache: &cache, limit };
            if !power_cuts::run(&scene, args.cuts, args.seed)? {
                return Ok(ExitCode::FAILURE);
            }
            continue;
        }
        let guest = Guest { kernel: &unpacked, image, accelerator, disks: Vec::new() };
        if args.action == Action::Shell {
            guest.shell()?;
            continue;
        }
        let task = Task::start(format!("Linux {} ({})", unpacked.release, accelerator.name()));
        let log = cache.join(format!("{}.log", kernel.name()));
        let report = Report::parse(&guest.run(&task, &log, Duration::from_secs(args.limit))?);
        if report.passed() {
            task.done();
        }
        if args.action == Action::Systemd {
            systemd::show(&report, &log);
        } else {
            show(&report, args.action, &log);
        }
        reports.push(report);
    }
    ensure!(left_out < kernels.len(), "no kernel could be fetched: nothing was tested");
    if args.action == Action::PowerCuts {
        return Ok(ExitCode::SUCCESS);
    }
    let json = serde_json::to_string_pretty(&reports).context("write JSON")?;
    fs::write(cache.join("report.json"), json).context("write target/vm/report.json")?;
    let passed = reports.iter().all(Report::passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn install_programs(action: Action) -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "the kernels of the matrix are x86_64's");
    let more = match action {
        Action::PowerCuts => &DISKS[..],
        Action::Systemd => &systemd::PROGRAMS[..],
        Action::Test | Action::Bench | Action::Program | Action::Shell => &[],
    };
    let missing = PROGRAMS.iter().chain(more);
    let missing = missing.filter(|(program, _)| command::find(program, &command::sbin()).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.dedup();
    ensure!(
        packages.is_empty() || debian::can_install(),
        "guests need: {}; install them, or run this as root on Debian",
        packages.join(" ")
    );
    debian::install(&packages)
}

impl Load {
    fn build(args: &Args, layout: &Layout) -> Result<Self> {
        let bench = args.action == Action::Bench;
        let netd = build::netd(layout, bench)?;
        let wanted: Vec<&str> = match args.action {
            Action::Bench | Action::Program | Action::Systemd => Vec::new(),
            Action::PowerCuts => vec![power_cuts::TEST],
            _ if args.tests.is_empty() => TESTS.to_vec(),
            _ => args.tests.iter().map(String::as_str).collect(),
        };
        let tests = match args.action {
            Action::Program => test_programs(layout, "--bench", &[PROGRAM])?,
            _ => test_programs(layout, "--test", &wanted)?,
        };
        let mut steps = vec![
            ("doctor".to_owned(), "netd doctor --format jsonl".to_owned()),
            ("programs".to_owned(), "netd debug programs --format jsonl".to_owned()),
        ];
        let device =
            args.device.as_ref().map_or_else(String::new, |device| format!("NETD_TEST_DEVICE={device} "));
        let rest: String = args.rest.iter().flat_map(|word| [" '", word, "'"]).collect();
        steps.extend(
            wanted
                .iter()
                .map(|name| ((*name).to_owned(), format!("{device}test-{name} --test-threads 2{rest}"))),
        );
        if bench {
            let what = if rest.is_empty() { BENCH } else { &rest };
            // The console is a terminal: without the pipe it would be full of progress.
            let bench = format!(
                "set -o pipefail; CARGO_MANIFEST_DIR=/{WORKSPACE}/xtask xtask bench --built {what} 2>&1 | cat"
            );
            steps.push(("bench".to_owned(), bench));
        }
        steps.push(("kernel-log".to_owned(), KERNEL_LOG.to_owned()));
        match args.action {
            Action::Shell | Action::Systemd => steps.clear(),
            Action::PowerCuts => steps = vec![power_cuts::step()],
            Action::Program => {
                let few = if rest.is_empty() { " --rounds 3 --packets 40" } else { &rest };
                steps.push((PROGRAM.to_owned(), format!("test-{PROGRAM}{few}")));
            }
            Action::Test | Action::Bench => {}
        }
        Ok(Self { netd, tests, steps, corpus: layout.root().join("netd-common/tests/fuzz/corpus") })
    }

    /// Writes the root file system of a guest.
    fn write(
        &self,
        path: &Path,
        kernel: &Unpacked,
        steps: &Steps,
        action: Action,
        layout: &Layout,
        cache: &Path,
    ) -> Result<()> {
        let init = if action == Action::Systemd { systemd::INIT } else { image::INIT };
        let mut image = Image::create(path, &cache.join("stripped"), init)?;
        image.program(&self.netd, "usr/bin/netd")?;
        for (name, program) in &self.tests {
            image.program(program, &format!("usr/bin/test-{name}"))?;
        }
        match action {
            Action::Test => image.folder(&self.corpus)?,
            Action::PowerCuts | Action::Program => {}
            Action::Systemd => systemd::add(&mut image, layout)?,
            Action::Bench | Action::Shell => {
                image.program(&std::env::current_exe().context("find this program")?, "usr/bin/xtask")?;
                image.link(&format!("{WORKSPACE}/target/release/netd"), "/usr/bin/netd")?;
                image.rivals()?;
            }
        }
        image.modules(&kernel.modules)?;
        image.finish(steps, action == Action::Shell)
    }
}

/// The steps of a guest whose kernel is too old: netd says so in one line, and has changed nothing.
fn refusal() -> Steps {
    let refuses = |command: &str, says: &str| {
        format!(
            "{command} > /tmp/said 2>&1; code=$?; cat /tmp/said; [ $code = 7 ] && grep -q '{says}' /tmp/said"
        )
    };
    let nothing = "! ls -d /var/lib/netd /run/netd /sys/fs/bpf/netd".to_owned();
    vec![
        ("doctor".to_owned(), refuses("netd doctor", "netd needs 6.1 or later")),
        ("refusal".to_owned(), refuses("netd daemon", "lacks what netd needs (6.1 or later)")),
        ("nothing-changed".to_owned(), nothing),
    ]
}

/// Builds test binaries and returns where they are, by the name of their file in `tests/tests` (`--test`) or `tests/benches` (`--bench`).
fn test_programs(layout: &Layout, kind: &str, names: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    #[derive(Deserialize)]
    struct Message {
        target: Option<Target>,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut cargo = build::cargo(layout);
    cargo.args([
        "test",
        "--no-run",
        "--locked",
        "--quiet",
        "--package",
        "netd-tests",
        "--message-format",
        "json",
    ]);
    for name in names {
        cargo.args([kind, name]);
    }
    let task = Task::start("building the tests of the guests");
    let messages = command::capture(&mut cargo)?;
    task.done();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    Ok(messages.filter_map(|message| Some((message.target?.name, message.executable?))).collect())
}

/// Prints what came of a guest; of what failed, all it wrote.
fn show(report: &Report, action: Action, log: &Path) {
    let Some(release) = &report.release else {
        println!("the kernel did not come up: see {}", log.display());
        return;
    };
    for step in report.failed() {
        let how = step.code.map_or("never ended".to_owned(), |code| format!("exit code {code}"));
        println!("{} {} on {release}: {how}\n{}", ui::paint("31", "✗"), step.name, step.output);
    }
    if matches!(action, Action::Bench | Action::Program) {
        let measured = report.steps.iter().filter(|step| ["bench", PROGRAM].contains(&step.name.as_str()));
        measured.for_each(|step| print!("{}", step.output));
    }
    println!("{}", summary(release, report));
}

/// Returns a line about the kernel, one about the programs, one about the steps.
fn summary(release: &str, report: &Report) -> String {
    let attachment = report.finding("attachment").unwrap_or_else(|| "unknown".to_owned());
    let programs = report.programs();
    let instructions: u64 = programs.iter().map(|program| program.instructions).sum();
    let tests = report.tests();
    let steps: Vec<String> = report
        .steps
        .iter()
        .map(|step| {
            let mark = if step.code == Some(0) { "✓" } else { "✗" };
            format!("{mark} {} {:.1} s", step.name, step.seconds)
        })
        .collect();
    let dearest = programs.iter().max_by_key(|program| program.verified_instructions);
    let dearest = dearest.map_or_else(String::new, |program| {
        format!(", {} verified for {}, the dearest", program.verified_instructions, program.name)
    });
    format!(
        "  {release}: attaches by {attachment}\n  {} programs of {instructions} instructions{dearest}\n  {}; {} tests passed, {} failed",
        programs.len(),
        steps.join(", "),
        tests.passed,
        tests.failed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_attachment_programs_steps_and_tests() {
        let console = "\
@@ up 6.1 1.0
@@ begin doctor 1.0
{\"Status\":\"note\",\"Check\":\"attachment\",\"Found\":\"clsact filters\"}
@@ end doctor 0 1.5
@@ begin programs 1.5
{\"Name\":\"bind4\",\"Instructions\":100,\"VerifiedInstructions\":138}
{\"Name\":\"bind6\",\"Instructions\":200,\"VerifiedInstructions\":200}
@@ end programs 0 3.5
@@ begin smoke 3.5
test one ... ok
@@ end smoke 0 4.0
@@ down
";
        let text = summary("6.1", &Report::parse(console));
        assert_eq!(
            text,
            "  6.1: attaches by clsact filters\n  2 programs of 300 instructions, 200 verified for bind6, the dearest\n  \
             ✓ doctor 0.5 s, ✓ programs 2.0 s, ✓ smoke 0.5 s; 1 tests passed, 0 failed"
        );
    }
}
