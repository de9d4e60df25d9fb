//! Published ports in the maps: their entries, and the sets of ports that the programs ask first.

use std::{
    collections::{HashMap, HashSet, hash_map},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netd_common::{
    maps::{Publish, PublishKey, port_set},
    net::{Addr4, Addr6, Be16},
    wire::l4,
};

use super::{
    super::{Error, PublishEntry, Settings, host_sockets, maps::Ports},
    Kernel, Passage,
};
use crate::model::{Protocol, Sources};

/// UDP ports that masqueraded flows do not take: an answer that goes there would look like one of a reflected attack and be filtered on the way
/// (RFC 6335 §6 dynamic ports have no such meaning), or a tunnel of the host listens there without a socket that shows.
const NOT_FOR_NAT: [u16; 24] = [
    1900,  // SSDP
    3283,  // Apple Remote Desktop
    3702,  // WS-Discovery
    4500,  // IPsec through NAT
    4789,  // VXLAN
    5351,  // NAT-PMP
    5353,  // mDNS
    5355,  // LLMNR
    5683,  // CoAP
    6081,  // Geneve
    6635,  // MPLS in UDP
    8472,  // VXLAN as Linux had it first
    10001, // Ubiquiti discovery
    11211, // memcached
    17185, // VxWorks debugger
    20800, // game servers
    27015, // Source engine
    27960, // Quake
    30120, // game servers
    32410, // Plex discovery
    32412, 32414, 37810, // video recorders
    51820, // WireGuard
];

impl Kernel {
    /// Ends host sockets that came by these ports; returns how many. A kernel without `CONFIG_INET_DIAG_DESTROY` leaves them as they are, which
    /// is no reason to keep a port.
    pub(super) fn end_host_sockets(&self, entries: &[PublishEntry]) -> usize {
        let ended = host_sockets::end(&self.maps.dialled, entries);
        ended.unwrap_or_else(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, ?cause, "sockets of host processes keep their way to a sandbox whose port is gone");
            0
        })
    }

    /// Writes the ports that masqueraded flows may not take.
    pub(super) fn exclude_ports(&mut self) -> Result<(), Error> {
        for proto in [l4::TCP, l4::UDP] {
            let Some(index) = port_set::index(port_set::EXCLUDED, proto) else { continue };
            self.sets[index as usize] = excluded(&self.settings, proto);
            self.write_set(index)?;
        }
        Ok(())
    }

    /// Makes the sets of interest what ranges, publishes and live flows need.
    pub(super) fn refresh_interest(&mut self, live: &HashSet<(u8, u16)>, keep: bool) -> Result<(), Error> {
        for proto in [l4::TCP, l4::UDP, l4::SCTP, 1] {
            let Some(index) = port_set::index(port_set::INTEREST, proto) else { continue };
            let before = self.sets[index as usize];
            let mut wanted = if keep { before } else { Ports([0; 2048]) };
            for (first, last) in &self.settings.nat_port_ranges {
                for port in *first..=*last {
                    wanted.set(port, true);
                }
            }
            for purpose in [port_set::PUBLISHED4, port_set::PUBLISHED6] {
                let set = port_set::index(purpose, proto).map_or(0, |set| set as usize);
                for (word, published) in wanted.0.iter_mut().zip(self.sets[set].0) {
                    *word |= published;
                }
            }
            for (_, port) in live.iter().filter(|(live, _)| *live == proto || (*live == 58 && proto == 1)) {
                wanted.set(*port, true);
            }
            if wanted.0 != before.0 {
                self.sets[index as usize] = wanted;
                self.write_set(index)?;
            }
        }
        Ok(())
    }

    /// Writes a set. Where the kernel refuses, what it has is known from then on: the next change that wants something else writes it.
    pub(super) fn write_set(&mut self, index: u32) -> Result<(), Error> {
        let set = self.sets[index as usize];
        self.maps.ports.set(index, set, 0).map_err(|source| {
            if let Ok(present) = self.maps.ports.get(&index, 0) {
                self.sets[index as usize] = present;
            }
            Error::kernel("write to map PORTS".to_owned(), source)
        })
    }

    /// Writes every one of these sets, also after a failure.
    pub(super) fn write_sets(&mut self, changed: &HashSet<u32>) -> Result<(), Error> {
        changed.iter().map(|set| self.write_set(*set)).fold(Ok(()), Result::and)
    }

    /// Adds or removes the reservation of ports; the sets that changed are written once.
    pub(super) fn reserve(&mut self, entries: &[PublishEntry], present: bool) -> Result<(), Error> {
        let mut changed = HashSet::new();
        for entry in entries {
            let purpose = if entry.host_ip.is_ipv4() { port_set::PUBLISHED4 } else { port_set::PUBLISHED6 };
            let Some(set) = port_set::index(purpose, entry.protocol as u8) else { continue };
            let count = self.reserved.entry((set, entry.host_port)).or_default();
            *count = if present { count.saturating_add(1) } else { count.saturating_sub(1) };
            let (count, present) = (*count, *count > 0);
            if count == 0 {
                self.reserved.remove(&(set, entry.host_port));
            }
            if self.sets[set as usize].set(entry.host_port, present) {
                changed.insert(set);
            }
        }
        self.write_sets(&changed)
    }

    /// Writes the publishes of both families, with or without where they lead.
    pub(super) fn write_publishes(&mut self, entries: &[PublishEntry], live: bool) -> Result<(), Error> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut networks = HashMap::new(); // of a whole range it is one
        for entry in entries {
            let network = match networks.entry(entry.ifindex) {
                _ if !live => 0,
                hash_map::Entry::Occupied(known) => *known.get(),
                hash_map::Entry::Vacant(unknown) => *unknown.insert(self.endpoint(entry.ifindex)?.network),
            };
            let lists = if live { self.lists_of(&entry.allow)? } else { (0, 0) };
            match entry.host_ip {
                IpAddr::V4(addr) => {
                    let IpAddr::V4(backend) = entry.backend else { continue };
                    v4.push((
                        key(Addr4::from(addr), entry),
                        publish(backend.into(), entry, (network, lists), live),
                    ));
                }
                IpAddr::V6(addr) => {
                    let backend = match entry.backend {
                        IpAddr::V4(backend) => Addr6::mapped(backend.into()),
                        IpAddr::V6(backend) => backend.into(),
                    };
                    v6.push((key(Addr6::from(addr), entry), publish(backend, entry, (network, lists), live)));
                }
            }
        }
        self.maps.v4.publish.put_many(&v4)?;
        self.maps.v6.publish.put_many(&v6)
    }

    /// Removes publishes of both families; those that are gone already are fine.
    pub(super) fn erase_publishes(&mut self, entries: &[PublishEntry]) -> Result<(), Error> {
        entries.iter().try_for_each(|entry| match entry.host_ip {
            IpAddr::V4(addr) => self.maps.v4.publish.remove(&key(Addr4::from(addr), entry)),
            IpAddr::V6(addr) => self.maps.v6.publish.remove(&key(Addr6::from(addr), entry)),
        })
    }
}

