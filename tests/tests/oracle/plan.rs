//! What both worlds look like: the same networks, sandboxes, addresses and published ports, built once by netd and once by the kernel's means.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netd_tests::{Family, H, H1, R, R2};

/// A place where frames are sent and seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edge {
    /// The machine on the first uplink, and all beyond it.
    R,
    /// The machine on the second uplink, and all beyond it.
    R2,
    /// Two sandboxes of one network.
    A1,
    /// Its neighbour.
    A2,
    /// A sandbox of another network.
    B1,
    /// Two sandboxes that may not talk to each other.
    C1,
    /// Its neighbour.
    C2,
    /// A sandbox of an internal network.
    I1,
    /// A sandbox of an unprotected network: every port of it is reached directly.
    U1,
    /// A sandbox of a routed network: its published ports are reached directly, and its own address shows.
    T1,
    /// Two sandboxes of an isolated network, in which the host has no address.
    S1,
    /// Its neighbour.
    S2,
    /// A sandbox of a network that is not masqueraded.
    M1,
    /// A sandbox of a network that trusts the host's first uplink.
    X1,
}

/// Who reaches a sandbox by its own address (Docker's gateway modes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody beyond the network, but for an uplink it trusts.
    Nat,
    /// Everybody, every port.
    Unprotected,
    /// Everybody, published ports; what leaves is not translated.
    Routed,
    /// Nobody, the host neither.
    Isolated,
}

/// An address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// Of the first uplink.
    Uplink,
    /// Of the second uplink.
    Uplink2,
    /// The gateway of `A1` and `A2`.
    GatewayA,
    /// The gateway of `B1`.
    GatewayB,
    /// The gateway of `U1`.
    GatewayU,
    /// Loopback.
    Loopback,
}

/// A bridge network.
#[expect(clippy::struct_excessive_bools, reason = "options that are independent of each other")]
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Its name.
    pub name: &'static str,
    /// The third byte of its subnet, `172.N.0.0/24` and `fd00:c:N::/64`.
    pub number: u8,
    /// Whether its sandboxes may talk to each other.
    pub icc: bool,
    /// Whether it has no way out.
    pub internal: bool,
    /// Who reaches its sandboxes directly.
    pub mode: Mode,
    /// Whether what leaves it gets an address of the host.
    pub masquerade: bool,
    /// Whether it trusts the first uplink.
    pub trusts: bool,
}

/// A published port, TCP and UDP.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The sandbox.
    pub edge: Edge,
    /// The host's address; none: every address.
    pub address: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: u16,
    /// The sandbox's port.
    pub port: u16,
}

/// A network with nothing special.
const PLAIN: Network = Network {
    name: "netA",
    number: 20,
    icc: true,
    internal: false,
    mode: Mode::Nat,
    masquerade: true,
    trusts: false,
};

/// The networks.
pub const NETWORKS: [Network; 9] = [
    PLAIN,
    Network { name: "netB", number: 21, ..PLAIN },
    Network { name: "netC", number: 22, icc: false, ..PLAIN },
    Network { name: "netI", number: 23, internal: true, ..PLAIN },
    Network { name: "netS", number: 24, internal: true, mode: Mode::Isolated, ..PLAIN },
    Network { name: "netU", number: 25, mode: Mode::Unprotected, ..PLAIN },
    Network { name: "netT", number: 26, mode: Mode::Routed, masquerade: false, ..PLAIN },
    Network { name: "netX", number: 27, trusts: true, ..PLAIN },
    Network { name: "netM", number: 28, masquerade: false, ..PLAIN },
];

/// The published ports. The routed sandbox's are opened on its own address alone.
pub const PUBLISHES: [Published; 9] = [
    Published { edge: Edge::A1, address: None, host_port: 8080, port: 80 },
    Published { edge: Edge::B1, address: None, host_port: 9090, port: 90 },
    Published { edge: Edge::C1, address: None, host_port: 7070, port: 70 },
    Published { edge: Edge::A1, address: Some(Ipv4Addr::LOCALHOST), host_port: 6060, port: 60 },
    Published { edge: Edge::A2, address: Some(H1.v4), host_port: 5050, port: 50 },
    Published { edge: Edge::U1, address: None, host_port: 5151, port: 80 },
    Published { edge: Edge::T1, address: None, host_port: 8181, port: 80 },
    Published { edge: Edge::X1, address: None, host_port: 3030, port: 80 },
    Published { edge: Edge::M1, address: None, host_port: 4040, port: 80 },
];

/// Ports of the host itself that sequences dial: nobody publishes or serves them.
pub const UNPUBLISHED: u16 = 8081;

impl Edge {
    /// The sandboxes, in the order in which they are made.
    pub const SANDBOXES: [Self; 12] = [
        Self::A1,
        Self::A2,
        Self::B1,
        Self::C1,
        Self::C2,
        Self::I1,
        Self::U1,
        Self::T1,
        Self::S1,
        Self::S2,
        Self::M1,
        Self::X1,
    ];

    /// Whether it is outside the host.
    pub const fn is_remote(self) -> bool {
        matches!(self, Self::R | Self::R2)
    }

