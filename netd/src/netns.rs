//! Network namespaces: made, bind-mounted, opened and entered here and nowhere else.
//!
//! A thread that has entered another namespace is never given back: each visit has a thread of its own, which ends there.

use std::{
    collections::HashSet,
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        statfs::{NSFS_MAGIC, fstatfs},
    },
};

use crate::{model::Name, sysctl};

/// The calling thread's namespace; `/proc/self` would be the main thread's.
const CURRENT: &str = "/proc/thread-self/ns/net";
/// `IFF_UP` in the width of `ifr_flags`.
const UP: libc::c_short = 1;

/// What went wrong with which namespace.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct Error {
    doing: String,
    #[source]
    source: io::Error,
}

impl Error {
    pub(crate) fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { doing: doing.into(), source: source.into() }
    }

    /// Whether this process or the kernel has run out of something, which says nothing of the namespace.
    pub fn is_shortage(&self) -> bool {
        let number = self.source.raw_os_error();
        matches!(number, Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EIO | libc::EINTR))
    }

    /// Whether the path or process does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
    }
}

/// An open network namespace; it lives at least as long as this value.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    path: PathBuf,
    settings: Arc<SettingsDirs>,
}

/// `/proc/sys/net` of a namespace, open.
///
/// The kernel keeps the directories of all namespaces under one name, so that to look one up takes the longer the more there are; and only a
/// thread in the namespace finds it there. Below it neither is so.
#[derive(Debug, Default)]
pub struct SettingsDirs {
    /// Each is empty until somebody needs it, and the second until the kernel has IPv6.
    families: [OnceLock<File>; 2],
}

/// The families that have settings of their own.
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

impl SettingsDirs {
    /// Opens that of a family in the calling thread's namespace. None: the kernel has none.
    fn open(family: &str) -> io::Result<Option<File>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        match options.open(format!("/proc/sys/net/{family}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Returns where any thread finds a setting that is named by its path below `/proc/sys/net`. None: the kernel has none of that family.
    pub fn find(&self, key: &str) -> Option<PathBuf> {
        let (family, rest) = key.split_once('/')?;
        let index = FAMILIES.iter().position(|known| *known == family)?;
        let dir = self.families[index].get()?;
        Some(PathBuf::from(format!("/proc/self/fd/{}/{rest}", dir.as_raw_fd())))
    }
}

impl Netns {
    /// Returns the calling thread's namespace.
    pub fn current() -> Result<Self, Error> {
        Self::open_path(Path::new(CURRENT))
    }

    /// Opens the namespace at a path: a bind mount or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When nothing can be opened there, or when it is not a namespace.
    pub fn open_path(path: &Path) -> Result<Self, Error> {
        let doing = || format!("open network namespace {}", path.display());
        let file = File::open(path).map_err(|source| Error::new(doing(), source))?;
        if !is_namespace(&file).map_err(|source| Error::new(doing(), source))? {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "not a namespace");
            return Err(Error::new(doing(), source));
        }
        Ok(Self { file: Arc::new(file), path: path.to_owned(), settings: Arc::default() })
    }

    /// Opens the namespace of a process.
    pub fn of_pid(pid: u32) -> Result<Self, Error> {
        Self::open_path(&PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// Makes a namespace with loopback up and mounts it at `DIR/NAME`; opens the one already mounted there.
    ///
    /// # Errors
    /// When the directory cannot be made or mounted upon, or when the kernel gives no namespace.
    pub async fn create(name: &Name, dir: &Path) -> Result<Self, Error> {
        let path = dir.join(name.as_str());
        let doing = format!("create network namespace {}", path.display());
        let target = mount_point(&path).map_err(|source| Error::new(&doing, source))?;
        if is_namespace(&target).map_err(|source| Error::new(&doing, source))? {
            return Self::open_path(&path);
        }
        on_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            raise_loopback()?;
            let target = format!("/proc/thread-self/fd/{}", target.as_raw_fd());
            mount(Some(CURRENT), target.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
        })
        .await
        .and_then(|result| result.map_err(io::Error::from))
        .map_err(|source| Error::new(doing, source))?;
        Self::open_path(&path)
    }

    /// Mounts this namespace at `DIR/NAME`, unless a namespace is still mounted there.
    ///
    /// # Errors
    /// When the directory cannot be made or mounted upon.
    pub fn name_again(&self, name: &Name, dir: &Path) -> Result<(), Error> {
        let path = dir.join(name.as_str());
        let failed = |source| Error::new(format!("mount network namespace {}", path.display()), source);
        let target = mount_point(&path).map_err(failed)?;
        if is_namespace(&target).map_err(failed)? {
            return Ok(());
        }
        let [from, to] =
            [self.file.as_raw_fd(), target.as_raw_fd()].map(|fd| format!("/proc/thread-self/fd/{fd}"));
        mount(Some(from.as_str()), to.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| failed(errno.into()))
    }

    /// Unmounts and removes `DIR/NAME`; the namespace itself ends with its last process. What is gone is success.
    pub fn remove(name: &Name, dir: &Path) -> Result<(), Error> {
        let path = dir.join(name.as_str());
        let failed =
            |source: Errno| Error::new(format!("remove network namespace {}", path.display()), source);
        loop {
            match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {} // something may have been mounted upon it twice
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(source) => return Err(failed(source)),
            }
        }
        match nix::unistd::unlink(&path) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(source) => Err(failed(source)),
        }
    }

