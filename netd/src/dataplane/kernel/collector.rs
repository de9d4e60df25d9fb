//! Collects expired flows, keeps the counts of the quotas right, and shortens timeouts while room is short.
//!
//! The programs count flows up and down; what the daemon writes here is the truth as of this look, so that no error of a count outlives the next
//! one. Counts are written before expired flows are removed: a daemon that dies in between leaves an endpoint with too much room, not
//! with too little.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData};
use netd_common::{
    maps::{Flow, Tuple, capacity},
    net::{Addr4, Addr6},
    verdict::DropReason,
};

use super::{
    super::{
        Error, FlowFilter, IPV6_SHARE, Occupancy, TableUse, flows,
        maps::{FamilyMaps, Table},
        survey::{self, Survey, Terms},
    },
    Kernel, Passage,
    config::in_ticks,
};

/// Above this share of a table or a quota, in percent, room is short (spec: dataplane.md 7.6).
const SHORT: u64 = 90;
/// Below this share of every table, room is short no more.
const EASED: u64 = 80;
/// Above this share, every call looks at the flows.
const BUSY: u64 = 50;
/// How much longer than a look takes none is taken, unless somebody found no room.
const REST: u32 = 9;
/// Flows of each family that are removed in one go.
const AT_ONCE: usize = 1024;
/// Drops that say that somebody found no room.
const REFUSALS: [DropReason; 3] = [DropReason::TableFull, DropReason::OverQuota, DropReason::NatExhausted];

/// What the last look at the flows found.
#[derive(Default)]
pub(super) struct Collector {
    /// When it was.
    at: Option<Instant>,
    /// How long it took.
    took: Duration,
    /// Entries of the IPv4 and the IPv6 table.
    entries: [u32; 2],
    /// Flows by who pays for them, of each family.
    usage: [HashMap<u32, u32>; 2],
    /// Packets that had found no room until then.
    refused: u64,
    /// Entries of expired flows removed so far, of each family.
    reclaimed: [u64; 2],
    /// Whether timeouts are shortened.
    pressed: bool,
}

/// Whether a part is more than this share of the whole, in percent.
fn exceeds(part: u32, share: u64, whole: u32) -> bool {
    u64::from(part) * 100 > u64::from(whole) * share
}

/// A look at every flow to be taken. It needs nothing of the packet path, which others use meanwhile: a million flows take seconds.
pub struct Look {
    v4: (Table<Tuple<Addr4>, Flow<Addr4>>, Terms),
    v6: (Table<Tuple<Addr6>, Flow<Addr6>>, Terms),
    withdrawals: u64,
}

/// What a look at every flow found.
pub struct Found {
    v4: Survey<Addr4>,
    v6: Survey<Addr6>,
    withdrawals: u64,
    took: Duration,
    /// Whether its counts have been written down.
    counted: bool,
}

impl Look {
    /// Looks at every flow.
    ///
    /// # Errors
    /// Names the map.
    pub fn take(self) -> Result<Found, Error> {
        let Self { v4, v6, withdrawals } = self;
        let began = Instant::now();
        let (v4, v6) = (Survey::of(&v4.0, v4.1)?, Survey::of(&v6.0, v6.1)?);
        Ok(Found { v4, v6, withdrawals, took: began.elapsed(), counted: false })
    }
}

impl Kernel {
    /// Returns the sizes of both flow tables, in entries.
    fn flow_capacities(&self) -> [u32; 2] {
        [self.settings.flow_entries, self.settings.flow_entries.div_ceil(IPV6_SHARE)]
    }

    fn fullest(&self, share: u64) -> bool {
        self.collector
            .entries
            .iter()
            .zip(self.flow_capacities())
            .any(|(part, whole)| exceeds(*part, share, whole))
    }

    /// Whether it is time for the next look: some seconds have passed, a table fills, or somebody found no room. A look that took long is not
    /// followed by another one at once: it takes a processor and its caches from whoever sends packets.
    fn is_due(&mut self) -> Result<bool, Error> {
        let refused = self.refusals()?;
        let more = self.collector.refused != refused;
        let since = self.collector.at.map_or(Duration::MAX, |at| at.elapsed());
        if since < self.collector.took * if more { 1 } else { REST } {
            return Ok(false);
        }
        self.collector.refused = refused;
        Ok(more || self.fullest(BUSY) || since >= self.settings.timeouts.collect_every())
    }

    fn refusals(&self) -> Result<u64, Error> {
        REFUSALS.into_iter().map(|reason| self.dropped_for(reason)).sum()
    }

