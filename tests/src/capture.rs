//! Captures on an interface (`AF_PACKET`): what really arrived, and what did not.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use etherparse::{Icmpv4Type, Icmpv6Type, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, recvfrom,
        sendto, setsockopt, socket, sockopt,
    },
};

use crate::{Ns, Proto};

/// A frame that crossed an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Sent by the interface's own namespace, not received.
    pub outgoing: bool,
    /// IP source, or the sender of an ARP message.
    pub src: Option<IpAddr>,
    /// IP destination, or the target of an ARP message.
    pub dst: Option<IpAddr>,
    /// The ethertype.
    pub ethertype: u16,
    /// IP protocol number.
    pub proto: Option<u8>,
    /// TCP or UDP source port; the identifier of an ICMP echo.
    pub sport: Option<u16>,
    /// TCP or UDP destination port; the identifier of an ICMP echo.
    pub dport: Option<u16>,
    /// The whole frame.
    pub bytes: Vec<u8>,
}

/// A capture on one interface; frames wait in the socket until they are asked for.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
    index: usize,
}

impl Capture {
    /// Captures on an interface from now on.
    pub fn start(ns: &Ns, ifname: &str) -> Self {
        let link = ns.link(ifname).unwrap_or_else(|| panic!("{}: no interface {ifname}", ns.name()));
        let fd = ns.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
                .expect("a packet socket")
        });
        setsockopt(&fd, sockopt::RcvBufForce, &(16 << 20)).expect("a large receive buffer");
        Self { fd, index: usize::try_from(link.index).expect("an interface index") }
    }

    /// Takes every frame that came since the last call.
    pub fn take(&self) -> Vec<Packet> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 65_536 + 64];
        loop {
            match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), &mut buffer) {
                Ok((length, Some(from))) if from.ifindex() == self.index => {
                    let outgoing = from.pkttype() == libc::PACKET_OUTGOING;
                    packets.push(Packet::parse(&buffer[..length], outgoing));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return packets,
                Err(e) => panic!("read a capture: {e}"),
            }
        }
    }

    /// Waits until a frame of this kind has crossed the interface.
    pub fn wait(&self, what: &str, limit: Duration, wanted: impl Fn(&Packet) -> bool) -> Packet {
        let end = Instant::now() + limit;
        loop {
            if let Some(packet) = self.take().into_iter().find(|packet| wanted(packet)) {
                return packet;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: no such packet within {limit:?}");
            let mut waiting = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut waiting, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        }
    }

    /// Waits as [`Self::wait`] does, and returns everything that came with it and before.
    pub fn until(&self, what: &str, limit: Duration, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let (end, mut all) = (Instant::now() + limit, Vec::new());
        loop {
            all.extend(self.take());
            if all.iter().any(&wanted) {
                return all;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: no such packet within {limit:?}");
            let mut waiting = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut waiting, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        }
    }

    /// Sends a frame out of the interface.
    pub fn send(&self, frame: &[u8]) {
        self.send_as(0, frame).expect("send a frame");
    }

    /// Sends a frame and says of which ethertype it is; 0: the one it has.
    ///
    /// # Errors
    /// The kernel's: ENOBUFS also where the device has dropped the frame at once.
    pub fn send_as(&self, ethertype: u16, frame: &[u8]) -> Result<(), Errno> {
        let mut address = LinkAddrStorage::new(self.index, ethertype);
        sendto(self.fd.as_raw_fd(), frame, address.get(), MsgFlags::empty()).map(drop)
    }

    /// For `poll`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An address of a packet socket that names an interface.
struct LinkAddrStorage(libc::sockaddr_ll, Option<LinkAddr>);

impl LinkAddrStorage {
    fn new(index: usize, ethertype: u16) -> Self {
        let index = i32::try_from(index).expect("an interface index");
        let family = u16::try_from(libc::AF_PACKET).expect("an address family");
        Self(
            libc::sockaddr_ll {
                sll_family: family,
                sll_protocol: ethertype.to_be(),
                sll_ifindex: index,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 6,
                sll_addr: [0; 8],
            },
            None,
        )
    }

    fn get(&mut self) -> &LinkAddr {
        let length = u32::try_from(size_of::<libc::sockaddr_ll>()).ok();
        // SAFETY: the pointer is to an initialised sockaddr_ll of this length, which outlives the call; it is copied.
        let address = unsafe { LinkAddr::from_raw((&raw const self.0).cast(), length) };
        self.1.insert(address.expect("a link address"))
    }
}

impl Packet {
    /// Reads what there is to read of an Ethernet frame.
    pub fn parse(bytes: &[u8], outgoing: bool) -> Self {
        let ethertype = bytes.get(12..14).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        let mut packet = Self {
            outgoing,
            src: None,
            dst: None,
            ethertype,
            proto: None,
            sport: None,
            dport: None,
            bytes: bytes.to_vec(),
        };
        let Ok(sliced) = LaxSlicedPacket::from_ethernet(bytes) else { return packet };
        packet.read_net(sliced.net.as_ref());
        packet.read_transport(sliced.transport.as_ref());
        packet
    }

    fn read_net(&mut self, net: Option<&LaxNetSlice<'_>>) {
        match net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                self.src = Some(ip.header().source_addr().into());
                self.dst = Some(ip.header().destination_addr().into());
                self.proto = Some(ip.payload().ip_number.0);
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                self.src = Some(ip.header().source_addr().into());
                self.dst = Some(ip.header().destination_addr().into());
                self.proto = Some(ip.payload().ip_number.0);
            }
            Some(LaxNetSlice::Arp(arp)) => {
                let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
                self.src = address(arp.sender_protocol_addr());
                self.dst = address(arp.target_protocol_addr());
            }
            None => {}
        }
    }

    fn read_transport(&mut self, transport: Option<&TransportSlice<'_>>) {
        (self.sport, self.dport) = match transport {
            Some(TransportSlice::Tcp(tcp)) => (Some(tcp.source_port()), Some(tcp.destination_port())),
            Some(TransportSlice::Udp(udp)) => (Some(udp.source_port()), Some(udp.destination_port())),
            Some(TransportSlice::Icmpv4(icmp)) => match icmp.icmp_type() {
                Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo) => (Some(echo.id), Some(echo.id)),
                _ => (None, None),
            },
            Some(TransportSlice::Icmpv6(icmp)) => match icmp.icmp_type() {
                Icmpv6Type::EchoRequest(echo) | Icmpv6Type::EchoReply(echo) => (Some(echo.id), Some(echo.id)),
                _ => (None, None),
            },
            _ => (None, None),
        };
    }

    /// Whether it is a segment or datagram to this port.
    pub fn is_to(&self, proto: Proto, port: u16) -> bool {
        self.proto == Some(proto.number()) && self.dport == Some(port)
    }

    /// Whether it is a TCP segment with RST.
    pub fn is_reset(&self) -> bool {
        const RST: u8 = 4;
        self.tcp_flags().is_some_and(|flags| flags & RST != 0)
    }

    /// Whether it cannot belong to a TCP connection that is there: SYN without ACK, or a fragment that leaves the flags to another.
    pub fn may_open(&self) -> bool {
        const SYN: u8 = 2;
        const ACK: u8 = 16;
        self.tcp_flags().is_none_or(|flags| flags & (SYN | ACK) == SYN)
    }

    fn tcp_flags(&self) -> Option<u8> {
        const FLAGS: usize = 13;
        let header = if self.src.is_some_and(|ip| ip.is_ipv4()) { 20 } else { 40 };
        self.bytes.get(14 + header + FLAGS).copied().filter(|_| self.proto == Some(6))
    }

    /// Whether it is an ICMP echo request.
    pub fn is_echo_request(&self) -> bool {
        let kind = match self.proto {
            Some(1) => self.icmp_type(20) == Some(8),
            Some(58) => self.icmp_type(40) == Some(128),
            _ => false,
        };
        kind && self.dport.is_some()
    }

    fn icmp_type(&self, header: usize) -> Option<u8> {
        self.bytes.get(14 + header).copied()
    }
}
