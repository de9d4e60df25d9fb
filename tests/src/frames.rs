//! Frames built field by field, to send what no well-behaved stack would send (reliability, appendix A).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpHeaders, Ipv4Header, Ipv6FlowLabel,
    Ipv6Header, PacketBuilder, PacketBuilderStep, ip_number,
};

/// The Ethernet header of a frame to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Source address.
    pub src: [u8; 6],
    /// Destination address.
    pub dst: [u8; 6],
}

/// TCP flags of a crafted segment.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

impl Frame {
    /// To every station.
    pub const BROADCAST: [u8; 6] = [0xff; 6];

    /// Builds a UDP datagram.
    pub fn udp(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
        finish(self.ip(from.ip(), to.ip(), ip_number::UDP).udp(from.port(), to.port()), payload)
    }

    /// Builds the first segment of a TCP connection.
    pub fn tcp_syn(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        self.tcp(from, to, SYN)
    }

    /// Builds a segment with FIN and ACK.
    pub fn tcp_fin(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        self.tcp(from, to, FIN | ACK)
    }

    /// Builds a segment with RST.
    pub fn tcp_rst(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        self.tcp(from, to, RST)
    }

    /// Builds a segment with ACK alone, as from the middle of a connection.
    pub fn tcp_ack(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        self.tcp(from, to, ACK)
    }

    /// Builds a segment with RST and this sequence number.
    pub fn tcp_rst_at(&self, from: SocketAddr, to: SocketAddr, sequence: u32) -> Vec<u8> {
        self.tcp_at(from, to, RST, sequence)
    }

    fn tcp(&self, from: SocketAddr, to: SocketAddr, flags: u8) -> Vec<u8> {
        self.tcp_at(from, to, flags, 1_000)
    }

    fn tcp_at(&self, from: SocketAddr, to: SocketAddr, flags: u8, sequence: u32) -> Vec<u8> {
        let mut step =
            self.ip(from.ip(), to.ip(), ip_number::TCP).tcp(from.port(), to.port(), sequence, 64_240);
        if flags & FIN != 0 {
            step = step.fin();
        }
        if flags & SYN != 0 {
            step = step.syn();
        }
        if flags & RST != 0 {
            step = step.rst();
        }
        if flags & ACK != 0 {
            step = step.ack(2_000);
        }
        let mut bytes = Vec::new();
        step.write(&mut bytes, &[]).expect("a TCP segment");
        bytes
    }

    /// Builds an ICMP echo request.
    pub fn echo(&self, from: IpAddr, to: IpAddr, id: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let built = match to {
            IpAddr::V4(_) => {
                self.ip(from, to, ip_number::ICMP).icmpv4_echo_request(id, 1).write(&mut bytes, b"crafted")
            }
            IpAddr::V6(_) => self
                .ip(from, to, ip_number::IPV6_ICMP)
                .icmpv6_echo_request(id, 1)
                .write(&mut bytes, b"crafted"),
        };
        built.expect("an echo request");
        bytes
    }

    /// Builds an ARP message that says `sender` has the frame's source address.
    pub fn arp(&self, operation: ArpOperation, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &self.src,
            &sender.octets(),
            &[0; 6],
            &target.octets(),
        );
        let step = PacketBuilder::ethernet2(self.src, self.dst).arp(arp.expect("an ARP message"));
        let mut bytes = Vec::new();
        step.write(&mut bytes).expect("an ARP frame");
        bytes
    }

    /// Builds a packet of any protocol.
    pub fn ip_payload(&self, from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let next = etherparse::IpNumber(protocol);
        self.ip(from, to, next).write(&mut bytes, next, payload).expect("a packet");
        bytes
    }

    /// Builds an `ICMPv6` message with hop limit 255; its checksum bytes may be zero.
    pub fn icmpv6(&self, from: std::net::Ipv6Addr, to: std::net::Ipv6Addr, message: &[u8]) -> Vec<u8> {
        let mut bytes = self.ip_payload(from.into(), to.into(), ip_number::IPV6_ICMP.0, message);
        let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
        let next = [0, 0, 0, ip_number::IPV6_ICMP.0];
        let covered = [&from.octets()[..], &to.octets(), &length, &next, message].concat();
        let sum: u32 =
            covered.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| u32::from(b))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded");
        bytes[14 + 7] = 255;
        bytes[14 + 40 + 2..14 + 40 + 4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn ip(&self, from: IpAddr, to: IpAddr, next: etherparse::IpNumber) -> PacketBuilderStep<IpHeaders> {
        let headers = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header =
                    Ipv4Header::new(0, 64, next, from.octets(), to.octets()).expect("an IPv4 header");
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: next,
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                };
                IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
            }
            _ => panic!("a frame from {from} to {to}"),
        };
        let link: PacketBuilderStep<Ethernet2Header> = PacketBuilder::ethernet2(self.src, self.dst);
        link.ip(headers)
    }
}

fn finish(step: PacketBuilderStep<etherparse::UdpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    step.write(&mut bytes, payload).expect("a UDP datagram");
    bytes
}
