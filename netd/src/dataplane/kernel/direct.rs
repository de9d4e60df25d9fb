//! Who may address whom directly, in the maps: gateway modes, open ports, links.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netd_common::{
    maps::{LinkKey, Open, PublishKey, endpoint_flags as flag, link_by},
    net::{Addr4, Addr6, Be16},
    wire::l4,
};

use super::{
    super::{Error, LinkBy, LinkEntry, NetworkEntry, OpenEntry, maps::Table},
    Kernel,
    ports::protocol,
};
use crate::model::{GatewayMode, HairpinSource, Protocol, Sources};

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
    set(network.hairpin_source == HairpinSource::Gateway, flag::SEEN_AS_GATEWAY);
    set(network.hairpin_source == HairpinSource::Client, flag::SEEN_AS_CLIENT);
    set(network.any_source, flag::ANY_SOURCE);
    set(network.own_bridge, flag::OWN_BRIDGE);
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
            let (allow, via) = self.lists_of(&entry.allow)?;
            let open = Open { ifindex: entry.ifindex, allow, via };
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
            self.forget_lists().and(self.forget_ways())?;
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

    /// Opens what links and policies say.
    pub(super) fn link_ports(&mut self, entries: &[LinkEntry]) -> Result<(), Error> {
        entries.iter().try_for_each(|entry| match link_key(entry) {
            Some(Either::V4(key)) => mark(&mut self.maps.v4.link, &key, bit(entry.by)),
            Some(Either::V6(key)) => mark(&mut self.maps.v6.link, &key, bit(entry.by)),
            None => Ok(()),
        })
    }

    /// Closes it, where nobody else opens it. What one keeps sending to the other by datagrams ends at once.
    pub(super) fn unlink_ports(&mut self, entries: &[LinkEntry]) -> Result<(), Error> {
        // Without these, whoever keeps sending would go on; None stands for every port of every protocol.
        let mut ends: HashSet<(IpAddr, IpAddr, Option<u16>)> = HashSet::new();
        for entry in entries {
            let gone = match link_key(entry) {
                Some(Either::V4(key)) => unmark(&mut self.maps.v4.link, &key, bit(entry.by))?,
                Some(Either::V6(key)) => unmark(&mut self.maps.v6.link, &key, bit(entry.by))?,
                None => false,
            };
            let datagrams = entry.port.is_none_or(|(_, protocol)| protocol == Protocol::Udp);
            if gone && datagrams {
                ends.insert((entry.from, entry.to, entry.port.map(|(port, _)| port)));
            }
        }
        if ends.is_empty() {
            return Ok(());
        }
        self.end_flows(|flow| {
            let (to, port) = flow.host;
            let anybody: IpAddr =
                if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let ended = |port| ends.contains(&(flow.opener, to, port)) || ends.contains(&(anybody, to, port));
            let lasts = matches!(flow.proto, l4::TCP | l4::SCTP);
            !lasts && flow.to_sandbox && (ended(None) || (flow.proto == l4::UDP && ended(Some(port))))
        })
        .map(drop)
    }

    /// Lists what links and policies open.
    pub(super) fn link_entries(&self) -> Result<Vec<LinkEntry>, Error> {
        let mut all = Vec::new();
        for (key, by) in self.maps.v4.link.entries()? {
            let (from, to) = (Ipv4Addr::from(key.src).into(), Ipv4Addr::from(key.dst).into());
            all.extend(opened_by(from, to, (key.port, key.proto), by));
        }
        for (key, by) in self.maps.v6.link.entries()? {
            let (from, to) = (Ipv6Addr::from(key.src).into(), Ipv6Addr::from(key.dst).into());
            all.extend(opened_by(from, to, (key.port, key.proto), by));
        }
        Ok(all)
    }
}

pub(super) fn key<A>(addr: A, entry: &OpenEntry) -> PublishKey<A> {
    PublishKey { addr, port: Be16::from(entry.port), proto: entry.protocol as u8, pad: 0 }
}

fn opened(ip: IpAddr, port: Be16, proto: u8, open: Open) -> Option<OpenEntry> {
    let (ifindex, allow) = (open.ifindex, Sources::default());
    Some(OpenEntry { ip, port: port.into(), protocol: protocol(proto)?, ifindex, allow })
}

/// Returns what stands in a link's value.
pub(super) fn bit(by: LinkBy) -> u32 {
    match by {
        LinkBy::Link => link_by::LINK,
        LinkBy::Policy => link_by::POLICY,
    }
}

/// Says that somebody opens it.
fn mark<K: aya::Pod>(table: &mut Table<K, u32>, key: &K, bit: u32) -> Result<(), Error> {
    let before = table.get(key)?.unwrap_or(0);
    if before & bit == 0 { table.put(key, &(before | bit)) } else { Ok(()) }
}

/// Says that somebody opens it no more. Returns whether nobody does.
fn unmark<K: aya::Pod>(table: &mut Table<K, u32>, key: &K, bit: u32) -> Result<bool, Error> {
    match table.get(key)?.unwrap_or(0) & !bit {
        0 => table.remove(key).map(|()| true),
        others => table.put(key, &others).map(|()| false),
    }
}

/// Returns what the value of a link's key says, one entry for each who opens it.
fn opened_by(from: IpAddr, to: IpAddr, (port, proto): (Be16, u8), by: u32) -> Vec<LinkEntry> {
    let port = match protocol(proto) {
        Some(protocol) => Some((port.into(), protocol)),
        None if proto == 0 => None,
        None => return Vec::new(),
    };
    let both = [LinkBy::Link, LinkBy::Policy].into_iter().filter(|one| by & bit(*one) != 0);
    both.map(|by| LinkEntry { from, to, port, by }).collect()
}

/// A link's key in the map of its family.
pub(super) enum Either {
    V4(LinkKey<Addr4>),
    V6(LinkKey<Addr6>),
}

/// Returns a link's key; None for two addresses of different families, between which nothing can be opened.
pub(super) fn link_key(entry: &LinkEntry) -> Option<Either> {
    let (port, proto) =
        entry.port.map_or((Be16::ZERO, 0), |(port, protocol)| (Be16::from(port), protocol as u8));
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