    /// Its name, which is that of the sandbox.
    pub const fn name(self) -> &'static str {
        match self {
            Self::R => "R",
            Self::R2 => "R2",
            Self::A1 => "a1",
            Self::A2 => "a2",
            Self::B1 => "b1",
            Self::C1 => "c1",
            Self::C2 => "c2",
            Self::I1 => "i1",
            Self::U1 => "u1",
            Self::T1 => "t1",
            Self::S1 => "s1",
            Self::S2 => "s2",
            Self::M1 => "m1",
            Self::X1 => "x1",
        }
    }

    /// The network of a sandbox, and its number in there.
    pub const fn place(self) -> Option<(Network, u8)> {
        match self {
            Self::R | Self::R2 => None,
            Self::A1 => Some((NETWORKS[0], 2)),
            Self::A2 => Some((NETWORKS[0], 3)),
            Self::B1 => Some((NETWORKS[1], 2)),
            Self::C1 => Some((NETWORKS[2], 2)),
            Self::C2 => Some((NETWORKS[2], 3)),
            Self::I1 => Some((NETWORKS[3], 2)),
            Self::S1 => Some((NETWORKS[4], 2)),
            Self::S2 => Some((NETWORKS[4], 3)),
            Self::U1 => Some((NETWORKS[5], 2)),
            Self::T1 => Some((NETWORKS[6], 2)),
            Self::X1 => Some((NETWORKS[7], 2)),
            Self::M1 => Some((NETWORKS[8], 2)),
        }
    }

    /// Whether two sandboxes share a bridge.
    pub fn is_neighbour_of(self, other: Self) -> bool {
        matches!((self.place(), other.place()), (Some((a, _)), Some((b, _))) if a.number == b.number)
    }

    /// Its address: the sandbox's, or that of the machine on the uplink.
    pub fn ip(self, family: Family) -> IpAddr {
        match self {
            Self::R => R.ip(family),
            Self::R2 => R2.ip(family),
            _ => self.place().map_or(family.any(), |(network, host)| network.ip(family, host)),
        }
    }

    /// The address of the machine beyond the uplink with which one sequence alone talks.
    pub fn stranger(self, family: Family, run: u16) -> IpAddr {
        let (four, six) = if self == Self::R { (18, 0x18) } else { (19, 0x19) };
        let [high, low] = run.to_be_bytes();
        match family {
            Family::V4 => Ipv4Addr::new(198, four, high, low).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, six, 0, 0, 0, 0, run).into(),
        }
    }

    /// Which run of a sequence the address of a stranger belongs to.
    pub fn run_of(address: IpAddr) -> Option<u16> {
        match address {
            IpAddr::V4(v4) => match v4.octets() {
                [198, 18 | 19, high, low] => Some(u16::from_be_bytes([high, low])),
                _ => None,
            },
            IpAddr::V6(v6) => match v6.segments() {
                [0x2001, 0xdb8, 0x18 | 0x19, 0, 0, 0, 0, run] => Some(run),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Published {
    /// Whether a port of the host leads to it; a routed sandbox's is open on its own address alone.
    pub fn is_on_host(&self) -> bool {
        self.edge.place().is_some_and(|(network, _)| network.publishes_on_host())
    }
}

impl HostAddress {
    /// The address itself.
    pub fn ip(self, family: Family) -> IpAddr {
        match self {
            Self::Uplink => H.ip(family),
            Self::Uplink2 => H1.ip(family),
            Self::GatewayA => NETWORKS[0].ip(family, 1),
            Self::GatewayB => NETWORKS[1].ip(family, 1),
            Self::GatewayU => NETWORKS[5].ip(family, 1),
            Self::Loopback => family.loopback(),
        }
    }
}

impl Network {
    /// Whether the host has an address in it.
    pub fn has_gateway(self) -> bool {
        self.mode != Mode::Isolated
    }

    /// Whether addresses of its sandboxes may show outside.
    pub fn shows(self) -> bool {
        !self.masquerade || self.mode == Mode::Unprotected || self.trusts
    }

    /// Whether ports of the host lead to it.
    pub fn publishes_on_host(self) -> bool {
        self.mode != Mode::Routed
    }

    /// An address in its subnet; 1 is the gateway.
    pub fn ip(self, family: Family, host: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(172, self.number, 0, host).into(),
            // The lab writes the number in decimal digits: fd00:c:20::2.
            Family::V6 => format!("fd00:c:{}::{host:x}", self.number).parse().expect("an address"),
        }
    }

    /// Its subnet.
    pub fn subnet(self, family: Family) -> String {
        match family {
            Family::V4 => format!("172.{}.0.0/24", self.number),
            Family::V6 => format!("fd00:c:{}::/64", self.number),
        }
    }
}

/// Whether the host has the address.
pub fn is_host(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    let uplinks = [H.ip(family), H1.ip(family)];
    uplinks.contains(&address)
        || NETWORKS.iter().any(|network| network.has_gateway() && network.ip(family, 1) == address)
}

/// Whether a port of the host is one that sequences dial: it means the same in both worlds.
pub fn is_dialled(port: u16) -> bool {
    port == UNPUBLISHED || PUBLISHES.iter().any(|publish| publish.host_port == port)
}
