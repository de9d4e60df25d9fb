//! I1: interfaces, addresses and routes inside sandboxes.

use std::{collections::BTreeSet, path::PathBuf};

use super::{Findings, I1, host::Host};
use crate::{
    controller::{
        Error,
        linux::endpoint::open,
        object::{Gateway, Inside, Object, Veth},
        sources::SourceRoutes,
    },
    link::{HostAddress, HostLink, HostRoute, Links, MAIN, Scope, SourceRoute},
    model::{IfName, Netns},
};

/// The sandbox that was looked into last: the next step often goes there too.
#[derive(Default)]
pub struct Rooms(Option<Room>);

/// A sandbox's namespace as the kernel tells it.
struct Room {
    path: PathBuf,
    links: Vec<HostLink>,
    addresses: Vec<HostAddress>,
    routes: Vec<HostRoute>,
    sources: Vec<SourceRoute>,
}

impl Room {
    async fn enter(netns: &Netns) -> Result<Self, Error> {
        let kernel = Links::open_in(&open(netns)?).await?;
        Ok(Self {
            path: netns.path.clone(),
            links: kernel.links().await?,
            addresses: kernel.addresses(None).await?,
            routes: kernel.routes_elsewhere().await?,
            sources: kernel.source_routes().await?,
        })
    }

    fn link(&self, ifname: &IfName) -> Option<&HostLink> {
        self.links.iter().find(|link| link.name == ifname.as_str())
    }

    fn name(&self, ifindex: u32) -> &str {
        self.links.iter().find(|link| link.ifindex == ifindex).map_or("?", |link| &link.name)
    }

    /// Names an interface for people.
    fn of(&self, ifname: impl std::fmt::Display) -> String {
        format!("{ifname} in {}", self.path.display())
    }
}

impl Rooms {
    async fn enter(&mut self, netns: &Netns) -> Result<&Room, Error> {
        let room = match self.0.take().filter(|room| room.path == netns.path) {
            Some(room) => room,
            None => Room::enter(netns).await?,
        };
        Ok(self.0.insert(room))
    }

    /// Looks at the sandbox side of an endpoint, the other end of its host side.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub async fn pair(&mut self, veth: &Veth, host: &Host, findings: &mut Findings) -> Result<(), Error> {
        let room = self.enter(&veth.netns).await?;
        let Some(link) = room.link(&veth.inside) else {
            findings.add(I1, format!("interface {}", room.of(&veth.inside)), "missing");
            return Ok(());
        };
        let object = format!("interface {}", room.of(&veth.inside));
        let host_side = host.link(&veth.host);
        if let Some(side) = host_side
            && (link.lower != Some(side.ifindex) || side.lower != Some(link.ifindex))
        {
            findings.add(I1, &object, format!("it is not the other end of {}", veth.host));
        }
        if link.mac != Some(veth.mac) {
            let found = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            findings.add(I1, &object, format!("its MAC is {found}, not {}", veth.mac));
        }
        Ok(())
    }

    /// Looks at what a sandbox has of addresses and routes.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub async fn check(
        &mut self,
        object: &Object,
        removed: bool,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        match object {
            Object::Inside(inside) => self.enter(&inside.netns).await?.inside(inside, findings),
            Object::Gateway(gateway) => self.enter(&gateway.netns).await?.gateway(gateway, findings),
            Object::SourceRoutes(routes) => {
                let room = self.enter(&routes.netns).await?;
                // Of one that has none to have, an empty list is wanted.
                room.sources(routes, removed, findings);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Room {
    fn inside(&self, inside: &Inside, findings: &mut Findings) {
        let Some(link) = self.link(&inside.ifname) else { return }; // noted with its pair
        let object = format!("interface {}", self.of(&inside.ifname));
        if !link.up {
            findings.add(I1, &object, "it is down");
        }
        if link.mtu != inside.mtu {
            findings.add(I1, &object, format!("its MTU is {}, not {}", link.mtu, inside.mtu));
        }
        let wanted: BTreeSet<_> = inside.addresses.iter().copied().collect();
        let own = |address: &&HostAddress| {
            address.ifindex == link.ifindex
                && (address.scope == Scope::Global || wanted.contains(&address.net))
        };
        let found = self.addresses.iter().filter(own).map(|address| address.net).collect();
        let name = |net: &ipnet::IpNet| format!("address {net} of {}", self.of(&inside.ifname));
        findings.same(I1, name, &wanted, &found);
    }

    fn gateway(&self, gateway: &Gateway, findings: &mut Findings) {
        let ways = [
            gateway.ipv4.as_ref().map(|(ip, ifname)| (std::net::IpAddr::V4(*ip), ifname)),
            gateway.ipv6.as_ref().map(|(ip, ifname)| (std::net::IpAddr::V6(*ip), ifname)),
        ];
        for (ip, ifname) in ways.into_iter().flatten() {
            let of_family = |route: &&HostRoute| {
                route.is_default() && route.table == MAIN && route.dst.addr().is_ipv4() == ip.is_ipv4()
            };
            let index = self.link(ifname).map(|link| link.ifindex);
            let same = |route: &HostRoute| route.gateway == Some(ip) && route.oif == index;
            let object = format!("default route by {ip} and {}", self.of(ifname));
            let mut found = self.routes.iter().filter(of_family).peekable();
            if found.peek().is_none() {
                findings.add(I1, object, "missing");
            } else if let Some(other) = found.find(|route| !same(route)) {
                let way = other.gateway.map_or_else(|| "a link".to_owned(), |ip| ip.to_string());
                let by = self.name(other.oif.unwrap_or(0));
                findings.add(I1, object, format!("it leads to {way} by {by}"));
            }
        }
    }

    fn sources(&self, routes: &SourceRoutes, removed: bool, findings: &mut Findings) {
        let way = |source, gateway, ifname: &str| format!("{source} by {gateway} and {}", self.of(ifname));
        let wanted: BTreeSet<String> = routes
            .routes
            .iter()
            .filter(|_| !removed)
            .map(|route| way(route.source, route.gateway, route.ifname.as_str()))
            .collect();
        let found =
            self.sources.iter().map(|route| way(route.source, route.gateway, self.name(route.ifindex)));
        findings.same(I1, |way| format!("default route of {way}"), &wanted, &found.collect());
    }
}