    fn dropped_for(&self, reason: DropReason) -> Result<u64, Error> {
        let counts = self.maps.drops.get(&(reason as u32), 0);
        let counts = counts.map_err(|source| Error::kernel("read map DROPS".to_owned(), source))?;
        Ok(counts.iter().sum())
    }

    /// Begins a collection of expired flows, if it is time for one.
    pub(super) fn look_when_due(&mut self) -> Result<Option<Look>, Error> {
        if !self.is_due()? {
            return Ok(None);
        }
        let timeouts = in_ticks(&self.settings.timeouts);
        let terms = |known: &HashMap<u32, u32>, quota| Terms {
            timeouts,
            pressed: self.collector.pressed,
            pressed_endpoints: known
                .iter()
                .filter(|(_, count)| exceeds(**count, SHORT, quota))
                .map(|(ifindex, _)| *ifindex)
                .collect(),
        };
        let [known4, known6] = &self.collector.usage;
        Ok(Some(Look {
            v4: (self.maps.v4.flow.again()?, terms(known4, self.config.quota4)),
            v6: (self.maps.v6.flow.again()?, terms(known6, self.config.quota6)),
            withdrawals: self.withdrawals,
        }))
    }

    /// Removes a part of what a look found; with the first part goes what it counted. Returns whether there is more.
    pub(super) fn collect_part(&mut self, found: &mut Found) -> Result<bool, Error> {
        if !std::mem::replace(&mut found.counted, true) {
            self.count(found)?;
        }
        let gone = [
            found.v4.bury(&mut self.maps.v4.flow, AT_ONCE)?,
            found.v6.bury(&mut self.maps.v6.flow, AT_ONCE)?,
        ];
        for (family, gone) in gone.into_iter().enumerate() {
            self.collector.reclaimed[family] += gone as u64;
            let left = &mut self.collector.entries[family];
            *left = left.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX));
        }
        let more = !(found.v4.is_done() && found.v6.is_done());
        if !more {
            self.press()?;
        }
        Ok(more)
    }

    /// Writes down what a look counted.
    fn count(&mut self, found: &Found) -> Result<(), Error> {
        let [known4, known6] = &mut self.collector.usage;
        count(&mut self.maps.v4, known4, &found.v4)?;
        count(&mut self.maps.v6, known6, &found.v6)?;
        self.collector.entries = [found.v4.entries, found.v6.entries];
        (self.collector.at, self.collector.took) = (Some(Instant::now()), found.took);
        // Of a port withdrawn since the look began, flows may live that it has not seen.
        if self.stale_interest && self.withdrawals == found.withdrawals {
            let live = found.v4.uplink_ports.union(&found.v6.uplink_ports).copied().collect();
            self.refresh_interest(&live, false)?;
            self.stale_interest = false;
        }
        Ok(())
    }

    /// Shortens timeouts, or gives them their length back. Programs that take entries over read them too.
    fn press(&mut self) -> Result<(), Error> {
        let pressed = self.fullest(if self.collector.pressed { EASED } else { SHORT });
        if pressed == self.collector.pressed {
            return Ok(());
        }
        let usual = in_ticks(&self.settings.timeouts);
        self.config.timeouts = if pressed { survey::shortened(&usual) } else { usual };
        self.write_config()?;
        self.collector.pressed = pressed;
        let [v4, v6] = self.collector.entries;
        tracing::warn!(
            pressed,
            ipv4_entries = v4,
            ipv6_entries = v6,
            "room for flows became short, or eased"
        );
        Ok(())
    }

    /// Ends every flow that `ends` selects; what they took is given back to who paid for it. Returns how many went.
    pub(super) fn end_flows(&mut self, ends: impl Fn(&Passage) -> bool) -> Result<usize, Error> {
        let v4 = flows::end(&mut self.maps.v4.flow, |key, flow| ends(&Passage::of(key, flow)))?;
        pay_back(&mut self.maps.v4.usage, &v4)?;
        let v6 = flows::end(&mut self.maps.v6.flow, |key, flow| ends(&Passage::of(key, flow)))?;
        pay_back(&mut self.maps.v6.usage, &v6)?;
        Ok(v4.len() + v6.len())
    }

    /// Ends the flows that a filter selects.
    pub(super) fn flush(&mut self, filter: &FlowFilter) -> Result<usize, Error> {
        let v4 = flows::end(&mut self.maps.v4.flow, |key, flow| flows::selects(filter, key, flow))?;
        pay_back(&mut self.maps.v4.usage, &v4)?;
        let v6 = flows::end(&mut self.maps.v6.flow, |key, flow| flows::selects(filter, key, flow))?;
        pay_back(&mut self.maps.v6.usage, &v6)?;
        Ok(v4.len() + v6.len())
    }

    /// Says how full the tables were at the last look.
    pub(super) fn measure(&self) -> Result<Occupancy, Error> {
        let collector = &self.collector;
        let quotas = [self.config.quota4, self.config.quota6];
        let tables = ["FLOW4", "FLOW6"].into_iter().enumerate().map(|(family, map)| TableUse {
            map: map.to_owned(),
            entries: collector.entries[family],
            capacity: self.flow_capacities()[family],
            endpoint_quota: quotas[family].saturating_mul(2),
            reclaimed: collector.reclaimed[family],
        });
        let mut by_endpoint: HashMap<u32, u64> = HashMap::new();
        for (ifindex, flows) in collector.usage.iter().flatten() {
            *by_endpoint.entry(*ifindex).or_default() += 2 * u64::from(*flows);
        }
        let mut refused = BTreeMap::new();
        for reason in REFUSALS {
            refused.insert(reason.as_str().to_owned(), self.dropped_for(reason)?);
        }
        let tables = tables.collect();
        let port_tries = self.port_tries()?;
        Ok(Occupancy { tables, shortened_timeouts: collector.pressed, refused, port_tries, by_endpoint })
    }

    /// Describes the tables for `status`.
    pub(super) fn occupancy(&self) -> Vec<(String, String)> {
        let [v4, v6] = self.collector.entries;
        let [room4, room6] = self.flow_capacities();
        let of = |entries: u32, room: u32| format!("{} of {}", entries / 2, room / 2);
        vec![
            ("flows_ipv4".to_owned(), of(v4, room4)),
            ("flows_ipv6".to_owned(), of(v6, room6)),
            (
                "flows_per_endpoint".to_owned(),
                format!("{} IPv4, {} IPv6", self.config.quota4, self.config.quota6),
            ),
            ("timeouts".to_owned(), if self.collector.pressed { "shortened" } else { "usual" }.to_owned()),
        ]
    }
}

