//! Gratuitous ARP (RFC 5227 §2.3) and unsolicited neighbour advertisements (RFC 4861 §7.2.6), as frames of our own: the kernel's
//! way to make it send them, telling an interface the address it already has, empties the interface's neighbour table, and with
//! it goes every packet that waits there for an answer.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder,
    icmpv6::NeighborAdvertisementHeader,
};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket},
};
use tokio::{
    runtime::Handle,
    sync::{Mutex, Semaphore},
};

use super::{Error, Links};
use crate::model::{Announcements, IfName, Mac};

const BROADCAST: [u8; 6] = [0xff; 6];
/// All nodes of a link, and their Ethernet address (RFC 4291 §2.7.1, RFC 2464 §7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Neighbour discovery from farther away than the link is not believed (RFC 4861 §7.1.2).
const HOP_LIMIT: u8 = 255;
/// Interfaces at most whose announcements wait to be repeated.
const WAITING: usize = 64;
/// How much longer than sending takes nobody else repeats an announcement.
const REST: u32 = 9;
/// And how much at most: on a busy machine sending takes long, and late announcements help nobody.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Option "target link-layer address", its length in units of 8 bytes (RFC 4861 §4.6.1).
const TARGET_ADDRESS: [u8; 2] = [2, 1];

/// How soon an address is announced first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Neighbours may know an older owner of it, and it would keep them from the new one.
    AtOnce,
    /// Nobody had it before, or neighbours reach the new owner nevertheless.
    InTurn,
}

/// Who announces in turn, one at a time.
#[derive(Debug)]
pub struct Turns {
    /// Each that waits holds descriptors.
    places: Semaphore,
    turn: Mutex<()>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { places: Semaphore::new(WAITING), turn: Mutex::default() }
    }
}

impl Links {
    /// Tells the network of an interface's addresses: neighbours that know an older owner of one learn the new one (Docker semantics B16). Ends early
    /// when the interface is gone.
    ///
    /// A bridge gives each of these frames to all of its ports while the sender waits. So only the first goes out at once, if there is any haste,
    /// and all others take turns: whoever has the turn keeps it for [`REST`] times as long as its own frames took, a second at most, and a thousand
    /// sandboxes do not occupy a processor. Where too many wait, none takes a turn.
    pub async fn announce(
        &self,
        ifname: &IfName,
        Announcements { times, every_ms }: Announcements,
        haste: Haste,
        turns: &Turns,
    ) -> Result<(), Error> {
        let place = turns.places.try_acquire();
        let times = match haste {
            _ if place.is_ok() => times,
            Haste::AtOnce => times.min(1),
            Haste::InTurn => 0,
        };
        if times == 0 {
            return Ok(());
        }
        let interval = Duration::from_millis(every_ms.into());
        let doing = format!("announce {ifname} in {}", self.netns.path().display());
        let failed = |source: io::Error| Error::kernel(&doing, source);
        let opened = self.netns.run_in(|| {
            // Protocol 0: it receives nothing.
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        });
        let socket = Socket(Some(opened.await?.map_err(|errno| failed(errno.into()))?));
        for time in 0..times {
            if time > 0 {
                tokio::time::sleep(interval).await;
            }
            let at_once = time == 0 && haste == Haste::AtOnce;
            let turn = if at_once { None } else { Some(turns.turn.lock().await) };
            let began = Instant::now();
            let Some(present) = self.link(ifname).await? else { return Ok(()) };
            let Some(mac) = present.mac else { return Ok(()) };
            for address in self.addresses(Some(present.ifindex)).await? {
                let frame = announcement(mac, address.net.addr()).map_err(failed)?;
                match send(&socket, present.ifindex, &frame) {
                    Ok(()) => {}
                    Err(Errno::ENXIO | Errno::ENODEV) => return Ok(()),
                    Err(errno) => return Err(failed(errno.into())),
                }
            }
            if turn.is_some() {
                tokio::time::sleep((began.elapsed() * REST).min(LONGEST_REST)).await;
            }
        }
        Ok(())
    }
}

