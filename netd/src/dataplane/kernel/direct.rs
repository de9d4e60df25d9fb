//! Who may address whom directly, in the maps: gateway modes, open ports, links.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netd_common::{
    maps::{LinkKey, Open, PublishKey, endpoint_flags as flag},
    net::{Addr4, Addr6, Be16},
    wire::l4,
};

use super::{
    super::{Error, LinkEntry, NetworkEntry, OpenEntry},
    Kernel,
    ports::protocol,
};
use crate::model::{GatewayMode, Protocol, Sources};

/// Returns the flags that a network's endpoints inherit.
pub(super) fn flags(network: &NetworkEntry) -> u32 {
    let modes = [
        (network.gateway_mode_ipv4, flag::MASQUERADE4, flag::ROUTED4, flag::UNPROTECTED4),
        (network.gateway_mode_ipv6, flag::MASQUERADE6, flag::ROUTED6, flag::UNPROTECTED6),
    ];
    let mut flags = 0;
    let mut set = |on: bool, flag: u32| flags |= if on { flag } else { 0 };
    set(network.icc, flag::ICC);
    // A link says something only where neighbours may not talk.
    set(!network.icc, flag::LINKS);
    set(network.internal, flag::INTERNAL);
    set(network.trusts, flag::TRUSTS);
    set(network.host_closed, flag::HOST_CLOSED);
    for (mode, masquerade, routed, unprotected) in modes {
        set(network.masquerade && mode != GatewayMode::Routed, masquerade);
        set(mode == GatewayMode::Routed, routed);
        set(mode == GatewayMode::NatUnprotected, unprotected);
    }
    flags
}

impl Kernel {
    /// Opens ports on endpoints' own addresses.
    pub(super) fn open_ports(&mut self, entries: &[OpenEntry]) -> Result<(), Error> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for entry in entries {
            let open = Open { ifindex: entry.ifindex, allow: self.list_of(&entry.allow)? };
            match entry.ip {
                IpAddr::V4(ip) => v4.push((key(Addr4::from(ip), entry), open)),
                IpAddr::V6(ip) => v6.push((key(Addr6::from(ip), entry), open)),
            }
        }
        self.maps.v4.open.put_many(&v4)?;
        self.maps.v6.open.put_many(&v6)
    }

    /// Closes ports. What a client keeps sending by UDP ends at once.
    pub(super) fn close_ports(&mut self, entries: &[OpenEntry]) -> Result<(), Error> {
        for entry in entries {
            match entry.ip {
                IpAddr::V4(ip) => self.maps.v4.open.remove(&key(Addr4::from(ip), entry))?,
                IpAddr::V6(ip) => self.maps.v6.open.remove(&key(Addr6::from(ip), entry))?,
            }
        }
        if entries.iter().any(|entry| !entry.allow.is_everybody()) {
            self.forget_lists()?;
        }
        let udp = entries.iter().filter(|entry| entry.protocol == Protocol::Udp);
        let udp: HashSet<(IpAddr, u16)> = udp.map(|entry| (entry.ip, entry.port)).collect();
        if udp.is_empty() {
            return Ok(());
        }
        self.end_flows(|flow| flow.proto == l4::UDP && flow.to_sandbox && udp.contains(&flow.host)).map(drop)
    }

    /// Lists the open ports.
    pub(super) fn open_entries(&self) -> Result<Vec<OpenEntry>, Error> {
        let mut all = Vec::new();
        for (key, open) in self.maps.v4.open.entries()? {
            all.extend(opened(Ipv4Addr::from(key.addr).into(), key.port, key.proto, open));
        }
        for (key, open) in self.maps.v6.open.entries()? {
            all.extend(opened(Ipv6Addr::from(key.addr).into(), key.port, key.proto, open));
        }
        Ok(all)
    }

    /// Opens ports between linked endpoints.
    pub(super) fn link_ports(&mut self, entries: &[LinkEntry]) -> Result<(), Error> {
        entries.iter().try_for_each(|entry| match link_key(entry) {
            Some(Either::V4(key)) => self.maps.v4.link.put(&key, &1),
            Some(Either::V6(key)) => self.maps.v6.link.put(&key, &1),
            None => Ok(()),
        })
    }

    /// Closes them. What one keeps sending to the other by UDP ends at once.
    pub(super) fn unlink_ports(&mut self, entries: &[LinkEntry]) -> Result<(), Error> {
        for entry in entries {
            match link_key(entry) {
                Some(Either::V4(key)) => self.maps.v4.link.remove(&key)?,
                Some(Either::V6(key)) => self.maps.v6.link.remove(&key)?,
                None => {}
            }
        }
        let udp = entries.iter().filter(|entry| entry.protocol == Protocol::Udp);
        let udp: HashSet<(IpAddr, (IpAddr, u16))> =
            udp.map(|entry| (entry.from, (entry.to, entry.port))).collect();
        if udp.is_empty() {
            return Ok(());
        }
        self.end_flows(|flow| flow.proto == l4::UDP && udp.contains(&(flow.opener, flow.host))).map(drop)
    }

    /// Lists the ports that links open.
    pub(super) fn link_entries(&self) -> Result<Vec<LinkEntry>, Error> {
        let mut all = Vec::new();
        for (key, _) in self.maps.v4.link.entries()? {
            let (from, to) = (Ipv4Addr::from(key.src).into(), Ipv4Addr::from(key.dst).into());
            let port = key.port.into();
            all.extend(protocol(key.proto).map(|protocol| LinkEntry { from, to, port, protocol }));
        }
        for (key, _) in self.maps.v6.link.entries()? {
            let (from, to) = (Ipv6Addr::from(key.src).into(), Ipv6Addr::from(key.dst).into());
            let port = key.port.into();
            all.extend(protocol(key.proto).map(|protocol| LinkEntry { from, to, port, protocol }));
        }
        Ok(all)
    }
}

fn key<A>(addr: A, entry: &OpenEntry) -> PublishKey<A> {
    PublishKey { addr, port: Be16::from(entry.port), proto: entry.protocol as u8, pad: 0 }
}

fn opened(ip: IpAddr, port: Be16, proto: u8, open: Open) -> Option<OpenEntry> {
    let (ifindex, allow) = (open.ifindex, Sources::default());
    Some(OpenEntry { ip, port: port.into(), protocol: protocol(proto)?, ifindex, allow })
}

/// A link's key in the map of its family.
enum Either {
    V4(LinkKey<Addr4>),
    V6(LinkKey<Addr6>),
}

/// Returns a link's key; None for two addresses of different families, between which nothing can be opened.
fn link_key(entry: &LinkEntry) -> Option<Either> {
    let (port, proto) = (Be16::from(entry.port), entry.protocol as u8);
    match (entry.from, entry.to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Some(Either::V4(LinkKey { src: src.into(), dst: dst.into(), port, proto, pad: 0 }))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Some(Either::V6(LinkKey { src: src.into(), dst: dst.into(), port, proto, pad: 0 }))
        }
        _ => None,
    }
}
