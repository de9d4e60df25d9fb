//! Two remote hosts, a host under test between them, real links: the topology of the truth table
//! (Docker semantics 5.2, modelled on moby `integration/internal/testutils/networking/l3_segment_linux.go`).
//!
//! ```text
//! R eth0 10.0.0.3 fd00:a::3 ── eth0 10.0.0.2 fd00:a::2 H eth1 10.0.1.2 fd00:b::2 ── eth0 10.0.1.3 fd00:b::3 R2
//! ```
//! `R` and `R2` route the sandboxes' subnets via `H`, as an attacker on the same segment would. `H` forwards, as a Docker host does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Ns;

/// IPv4 or IPv6, to run one test body for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Internet Protocol version 4.
    V4,
    /// Internet Protocol version 6.
    V6,
}

impl Family {
    /// Both, in the order in which tests go through them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The loopback address.
    pub const fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }

    /// The wildcard address.
    pub const fn any(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// The pair of addresses of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    /// The address of a family.
    pub const fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }
}

/// The remote host on `H`'s first uplink.
pub const R: Host = Host { v4: Ipv4Addr::new(10, 0, 0, 3), v6: Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 3) };
/// The host under test, on its first uplink `eth0`.
pub const H: Host = Host { v4: Ipv4Addr::new(10, 0, 0, 2), v6: Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 2) };
/// The host under test, on its second uplink `eth1`.
pub const H1: Host =
    Host { v4: Ipv4Addr::new(10, 0, 1, 2), v6: Ipv6Addr::new(0xfd00, 0xb, 0, 0, 0, 0, 0, 2) };
/// The remote host on `H`'s second uplink.
pub const R2: Host =
    Host { v4: Ipv4Addr::new(10, 0, 1, 3), v6: Ipv6Addr::new(0xfd00, 0xb, 0, 0, 0, 0, 0, 3) };

/// The namespaces of `R`, `H` and `R2`, connected and configured.
#[derive(Debug)]
pub struct Topology {
    /// The remote host on the first uplink.
    pub r: Ns,
    /// The host under test.
    pub h: Ns,
    /// The remote host on the second uplink.
    pub r2: Ns,
}

impl Topology {
    /// Builds the three hosts; `H` forwards both families.
    pub fn new() -> Self {
        let (r, h, r2) = (Ns::new("R"), Ns::new("H"), Ns::new("R2"));
        h.connect("eth0", &r, "eth0");
        h.connect("eth1", &r2, "eth0");
        for (ns, dev, host) in [(&r, "eth0", R), (&h, "eth0", H), (&h, "eth1", H1), (&r2, "eth0", R2)] {
            ns.ip_batch(&format!(
                "addr add {}/24 dev {dev}\naddr add {}/64 dev {dev} nodad",
                host.v4, host.v6
            ));
        }
        for (remote, via, far4, far6) in
            [(&r, H, "10.0.1.0/24", "fd00:b::/64"), (&r2, H1, "10.0.0.0/24", "fd00:a::/64")]
        {
            for subnet in ["172.16.0.0/12", "192.168.0.0/16", far4] {
                remote.ip_batch(&format!("route add {subnet} via {}", via.v4));
            }
            for subnet in ["fd00:c::/32", far6] {
                remote.ip_batch(&format!("route add {subnet} via {}", via.v6));
            }
        }
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            h.sysctl(key, "1");
        }
        // What H does on its own interfaces is netd's business and the kernel's: no help from here on.
        h.sysctl("net/ipv6/conf/all/accept_dad", "1");
        h.sysctl("net/ipv6/conf/default/accept_dad", "1");
        Self { r, h, r2 }
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}
