//! The `bpf(2)` calls that aya has not: opening a pin as it is, replacing a link's program, links on netkit devices, and batches of map entries.
//!
//! The only place in the daemon with raw system calls; all take and give owned descriptors and byte slices.

use std::{
    collections::BTreeSet,
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_long = 31;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_NETNS: u32 = 5;
const BPF_LINK_TYPE_XDP: u32 = 6;
const BPF_LINK_TYPE_TCX: u32 = 11;
/// The attach type: where the other side of a pair sends, named by the side that is on the host.
const BPF_NETKIT_PEER: u32 = 55;
/// Programs on one hook at most (`BPF_MPROG_MAX`).
const MOST_PROGRAMS: usize = 64;
/// Makes an entry or replaces it (`BPF_ANY`).
pub const ANY: u64 = 0;
/// Makes an entry that is not there (`BPF_NOEXIST`).
pub const NOEXIST: u64 = 1;
const SO_NETNS_COOKIE: libc::c_int = 71;

/// `union bpf_attr` for the calls below: 64 bytes, the rest zero.
#[repr(C, align(8))]
#[derive(Default)]
struct Attr([u64; 8]);

/// Makes one `bpf(2)` call.
fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is live and of the given size; pointers inside it are to buffers that the callers keep alive.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<Attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Packs two 32-bit fields into one word, the first at the lower address.
fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0_u8; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// Returns a descriptor as the 32-bit number the kernel reads.
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Opens whatever is pinned at a path.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    open_pin_with(path, 0)
}

/// Opens a pinned map that the kernel then refuses to change.
pub fn open_pin_readonly(path: &Path) -> io::Result<OwnedFd> {
    const BPF_F_RDONLY: u32 = 1 << 3;
    open_pin_with(path, BPF_F_RDONLY)
}

