//! What the headers of a dropped packet say, as far as they make sense: it may have been dropped because they do not.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{
    ArpOperation, EtherType, LaxNetSlice, LaxSlicedPacket, LinkSlice, TcpSlice, TransportSlice,
};
use netd_common::wire::l4;

/// Headers in words and numbers; what is not there is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packet {
    /// Ethernet source and destination.
    pub macs: Option<([u8; 6], [u8; 6])>,
    /// 4 or 6; 0: neither.
    pub family: u8,
    /// `tcp`, `udp`, `icmp`, `sctp`, `arp`, ..., or the number of the protocol, or of the frame's type.
    pub protocol: String,
    /// Source and destination.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Source and destination port.
    pub ports: Option<(u16, u16)>,
    /// TCP flags, the type of an ICMP message, which fragment: in words.
    pub flags: String,
}

impl Packet {
    /// Reads the first bytes of a frame, or of an IP packet without one.
    pub(super) fn read(bytes: &[u8], bare: bool) -> Self {
        let read = if bare {
            LaxSlicedPacket::from_ip(bytes).ok()
        } else {
            LaxSlicedPacket::from_ethernet(bytes).ok()
        };
        let Some(sliced) = read else { return Self::default() };
        let mut packet = Self::default();
        if let Some(LinkSlice::Ethernet2(ethernet)) = &sliced.link {
            packet.macs = Some((ethernet.source(), ethernet.destination()));
            packet.protocol = frame_type(ethernet.ether_type());
        }
        match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                packet.family = 4;
                packet.addresses = Some((header.source_addr().into(), header.destination_addr().into()));
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                packet.family = 6;
                packet.addresses = Some((header.source_addr().into(), header.destination_addr().into()));
            }
            Some(LaxNetSlice::Arp(arp)) => {
                let part =
                    |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(|ip| IpAddr::from(Ipv4Addr::from(ip)));
                let (from, to) = (part(arp.sender_protocol_addr()), part(arp.target_protocol_addr()));
                packet.addresses = from.zip(to);
                packet.flags = match arp.operation() {
                    ArpOperation::REQUEST => "request".into(),
                    ArpOperation::REPLY => "reply".into(),
                    other => other.0.to_string(),
                };
            }
            None => {}
        }
        if let Some(payload) = sliced.net.as_ref().and_then(LaxNetSlice::ip_payload_ref) {
            packet.protocol = protocol(payload.ip_number.0);
            packet.read_transport(&sliced, payload.ip_number.0, payload.payload, payload.fragmented);
        }
        packet
    }

    fn read_transport(&mut self, sliced: &LaxSlicedPacket<'_>, number: u8, payload: &[u8], fragmented: bool) {
        match &sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                self.ports = Some((tcp.source_port(), tcp.destination_port()));
                self.flags = tcp_flags(tcp);
            }
            Some(TransportSlice::Udp(udp)) => self.ports = Some((udp.source_port(), udp.destination_port())),
            Some(TransportSlice::Icmpv4(icmp)) => self.flags = icmp_type(icmp.type_u8(), icmp.code_u8()),
            Some(TransportSlice::Icmpv6(icmp)) => self.flags = icmp_type(icmp.type_u8(), icmp.code_u8()),
            // Also of a first fragment, and of a TCP header that is cut.
            _ if l4::has_ports(number) && !matches!(number, ICMP | ICMPV6) => {
                let first = !fragmented || is_first(sliced);
                if let Some([a, b, c, d]) = payload.first_chunk().filter(|_| first) {
                    self.ports = Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
                }
            }
            _ => {}
        }
        if fragmented {
            self.flags = if is_first(sliced) { "first fragment".into() } else { "fragment".into() };
        }
    }
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Whether a fragment begins its datagram.
fn is_first(sliced: &LaxSlicedPacket<'_>) -> bool {
    match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => ip.header().fragments_offset().value() == 0,
        Some(LaxNetSlice::Ipv6(ip)) => ip.extensions().clone().into_iter().all(|extension| match extension {
            etherparse::Ipv6ExtensionSlice::Fragment(fragment) => fragment.fragment_offset().value() == 0,
            _ => true,
        }),
        _ => true,
    }
}

/// Returns the name of an IP protocol (IANA), as far as netd knows it, else its number.
fn protocol(number: u8) -> String {
    let known = match number {
        ICMP => "icmp",
        2 => "igmp",
        4 => "ipip",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        41 => "ipv6",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        ICMPV6 => "icmpv6",
        132 => "sctp",
        136 => "udplite",
        _ => return number.to_string(),
    };
    known.into()
}

/// Returns the name of a frame's type, else its number.
fn frame_type(kind: EtherType) -> String {
    match kind {
        EtherType::ARP => "arp".into(),
        EtherType::IPV4 => "ipv4".into(),
        EtherType::IPV6 => "ipv6".into(),
        other => format!("{:#06x}", other.0),
    }
}

fn tcp_flags(tcp: &TcpSlice<'_>) -> String {
    let all = [
        (tcp.syn(), "SYN"),
        (tcp.ack(), "ACK"),
        (tcp.fin(), "FIN"),
        (tcp.rst(), "RST"),
        (tcp.psh(), "PSH"),
        (tcp.urg(), "URG"),
    ];
    all.into_iter().filter_map(|(set, name)| set.then_some(name)).collect::<Vec<_>>().join(",")
}

