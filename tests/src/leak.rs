//! Watches an uplink for packets that carry a sandbox's address: there must never be one.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::pipe2,
};

use crate::{Capture, Ns, Packet};

/// A prefix: address and length in bits.
type Prefix = (IpAddr, u8);

/// Subnets of sandboxes: netd's default pools and those of the tests.
const SANDBOXES: [Prefix; 3] = [
    (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)), 8),
];
/// Inside them, but the hosts' own (see `topology`).
const HOSTS: [Prefix; 2] = [
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 0)), 32),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xb, 0, 0, 0, 0, 0, 0)), 32),
];

/// A watch on what a remote host receives; it goes on until it is stopped.
#[derive(Debug)]
pub struct LeakWatch {
    seen: Arc<Mutex<Seen>>,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    leaks: Vec<Packet>,
    /// Subnets that may show on the uplink: routed and unmasqueraded networks.
    allowed: Vec<Prefix>,
    packets: u64,
}

impl LeakWatch {
    /// Watches what arrives at the remote end of an uplink.
    pub fn start(ns: &Ns, ifname: &str) -> Self {
        let capture = Capture::start(ns, ifname);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (wake, stop) = pipe2(OFlag::O_CLOEXEC).expect("a pipe"); // or a child would hold it open
        let thread = std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || watch(&capture, &wake, &seen)
        });
        Self { seen, stop: Some(stop), thread: Some(thread) }
    }

    /// Excepts a subnet whose addresses may be seen outside.
    pub fn allow(&self, subnet: &str) {
        let (address, bits) = subnet.split_once('/').expect("a subnet in CIDR notation");
        let prefix = (address.parse().expect("an address"), bits.parse().expect("a prefix length"));
        self.seen.lock().expect("the watch").allowed.push(prefix);
    }

    /// Ends the watch and returns the packets that should not have been there, and how many it saw in all.
    pub fn finish(mut self) -> (Vec<Packet>, u64) {
        self.end();
        let seen = self.seen.lock().expect("the watch");
        (seen.leaks.clone(), seen.packets)
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for LeakWatch {
    fn drop(&mut self) {
        self.end();
    }
}

fn watch(capture: &Capture, stop: &OwnedFd, seen: &Mutex<Seen>) {
    let mut stopped = false;
    while !stopped {
        let mut waiting =
            [PollFd::new(capture.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut waiting, PollTimeout::NONE);
        stopped = waiting[1].any() == Some(true);
        // What is queued at the moment of stopping still counts.
        let packets = capture.take();
        let mut seen = seen.lock().expect("the watch");
        seen.packets += packets.len() as u64;
        let leaks: Vec<_> = packets.into_iter().filter(|p| !p.outgoing && seen.is_leak(p)).collect();
        seen.leaks.extend(leaks);
    }
}

impl Seen {
    fn is_leak(&self, packet: &Packet) -> bool {
        [packet.src, packet.dst].into_iter().flatten().any(|address| {
            let inside = |prefixes: &[Prefix]| prefixes.iter().any(|prefix| contains(*prefix, address));
            inside(&SANDBOXES) && !inside(&HOSTS) && !inside(&self.allowed)
        })
    }
}

fn contains((network, bits): Prefix, address: IpAddr) -> bool {
    let same = |a: &[u8], b: &[u8]| {
        (0..usize::from(bits)).all(|bit| (a[bit / 8] ^ b[bit / 8]) & (0x80 >> (bit % 8)) == 0)
    };
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(&a.octets(), &b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(&a.octets(), &b.octets()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_and_hosts_are_told_apart() {
        for (leak, address) in [
            (true, "172.20.0.2"),
            (true, "172.31.255.254"),
            (true, "192.168.7.2"),
            (true, "fd00:c:20::2"),
            (true, "fd12:3456::2"),
            (false, "172.32.0.1"),
            (false, "10.0.0.2"),
            (false, "fd00:a::2"),
            (false, "fe80::1"),
        ] {
            let src = Some(address.parse().expect("an address"));
            let packet = Packet { src, ..Packet::parse(&[], false) };
            assert_eq!(Seen::default().is_leak(&packet), leak, "{address}");
        }
    }
}