fn open_pin_with(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr::default();
    attr.0[0] = text.as_ptr() as u64;
    attr.0[1] = pair(0, flags);
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object at one more path.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr::default();
    attr.0[0] = text.as_ptr() as u64;
    attr.0[1] = pair(number(object), 0);
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Makes an array of one element of this many bytes. Names are of at most twelve bytes.
pub fn create_array(name: &str, value_size: usize) -> io::Result<OwnedFd> {
    let mut attr = Attr::default();
    let value_size = u32::try_from(value_size).map_err(io::Error::other)?;
    attr.0[0] = pair(BPF_MAP_TYPE_ARRAY, 4);
    attr.0[1] = pair(value_size, 1);
    // `map_name` begins in the second half of the fourth word.
    let mut bytes = [0_u8; 16];
    for (place, byte) in bytes[4..].iter_mut().zip(name.bytes().take(11)) {
        *place = byte;
    }
    for (word, part) in attr.0[3..5].iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_ne_bytes(part.try_into().map_err(io::Error::other)?);
    }
    let fd = i32::try_from(bpf(BPF_MAP_CREATE, &mut attr)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads an entry's value, whose size is that of the map's values.
pub fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = Attr::default();
    attr.0[0] = pair(number(map), 0);
    attr.0[1] = key.as_ptr() as u64;
    attr.0[2] = value.as_mut_ptr() as u64;
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

/// Writes an entry; key and value have the map's sizes.
pub fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut attr = Attr::default();
    attr.0[0] = pair(number(map), 0);
    attr.0[1] = key.as_ptr() as u64;
    attr.0[2] = value.as_ptr() as u64;
    attr.0[3] = flags;
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Replaces the program behind a link, atomically for packets.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::default();
    attr.0[0] = pair(number(link), number(program));
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Puts a program where the sandbox side of a netkit pair sends. The calling thread is in the namespace of its host side.
pub fn link_netkit(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr::default();
    attr.0[0] = pair(number(program), ifindex);
    attr.0[1] = pair(BPF_NETKIT_PEER, 0);
    let fd = i32::try_from(bpf(BPF_LINK_CREATE, &mut attr)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lists the links of programs where the sandbox side of a netkit pair sends.
pub fn netkit_links(ifindex: u32) -> io::Result<Vec<Link>> {
    let (mut programs, mut links) = ([0_u32; MOST_PROGRAMS], [0_u32; MOST_PROGRAMS]);
    let mut attr = Attr::default();
    attr.0[0] = pair(ifindex, BPF_NETKIT_PEER);
    attr.0[2] = programs.as_mut_ptr() as u64;
    attr.0[3] = pair(u32::try_from(MOST_PROGRAMS).map_err(io::Error::other)?, 0);
    attr.0[5] = links.as_mut_ptr() as u64;
    bpf(BPF_PROG_QUERY, &mut attr)?;
    // A program that was attached without a link has 0 there.
    Ok(links.into_iter().filter(|id| *id != 0).filter_map(|id| link_by_id(id).ok()).collect())
}

/// Takes a link's program off its hook at once; closing or unpinning it would leave that to a worker of the kernel.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::default();
    attr.0[0] = pair(number(link), 0);
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Whether a link of an interface or of a cgroup still leads to it: the kernel clears what it names when somebody detaches it.
pub fn is_attached(link: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(link_info(link)?[4] != 0)
}

/// Returns the id of the program behind a link.
pub fn program_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(link_info(link)?[2])
}

/// Reads `struct bpf_link_info`: type, id, id of the program, 4 bytes of nothing, then the interface's index or the cgroup's id.
fn link_info(link: BorrowedFd<'_>) -> io::Result<[u32; 32]> {
    let mut info = [0_u32; 32];
    let mut attr = Attr::default();
    attr.0[0] = pair(number(link), u32::try_from(size_of_val(&info)).map_err(io::Error::other)?);
    attr.0[1] = info.as_mut_ptr() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Where a link puts a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// On an interface of some namespace; 0: on none any more.
    Interface {
        /// Its index.
        ifindex: u32,
    },
    /// On a cgroup.
    Cgroup {
        /// Its id.
        id: u64,
    },
    /// On a network namespace.
    Namespace {
        /// Its inode's number; 0: on none any more.
        id: u64,
    },
    /// Elsewhere.
    Other,
}

/// A link of whatever program, pinned or not.
#[derive(Debug)]
pub struct Link {
    /// The link itself.
    pub fd: OwnedFd,
    /// Id of its program.
    pub program: u32,
    /// Where it is.
    pub kind: LinkKind,
}

/// Lists every link of these programs, by their ids; what comes or goes meanwhile may be missing.
pub fn links_of(programs: &BTreeSet<u32>) -> io::Result<Vec<Link>> {
    let (mut all, mut id) = (Vec::new(), 0);
    loop {
        let mut attr = Attr::default();
        attr.0[0] = pair(id, 0);
        match bpf(BPF_LINK_GET_NEXT_ID, &mut attr) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(error) => return Err(error),
        }
        let [_, _, _, _, a, b, c, d] = attr.0[0].to_ne_bytes();
        id = u32::from_ne_bytes([a, b, c, d]);
        if let Ok(link) = link_by_id(id)
            && programs.contains(&link.program)
        {
            all.push(link);
        }
    }
}

fn link_by_id(id: u32) -> io::Result<Link> {
    let mut attr = Attr::default();
    attr.0[0] = pair(id, 0);
    let fd = i32::try_from(bpf(BPF_LINK_GET_FD_BY_ID, &mut attr)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let info = link_info(fd.as_fd())?;
    let kind = match info[0] {
        BPF_LINK_TYPE_TCX | BPF_LINK_TYPE_XDP => LinkKind::Interface { ifindex: info[4] },
        BPF_LINK_TYPE_CGROUP => LinkKind::Cgroup { id: pair(info[4], info[5]) },
        BPF_LINK_TYPE_NETNS => LinkKind::Namespace { id: info[4].into() },
        _ => LinkKind::Other,
    };
    Ok(Link { fd, program: info[2], kind })
}

/// Reads a hash map from the beginning in batches and hands each key and value to `visit`.
///
/// Entries that others insert or remove meanwhile may be missed; none is visited that was never there.
///
/// # Errors
/// The kernel's; ENOSPC (a bucket larger than the batch) is handled by growing it.
pub fn for_each(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
    mut visit: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    let mut room = 1024_usize;
    let (mut keys, mut values) = (vec![0_u8; room * key_size], vec![0_u8; room * value_size]);
    // The kernel's cursor: a bucket number for hash maps, a key for others; 64 bytes hold either.
    let (mut cursor, mut started) = ([0_u64; 8], false);
    loop {
        let mut next = [0_u64; 8];
        let mut attr = Attr::default();
        attr.0[0] = if started { cursor.as_ptr() as u64 } else { 0 };
        attr.0[1] = next.as_mut_ptr() as u64;
        attr.0[2] = keys.as_mut_ptr() as u64;
        attr.0[3] = values.as_mut_ptr() as u64;
        attr.0[4] = pair(u32::try_from(room).unwrap_or(u32::MAX), number(map));
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
        let [a, b, c, d, ..] = attr.0[4].to_ne_bytes();
        let count = u32::from_ne_bytes([a, b, c, d]) as usize;
        let ended = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 20 => {
                room *= 4;
                keys.resize(room * key_size, 0);
                values.resize(room * value_size, 0);
                continue;
            }
            Err(error) => return Err(error),
        };
        for (key, value) in keys.chunks_exact(key_size).zip(values.chunks_exact(value_size)).take(count) {
            visit(key, value);
        }
        if ended {
            return Ok(());
        }
        (cursor, started) = (next, true);
    }
}

/// Inserts or replaces many entries. `keys` and `values` are the entries one after the other.
///
/// # Errors
/// The kernel's, with the number of entries that went in before.
pub fn update_many(
    map: BorrowedFd<'_>,
    count: usize,
    keys: &[u8],
    values: &[u8],
) -> Result<(), (usize, io::Error)> {
    if count == 0 {
        return Ok(());
    }
    let mut attr = Attr::default();
    attr.0[2] = keys.as_ptr() as u64;
    attr.0[3] = values.as_ptr() as u64;
    attr.0[4] = pair(u32::try_from(count).unwrap_or(u32::MAX), number(map));
    bpf(BPF_MAP_UPDATE_BATCH, &mut attr).map(drop).map_err(|error| {
        let [a, b, c, d, ..] = attr.0[4].to_ne_bytes();
        (u32::from_ne_bytes([a, b, c, d]) as usize, error)
    })
}

/// Has the runtime wait for a ring's records.
pub fn readable(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor until it is dropped, and nobody replaces or closes it.
    let waiting = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    waiting.map_err(io::Error::from)
}

/// Gives the kernel back what reading and relocating the object took and freed: 14 MB, which the allocator would keep for a daemon that never
/// needs them again.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and moves no memory that is in use (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the allocator ask the kernel for each large piece and give it back when it is freed. Left to itself it learns from the first large piece that is
/// freed to keep up to 64 MB (`M_MMAP_THRESHOLD`, mallopt(3)), and a request of 60,000 ports is one.
pub fn keep_no_large_pieces() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers, and sets what later allocations go by.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}

/// Returns the cookie of the calling thread's network namespace.
pub fn netns_cookie() -> io::Result<u64> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let (mut cookie, mut size) =
        (0_u64, libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?);
    // SAFETY: the buffer is eight bytes, as `size` says.
    let failed = unsafe {
        libc::getsockopt(
            probe.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
