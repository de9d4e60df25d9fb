//! A far host, two routers beyond the host under test, with a narrow link on the way: for errors about packets in flight.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Host, Lab, Ns, Options, Packet, Topology};

/// The far host, two routers beyond `H`: H — R — Y — X, with a narrow link between R and Y.
pub const X: Host = Host { v4: Ipv4Addr::new(10, 0, 9, 3), v6: Ipv6Addr::new(0xfd00, 0xa, 9, 0, 0, 0, 0, 3) };

/// Builds a lab with Y and X behind R; the second value keeps the two alive.
pub fn lab_with_a_far_host(narrow: u32) -> (Lab, [Ns; 2]) {
    let topology = Topology::new();
    let (y, x) = (Ns::new("Y"), Ns::new("X"));
    topology.r.connect("eth1", &y, "eth0");
    y.connect("eth1", &x, "eth0");
    let addresses = [
        (&topology.r, "eth1", "10.0.8.2", "fd00:a:8::2"),
        (&y, "eth0", "10.0.8.3", "fd00:a:8::3"),
        (&y, "eth1", "10.0.9.2", "fd00:a:9::2"),
        (&x, "eth0", "10.0.9.3", "fd00:a:9::3"),
    ];
    for (ns, dev, v4, v6) in addresses {
        ns.ip_batch(&format!("addr add {v4}/24 dev {dev}\naddr add {v6}/64 dev {dev} nodad"));
    }
    topology.r.ip_batch(&format!("link set eth1 mtu {narrow}"));
    y.ip_batch(&format!("link set eth0 mtu {narrow}"));
    topology.h.ip_batch("route add 10.0.8.0/23 via 10.0.0.3\nroute add fd00:a:8::/47 via fd00:a::3");
    topology.r.ip_batch("route add 10.0.9.0/24 via 10.0.8.3\nroute add fd00:a:9::/64 via fd00:a:8::3");
    y.ip_batch("route add default via 10.0.8.2\nroute add default via fd00:a:8::2");
    x.ip_batch("route add default via 10.0.9.2\nroute add default via fd00:a:9::2");
    for router in [&topology.r, &y] {
        router.sysctl("net/ipv4/ip_forward", "1");
        router.sysctl("net/ipv6/conf/all/forwarding", "1");
    }
    (Lab::on(topology, &Options::default()), [y, x])
}

/// An ICMP error's type and the source and destination of the packet it quotes.
pub fn quoted(packet: &Packet) -> Option<(u8, IpAddr, IpAddr)> {
    let (at, v6) = match packet.proto? {
        1 => (14 + 20, false),
        58 => (14 + 40, true),
        _ => return None,
    };
    let (kind, inner) = (*packet.bytes.get(at)?, packet.bytes.get(at + 8..)?);
    if v6 {
        let address = |range| Some(IpAddr::from(<[u8; 16]>::try_from(inner.get(range)?).ok()?));
        Some((kind, address(8..24)?, address(24..40)?))
    } else {
        let address = |range| Some(IpAddr::from(<[u8; 4]>::try_from(inner.get(range)?).ok()?));
        Some((kind, address(12..16)?, address(16..20)?))
    }
}
