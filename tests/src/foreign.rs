//! Packet programs of somebody else: they count their runs, may mark packets, and let everything pass.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
};

use crate::Ns;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// `TC_ACT_UNSPEC` and `TCX_NEXT`: the next program decides.
const NEXT: i32 = -1;
/// Offset of `mark` in `struct __sk_buff`.
const MARK: u16 = 8;

/// Where a foreign program stands among others of its hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A TCX link before all others (Linux 6.6).
    First,
    /// A TCX link after all others.
    Last,
    /// A clsact filter of this priority.
    Filter(u16),
}

/// A foreign program on a hook; it goes with this value.
#[derive(Debug)]
pub struct Foreign {
    program: SchedClassifier,
    pin: PathBuf,
}

impl Foreign {
    /// Puts a program that lets everything pass on an interface.
    pub fn attach(ns: &Ns, ifname: &str, direction: TcAttachType, place: Place) -> Self {
        Self::marking(ns, ifname, direction, place, None)
    }

    /// Puts a program on an interface that marks every packet.
    pub fn marking(ns: &Ns, ifname: &str, direction: TcAttachType, place: Place, mark: Option<i32>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let pin = PathBuf::from(format!("/sys/fs/bpf/netd-foreign-{}-{number}", std::process::id()));
        load(&instructions(mark), &pin).expect("load a foreign program");
        let mut program = SchedClassifier::from_pin(&pin).expect("open a foreign program");
        let options = match place {
            Place::First => TcAttachOptions::TcxOrder(LinkOrder::first()),
            Place::Last => TcAttachOptions::TcxOrder(LinkOrder::last()),
            Place::Filter(priority) => {
                TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() })
            }
        };
        ns.run(|| {
            if matches!(place, Place::Filter(_)) {
                let _ = qdisc_add_clsact(ifname); // there may be one
            }
            program.attach_with_options(ifname, direction, options).expect("attach a foreign program");
        });
        Self { program, pin }
    }

    /// How often it ran since it was loaded; a [`crate::Daemon`] makes the kernel count.
    pub fn runs(&self) -> u64 {
        let fd = self.program.fd().expect("a loaded program").as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("what the kernel says of it");
        let count = info.lines().find_map(|line| line.strip_prefix("run_cnt:"));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no run_cnt in {info}"))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.pin);
    }
}

/// `struct bpf_insn`s: perhaps `skb->mark = MARK`, then `return NEXT`.
fn instructions(mark: Option<i32>) -> Vec<u64> {
    let instruction = |code: u8, registers: u8, offset: u16, immediate: i32| {
        let mut bytes = [code, registers, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
        bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
        u64::from_ne_bytes(bytes)
    };
    let mut all = Vec::new();
    if let Some(mark) = mark {
        all.push(instruction(0xb7, 2, 0, mark)); // r2 = MARK
        all.push(instruction(0x63, 0x21, MARK, 0)); // *(u32 *)(r1 + 8) = r2
    }
    all.push(instruction(0xb7, 0, 0, NEXT));
    all.push(instruction(0x95, 0, 0, 0));
    all
}

/// Loads a classifier and pins it, so that aya can open it: aya itself loads object files alone.
fn load(instructions: &[u64], pin: &std::path::Path) -> io::Result<()> {
    let licence = c"GPL";
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    // `union bpf_attr` of the two calls, the rest zero; little-endian, as the machines that run the tests.
    let count = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    let mut attr = [0_u64; 16];
    (attr[0], attr[1]) = (pair(BPF_PROG_TYPE_SCHED_CLS, count), instructions.as_ptr() as u64);
    attr[2] = licence.as_ptr() as u64;
    // SAFETY: the attribute and what it points to live through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attr.as_ptr(), size_of_val(&attr)) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = std::ffi::CString::new(pin.to_string_lossy().as_bytes())?;
    let mut attr = [0_u64; 16];
    (attr[0], attr[1]) = (path.as_ptr() as u64, u64::from(program.as_raw_fd().cast_unsigned()));
    // SAFETY: as above.
    let pinned = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, attr.as_ptr(), size_of_val(&attr)) };
    if pinned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
