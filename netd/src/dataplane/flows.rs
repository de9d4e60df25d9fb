//! The flow tables from user space: listing and ending.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use aya::Pod;
use netd_common::{
    conntrack::{Half, payer},
    family::Address,
    maps::{Flow, TICK_SHIFT, Timeouts, Tuple, flow_flags},
    net::{Addr4, Addr6},
    wire::l4,
};

pub use super::clock::now;
use super::{Error, FlowFilter, FlowInfo, maps::Table};

/// An address that user space can print.
pub trait Printable: Address + Pod {
    /// Returns the standard library's form.
    fn ip(&self) -> IpAddr;
}

impl Printable for Addr4 {
    fn ip(&self) -> IpAddr {
        Ipv4Addr::from(*self).into()
    }
}

impl Printable for Addr6 {
    fn ip(&self) -> IpAddr {
        IpAddr::from(Ipv6Addr::from(*self)).to_canonical() // a mapped one is how IPv6 flows hold an IPv4-only sandbox
    }
}

/// Converts a duration to ticks: at least one, at most half of the clock's range.
pub fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos() >> TICK_SHIFT).unwrap_or(u32::MAX).clamp(1, u32::MAX / 2)
}

/// Converts ticks to seconds.
pub fn seconds(ticks: u32) -> f64 {
    f64::from(ticks) * f64::from(1_u32 << TICK_SHIFT) / 1e9
}

/// Lists the flows that a filter selects, seen from their openers.
pub fn list<A: Printable>(
    table: &Table<Tuple<A>, Flow<A>>,
    timeouts: &Timeouts,
    filter: &FlowFilter,
) -> Result<Vec<FlowInfo>, Error>
where
    Tuple<A>: Pod,
    Flow<A>: Pod,
{
    let now = now();
    let mut found = Vec::new();
    for (key, flow) in table.entries()? {
        if flow.flags & flow_flags::ORIGINAL == 0 || !selects(filter, &key, &flow) {
            continue;
        }
        let (mine, other) = (Half::of(&key, &flow), key.counterpart(&flow));
        let theirs = mine.partner(table.get(&other)?.map(|reply| Half::of(&other, &reply)));
        let theirs = theirs.unwrap_or_default();
        let state = mine.state_with(theirs, key.proto);
        let idle = mine.idle_with(theirs, now);
        let timeout = mine.timeout_with(theirs, key.proto, timeouts);
        found.push(FlowInfo {
            protocol: protocol_name(key.proto),
            state: state.as_str().to_owned(),
            source: key.src.ip(),
            source_port: key.sport.into(),
            destination: key.dst.ip(),
            destination_port: key.dport.into(),
            translated_source: flow.src.ip(),
            translated_source_port: flow.sport.into(),
            translated_destination: flow.dst.ip(),
            translated_destination_port: flow.dport.into(),
            ifindex: key.zone,
            out_ifindex: if flow.flags & flow_flags::TO_SANDBOX == 0 { 0 } else { flow.out },
            idle_seconds: seconds(idle),
            expires_seconds: seconds(timeout.saturating_sub(idle)),
        });
    }
    Ok(found)
}

/// Returns a protocol's name, or its number.
pub fn protocol_name(proto: u8) -> String {
    match proto {
        l4::TCP => "tcp".to_owned(),
        l4::UDP => "udp".to_owned(),
        l4::SCTP => "sctp".to_owned(),
        1 => "icmp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

/// Whether a filter selects a flow, by its opener's entry.
pub fn selects<A: Printable>(filter: &FlowFilter, key: &Tuple<A>, flow: &Flow<A>) -> bool {
    let addresses = [key.src.ip(), key.dst.ip(), flow.src.ip(), flow.dst.ip()];
    let ports = [key.sport, key.dport, flow.sport, flow.dport].map(u16::from);
    (filter.addresses.is_empty() || addresses.iter().any(|addr| filter.addresses.contains(addr)))
        && filter.protocol.is_none_or(|proto| proto == key.proto)
        && filter.port.is_none_or(|port| ports.contains(&port))
}

/// Ends every flow that `ends` selects by its opener's entry; both entries go. Returns who paid for each.
pub fn end<A: Printable>(
    table: &mut Table<Tuple<A>, Flow<A>>,
    ends: impl Fn(&Tuple<A>, &Flow<A>) -> bool,
) -> Result<Vec<u32>, Error>
where
    Tuple<A>: Pod,
    Flow<A>: Pod,
{
    let mut doomed = Vec::new();
    table.for_each(|key, flow| {
        if flow.flags & flow_flags::ORIGINAL != 0 && ends(key, flow) {
            doomed.push((*key, key.counterpart(flow), payer(key, flow)));
        }
    })?;
    for (original, reply, _) in &doomed {
        table.remove(original)?;
        table.remove(reply)?;
    }
    Ok(doomed.into_iter().map(|(_, _, payer)| payer).collect())
}
