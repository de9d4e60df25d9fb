//! `[timeouts]`: seconds per protocol state, fractions allowed (spec: dataplane.md 7.7).

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::dataplane::Timeouts;

/// Longest timeout: the dataplane counts time in 32 bits, and nobody waits a year.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Tells serde how to read `Timeouts`, whose defaults stand in for keys that are not given.
#[derive(Deserialize)]
#[serde(remote = "Timeouts", default, deny_unknown_fields)]
pub(super) struct Table {
    #[serde(deserialize_with = "seconds")]
    tcp_syn_sent: Duration,
    #[serde(deserialize_with = "seconds")]
    tcp_syn_recv: Duration,
    #[serde(deserialize_with = "seconds")]
    tcp_established: Duration,
    #[serde(deserialize_with = "seconds")]
    tcp_closing: Duration,
    #[serde(deserialize_with = "seconds")]
    tcp_closed: Duration,
    #[serde(deserialize_with = "seconds")]
    tcp_reset: Duration,
    #[serde(deserialize_with = "seconds")]
    udp: Duration,
    #[serde(deserialize_with = "seconds")]
    udp_replied: Duration,
    #[serde(deserialize_with = "seconds")]
    udp_dns: Duration,
    #[serde(deserialize_with = "seconds")]
    icmp: Duration,
    #[serde(deserialize_with = "seconds")]
    other: Duration,
}

impl Default for Table {
    fn default() -> Self {
        let all = Timeouts::default();
        Self {
            tcp_syn_sent: all.tcp_syn_sent,
            tcp_syn_recv: all.tcp_syn_recv,
            tcp_established: all.tcp_established,
            tcp_closing: all.tcp_closing,
            tcp_closed: all.tcp_closed,
            tcp_reset: all.tcp_reset,
            udp: all.udp,
            udp_replied: all.udp_replied,
            udp_dns: all.udp_dns,
            icmp: all.icmp,
            other: all.other,
        }
    }
}

/// Reads a number of seconds, whole or with a fraction.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let number = f64::deserialize(deserializer)?;
    let duration = Duration::try_from_secs_f64(number).ok().filter(|d| !d.is_zero() && *d <= LONGEST);
    duration.ok_or_else(|| {
        let most = LONGEST.as_secs();
        D::Error::custom(format!("{number} is no timeout: it is more than 0 and at most {most} seconds"))
    })
}
