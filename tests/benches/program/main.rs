//! Nanoseconds per packet of every packet program for every kind of packet, by `BPF_PROG_TEST_RUN`, beside the committed times.
//!
//! `cargo xtask bench program`. A program writes into its packet, so every run is one packet: the time that the kernel's bookkeeping around a
//! run takes is measured by a packet that no program looks at, and taken off. Helpers that move packets only note where to: what veth, bridge and
//! neighbour code cost afterwards is not in here. Caches are warm.

mod cases;
mod table;
#[path = "../../tests/parity/world.rs"]
mod world;

use std::{fs, path::PathBuf, process::ExitCode, thread};

use cases::Case;
use clap::Parser as _;
use netd::dataplane::{Dataplane as _, FlowFilter, Kernel};
use netd_common::{
    fake::{Cast as _, Party},
    family::{V4, V6},
};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::Pid,
};
use table::{Row, Table};

/// Entries of the flow table: the default.
const ENTRIES: u32 = 1 << 18;

/// What to measure, and where the committed times are.
#[derive(Debug, clap::Parser)]
struct Args {
    /// Rounds over all cases
    #[arg(long, default_value_t = 25)]
    rounds: usize,
    /// Packets of each case in each round
    #[arg(long, default_value_t = 400)]
    packets: u32,
    /// Only cases whose program or kind contains this
    #[arg(long, default_value = "")]
    only: String,
    /// The committed times
    #[arg(long)]
    times: Option<PathBuf>,
    /// Write what was found to the file of times
    #[arg(long)]
    update: bool,
    /// What cargo gives every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if std::env::args().len() == 1 {
        return ExitCode::SUCCESS; // `cargo test --all-targets` runs benches without arguments
    }
    let args = Args::parse();
    let worker = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root");
        stay_on_one_cpu();
        world::devices();
        let bpffs = PathBuf::from(format!("/sys/fs/bpf/netd-bench-{}", std::process::id()));
        let measured = std::panic::catch_unwind(|| measure(&args, &bpffs));
        fs::remove_dir_all(&bpffs).expect("the pins are removed");
        measured
    });
    match worker.join().expect("the worker ends") {
        Ok(()) => ExitCode::SUCCESS,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Two CPUs would warm each other's caches in turns.
fn stay_on_one_cpu() {
    let mut set = CpuSet::new();
    set.set(0).expect("there is a first CPU");
    sched_setaffinity(Pid::from_raw(0), &set).expect("a thread may stay on one CPU");
}

fn measure(args: &Args, bpffs: &std::path::Path) {
    let mut kernel = world::kernel(bpffs, (20_000, 29_999), ENTRIES);
    kernel.set_sole_source6(true).expect("what the daemon says where uplinks have one address each");
    let mut cases = vec![Case::nothing()];
    cases.extend(cases::of::<V4>(&mut kernel, "IPv4"));
    cases.extend(cases::of::<V6>(&mut kernel, "IPv6"));
    let chosen = |case: &Case| format!("{} {}", case.program, case.kind).contains(&args.only);
    let mut rows: Vec<Row> = cases
        .into_iter()
        .enumerate()
        .filter(|(number, case)| *number == 0 || chosen(case))
        .map(|(_, case)| Row::of(case))
        .collect();
    let mut packet = 0;
    for _ in 0..args.rounds {
        for row in &mut rows {
            row.round(&mut kernel, args.packets, &mut packet);
        }
        forget_new_flows(&mut kernel);
    }
    let table = Table::of(&rows);
    match &args.times {
        Some(file) if args.update => table.write(file),
        file => table.print(file.as_deref()),
    }
}

/// New flows go to a remote of their own; the table must not fill with them.
fn forget_new_flows(kernel: &mut Kernel) {
    let addresses = vec![
        std::net::Ipv4Addr::from(V4::of(Party::Remote2)).into(),
        std::net::Ipv6Addr::from(V6::of(Party::Remote2)).into(),
    ];
    let filter = FlowFilter { addresses, ..FlowFilter::default() };
    kernel.flush_flows(&filter).expect("the round's flows go");
}
