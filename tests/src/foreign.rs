//! Packet programs of somebody else: they count their runs, may mark packets, and let everything pass.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::programs::{
    SchedClassifier, TcAttachType,
    tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
};

use crate::Ns;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// Attach type: a device's XDP hook.
const BPF_XDP: u32 = 37;
/// Attach types: a device's TCX hooks.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Before, or after, all others of a hook where none is named.
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;
/// The driver's own hook.
const XDP_FLAGS_DRV_MODE: u32 = 4;
/// `TC_ACT_UNSPEC` and `TCX_NEXT`: the next program decides.
const NEXT: i32 = -1;
/// `XDP_PASS`.
const XDP_PASS: i32 = 2;
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
    _link: Option<Link>,
}

impl Foreign {
    /// Puts a program that lets everything pass on an interface.
    pub fn attach(ns: &Ns, ifname: &str, direction: TcAttachType, place: Place) -> Self {
        Self::marking(ns, ifname, direction, place, None)
    }

    /// Puts a program on an interface that marks every packet.
    pub fn marking(ns: &Ns, ifname: &str, direction: TcAttachType, place: Place, mark: Option<i32>) -> Self {
        let pin = free_pin();
        let loaded = load(BPF_PROG_TYPE_SCHED_CLS, &instructions(mark, NEXT));
        pinned(&loaded.expect("load a foreign program"), &pin).expect("pin a foreign program");
        let mut program = SchedClassifier::from_pin(&pin).expect("open a foreign program");
        let link = ns.run(|| {
            let flags = match place {
                Place::First => BPF_F_BEFORE,
                Place::Last => BPF_F_AFTER,
                Place::Filter(priority) => {
                    let _ = qdisc_add_clsact(ifname); // there may be one
                    let options = TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() });
                    program
                        .attach_with_options(ifname, direction, options)
                        .expect("attach a foreign program");
                    return None;
                }
            };
            let hook = match direction {
                TcAttachType::Egress => BPF_TCX_EGRESS,
                _ => BPF_TCX_INGRESS,
            };
            let fd = program.fd().expect("a loaded program").as_fd().as_raw_fd();
            Some(Link::create(fd, ifname, hook, flags).expect("attach a foreign program"))
        });
        Self { program, pin, _link: link }
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

/// A foreign XDP program on a device; it goes with this value.
#[derive(Debug)]
pub struct ForeignXdp(#[expect(dead_code, reason = "held")] Link);

impl ForeignXdp {
    /// Puts a program that lets everything pass on an interface.
    pub fn attach(ns: &Ns, ifname: &str) -> Self {
        let program = load(BPF_PROG_TYPE_XDP, &instructions(None, XDP_PASS)).expect("load a foreign program");
        let link = ns.run(|| Link::create(program.as_raw_fd(), ifname, BPF_XDP, XDP_FLAGS_DRV_MODE));
        Self(link.expect("attach a foreign program"))
    }
}

/// A program's link to a device. It is detached when this goes, not when its descriptor is closed: a program that another test is just starting
/// may have inherited that, and then the link would work on for a while.
#[derive(Debug)]
struct Link(OwnedFd);

impl Link {
    /// Puts a program on a hook of a device of the calling thread's namespace.
    fn create(program: RawFd, ifname: &str, hook: u32, flags: u32) -> io::Result<Self> {
        let ifindex = nix::net::if_::if_nametoindex(ifname)?;
        let mut attr = [0_u64; 16];
        attr[0] = pair(program.cast_unsigned(), ifindex);
        attr[1] = pair(hook, flags);
        created(bpf(BPF_LINK_CREATE, &attr)?).map(Self)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut attr = [0_u64; 16];
        attr[0] = self.0.as_raw_fd().cast_unsigned().into();
        let _ = bpf(BPF_LINK_DETACH, &attr); // the device may be gone
    }
}

/// Returns a pin that no other foreign program has.
fn free_pin() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/sys/fs/bpf/netd-foreign-{}-{number}", std::process::id()))
}

/// `struct bpf_insn`s: perhaps `skb->mark = MARK`, then `return VERDICT`.
fn instructions(mark: Option<i32>, verdict: i32) -> Vec<u64> {
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
    all.push(instruction(0xb7, 0, 0, verdict));
    all.push(instruction(0x95, 0, 0, 0));
    all
}

/// Loads a program of a kind: aya itself loads object files alone.
fn load(kind: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let licence = c"GPL";
    let count = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    let mut attr = [0_u64; 16];
    (attr[0], attr[1]) = (pair(kind, count), instructions.as_ptr() as u64);
    attr[2] = licence.as_ptr() as u64;
    created(bpf(BPF_PROG_LOAD, &attr)?)
}

/// Pins a program, so that aya can open it.
fn pinned(program: &OwnedFd, pin: &Path) -> io::Result<()> {
    let path = std::ffi::CString::new(pin.to_string_lossy().as_bytes())?;
    let mut attr = [0_u64; 16];
    (attr[0], attr[1]) = (path.as_ptr() as u64, program.as_raw_fd().cast_unsigned().into());
    bpf(BPF_OBJ_PIN, &attr).map(drop)
}

/// Calls bpf(2) with the first words of `union bpf_attr`, the rest zero; little-endian, as the machines that run the tests.
fn bpf(command: libc::c_long, attr: &[u64; 16]) -> io::Result<libc::c_long> {
    // SAFETY: the attribute and what it points to live through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes the descriptor that a call has returned.
fn created(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
