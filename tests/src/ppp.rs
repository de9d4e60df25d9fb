//! A PPP link between two namespaces: a unit of `/dev/ppp` in each, and a serial line of two pseudoterminals between them. Its devices have no link
//! addresses, and their packets begin with IP (`drivers/net/ppp/ppp_generic.c`). No daemon negotiates: both ends carry IPv4 and IPv6 from the first
//! byte on.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::openpty,
    sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr},
    unistd::pipe2,
};

use crate::Ns;

/// The line discipline that reads and writes PPP's frames (`linux/tty.h`).
static N_PPP: libc::c_int = 3;
/// PPP's numbers of IPv4 and IPv6 (`linux/ppp_defs.h`).
const PROTOCOLS: [libc::c_int; 2] = [0x21, 0x57];

/// What becomes of a protocol's packets (`struct npioctl` of `linux/ppp-ioctl.h`).
#[repr(C)]
#[derive(Debug)]
pub struct NetworkProtocol {
    protocol: libc::c_int,
    /// 0: they pass.
    mode: libc::c_uint,
}

nix::ioctl_write_ptr_bad!(set_discipline, libc::TIOCSETD, libc::c_int);
nix::ioctl_readwrite!(new_unit, b't', 62, libc::c_int);
nix::ioctl_read!(channel_of, b't', 55, libc::c_int);
nix::ioctl_write_ptr!(attach_channel, b't', 56, libc::c_int);
nix::ioctl_write_ptr!(connect, b't', 58, libc::c_int);
nix::ioctl_write_ptr!(set_protocol, b't', 75, NetworkProtocol);

/// A running link; it ends on drop, and its devices go with it.
#[derive(Debug)]
pub struct Ppp {
    stop: Option<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    _ends: [End; 2],
}

/// What keeps one side's device alive.
#[derive(Debug)]
struct End {
    line: Arc<File>,
    _terminal: OwnedFd,
    _unit: File,
    _channel: File,
}

impl Ppp {
    /// Connects `ppp0` of one namespace with `ppp0` of another; both are up.
    ///
    /// # Errors
    /// The kernel has no PPP.
    pub fn between(a: &Ns, b: &Ns) -> io::Result<Self> {
        let ends = [a.run(End::open)?, b.run(End::open)?];
        let (wake, stop) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?; // or a child would hold it open
        let wake = Arc::new(wake);
        let threads = [(0, 1), (1, 0)].map(|(from, to)| {
            let (from, to): (Arc<File>, Arc<File>) =
                (Arc::clone(&ends[from].line), Arc::clone(&ends[to].line));
            let wake = Arc::clone(&wake);
            std::thread::spawn(move || pump(&from, &to, &wake))
        });
        for ns in [a, b] {
            ns.ip_batch("link set ppp0 up");
        }
        Ok(Self { stop: Some(stop), threads: threads.into(), _ends: ends })
    }
}

impl Drop for Ppp {
    fn drop(&mut self) {
        drop(self.stop.take()); // the closed pipe wakes the threads
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl End {
    /// Makes the first unit of this thread's namespace, and a line below it.
    fn open() -> io::Result<Self> {
        let control = || OpenOptions::new().read(true).write(true).open("/dev/ppp");
        let unit = control()?;
        let mut number = -1;
        // SAFETY: the kernel reads and writes one number during the call.
        unsafe { new_unit(unit.as_raw_fd(), &raw mut number) }?;
        for protocol in PROTOCOLS {
            let passes = NetworkProtocol { protocol, mode: 0 };
            // SAFETY: the argument has the layout of the kernel's structure, which reads it during the call.
            unsafe { set_protocol(unit.as_raw_fd(), &raw const passes) }?;
        }
        let line = openpty(None, None)?;
        let mut settings = tcgetattr(&line.slave)?;
        cfmakeraw(&mut settings);
        tcsetattr(&line.slave, SetArg::TCSANOW, &settings)?;
        let mut index = 0;
        // SAFETY: the kernel reads one number, and writes one, during the calls.
        unsafe {
            set_discipline(line.slave.as_raw_fd(), &raw const N_PPP)?;
            channel_of(line.slave.as_raw_fd(), &raw mut index)?;
        }
        let channel = control()?;
        // SAFETY: the kernel reads one number during each call.
        unsafe {
            attach_channel(channel.as_raw_fd(), &raw const index)?;
            connect(channel.as_raw_fd(), &raw const number)?;
        }
        let master = Arc::new(File::from(line.master));
        Ok(Self { line: master, _terminal: line.slave, _unit: unit, _channel: channel })
    }
}

/// Copies bytes until the pipe closes.
fn pump(mut from: &File, mut to: &File, stop: &OwnedFd) {
    let mut buffer = vec![0; 65_536];
    loop {
        let mut waiting =
            [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut waiting, PollTimeout::NONE);
        if waiting[1].any() == Some(true) {
            return;
        }
        let Ok(length) = from.read(&mut buffer) else { return };
        if to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
