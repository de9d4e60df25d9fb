//! A tunnel between two namespaces: a tun device in each, and threads that copy packets, as a VPN does. Its devices have no link addresses.

use std::{
    fs::{File, OpenOptions},
    io,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    os::unix::fs::OpenOptionsExt as _,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::pipe2,
};

use crate::Ns;

nix::ioctl_write_int_bad!(set_offload, libc::TUNSETOFFLOAD);

/// Checksums, TSO for both families, and USO (`linux/if_tun.h`), as `WireGuard` and a virtual machine's device would have them.
const OFFLOADS: libc::c_int = 0x01 | 0x02 | 0x04;
/// Length of the header in front of each packet that says what is left to do (`struct virtio_net_hdr`).
const VNET_HEADER: usize = 10;

/// A running tunnel; it ends on drop, and its devices go with it.
#[derive(Debug)]
pub struct Tunnel {
    stop: Option<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Vec<IpAddr>>>,
}

impl Tunnel {
    /// Connects a device in one namespace with one in another; both are up. With `offload`, packets may be larger than the MTU and lack checksums.
    pub fn between(a: (&Ns, &str), b: (&Ns, &str), offload: bool) -> Self {
        let (left, right) = (device(a, offload), device(b, offload));
        let (wake, stop) = pipe2(OFlag::O_CLOEXEC).expect("a pipe"); // or a child would hold it open
        let (wake, seen) = (Arc::new(wake), Arc::new(Mutex::new(Vec::new())));
        let header = if offload { VNET_HEADER } else { 0 };
        let threads =
            [(&left, &right, Some(Arc::clone(&seen))), (&right, &left, None)].map(|(from, to, seen)| {
                let (from, to, wake) = (Arc::clone(from), Arc::clone(to), Arc::clone(&wake));
                std::thread::spawn(move || pump(&from, &to, &wake, header, seen.as_deref()))
            });
        for (ns, ifname) in [a, b] {
            ns.ip_batch(&format!("link set {ifname} up"));
        }
        Self { stop: Some(stop), threads: threads.into(), seen }
    }

    /// Returns the sources and destinations of all packets that the first namespace has sent.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.seen.lock().expect("the tunnel").clone()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        drop(self.stop.take()); // the closed pipe wakes the threads
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn device((ns, ifname): (&Ns, &str), offload: bool) -> Arc<File> {
    let file = ns.run(|| open(ifname, offload));
    Arc::new(file.unwrap_or_else(|e| panic!("{}: tun device {ifname}: {e}", ns.name())))
}

fn open(ifname: &str, offload: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | if offload { libc::IFF_VNET_HDR } else { 0 };
    // SAFETY: a C structure of numbers, for which all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(ifname.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the argument is the address of an initialised ifreq, which the kernel reads and writes during the call.
    unsafe { set_pointer(&file, &raw mut request) }?;
    if offload {
        // SAFETY: takes a number.
        unsafe { set_offload(file.as_raw_fd(), OFFLOADS) }?;
    }
    Ok(file)
}

/// # Safety
/// `request` points to an ifreq.
unsafe fn set_pointer(file: &File, request: *mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let failed = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Copies packets until the pipe closes.
fn pump(from: &File, to: &File, stop: &OwnedFd, header: usize, seen: Option<&Mutex<Vec<IpAddr>>>) {
    use std::io::{Read as _, Write as _};
    let mut buffer = vec![0; 65_536 + 64];
    loop {
        let mut waiting =
            [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut waiting, PollTimeout::NONE);
        if waiting[1].any() == Some(true) {
            return;
        }
        let (mut from, mut to) = (from, to);
        while let Ok(length) = from.read(&mut buffer) {
            if let Some(seen) = seen {
                seen.lock().expect("the tunnel").extend(ends(&buffer[header..length]));
            }
            let _ = to.write(&buffer[..length]); // a device that is down loses it
        }
    }
}

/// Returns source and destination of an IP packet.
fn ends(packet: &[u8]) -> Vec<IpAddr> {
    let v4 = |at: usize| packet.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from);
    let v6 = |at: usize| packet.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from);
    let both = match packet.first().map(|byte| byte >> 4) {
        Some(4) => [v4(12), v4(16)],
        Some(6) => [v6(8), v6(24)],
        _ => [None, None],
    };
    both.into_iter().flatten().collect()
}