/// Writes the counts of the quotas.
fn count<A>(
    maps: &mut FamilyMaps<A>,
    known: &mut HashMap<u32, u32>,
    survey: &Survey<A>,
) -> Result<(), Error> {
    for ifindex in known.keys().filter(|ifindex| !survey.usage.contains_key(ifindex)) {
        maps.usage.set(*ifindex, 0, 0).map_err(|e| uncounted(*ifindex, e))?;
    }
    for (ifindex, count) in survey.usage.iter().filter(|(ifindex, _)| **ifindex < capacity::ENDPOINT) {
        maps.usage.set(*ifindex, *count, 0).map_err(|e| uncounted(*ifindex, e))?;
    }
    known.clone_from(&survey.usage);
    Ok(())
}

/// Takes one flow off each payer's count.
fn pay_back(usage: &mut Array<MapData, u32>, payers: &[u32]) -> Result<(), Error> {
    let mut ended: HashMap<u32, u32> = HashMap::new();
    for payer in payers.iter().filter(|ifindex| **ifindex < capacity::ENDPOINT) {
        *ended.entry(*payer).or_default() += 1;
    }
    for (ifindex, count) in ended {
        let before = usage.get(&ifindex, 0).map_err(|e| uncounted(ifindex, e))?;
        usage.set(ifindex, before.saturating_sub(count), 0).map_err(|e| uncounted(ifindex, e))?;
    }
    Ok(())
}

fn uncounted(ifindex: u32, source: aya::maps::MapError) -> Error {
    Error::kernel(format!("count the flows of endpoint {ifindex} in a map of USAGE"), source)
}

/// How often to look at every flow at most and at least.
const COLLECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

impl super::super::Timeouts {
    /// Returns how often expired flows are to be collected: twice in the shortest timeout, within bounds.
    pub fn collect_every(&self) -> Duration {
        let of = self;
        let handshake = of.tcp_syn_sent.min(of.tcp_syn_recv);
        let closing = of.tcp_closing.min(of.tcp_closed).min(of.tcp_reset);
        let datagrams = of.udp.min(of.udp_replied).min(of.udp_dns);
        let rest = of.tcp_established.min(of.icmp).min(of.other);
        (handshake.min(closing).min(datagrams).min(rest) / 2).clamp(COLLECT.0, COLLECT.1)
    }
}
