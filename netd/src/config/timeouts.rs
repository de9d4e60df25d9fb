//! How long a flow lives without a packet, per protocol state (spec: dataplane.md 7.7).

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

/// Longest timeout: the dataplane counts time in 32 bits, and nobody waits a year.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// `[timeouts]`: seconds in the file, fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// TCP, SYN seen: a server may take its time (RFC 5382 REQ-5 asks for four minutes or knowledge of the state).
    #[serde(deserialize_with = "seconds")]
    pub tcp_syn_sent: Duration,
    /// TCP, SYN and SYN+ACK seen: the ACK is a round trip away.
    #[serde(deserialize_with = "seconds")]
    pub tcp_syn_recv: Duration,
    /// TCP, open: netfilter's 5 days, above the 2 hours 4 minutes of RFC 5382 REQ-5.
    #[serde(deserialize_with = "seconds")]
    pub tcp_established: Duration,
    /// TCP, one side closed: a half-closed connection may carry data for days.
    #[serde(deserialize_with = "seconds")]
    pub tcp_closing: Duration,
    /// TCP, both sides closed, or reset; traffic after a forged RST restores the long timeout.
    #[serde(deserialize_with = "seconds")]
    pub tcp_closed: Duration,
    /// UDP without an answer yet.
    #[serde(deserialize_with = "seconds")]
    pub udp: Duration,
    /// UDP, answered: the floor of RFC 4787 REQ-5.
    #[serde(deserialize_with = "seconds")]
    pub udp_replied: Duration,
    /// ICMP echo.
    #[serde(deserialize_with = "seconds")]
    pub icmp: Duration,
    /// Other protocols.
    #[serde(deserialize_with = "seconds")]
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: Duration::from_mins(2),
            tcp_syn_recv: Duration::from_mins(1),
            tcp_established: Duration::from_hours(5 * 24),
            tcp_closing: Duration::from_hours(5 * 24),
            tcp_closed: Duration::from_secs(10),
            udp: Duration::from_secs(30),
            udp_replied: Duration::from_mins(2),
            icmp: Duration::from_secs(30),
            other: Duration::from_mins(10),
        }
    }
}

/// Reads a number of seconds, whole or with a fraction.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let number = f64::deserialize(deserializer)?;
    let duration = Duration::try_from_secs_f64(number).ok().filter(|d| !d.is_zero() && *d <= LONGEST);
    duration.ok_or_else(|| {
        D::Error::custom(format!(
            "{number} is no timeout: it is more than 0 and at most {} seconds",
            LONGEST.as_secs()
        ))
    })
}
