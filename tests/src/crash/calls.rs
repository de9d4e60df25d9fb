//! Which system calls change something, and which errors each of them can meet.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf};

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// A system call that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What it does, with its object where that is easily told: `bpf MAP_UPDATE_ELEM`, `write /run/netd/netd.pid`.
    pub text: String,
    /// What it works on.
    pub kind: Kind,
}

/// What a system call works on: that decides how it can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Takes room on a file system.
    FileGrows,
    /// Waits for the disk, or changes a directory without needing room.
    File,
    /// Opens a file that is there.
    Open,
    /// Maps, programs and links of the packet path that are made or filled.
    Bpf,
    /// A request over rtnetlink.
    Netlink,
    /// Mounts.
    Mount,
    /// Threads and namespaces.
    Task,
    /// Sockets.
    Socket,
    /// Something else.
    Other,
}

impl Kind {
    /// The errors that such a call can meet on a machine in trouble (reliability F5, F8, F9, F16, F17).
    pub const fn errors(self) -> &'static [Errno] {
        match self {
            Self::FileGrows => &[Errno::ENOSPC, Errno::EIO, Errno::EMFILE],
            Self::File => &[Errno::EIO, Errno::ENOSPC],
            Self::Open => &[Errno::EMFILE, Errno::EIO],
            Self::Bpf | Self::Mount => &[Errno::ENOMEM, Errno::EBUSY],
            Self::Netlink => &[Errno::ENOBUFS, Errno::ENOMEM],
            Self::Task => &[Errno::ENOMEM, Errno::EAGAIN],
            Self::Socket => &[Errno::EMFILE, Errno::ENOMEM],
            Self::Other => &[Errno::EIO],
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Commands of bpf(2) that change something (`enum bpf_cmd`).
const BPF: [(u64, &str); 14] = [
    (0, "MAP_CREATE"),
    (2, "MAP_UPDATE_ELEM"),
    (3, "MAP_DELETE_ELEM"),
    (5, "PROG_LOAD"),
    (6, "OBJ_PIN"),
    (8, "PROG_ATTACH"),
    (9, "PROG_DETACH"),
    (18, "BTF_LOAD"),
    (22, "MAP_FREEZE"),
    (26, "MAP_UPDATE_BATCH"),
    (27, "MAP_DELETE_BATCH"),
    (28, "LINK_CREATE"),
    (29, "LINK_UPDATE"),
    (34, "LINK_DETACH"),
];

/// Returns the filter that stops a process at calls that may change something; with `opens`, also at those that need a descriptor.
///
/// # Panics
/// On an architecture that has no such filters.
pub(super) fn filter(opens: bool) -> BpfProgram {
    const ALWAYS: [i64; 38] = [
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_write,
        libc::SYS_pwrite64,
        libc::SYS_writev,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_link,
        libc::SYS_linkat,
        libc::SYS_symlink,
        libc::SYS_symlinkat,
        libc::SYS_unlink,
        libc::SYS_unlinkat,
        libc::SYS_rmdir,
        libc::SYS_chmod,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_mkdir,
        libc::SYS_mkdirat,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_kill,
        libc::SYS_pidfd_send_signal,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
    ];
    let when = |argument, comparison, value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, value);
        SeccompRule::new(vec![condition.expect("a condition")]).expect("a rule")
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALWAYS.into_iter().map(|nr| (nr, Vec::new())).collect();
    let commands = BPF.iter().map(|(command, _)| when(0, SeccompCmpOp::Eq, *command));
    rules.insert(libc::SYS_bpf, commands.collect());
    rules.insert(libc::SYS_ioctl, vec![when(1, SeccompCmpOp::Eq, libc::SIOCSIFFLAGS)]);
    let flag = |flag: libc::c_int| {
        let bit = u64::from(flag.unsigned_abs());
        when(2, SeccompCmpOp::MaskedEq(bit), bit)
    };
    rules.insert(
        libc::SYS_openat,
        if opens { Vec::new() } else { vec![flag(libc::O_CREAT), flag(libc::O_TRUNC), flag(O_TMPFILE)] },
    );
    if opens {
        rules.insert(libc::SYS_socket, Vec::new());
    }
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture with filters");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trace(0), architecture);
    filter.and_then(TryInto::try_into).expect("a filter")
}

/// The bit of `O_TMPFILE` that is not `O_DIRECTORY`.
const O_TMPFILE: libc::c_int = libc::O_TMPFILE & !libc::O_DIRECTORY;

/// A process that is about to make a system call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    /// The process.
    pub pid: i32,
    /// The call's number.
    pub nr: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

impl Caller {
    /// Returns the call if it changes something; with `opens`, also if it needs a descriptor.
    pub fn call(&self, opens: bool) -> Option<Call> {
        let [a, b, c, ..] = self.args;
        let call = |kind, text: String| Some(Call { text, kind });
        match self.nr {
            libc::SYS_bpf => {
                let (_, name) = BPF.iter().find(|(command, _)| *command == a)?;
                call(Kind::Bpf, format!("bpf {name}"))
            }
            libc::SYS_sendto => self.netlink(b, c),
            libc::SYS_sendmsg => {
                let message = self.memory(b, 32)?;
                let vector = u64::from_ne_bytes(message.get(16..24)?.try_into().ok()?);
                let vector = self.memory(vector, 16)?;
                let word = |at: usize| Some(u64::from_ne_bytes(vector.get(at..at + 8)?.try_into().ok()?));
                self.netlink(word(0)?, word(8)?)
            }
            libc::SYS_openat => {
                let flags = i32::try_from(c & 0x7fff_ffff).unwrap_or_default();
                let path = self.text(b);
                if flags & (libc::O_CREAT | libc::O_TRUNC | O_TMPFILE) != 0 {
                    return call(Kind::FileGrows, format!("open {path} for writing"));
                }
                if opens { call(Kind::Open, format!("open {path}")) } else { None }
            }
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev => {
                let file = self.file(a)?;
                call(
                    if file.starts_with("/proc") { Kind::Other } else { Kind::FileGrows },
                    format!("write {file}"),
                )
            }
            libc::SYS_fsync | libc::SYS_fdatasync => call(Kind::File, format!("fsync {}", self.file(a)?)),
            libc::SYS_ftruncate | libc::SYS_fallocate => {
                call(Kind::FileGrows, format!("truncate {}", self.file(a)?))
            }
            libc::SYS_rename | libc::SYS_link | libc::SYS_symlink => {
                call(Kind::FileGrows, format!("{} {} {}", name(self.nr), self.text(a), self.text(b)))
            }
            libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => call(
                Kind::FileGrows,
                format!("{} {} {}", name(self.nr), self.text(b), self.text(self.args[3])),
            ),
            libc::SYS_unlink | libc::SYS_rmdir | libc::SYS_chmod => {
                call(Kind::File, format!("{} {}", name(self.nr), self.text(a)))
            }
            libc::SYS_unlinkat => call(Kind::File, format!("unlink {}", self.text(b))),
            libc::SYS_mkdir => call(Kind::FileGrows, format!("mkdir {}", self.text(a))),
            libc::SYS_mkdirat => call(Kind::FileGrows, format!("mkdir {}", self.text(b))),
            libc::SYS_mount => call(Kind::Mount, format!("mount {}", self.text(b))),
            libc::SYS_umount2 => call(Kind::Mount, format!("umount {}", self.text(a))),
            libc::SYS_unshare | libc::SYS_setns | libc::SYS_clone | libc::SYS_clone3 => {
                call(Kind::Task, name(self.nr).to_owned())
            }
            libc::SYS_bind | libc::SYS_listen => call(Kind::Other, name(self.nr).to_owned()),
            libc::SYS_socket if opens => call(Kind::Socket, "socket".to_owned()),
            libc::SYS_ioctl if b == libc::SIOCSIFFLAGS => call(Kind::Other, "ioctl SIOCSIFFLAGS".to_owned()),
            libc::SYS_kill | libc::SYS_pidfd_send_signal => call(Kind::Other, "kill".to_owned()),
            _ => None,
        }
    }