    /// Returns the path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its inode on nsfs, which identifies it until it ends (user's `lsns`, `/proc/PID/ns/net`).
    pub fn inode(&self) -> Result<u64, Error> {
        let doing = || format!("read inode of network namespace {}", self.path.display());
        Ok(self.file.metadata().map_err(|source| Error::new(doing(), source))?.ino())
    }

    /// Returns its cookie, which is never reused until the next boot (`SO_NETNS_COOKIE`, 5.14).
    pub async fn cookie(&self) -> Result<u64, Error> {
        let cookie = self.run_in(netns_cookie).await?;
        cookie.map_err(|source| {
            Error::new(format!("read cookie of network namespace {}", self.path.display()), source)
        })
    }

    /// Returns its settings, of those families that these belong to; they stay open for as long as it does.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or its settings cannot be opened.
    pub async fn settings(&self, keys: impl Iterator<Item = &str> + Clone) -> Result<&SettingsDirs, Error> {
        let dirs = &*self.settings;
        let lacks = |index: &usize| {
            let family = FAMILIES[*index];
            let wanted = keys.clone().any(|key| key.split('/').next() == Some(family));
            wanted && dirs.families[*index].get().is_none() && (family != "ipv6" || sysctl::has_ipv6())
        };
        let lacking: Vec<usize> = (0..FAMILIES.len()).filter(lacks).collect();
        if lacking.is_empty() {
            return Ok(dirs);
        }
        let open = move || -> io::Result<Vec<_>> {
            lacking.into_iter().map(|index| Ok((index, SettingsDirs::open(FAMILIES[index])?))).collect()
        };
        let opened = self.run_in(open).await?.map_err(|source| {
            Error::new(format!("open the settings of network namespace {}", self.path.display()), source)
        })?;
        for (index, dir) in opened {
            if let Some(dir) = dir {
                let _ = dirs.families[index].set(dir); // another task was quicker
            }
        }
        Ok(dirs)
    }

    /// Runs a closure on a thread of its own inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or when the closure panics.
    pub async fn run_in<T: Send + 'static>(
        &self,
        closure: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let file = Arc::clone(&self.file);
        on_thread(move || setns(&*file, CloneFlags::CLONE_NEWNET).map(|()| closure()))
            .await
            .and_then(|result| result.map_err(io::Error::from))
            .map_err(|source| Error::new(format!("enter network namespace {}", self.path.display()), source))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether mounts made below a directory stay invisible to the rest of the host, as in a service with private mounts.
///
/// True when this process has a mount namespace other than PID 1's and the directory's mount does not propagate.
pub fn mounts_are_private(dir: &Path) -> io::Result<bool> {
    let own = std::fs::metadata("/proc/self/ns/mnt")?.ino();
    if std::fs::metadata("/proc/1/ns/mnt").is_ok_and(|init| init.ino() == own) {
        return Ok(false);
    }
    let dir = dir.canonicalize()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(!propagates(&table, &dir))
}

/// Whether the mount that holds a directory is in a peer group, by a mountinfo table (proc(5): field 5, then tags).
fn propagates(mountinfo: &str, dir: &Path) -> bool {
    let mounts = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(4);
        let point = Path::new(fields.next()?);
        let shared =
            fields.skip(1).take_while(|field| *field != "-").any(|field| field.starts_with("shared:"));
        dir.starts_with(point).then_some((point.as_os_str().len(), shared))
    });
    // The longest mount point holds it; of equal ones, the last is on top.
    mounts.max_by_key(|(length, _)| *length).is_some_and(|(_, shared)| shared)
}

/// Opens the file that a namespace is mounted upon, and makes it where it is not there.
///
/// Held open: the mount goes upon this very file, whatever the path leads to by then.
fn mount_point(path: &Path) -> io::Result<File> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .or_else(|_| OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path))
}

/// Returns a process of each network namespace that processes live in.
pub fn inhabitants() -> io::Result<Vec<u32>> {
    let mut seen = HashSet::new();
    let processes =
        std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One that has ended meanwhile, or is a kernel's, has none.
    Ok(processes
        .filter(|pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|netns| seen.insert(netns))
        })
        .collect())
}

fn is_namespace(file: &File) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() == NSFS_MAGIC)
}

/// Reads the cookie of the calling thread's namespace.
fn netns_cookie() -> io::Result<u64> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: `cookie` is 8 writable bytes, as `length` says, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(cookie)
}

/// Raises `lo` in the calling thread's namespace; the kernel then gives it 127.0.0.1 and `::1`.
fn raise_loopback() -> nix::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain data, valid when zeroed.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = UP;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which outlives the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request) };
    Errno::result(result).map(drop)
}

async fn on_thread<T: Send + 'static>(closure: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        let _ = sender.send(closure()); // nobody waits any more: nothing to tell
    })?;
    receiver.await.map_err(|_| io::Error::other("the thread panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_holds_a_directory_decides_whether_others_see_it() {
        let table = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
31 30 0:26 / /run/private rw master:7 - tmpfs tmpfs rw
32 22 0:27 / /runner rw - tmpfs tmpfs rw
";
        for (dir, seen) in [
            ("/run/netd/netns", true),
            ("/run/private/netns", false),
            ("/runner/netns", false),
            ("/var", true),
        ] {
            assert_eq!(propagates(table, Path::new(dir)), seen, "{dir}");
        }
    }
}
