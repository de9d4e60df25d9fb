//! Malformed packets as data (reliability A.4): what is spoilt, in which families, and whether it may still be translated.
//!
//! Each case spoils a good packet of some leg, a way through a hook; the same cases go through the hooks on the host and in the kernel.

use std::{boxed::Box, format, string::String, vec, vec::Vec};

use super::{Cast, Kind, Party, Wire, ifindex, mac};
use crate::wire::l4::{ACK, FIN, RST, SYN};

/// Where Ethernet ends.
const L3: usize = 14;

/// A frame to spoil, with what is needed to spoil it well.
struct Frame {
    bytes: Vec<u8>,
    v6: bool,
}

/// What may become of a malformed packet that would have to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is dropped and counted, or its sender gets a reset.
    Refused,
    /// It may be translated: odd, but its receiver can tell what it is.
    Carried,
}

/// A way to spoil a packet.
pub struct Case {
    /// What is wrong.
    pub name: String,
    /// What is spoilt.
    pub base: Kind,
    /// Whether it applies to IPv4.
    pub v4: bool,
    /// Whether it applies to IPv6.
    pub v6: bool,
    /// What may become of it.
    pub fate: Fate,
    spoil: Box<dyn Fn(&mut Frame)>,
}

/// A hook with the device a packet meets it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Ingress of the veth with this index.
    FromEndpoint(u32),
    /// Ingress of the uplink.
    FromUplink,
    /// Egress of this veth, of a packet that entered by `ingress` (0: the host's own).
    ToEndpoint {
        /// The veth.
        ifindex: u32,
        /// The device by which the packet entered.
        ingress: u32,
    },
    /// Egress of the uplink.
    ToUplink,
}

/// A way through a hook that a packet takes, and what holds for malformed ones on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// A sandbox to the world: translated, or dropped.
    World,
    /// A sandbox to its neighbour.
    Neighbour,
    /// A sandbox to a sandbox of another network: always dropped.
    OtherNetwork,
    /// A sandbox to its gateway: the host's business.
    Gateway,
    /// A sandbox to its own published port.
    Hairpin,
    /// From outside to a port of the host: never touched.
    HostService,
    /// From outside to a published port.
    Published,
    /// From outside to a sandbox's own address: never delivered.
    Direct,
    /// A sandbox's packet that the stack routes to an uplink: translated, or dropped.
    Leaving,
    /// A packet from outside that the stack routes to a sandbox: never delivered.
    Arriving,
}

impl Leg {
    /// Every leg.
    pub const ALL: [Self; 10] = [
        Self::World,
        Self::Neighbour,
        Self::OtherNetwork,
        Self::Gateway,
        Self::Hairpin,
        Self::HostService,
        Self::Published,
        Self::Direct,
        Self::Leaving,
        Self::Arriving,
    ];

    /// Where its packets are met.
    pub const fn hook(self) -> Hook {
        match self {
            Self::World | Self::Neighbour | Self::OtherNetwork | Self::Gateway | Self::Hairpin => {
                Hook::FromEndpoint(ifindex::A1)
            }
            Self::HostService | Self::Published | Self::Direct => Hook::FromUplink,
            Self::Leaving => Hook::ToUplink,
            Self::Arriving => Hook::ToEndpoint { ifindex: ifindex::A1, ingress: ifindex::UP0 },
        }
    }

    /// Builds its good packet; `number` tells flows apart.
    pub fn packet<F: Cast>(self, kind: Kind, number: u16) -> Wire<F::Addr> {
        let (from, sport, to, dport) = match self {
            Self::World | Self::Leaving => (Party::A1, 40_000, Party::Remote, 1000 + number),
            Self::Neighbour => (Party::A1, 40_000, Party::A2, 1000 + number),
            Self::OtherNetwork => (Party::A1, 40_000, Party::B1, 90),
            Self::Gateway => (Party::A1, 40_000, Party::GatewayA, 53),
            Self::Hairpin => (Party::A1, 40_000 + number, Party::Host, 8080),
            Self::HostService => (Party::Remote, 40_000 + number, Party::Host, 22),
            Self::Published => (Party::Remote, 40_000 + number, Party::Host, 8080),
            Self::Direct | Self::Arriving => (Party::Remote, 40_000 + number, Party::A1, 81),
        };
        Wire { from: mac(from), src: F::of(from), dst: F::of(to), sport, dport, kind, ttl: 64 }
    }
}

impl Case {
    /// Whether it applies to a family.
    pub fn applies<F: Cast>(&self) -> bool {
        if F::V6 { self.v6 } else { self.v4 }
    }

