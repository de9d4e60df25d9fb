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
pub struct Terms {
    /// The usual timeouts.
    pub timeouts: Timeouts,
    /// Whether the table itself is short of room.
    pub pressed: bool,
    /// Endpoints that are short of room.
    pub pressed_endpoints: HashSet<u32>,
}

impl Terms {
    /// Returns the timeouts of flows that this endpoint pays for.
    fn of(&self, payer: u32) -> Timeouts {
        let pressed = self.pressed || self.pressed_endpoints.contains(&payer);
        if pressed { shortened(&self.timeouts) } else { self.timeouts }
    }
}

/// What a survey found.
pub struct Survey<A> {
    /// Entries, two a flow.
    pub entries: u32,
    /// Flows by who pays for them; expired ones are not counted.
    pub usage: HashMap<u32, u32>,
    /// (protocol, port) of every flow that arrives by an uplink.
    pub uplink_ports: HashSet<(u8, u16)>,
    terms: Terms,
    expired: Vec<Tuple<A>>,
}

/// A flow that has expired.
struct Dead<A> {
    payer: u32,
    original: bool,
    /// The other half, if it is there.
    other: Option<Tuple<A>>,
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
    pub fn of(table: &Table<Tuple<A>, Flow<A>>, terms: Terms) -> Result<Self, Error> {
        let now = flows::now();
        let soonest = shortest(&shortened(&terms.timeouts));
        let (usage, uplink_ports) = (HashMap::new(), HashSet::new());
        let mut survey = Self { entries: 0, usage, uplink_ports, terms, expired: Vec::new() };
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
            let Some(dead) = survey.judge(table, &key)? else { continue };
            survey.expired.push(key);
            if let Some(count) = survey.usage.get_mut(&dead.payer).filter(|_| dead.original) {
                *count = count.saturating_sub(1);
            }
        }
        Ok(survey)
    }

    /// Reads a flow again, since a packet may have come, and says whether it has expired.
    fn judge(&self, table: &Table<Tuple<A>, Flow<A>>, key: &Tuple<A>) -> Result<Option<Dead<A>>, Error> {
        let Some(flow) = table.get(key)? else { return Ok(None) };
        let (mine, other, payer) = (Half::of(key, &flow), key.counterpart(&flow), payer(key, &flow));
        let theirs = mine.partner(table.get(&other)?.map(|flow| Half::of(&other, &flow)));
        let timeouts = self.terms.of(payer);
        let expired = match theirs {
            // The pair goes by its opener's entry, and once.
            Some(theirs) => mine.original && mine.is_dead_with(theirs, key.proto, &timeouts, flows::now()),
            None => elapsed(mine.last, flows::now()) > shortest(&shortened(&self.terms.timeouts)),
        };
        let other = theirs.map(|_| other);
        Ok(expired.then_some(Dead { payer, original: mine.original, other }))
    }

    /// Removes so many of the flows that have expired, unless a packet has come since. Returns how many entries went; whether any flow is left says
    /// [`Self::is_done`].
    pub fn bury(&mut self, table: &mut Table<Tuple<A>, Flow<A>>, at_most: usize) -> Result<usize, Error> {
        let mut gone = 0;
        for key in self.expired.split_off(self.expired.len().saturating_sub(at_most)) {
            let Some(dead) = self.judge(table, &key)? else { continue };
            table.remove(&key)?;
            gone += 1;
            if let Some(other) = &dead.other {
                table.remove(other)?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    /// Whether nothing that has expired is left to be removed.
    pub fn is_done(&self) -> bool {
        self.expired.is_empty()
    }
}
