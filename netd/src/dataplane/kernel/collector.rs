//! Collects expired flows, keeps the counts of the quotas right, and shortens timeouts while room is short.
//!
//! The programs count flows up and down; what the daemon writes here is the truth as of this look, so that no error of a count outlives the next
//! one. Counts are written before expired flows are removed: a daemon that dies in between leaves an endpoint with too much room, not
//! with too little.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use netd_common::{maps::capacity, verdict::DropReason};

use super::{
    super::{
        Error, flows,
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
/// Drops that say that somebody found no room.
const REFUSALS: [DropReason; 3] = [DropReason::TableFull, DropReason::OverQuota, DropReason::NatExhausted];

/// What the last look at the flows found.
#[derive(Default)]
pub(super) struct Collector {
    /// When it was.
    at: Option<Instant>,
    /// Entries of the IPv4 and the IPv6 table.
    entries: [u32; 2],
    /// Flows by who pays for them.
    usage: HashMap<u32, u32>,
    /// Packets that had found no room until then.
    refused: u64,
    /// Whether timeouts are shortened.
    pressed: bool,
}

/// Whether a part is more than this share of the whole, in percent.
fn exceeds(part: u32, share: u64, whole: u32) -> bool {
    u64::from(part) * 100 > u64::from(whole) * share
}

impl Kernel {
    /// Returns the sizes of both flow tables, in entries.
    fn flow_capacities(&self) -> [u32; 2] {
        [self.settings.flow_entries, self.settings.flow_entries.div_ceil(4)]
    }

    fn fullest(&self, share: u64) -> bool {
        self.collector
            .entries
            .iter()
            .zip(self.flow_capacities())
            .any(|(part, whole)| exceeds(*part, share, whole))
    }

    /// Whether it is time for the next look: some seconds have passed, a table fills, or somebody found no room.
    fn is_due(&mut self) -> Result<bool, Error> {
        let refused = self.refusals()?;
        let more = std::mem::replace(&mut self.collector.refused, refused) != refused;
        let every = self.settings.timeouts.collect_every();
        Ok(more || self.fullest(BUSY) || self.collector.at.is_none_or(|at| at.elapsed() >= every))
    }

    fn refusals(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for reason in REFUSALS {
            let counts = self.maps.drops.get(&(reason as u32), 0);
            let counts = counts.map_err(|source| Error::kernel("read map DROPS".to_owned(), source))?;
            sum += counts.iter().sum::<u64>();
        }
        Ok(sum)
    }

    /// Removes expired flows, if it is time for that.
    pub(super) fn collect_when_due(&mut self) -> Result<usize, Error> {
        if !self.is_due()? {
            return Ok(0);
        }
        let quota = self.config.quota;
        let usage = self.collector.usage.iter();
        let pressed_endpoints: HashSet<u32> =
            usage.filter(|(_, count)| exceeds(**count, SHORT, quota)).map(|(ifindex, _)| *ifindex).collect();
        let timeouts = in_ticks(&self.settings.timeouts);
        let terms = Terms {
            timeouts: &timeouts,
            pressed: self.collector.pressed,
            pressed_endpoints: &pressed_endpoints,
        };
        let v4 = Survey::of(&self.maps.v4.flow, &terms)?;
        let v6 = Survey::of(&self.maps.v6.flow, &terms)?;
        let mut counts = v4.usage.clone();
        for (ifindex, count) in &v6.usage {
            *counts.entry(*ifindex).or_default() += count;
        }
        self.write_usage(counts)?;
        let gone = [v4.bury(&mut self.maps.v4.flow)?, v6.bury(&mut self.maps.v6.flow)?];
        let left =
            |entries: u32, gone: usize| entries.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX));
        self.collector.entries = [left(v4.entries, gone[0]), left(v6.entries, gone[1])];
        self.collector.at = Some(Instant::now());
        self.press()?;
        if std::mem::take(&mut self.stale_interest) {
            let live = v4.uplink_ports.union(&v6.uplink_ports).copied().collect();
            self.refresh_interest(&live, false)?;
        }
        Ok(gone[0] + gone[1])
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

    /// Makes the programs' counts what a look at every flow has found.
    fn write_usage(&mut self, counts: HashMap<u32, u32>) -> Result<(), Error> {
        for ifindex in self.collector.usage.keys().filter(|ifindex| !counts.contains_key(ifindex)) {
            self.maps.usage.set(*ifindex, 0, 0).map_err(|e| uncounted(*ifindex, e))?;
        }
        for (ifindex, count) in counts.iter().filter(|(ifindex, _)| **ifindex < capacity::ENDPOINT) {
            self.maps.usage.set(*ifindex, *count, 0).map_err(|e| uncounted(*ifindex, e))?;
        }
        self.collector.usage = counts;
        Ok(())
    }

    /// Ends every flow that `ends` selects; what they took is given back to who paid for it. Returns how many went.
    pub(super) fn end_flows(&mut self, ends: impl Fn(&Passage) -> bool) -> Result<usize, Error> {
        let mut payers = flows::end(&mut self.maps.v4.flow, |key, flow| ends(&Passage::of(key, flow)))?;
        payers.extend(flows::end(&mut self.maps.v6.flow, |key, flow| ends(&Passage::of(key, flow)))?);
        self.pay_back(&payers)?;
        Ok(payers.len())
    }

    /// Takes one flow off each payer's count.
    pub(super) fn pay_back(&mut self, payers: &[u32]) -> Result<(), Error> {
        let mut ended: HashMap<u32, u32> = HashMap::new();
        for payer in payers.iter().filter(|ifindex| **ifindex < capacity::ENDPOINT) {
            *ended.entry(*payer).or_default() += 1;
        }
        for (ifindex, count) in ended {
            let before = self.maps.usage.get(&ifindex, 0).map_err(|e| uncounted(ifindex, e))?;
            self.maps
                .usage
                .set(ifindex, before.saturating_sub(count), 0)
                .map_err(|e| uncounted(ifindex, e))?;
        }
        Ok(())
    }

    /// Describes the tables for `status`.
    pub(super) fn occupancy(&self) -> Vec<(String, String)> {
        let [v4, v6] = self.collector.entries;
        let [room4, room6] = self.flow_capacities();
        let of = |entries: u32, room: u32| format!("{} of {}", entries / 2, room / 2);
        vec![
            ("flows_ipv4".to_owned(), of(v4, room4)),
            ("flows_ipv6".to_owned(), of(v6, room6)),
            ("flows_per_endpoint".to_owned(), self.config.quota.to_string()),
            ("timeouts".to_owned(), if self.collector.pressed { "shortened" } else { "usual" }.to_owned()),
        ]
    }
}

fn uncounted(ifindex: u32, source: aya::maps::MapError) -> Error {
    Error::kernel(format!("count the flows of endpoint {ifindex} in map USAGE"), source)
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