    /// Builds its frame for a leg; `number` tells flows apart.
    pub fn frame<F: Cast>(&self, leg: Leg, number: u16) -> Vec<u8> {
        self.spoilt(leg.packet::<F>(self.base, number).build::<F>(), F::V6)
    }

    /// Spoils a good frame, which carries eight bytes of payload at most.
    pub fn spoilt(&self, bytes: Vec<u8>, v6: bool) -> Vec<u8> {
        let mut frame = Frame { bytes, v6 };
        (self.spoil)(&mut frame);
        frame.bytes
    }
}

impl Frame {
    /// Where the transport header starts in a packet without options.
    fn l4(&self) -> usize {
        L3 + if self.v6 { 40 } else { 20 }
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Sets the length that the IP header gives, counted from its start.
    fn set_length(&mut self, length: usize) {
        let (at, value) = if self.v6 { (L3 + 4, length.saturating_sub(40)) } else { (L3 + 2, length) };
        self.set(at, &u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes());
        self.finish();
    }

    /// Lets the header's length follow the bytes.
    fn fit(&mut self) {
        self.set_length(self.bytes.len() - L3);
    }

    /// Recomputes IPv4's header checksum.
    fn finish(&mut self) {
        let header = usize::from(self.bytes[L3] & 0x0f) * 4;
        if self.v6 || header < 20 || self.bytes.len() < L3 + header {
            return;
        }
        self.set(L3 + 10, &[0, 0]);
        let sum = !crate::wire::csum::fold(crate::wire::csum::bytes(&self.bytes[L3..L3 + header]));
        self.set(L3 + 10, &sum.to_ne_bytes());
    }

    /// Inserts IPv4 options behind the fixed header.
    fn options(&mut self, options: &[u8]) {
        self.bytes.splice(L3 + 20..L3 + 20, options.iter().copied());
        self.bytes[L3] = 0x45 + u8::try_from(options.len() / 4).unwrap_or_default();
        self.fit();
    }

    /// Inserts IPv6 extension headers, whose own next-header bytes are to be set, in front of the transport header.
    fn extensions(&mut self, headers: &[(u8, Vec<u8>)]) {
        let transport = self.bytes[L3 + 6];
        let mut inserted = Vec::new();
        for (index, (_, bytes)) in headers.iter().enumerate() {
            let start = inserted.len();
            inserted.extend(bytes);
            inserted[start] = headers.get(index + 1).map_or(transport, |next| next.0);
        }
        self.bytes[L3 + 6] = headers.first().map_or(transport, |first| first.0);
        let at = self.l4();
        self.bytes.splice(at..at, inserted);
        self.fit();
    }

    /// Makes a fragment of it: the offset in units of eight bytes, whether more follow, and how many transport bytes it keeps.
    fn fragment(&mut self, offset: u16, more: bool, keep: usize) {
        let at = self.l4();
        self.bytes.truncate(at + keep);
        if self.v6 {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            self.extensions(&[(44, vec![0, 0, high, low, 0, 0, 0x12, 0x34])]);
        } else {
            let bits = offset | if more { 0x2000 } else { 0 };
            self.set(L3 + 6, &bits.to_be_bytes());
            self.fit();
        }
    }

    /// Replaces the transport part by an ICMP error (port unreachable) with this quote.
    fn error(&mut self, quote: &[u8]) {
        let (at, v6) = (self.l4(), self.v6);
        self.bytes.truncate(at);
        self.bytes.extend(if v6 { [1, 4] } else { [3, 3] });
        self.bytes.extend([0; 6]);
        self.bytes.extend(quote);
        self.set(if v6 { L3 + 6 } else { L3 + 9 }, &[if v6 { 58 } else { 1 }]);
        self.fit();
    }

    /// An IP packet as an error about this one would quote it: source and destination exchanged.
    fn quoted(&self) -> Vec<u8> {
        let mut quote = self.bytes[L3..].to_vec();
        let (at, length) = if self.v6 { (8, 16) } else { (12, 4) };
        let (first, second) = quote[at..at + 2 * length].split_at_mut(length);
        first.swap_with_slice(second);
        quote
    }
}

/// Collects cases.
struct Table(Vec<Case>);

impl Table {
    fn add(
        &mut self,
        base: Kind,
        (v4, v6): (bool, bool),
        fate: Fate,
        name: impl Into<String>,
        spoil: impl Fn(&mut Frame) + 'static,
    ) {
        self.0.push(Case { name: name.into(), base, v4, v6, fate, spoil: Box::new(spoil) });
    }
}

const BOTH: (bool, bool) = (true, true);
const V4: (bool, bool) = (true, false);
const V6: (bool, bool) = (false, true);
const OPENING: Kind = Kind::Tcp(SYN);

/// Returns every case.
pub fn cases() -> Vec<Case> {
    let mut table = Table(Vec::new());
    frames(&mut table);
    ipv4(&mut table);
    addresses(&mut table);
    transport(&mut table);
    errors(&mut table);
    fragments(&mut table);
    extensions(&mut table);
    protocols(&mut table);
    table.0
}

fn frames(table: &mut Table) {
    for length in (0..=14).chain([15, 20, 33]) {
        table.add(Kind::Udp, BOTH, Fate::Refused, format!("a frame of {length} bytes"), move |f| {
            f.bytes.truncate(length)
        });
    }
    for kept in [0, 1, 4, 7] {
        table.add(Kind::Udp, BOTH, Fate::Refused, format!("{kept} bytes of UDP"), move |f| {
            let at = f.l4();
            f.bytes.truncate(at + kept);
            f.fit();
        });
    }
    for kept in [0, 8, 13, 19] {
        table.add(OPENING, BOTH, Fate::Refused, format!("{kept} bytes of TCP"), move |f| {
            let at = f.l4();
            f.bytes.truncate(at + kept);
            f.fit();
        });
    }
    for version in [0, 5, 15] {
        table.add(Kind::Udp, BOTH, Fate::Refused, format!("version {version}"), move |f| {
            f.bytes[L3] = version << 4 | f.bytes[L3] & 0x0f;
        });
    }
    table.add(Kind::Udp, BOTH, Fate::Refused, "the other family's version", |f| {
        f.bytes[L3] = if f.v6 { 0x45 } else { 0x60 };
    });
}

fn ipv4(table: &mut Table) {
    for ihl in [0, 1, 4] {
        table.add(Kind::Udp, V4, Fate::Refused, format!("header length {ihl}"), move |f| {
            f.bytes[L3] = 0x40 | ihl
        });
    }
    table.add(Kind::Udp, V4, Fate::Refused, "header length 15 in a short frame", |f| f.bytes[L3] = 0x4f);
    for total in [1, 10, 19] {
        table
            .add(Kind::Udp, V4, Fate::Refused, format!("total length {total}"), move |f| f.set_length(total));
    }
    table.add(Kind::Udp, V4, Fate::Refused, "total length 0 without segmentation", |f| f.set_length(0));
    table.add(Kind::Udp, BOTH, Fate::Refused, "length of the header alone", |f| {
        let header = f.l4() - L3;
        f.set_length(header);
    });
    table.add(Kind::Udp, BOTH, Fate::Refused, "length that ends within the transport header", |f| {
        let header = f.l4() - L3;
        f.set_length(header + 4);
    });
    table.add(Kind::Udp, BOTH, Fate::Refused, "length beyond the frame", |f| {
        let length = f.bytes.len() - L3;
        f.set_length(length + 100);
    });
    table.add(OPENING, BOTH, Fate::Refused, "length beyond the frame, of TCP", |f| f.set_length(65_535));
    table.add(Kind::Udp, V4, Fate::Carried, "record route", |f| f.options(&[7, 7, 4, 0, 0, 0, 0, 0]));
    table.add(Kind::Udp, V4, Fate::Carried, "timestamp", |f| f.options(&[68, 8, 5, 0, 0, 0, 0, 0]));
    table.add(OPENING, V4, Fate::Carried, "eight bytes of nothing", |f| f.options(&[1; 8]));
    table.add(OPENING, V4, Fate::Refused, "forty bytes of nothing", |f| f.options(&[1; 40]));
    table.add(Kind::Udp, V4, Fate::Refused, "an option of length 0", |f| f.options(&[7, 0, 0, 0]));
    table.add(Kind::Udp, V4, Fate::Refused, "an option beyond the header", |f| f.options(&[7, 40, 4, 0]));
    for (kind, name) in [(131, "loose"), (137, "strict")] {
        table.add(OPENING, V4, Fate::Refused, format!("{name} source route"), move |f| {
            f.options(&[1, kind, 7, 4, 198, 51, 100, 9]);
        });
    }
    for ttl in [0, 1] {
        table.add(Kind::Udp, BOTH, Fate::Carried, format!("TTL {ttl}"), move |f| {
            f.bytes[L3 + if f.v6 { 7 } else { 8 }] = ttl;
            f.finish();
        });
    }
}

fn addresses(table: &mut Table) {
    table.add(OPENING, BOTH, Fate::Refused, "source like destination", |f| {
        let (at, length) = if f.v6 { (L3 + 8, 16) } else { (L3 + 12, 4) };
        let dst = f.bytes[at + length..at + 2 * length].to_vec();
        f.set(at, &dst);
        f.finish();
    });
    let sources: [(&str, [u8; 4], [u8; 16]); 3] = [
        ("unspecified", [0; 4], [0; 16]),
        ("loopback", [127, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ("multicast", [224, 0, 0, 1], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ];
    for (name, v4, v6) in sources {
        table.add(Kind::Udp, BOTH, Fate::Refused, format!("{name} source"), move |f| {
            if f.v6 {
                f.set(L3 + 8, &v6);
            } else {
                f.set(L3 + 12, &v4);
            }
            f.finish();
        });
    }
    let destinations: [(&str, [u8; 4], [u8; 16]); 2] = [
        ("everybody", [255; 4], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ("a group", [239, 1, 2, 3], [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]),
    ];
    for (name, v4, v6) in destinations {
        for base in [Kind::Udp, OPENING] {
            // A sandbox's stay on its bridge; from outside they are not for a published port.
            table.add(base, BOTH, Fate::Carried, format!("to {name}, {base:?}"), move |f| {
                if f.v6 {
                    f.set(L3 + 24, &v6);
                } else {
                    f.set(L3 + 16, &v4);
                }
                f.finish();
            });
        }
    }
}

fn transport(table: &mut Table) {
    for length in [0_u16, 7, 17, 1000, 65_535] {
        // The packet carries 16 bytes.
        table.add(Kind::Udp, BOTH, Fate::Refused, format!("UDP length {length}"), move |f| {
            let at = f.l4() + 4;
            f.set(at, &length.to_be_bytes());
        });
    }
    table.add(Kind::Udp, BOTH, Fate::Carried, "UDP checksum 0", |f| {
        let at = f.l4() + 6;
        f.set(at, &[0, 0]);
    });
    for words in [0, 4, 15] {
        table.add(OPENING, BOTH, Fate::Refused, format!("TCP header of {words} words"), move |f| {
            let at = f.l4() + 12;
            f.bytes[at] = words << 4;
        });
    }
    let all = 0xff;
    for (flags, name) in [
        (0, "none"),
        (all, "all"),
        (SYN | FIN, "SYN FIN"),
        (SYN | RST, "SYN RST"),
        (FIN, "FIN"),
        (SYN | ACK, "SYN ACK"),
    ] {
        table.add(OPENING, BOTH, Fate::Refused, format!("TCP flags: {name}"), move |f| {
            let at = f.l4() + 13;
            f.bytes[at] = flags;
        });
    }
    for (offset, name) in [(0, "source"), (2, "destination")] {
        for base in [OPENING, Kind::Udp] {
            table.add(base, BOTH, Fate::Carried, format!("{name} port 0, {base:?}"), move |f| {
                let at = f.l4() + offset;
                f.set(at, &[0, 0]);
            });
        }
    }
}

fn errors(table: &mut Table) {
    for length in [0, 1, 7] {
        table.add(
            Kind::Udp,
            BOTH,
            Fate::Refused,
            format!("ICMP error with {length} bytes inside"),
            move |f| f.error(&vec![0x45; length]),
        );
    }
    for cut in [1, 8, 12] {
        table.add(
            Kind::Udp,
            BOTH,
            Fate::Refused,
            format!("ICMP error, quote short of {cut} bytes"),
            move |f| {
                let quote = f.quoted();
                let header = f.l4() - L3;
                f.error(&quote[..header + 12 - cut]);
            },
        );
    }
    table.add(Kind::Udp, BOTH, Fate::Refused, "ICMP error about no flow", |f| {
        let quote = f.quoted();
        f.error(&quote);
    });
    table.add(Kind::Udp, V4, Fate::Refused, "ICMP error about a later fragment", |f| {
        let mut quote = f.quoted();
        quote[6..8].copy_from_slice(&100_u16.to_be_bytes());
        f.error(&quote);
    });
    table.add(Kind::Udp, V4, Fate::Refused, "ICMP error, options inside", |f| {
        let mut quote = f.quoted();
        quote[0] = 0x4f;
        f.error(&quote);
    });
    table.add(Kind::Udp, BOTH, Fate::Refused, "ICMP error about an ICMP error", |f| {
        f.error(&[]);
        let quote = f.quoted();
        f.error(&quote);
    });
    table.add(Kind::Udp, BOTH, Fate::Refused, "ICMP error about the other family", |f| {
        let mut quote = f.quoted();
        quote[0] = if f.v6 { 0x45 } else { 0x60 };
        f.error(&quote);
    });
}

fn fragments(table: &mut Table) {
    table.add(Kind::Udp, BOTH, Fate::Refused, "fragment at the last offset, and more", |f| {
        f.fragment(0x1fff, true, 8)
    });
    table.add(Kind::Udp, BOTH, Fate::Refused, "fragment beyond 65,535 bytes", |f| {
        f.fragment(0x1fff, false, 16)
    });
    table.add(Kind::Udp, BOTH, Fate::Refused, "later fragment without its first", |f| {
        f.fragment(100, false, 16)
    });
    table.add(OPENING, BOTH, Fate::Refused, "first fragment that splits the TCP header", |f| {
        f.fragment(0, true, 8)
    });
    table.add(OPENING, BOTH, Fate::Refused, "fragment at offset 1 of TCP", |f| f.fragment(1, false, 16));
    table
        .add(Kind::Udp, BOTH, Fate::Refused, "middle fragment of an odd length", |f| f.fragment(3, true, 13));
    table.add(Kind::Udp, BOTH, Fate::Refused, "fragment with nothing in it", |f| f.fragment(3, true, 0));
}

fn extensions(table: &mut Table) {
    let padded = || vec![0, 0, 1, 4, 0, 0, 0, 0];
    let hop_by_hop = move |count: usize| vec![(0_u8, padded()); count];
    table.add(Kind::Udp, V6, Fate::Carried, "hop-by-hop options", move |f| f.extensions(&hop_by_hop(1)));
    table.add(Kind::Udp, V6, Fate::Refused, "nine hop-by-hop options", move |f| f.extensions(&hop_by_hop(9)));
    table.add(Kind::Udp, V6, Fate::Carried, "three destination options", move |f| {
        f.extensions(&vec![(60, padded()); 3])
    });
    let routing = |kind: u8, left: u8| [&[0, 2, kind, left, 0, 0, 0, 0][..], &[0xfd; 16]].concat();
    table.add(Kind::Udp, V6, Fate::Refused, "routing header of type 0", move |f| {
        f.extensions(&[(43, routing(0, 1))])
    });
    table.add(OPENING, V6, Fate::Refused, "routing header on its way", move |f| {
        f.extensions(&[(43, routing(4, 1))])
    });
    table.add(Kind::Udp, V6, Fate::Refused, "extension header beyond the frame", |f| {
        f.extensions(&[(60, vec![0, 200, 1, 4, 0, 0, 0, 0])]);
    });
    table.add(Kind::Udp, V6, Fate::Refused, "extension header cut", |f| {
        f.bytes[L3 + 6] = 60;
        let at = f.l4();
        f.bytes.truncate(at + 5);
        f.fit();
    });
    table.add(Kind::Udp, V6, Fate::Carried, "atomic fragment", |f| {
        f.extensions(&[(44, vec![0, 0, 0, 0, 0, 0, 0, 7])])
    });
    table.add(Kind::Udp, V6, Fate::Carried, "fragment header with no next header", |f| {
        f.extensions(&[(44, vec![0, 0, 0, 0, 0, 0, 0, 7])]);
        let at = f.l4();
        f.bytes[at] = 59;
    });
    table.add(Kind::Udp, V6, Fate::Carried, "authentication header", |f| {
        f.extensions(&[(51, [&[0, 4][..], &[0; 22]].concat())]);
    });
    table.add(Kind::Udp, V6, Fate::Refused, "jumbo payload", |f| {
        f.extensions(&[(0, vec![0, 0, 0xc2, 4, 0, 1, 0, 0])]);
        f.set(L3 + 4, &[0, 0]);
    });
}

fn protocols(table: &mut Table) {
    let numbers = [
        (47, "GRE"),
        (4, "IPIP"),
        (41, "IPv6 in IP"),
        (50, "ESP"),
        (132, "SCTP"),
        (33, "DCCP"),
        (136, "UDP-Lite"),
        (59, "no next header"),
        (255, "protocol 255"),
    ];
    for (number, name) in numbers {
        table.add(Kind::Other(number), BOTH, Fate::Carried, name, |_| {});
    }
    table.add(Kind::Other(6), BOTH, Fate::Refused, "TCP of eight bytes", |_| {});
    table.add(Kind::Other(1), V6, Fate::Carried, "ICMP in IPv6", |_| {});
    table.add(Kind::Other(58), V4, Fate::Carried, "ICMPv6 in IPv4", |_| {});
}