    /// A request of rtnetlink that is not a question: types come in fours, new, delete, get, set (`linux/rtnetlink.h`).
    fn netlink(&self, buffer: u64, length: u64) -> Option<Call> {
        let header = self.memory(buffer, 16)?;
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let stated = u64::from(u32::from_ne_bytes(header[..4].try_into().ok()?));
        let (kind, flags) = (half(4), half(6));
        let known = (16..124).contains(&kind) && flags & 1 != 0 && stated >= 16 && stated <= length;
        let verb = ["NEW", "DEL", "GET", "SET"][usize::from(kind % 4)];
        let object = match kind / 4 {
            4 => "LINK",
            5 => "ADDR",
            6 => "ROUTE",
            7 => "NEIGH",
            9 => "QDISC",
            11 => "TFILTER",
            22 => "NSID",
            _ => "OTHER",
        };
        (known && kind % 4 != 2)
            .then(|| Call { text: format!("netlink {verb}{object}"), kind: Kind::Netlink })
    }

    /// Reads memory of the process.
    fn memory(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = vec![0; length];
        let memory = fs::File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        memory.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }

    /// Reads a path.
    fn text(&self, at: u64) -> String {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = vec![0; 256];
        let read = fs::File::open(format!("/proc/{}/mem", self.pid))
            .and_then(|memory| memory.read_at(&mut bytes, at));
        bytes.truncate(read.unwrap_or_default());
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// The file behind a descriptor; None for sockets, pipes and the log.
    fn file(&self, fd: u64) -> Option<String> {
        let path: PathBuf = fs::read_link(format!("/proc/{}/fd/{fd}", self.pid)).ok()?;
        let path = path.to_str()?;
        (path.starts_with('/') && !path.starts_with("/dev") && fd > 2).then(|| path.to_owned())
    }
}

fn name(nr: i64) -> &'static str {
    match nr {
        libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => "rename",
        libc::SYS_link | libc::SYS_linkat => "link",
        libc::SYS_symlink => "symlink",
        libc::SYS_unlink => "unlink",
        libc::SYS_rmdir => "rmdir",
        libc::SYS_chmod => "chmod",
        libc::SYS_unshare => "unshare",
        libc::SYS_setns => "setns",
        libc::SYS_clone | libc::SYS_clone3 => "clone",
        libc::SYS_bind => "bind",
        libc::SYS_listen => "listen",
        _ => "call",
    }
}
