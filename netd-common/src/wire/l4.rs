//! Transport protocols: numbers, offsets in bytes from the start of their headers, flags.

/// IANA protocol number of TCP.
pub const TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const UDP: u8 = 17;
/// DCCP (RFC 4340): ports and checksum lie as in UDP.
pub const DCCP: u8 = 33;
/// SCTP (RFC 9260).
pub const SCTP: u8 = 132;
/// UDP-Lite (RFC 3828): UDP with the length of what its checksum covers in place of its own.
pub const UDP_LITE: u8 = 136;
/// ICMP.
pub const ICMP: u8 = 1;
/// ICMPv6.
pub const ICMP6: u8 = 58;

/// Whether only the first fragment of a datagram of this protocol tells its flow.
pub const fn has_ports(proto: u8) -> bool {
    smallest_header(proto) != 0
}

/// Returns the bytes of a protocol's header that netd has to see, 0 for protocols that it translates by address alone.
pub const fn smallest_header(proto: u8) -> u32 {
    match proto {
        TCP => 20,
        SCTP => 16, // with the head of the first chunk
        UDP | UDP_LITE | DCCP | ICMP | ICMP6 => 8,
        _ => 0,
    }
}

/// Whether it is a tunnel or cipher that carries no ports and works through a translation of its outer addresses: IP in IP, IPv6 in IP, GRE, ESP,
/// AH, L2TP. (AH covers the addresses, so its receiver refuses it; RFC 4302 §3.3.3.)
pub const fn is_portless(proto: u8) -> bool {
    matches!(proto, 4 | 41 | 47 | 50 | 51 | 115)
}

/// Type of SCTP's first chunk (RFC 9260 §3.2).
pub const SCTP_CHUNK: u32 = 12;
/// Checksum of SCTP: a CRC32c of the whole packet, addresses not included.
pub const SCTP_CHECKSUM: u32 = 8;
/// SCTP's chunk that opens an association.
pub const INIT: u8 = 1;

/// Source port of TCP and UDP; the destination port follows at once.
pub const PORTS: u32 = 0;
/// ICMP type; the code follows at once.
pub const ICMP_TYPE: u32 = 0;
/// Identifier of an ICMP echo.
pub const ECHO_ID: u32 = 4;
/// Length of the header in front of the packet that an ICMP or ICMPv6 error quotes.
pub const ICMP_ERROR_HEADER: u32 = 8;
/// TCP sequence number.
pub const TCP_SEQUENCE: u32 = 4;
/// TCP acknowledgement.
pub const TCP_ACKNOWLEDGEMENT: u32 = 8;
/// TCP data offset; the flags follow at once.
pub const TCP_OFFSET: u32 = 12;

/// Length of a TCP header without options.
pub const TCP_HEADER: u32 = 20;
/// Length of a UDP header, and of an ICMP echo's.
pub const UDP_HEADER: u32 = 8;
/// Length of a UDP datagram with its header.
pub const UDP_LENGTH: u32 = 4;

/// Checksum of TCP.
pub const TCP_CHECKSUM: u32 = 16;
/// Checksum of UDP.
pub const UDP_CHECKSUM: u32 = 6;
/// Checksum of ICMP and ICMPv6.
pub const ICMP_CHECKSUM: u32 = 2;

/// TCP: no more data from the sender.
pub const FIN: u8 = 0x01;
/// TCP: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// TCP: reset the connection.
pub const RST: u8 = 0x04;
/// TCP: the acknowledgement field is valid.
pub const ACK: u8 = 0x10;

/// ICMPv6 router advertisement (RFC 4861 §4.2).
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// ICMPv6 neighbour solicitation (§4.3).
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// ICMPv6 neighbour advertisement (§4.4).
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// ICMPv6 redirect (§4.5).
pub const REDIRECT: u8 = 137;
/// ICMPv6 report of an `MLDv2` listener (RFC 3810 §5.2).
pub const LISTENER_REPORT: u8 = 143;
/// Number of its records, from the start of the ICMPv6 header.
pub const LISTENER_RECORDS: u32 = 6;
/// Length of what stands in front of its records.
pub const LISTENER_REPORT_HEADER: u32 = 8;
/// Length of a record without sources and auxiliary data.
pub const LISTENER_RECORD: u32 = 20;
/// Scope of a group that no router forwards: the low bits of its address's second byte (RFC 4291 §2.7).
pub const LINK_SCOPE: u8 = 2;
/// Target address of a neighbour solicitation or advertisement, from the start of the ICMPv6 header.
pub const ND_TARGET: u32 = 8;
