//! Routes to the subnets of a link's own addresses. The kernel makes them with the addresses; others may remove them alone.

use ipnet::IpNet;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::{Error, Links, MAIN, Mode, route::family};

/// What the kernel itself gives routes to IPv6 subnets (`IP6_RT_PRIO_ADDRCONF`, `linux/ipv6_route.h`).
const ADDRCONF: u32 = 256;

impl Links {
    /// Puts back the routes to the subnets of these addresses of a link; returns the subnets to which there was none. A link that is off has none, and
    /// what another route leads to is left to it.
    ///
    /// # Errors
    /// The kernel's refusal, with the subnet.
    pub async fn ensure_connected(&self, ifindex: u32, addresses: &[IpNet]) -> Result<Vec<IpNet>, Error> {
        let mut missing = Vec::new();
        for address in addresses.iter().filter(|net| net.prefix_len() < net.max_prefix_len()) {
            let subnet = address.trunc();
            let doing = format!("put back the route to {subnet} by interface {ifindex}");
            let message = RouteNetlinkMessage::NewRoute(connected(ifindex, address));
            match self.socket.send(&doing, Mode::Create, message).await {
                Ok(()) => missing.push(subnet),
                Err(error) if error.is_exists() || error.errno() == Some(libc::ENETDOWN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }
}

/// Builds the route that the kernel makes for an address, and takes away with it.
fn connected(ifindex: u32, address: &IpNet) -> RouteMessage {
    let ipv6 = address.addr().is_ipv6();
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(ipv6),
        destination_prefix_length: address.prefix_len(),
        protocol: RouteProtocol::Kernel,
        scope: if ipv6 { RouteScope::Universe } else { RouteScope::Link },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(address.network().into()),
        RouteAttribute::Oif(ifindex),
        RouteAttribute::Table(MAIN),
        if ipv6 {
            RouteAttribute::Priority(ADDRCONF)
        } else {
            RouteAttribute::PrefSource(address.addr().into())
        },
    ];
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::{in_new_netns, ip};

    fn routes() -> [String; 2] {
        ["-4", "-6"].map(|family| ip(&format!("{family} route show dev br0")))
    }

    #[test]
    fn a_route_that_is_gone_comes_back_as_the_kernel_made_it_and_goes_with_its_address() {
        in_new_netns(async || {
            let links = Links::open().await.expect("socket");
            ip("link add br0 type bridge");
            ip("link set br0 up");
            let addresses = ["10.7.0.1/16", "fd00:7::1/64", "10.8.0.1/32"];
            for address in addresses {
                ip(&format!("address add {address} dev br0 nodad"));
            }
            let nets: Vec<IpNet> = addresses.iter().map(|net| net.parse().expect("valid")).collect();
            let index =
                ip("-o link show br0").split(':').next().and_then(|n| n.parse().ok()).expect("an index");
            let before = routes();
            assert!(links.ensure_connected(index, &nets).await.expect("there").is_empty());
            assert_eq!(routes(), before, "nothing is added");
            ip("route del 10.7.0.0/16 dev br0");
            ip("-6 route del fd00:7::/64 dev br0");
            assert_ne!(routes(), before, "they are gone");
            let subnets = ["10.7.0.0/16", "fd00:7::/64"].map(|net| net.parse::<IpNet>().expect("valid"));
            assert_eq!(links.ensure_connected(index, &nets).await.expect("put back"), subnets);
            assert_eq!(routes(), before);
            for address in addresses {
                ip(&format!("address del {address} dev br0"));
            }
            assert!(!routes().concat().contains('7'), "{:?}", routes());
            // Off, it has none, and that is no error.
            ip("link set br0 down");
            assert!(links.ensure_connected(index, &nets[..1]).await.expect("later").is_empty());
        });
    }
}