/// Returns the ports that masqueraded flows of a protocol may not take.
pub(super) fn excluded(settings: &Settings, proto: u8) -> Ports {
    let mut excluded = Ports([0; 2048]);
    let configured = settings.nat_excluded_ports.iter().flat_map(|(first, last)| *first..=*last);
    let known = NOT_FOR_NAT.iter().copied().filter(|_| proto == l4::UDP);
    for port in configured.chain(known) {
        excluded.set(port, true);
    }
    excluded
}

/// Returns what selects the flows that came by one of these published ports and go where it leads.
pub(super) fn came_by(entries: &[PublishEntry]) -> impl Fn(&Passage) -> bool + use<> {
    let led: HashSet<_> = entries
        .iter()
        .map(|entry| {
            let host = (entry.host_ip, entry.host_port);
            (entry.protocol as u8, host, (entry.backend, entry.backend_port))
        })
        .collect();
    move |flow: &Passage| {
        let (addr, port) = flow.host;
        let any: IpAddr =
            if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let by = |host| led.contains(&(flow.proto, host, flow.backend));
        flow.to_sandbox && (by((addr, port)) || by((any, port)))
    }
}

pub(super) fn key<A>(addr: A, entry: &PublishEntry) -> PublishKey<A> {
    PublishKey { addr, port: Be16::from(entry.host_port), proto: entry.protocol as u8, pad: 0 }
}

pub(super) fn publish<A: Default>(
    backend: A,
    entry: &PublishEntry,
    (network, (allow, via)): (u16, (u32, u32)),
    live: bool,
) -> Publish<A> {
    let backend = if live { backend } else { A::default() };
    Publish { backend, ifindex: entry.ifindex, port: Be16::from(entry.backend_port), network, allow, via }
}

/// Returns the protocol with this number, if its ports can be published.
pub(super) fn protocol(proto: u8) -> Option<Protocol> {
    match proto {
        l4::TCP => Some(Protocol::Tcp),
        l4::UDP => Some(Protocol::Udp),
        l4::SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Returns a publish as the maps tell it; of who may come they know but a number.
pub(super) fn published<A>(
    host_ip: IpAddr,
    port: Be16,
    proto: u8,
    backend: IpAddr,
    value: &Publish<A>,
) -> Option<PublishEntry> {
    let protocol = protocol(proto)?;
    let (host_port, backend_port) = (port.into(), value.port.into());
    let (ifindex, allow) = (value.ifindex, Sources::default());
    Some(PublishEntry { host_ip, host_port, protocol, backend, backend_port, ifindex, allow })
}