/// A packet socket. To close one waits for a grace period, 10 ms and more, which is not for a thread that has other tasks.
struct Socket(Option<OwnedFd>);

impl Drop for Socket {
    fn drop(&mut self) {
        let socket = self.0.take();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(socket));
        }
    }
}

/// Builds the frame that says that this address is at that Ethernet address.
fn announcement(mac: Mac, address: IpAddr) -> io::Result<Vec<u8>> {
    let mut frame = Vec::new();
    let written = match address {
        IpAddr::V4(address) => {
            let arp = gratuitous_request(mac, address)?;
            PacketBuilder::ethernet2(mac.0, BROADCAST).arp(arp).write(&mut frame)
        }
        IpAddr::V6(address) => {
            let overriding =
                NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
            let body = [&address.octets()[..], &TARGET_ADDRESS, &mac.0].concat();
            PacketBuilder::ethernet2(mac.0, ALL_NODES_MAC)
                .ipv6(address.octets(), ALL_NODES.octets(), HOP_LIMIT)
                .icmpv6(Icmpv6Type::NeighborAdvertisement(overriding))
                .write(&mut frame, &body)
        }
    };
    written.map(|()| frame).map_err(io::Error::other)
}

fn gratuitous_request(mac: Mac, address: Ipv4Addr) -> io::Result<ArpPacket> {
    let (nobody, address) = ([0; 6], address.octets());
    let operation = ArpOperation::REQUEST;
    ArpPacket::new(ArpHardwareId::ETHERNET, EtherType::IPV4, operation, &mac.0, &address, &nobody, &address)
        .map_err(io::Error::other)
}

fn send(Socket(socket): &Socket, ifindex: u32, frame: &[u8]) -> Result<(), Errno> {
    let at = interface(ifindex).ok_or(Errno::ENODEV)?;
    let socket = socket.as_ref().ok_or(Errno::EBADF)?;
    sendto(socket.as_raw_fd(), frame, &at, MsgFlags::empty()).map(drop)
}

/// Returns the address of a packet socket that names an interface; nix can read such a one, but not make it.
fn interface(ifindex: u32) -> Option<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).ok()?,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(ifindex).ok()?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of_val(&address)).ok()?;
    // SAFETY: the pointer is to an initialised sockaddr_ll of this length, which outlives the call; it is copied.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    #[test]
    fn an_ipv4_address_is_announced_to_everybody_as_a_question_for_itself() {
        let address = Ipv4Addr::new(172, 20, 0, 2);
        let frame = announcement(MAC, address.into()).expect("a frame");
        let read = SlicedPacket::from_ethernet(&frame).expect("a frame");
        let Some(NetSlice::Arp(arp)) = read.net else { panic!("no ARP: {read:?}") };
        assert_eq!(frame[..12], [[0xff; 6], MAC.0].concat());
        assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&MAC.0[..], &address.octets()[..]));
        assert_eq!(
            (arp.operation(), arp.target_protocol_addr()),
            (ArpOperation::REQUEST, &address.octets()[..])
        );
    }

    #[test]
    fn an_ipv6_address_is_advertised_to_all_nodes_with_the_override_flag() {
        let address: Ipv6Addr = "fd00:c:20::2".parse().expect("an address");
        let frame = announcement(MAC, address.into()).expect("a frame");
        let read = SlicedPacket::from_ethernet(&frame).expect("a frame");
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (&read.net, &read.transport)
        else {
            panic!("no ICMPv6: {read:?}")
        };
        assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (address, ALL_NODES));
        assert_eq!(ip.header().hop_limit(), HOP_LIMIT);
        assert!(icmp.is_checksum_valid(address.octets(), ALL_NODES.octets()));
        let Ok(etherparse::icmpv6::Icmpv6PayloadSlice::NeighborAdvertisement(told)) = icmp.payload_slice()
        else {
            panic!("{icmp:?}")
        };
        assert_eq!(told.target_address(), address);
        assert_eq!(frame[frame.len() - 8..], [&TARGET_ADDRESS[..], &MAC.0].concat());
        assert_eq!(icmp.bytes5to8()[0], 0x20, "the override flag alone");
    }
}
