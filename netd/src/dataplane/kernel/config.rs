//! The configuration that all programs read.

use netd_common::maps::{Config, PORT_RANGES, PortRange, Timeouts as Ticks, features};

use super::super::{Error, Settings, Timeouts, flows, maps::Maps, raw};

/// Writes the configuration; an earlier one's epoch goes on and its secret stays, so that endpoints keep their external ports.
pub(super) fn configure(maps: &mut Maps, settings: &Settings, found: u32) -> Result<Config, Error> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |source| Error::Kernel { doing, source }
    };
    let old = maps.config.get(&0, 0).map_err(|e| failed("read map CONFIG")(Box::new(e)))?;
    let cookie = raw::netns_cookie().map_err(|e| failed("ask for the namespace's cookie")(Box::new(e)))?;
    let secret = match old.secret {
        0 => getrandom::u32().map_err(|e| failed("take random bytes")(Box::new(e)))? | 1,
        kept => kept,
    };
    // What the host has may be another since then.
    let old = Config { secret, features: old.features & !features::SOLE_SOURCE6, ..old };
    let config = Config {
        epoch: old.epoch.wrapping_add(1).max(1),
        netns_cookie: [(cookie & 0xffff_ffff) as u32, (cookie >> 32) as u32],
        ..configuration(settings, old, found)
    };
    maps.config.set(0, config, 0).map_err(|e| failed("write to map CONFIG")(Box::new(e)))?;
    Ok(config)
}

/// Returns the configuration that these settings make of an earlier one, on a kernel where these `features` were found.
pub(super) fn configuration(settings: &Settings, mut old: Config, found: u32) -> Config {
    let mut ports = [PortRange::default(); PORT_RANGES];
    for (slot, (first, last)) in ports.iter_mut().zip(&settings.nat_port_ranges) {
        *slot = PortRange { first: *first, count: last.saturating_sub(*first).saturating_add(1) };
    }
    if old.epoch == 0 {
        old.features = settings.tcx_order.feature(); // nothing is anywhere yet
    }
    let quota4 = (settings.flow_entries_per_endpoint / 2).max(1);
    let quota6 = quota4.div_ceil(super::super::IPV6_SHARE);
    Config {
        features: found
            | if settings.direct.routing { features::DIRECT_ROUTING } else { 0 }
            | old.features & (features::UPLINKS_FIRST | features::SOLE_SOURCE6)
            | if settings.respect_host_firewall { features::ASKS_HOST } else { 0 },
        port_count: ports.iter().map(|range| u32::from(range.count)).sum(),
        ports,
        timeouts: in_ticks(&settings.timeouts),
        quota4,
        quota6,
        places4: places(quota4),
        places6: places(quota6),
        accept_mark: settings.direct.mark.map_or(0, |(mark, mask)| mark & mask),
        opening_rate: settings.guard.connections_per_second,
        accept_mask: settings.direct.mark.map_or(0, |(_, mask)| mask),
        ..old
    }
}

/// Returns how many places an endpoint has for its latest flows, less one: half of its quota at most, so that a flood of unconfirmed ones leaves
/// room for what the endpoint opens itself; a power of two, which makes it a mask.
fn places(quota: u32) -> u32 {
    (quota / 2).checked_ilog2().map_or(0, |bits| (1 << bits) - 1)
}

/// Converts the timeouts to what the programs count in.
pub(super) fn in_ticks(timeouts: &Timeouts) -> Ticks {
    Ticks {
        tcp_syn_sent: flows::ticks(timeouts.tcp_syn_sent),
        tcp_syn_recv: flows::ticks(timeouts.tcp_syn_recv),
        tcp_established: flows::ticks(timeouts.tcp_established),
        tcp_closing: flows::ticks(timeouts.tcp_closing),
        tcp_closed: flows::ticks(timeouts.tcp_closed),
        tcp_reset: flows::ticks(timeouts.tcp_reset),
        udp: flows::ticks(timeouts.udp),
        udp_replied: flows::ticks(timeouts.udp_replied),
        udp_dns: flows::ticks(timeouts.udp_dns),
        icmp: flows::ticks(timeouts.icmp),
        other: flows::ticks(timeouts.other),
    }
}
