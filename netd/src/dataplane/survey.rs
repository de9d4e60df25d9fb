//! One look at every flow of a table: how many there are, who pays for them, which have expired.

use std::collections::{HashMap, HashSet};

use aya::Pod;
use netd_common::{
    conntrack::{Half, elapsed, payer},
    maps::{Flow, Timeouts, Tuple, flow_flags},
    net::UPLINK_ZONE,
};

use super::{
    Error,
    flows::{self, Printable},
    maps::Table,
};

/// Timeouts of attempts and ends are this many times shorter when room is short (spec: dataplane.md 7.6).
const SHRINK: u32 = 4;

/// How long flows live, and whose attempts and ends live shorter.
pub struct Terms<'a> {
    /// The usual timeouts.
    pub timeouts: &'a Timeouts,
    /// Whether the table itself is short of room.
    pub pressed: bool,
    /// Endpoints that are short of room.
    pub pressed_endpoints: &'a HashSet<u32>,
}

/// What a survey found.
pub struct Survey<A> {
    /// Entries, two a flow.
    pub entries: u32,
    /// Flows by who pays for them; expired ones are not counted.
    pub usage: HashMap<u32, u32>,
    /// (protocol, port) of every flow that arrives by an uplink.
    pub uplink_ports: HashSet<(u8, u16)>,
    expired: Vec<(Tuple<A>, Option<Tuple<A>>)>,
}

/// Returns the timeouts while room is short: attempts that nobody has answered, and ends, go sooner.
pub fn shortened(timeouts: &Timeouts) -> Timeouts {
    let short = |ticks: u32| (ticks / SHRINK).max(1);
    Timeouts {
        tcp_syn_sent: short(timeouts.tcp_syn_sent),
        tcp_syn_recv: short(timeouts.tcp_syn_recv),
        tcp_closed: short(timeouts.tcp_closed),
        tcp_reset: short(timeouts.tcp_reset),
        udp: short(timeouts.udp),
        udp_dns: short(timeouts.udp_dns),
        ..*timeouts
    }
}

/// Returns the shortest of all timeouts, in ticks.
fn shortest(of: &Timeouts) -> u32 {
    let tcp =
        [of.tcp_syn_sent, of.tcp_syn_recv, of.tcp_established, of.tcp_closing, of.tcp_closed, of.tcp_reset];
    let rest = [of.udp, of.udp_replied, of.udp_dns, of.icmp, of.other];
    tcp.into_iter().chain(rest).min().unwrap_or(0)
}

impl<A: Printable> Survey<A>
where
    Tuple<A>: Pod,
    Flow<A>: Pod,
{
    /// Looks at every flow.
    pub fn of(table: &Table<Tuple<A>, Flow<A>>, terms: &Terms<'_>) -> Result<Self, Error> {
        let now = flows::now();
        let short = shortened(terms.timeouts);
        let soonest = shortest(&short);
        let mut survey =
            Self { entries: 0, usage: HashMap::new(), uplink_ports: HashSet::new(), expired: Vec::new() };
        let mut idle = Vec::new();
        table.for_each(|key, flow| {
            survey.entries += 1;
            if flow.flags & flow_flags::ORIGINAL != 0 {
                *survey.usage.entry(payer(key, flow)).or_default() += 1;
            }
            if key.zone == UPLINK_ZONE {
                survey.uplink_ports.insert((key.proto, key.dport.into()));
            }
            if elapsed(Half::of(key, flow).last, now) > soonest {
                idle.push(*key);
            }
        })?;
        for key in idle {
            // Read again: a packet may have come since.
            let Some(flow) = table.get(&key)? else { continue };
            let (mine, other, pays) = (Half::of(&key, &flow), key.counterpart(&flow), payer(&key, &flow));
            let theirs = mine.partner(table.get(&other)?.map(|flow| Half::of(&other, &flow)));
            let pressed = terms.pressed || terms.pressed_endpoints.contains(&pays);
            let timeouts = if pressed { &short } else { terms.timeouts };
            let expired = match theirs {
                // The pair goes by its opener's entry, and once.
                Some(theirs) => mine.original && mine.is_dead_with(theirs, key.proto, timeouts, flows::now()),
                None => elapsed(mine.last, flows::now()) > soonest,
            };
            if expired {
                survey.expired.push((key, theirs.map(|_| other)));
                if let Some(count) = survey.usage.get_mut(&pays).filter(|_| mine.original) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        Ok(survey)
    }

    /// Removes what has expired. Returns how many entries went.
    pub fn bury(&self, table: &mut Table<Tuple<A>, Flow<A>>) -> Result<usize, Error> {
        let mut gone = 0;
        for (key, other) in &self.expired {
            table.remove(key)?;
            gone += 1;
            if let Some(other) = other {
                table.remove(other)?;
                gone += 1;
            }
        }
        Ok(gone)
    }
}
