//! A host that both uplinks lead to: for everything that chooses among ways.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Family, Host, Ns, Proto, Server, Topology, at};

/// A host behind both `R` and `R2`, so that either uplink leads to it.
pub const X: Host =
    Host { v4: Ipv4Addr::new(198, 51, 100, 3), v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 3) };

/// Builds `X` behind both; it answers to `10.0.0.0/24` by `R` and to `10.0.1.0/24` by `R2`. `H` has no default route yet.
pub fn two_ways() -> (Topology, Ns) {
    let topology = Topology::new();
    let x = Ns::new("X");
    for (router, ifname, net) in [(&topology.r, "eth0", 8), (&topology.r2, "eth1", 9)] {
        router.connect("far", &x, ifname);
        router.ip_batch(&format!(
            "addr add 10.0.{net}.2/24 dev far\naddr add fd00:a:{net}::2/64 dev far nodad"
        ));
        x.ip_batch(&format!(
            "addr add 10.0.{net}.3/24 dev {ifname}\naddr add fd00:a:{net}::3/64 dev {ifname} nodad"
        ));
        router.ip_batch(&format!(
            "route add {} via 10.0.{net}.3\nroute add {} via fd00:a:{net}::3",
            X.v4, X.v6
        ));
        router.sysctl("net/ipv4/ip_forward", "1");
        router.sysctl("net/ipv6/conf/all/forwarding", "1");
    }
    x.ip_batch(&format!("addr add {}/32 dev lo\naddr add {}/128 dev lo nodad", X.v4, X.v6));
    x.ip_batch("route add 10.0.0.0/24 via 10.0.8.2\nroute add 10.0.1.0/24 via 10.0.9.2");
    x.ip_batch("route add fd00:a::/64 via fd00:a:8::2\nroute add fd00:b::/64 via fd00:a:9::2");
    (topology, x)
}

/// Serves `X` at its own address.
pub fn serve(x: &Ns) -> Server {
    let both = |family: Family| Proto::BOTH.map(|proto| (proto, at(X.ip(family), 80)));
    Server::bind(x, &Family::BOTH.map(both).concat())
}

/// Makes a router the way to everywhere.
pub fn default_by(h: &Ns, router: &Host) {
    h.ip_batch(&format!("route replace default via {}\nroute replace default via {}", router.v4, router.v6));
}