fn icmp_type(kind: u8, code: u8) -> String {
    format!("type {kind} code {code}")
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, PacketBuilder, ether_type};
    use proptest::prelude::*;

    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    fn v4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(MACS.0, MACS.1).ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64)
    }

    fn v6() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let ip = |last| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).octets();
        PacketBuilder::ethernet2(MACS.0, MACS.1).ipv6(ip(2), ip(3), 64)
    }

    fn summary(packet: &Packet) -> String {
        let ends = packet.addresses.map_or_else(|| "-".into(), |(from, to)| format!("{from} > {to}"));
        format!("{} {} {ends} {:?} {}", packet.family, packet.protocol, packet.ports, packet.flags)
    }

    #[test]
    fn headers_of_both_families_are_read() {
        let mut cases = Vec::new();
        for (builder, family, ends) in
            [(v4 as fn() -> _, 4, "10.0.0.2 > 10.0.0.3"), (v6, 6, "fd00::2 > fd00::3")]
        {
            let mut add = |write: &dyn Fn(&mut Vec<u8>), wanted: String| {
                let mut bytes = Vec::new();
                write(&mut bytes);
                cases.push((bytes, format!("{family} {}", wanted.replace("ENDS", ends))));
            };
            add(
                &|out| builder().tcp(1, 80, 0, 0).syn().ack(9).write(out, &[]).expect("room"),
                "tcp ENDS Some((1, 80)) SYN,ACK".into(),
            );
            add(
                &|out| builder().udp(53, 53).write(out, &[0; 600]).expect("room"),
                "udp ENDS Some((53, 53)) ".into(),
            );
            add(
                &|out| builder().write(out, IpNumber(132), &[0, 5, 0, 6, 0, 0]).expect("room"),
                "sctp ENDS Some((5, 6)) ".into(),
            );
            add(&|out| builder().write(out, IpNumber(47), &[0; 8]).expect("room"), "gre ENDS None ".into());
            add(&|out| builder().write(out, IpNumber(200), &[0; 8]).expect("room"), "200 ENDS None ".into());
            add(
                &|out| builder().write(out, IpNumber(6), &[0, 1, 0, 2]).expect("room"),
                "tcp ENDS Some((1, 2)) ".into(),
            );
        }
        let mut echo = Vec::new();
        v4().icmpv4_echo_request(7, 1).write(&mut echo, &[]).expect("room");
        cases.push((echo, "4 icmp 10.0.0.2 > 10.0.0.3 None type 8 code 0".into()));
        let mut echo = Vec::new();
        v6().icmpv6_echo_request(7, 1).write(&mut echo, &[]).expect("room");
        cases.push((echo, "6 icmpv6 fd00::2 > fd00::3 None type 128 code 0".into()));
        for (bytes, wanted) in cases {
            let told = &bytes[..bytes.len().min(netd_common::monitor::CAPTURED)];
            let packet = Packet::read(told, false);
            assert_eq!(summary(&packet), wanted);
            assert_eq!(packet.macs, Some(MACS));
            assert_eq!(summary(&Packet::read(&told[14..], true)), wanted, "without an Ethernet header");
        }
    }

    #[test]
    fn fragments_arp_and_other_frames_are_told_apart() {
        let mut first = Vec::new();
        v4().udp(5, 6).write(&mut first, &[0; 16]).expect("room");
        first[20] = 0x20; // more fragments follow
        assert_eq!(
            summary(&Packet::read(&first, false)),
            "4 udp 10.0.0.2 > 10.0.0.3 Some((5, 6)) first fragment"
        );
        (first[20], first[21]) = (0, 3);
        assert_eq!(summary(&Packet::read(&first, false)), "4 udp 10.0.0.2 > 10.0.0.3 None fragment");
        let mut frame = [MACS.1, MACS.0].concat();
        frame.extend(ether_type::ARP.0.to_be_bytes());
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend([MACS.0.as_slice(), &[10, 0, 0, 2], &[0; 6], &[10, 0, 0, 3]].concat());
        assert_eq!(summary(&Packet::read(&frame, false)), "0 arp 10.0.0.2 > 10.0.0.3 None request");
        frame[12..14].copy_from_slice(&[0x88, 0xcc]);
        assert_eq!(summary(&Packet::read(&frame, false)), "0 0x88cc - None ");
        assert_eq!(Packet::read(&[], false), Packet::default());
    }

    proptest! {
        /// What was dropped for being malformed is shown too: nothing here may panic.
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..128), bare in any::<bool>(), ip in any::<bool>()) {
            let mut bytes = bytes;
            if ip && bytes.len() > 15 {
                let version = if bytes[0] & 1 == 0 { 4 } else { 6 };
                bytes[12..14].copy_from_slice(if version == 4 { &[8, 0] } else { &[0x86, 0xdd] });
                bytes[14] = version << 4 | 5;
            }
            let _ = Packet::read(&bytes, bare);
        }
    }
}
