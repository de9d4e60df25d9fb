//! When something was, so that its age can be told whatever has been done to the clock since: by hand, by NTP's first step on a board without a battery
//! (reliability F15).

use std::{fs, sync::OnceLock};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Names this boot (`random(4)`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A moment by the wall clock, which anybody may set, and by the clock of its boot, which nobody can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds since the epoch.
    at: i64,
    /// None: the kernel told none, or an older netd has written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<SinceBoot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SinceBoot {
    id: String,
    /// Seconds of `CLOCK_BOOTTIME`, which goes on in suspend.
    seconds: i64,
}

impl Moment {
    /// The present one.
    pub fn now() -> Self {
        Self { at: jiff::Timestamp::now().as_second(), boot: SinceBoot::now() }
    }

    /// Seconds from this moment to a later one. From a boot to another one the wall clock is all there is, and they may be negative.
    pub fn seconds_until(&self, later: &Self) -> i64 {
        match (&self.boot, &later.boot) {
            (Some(from), Some(to)) if from.id == to.id => to.seconds.saturating_sub(from.seconds),
            _ => later.at.saturating_sub(self.at),
        }
    }

    /// The moment this many seconds before, of the same boot.
    #[cfg(test)]
    pub(crate) fn before(&self, seconds: i64) -> Self {
        let boot = self.boot.clone().map(|boot| SinceBoot { seconds: boot.seconds - seconds, ..boot });
        Self { at: self.at - seconds, boot }
    }

    /// The same moment, had the wall clock been this many seconds further.
    #[cfg(test)]
    pub(crate) fn with_wall_clock_ahead(&self, seconds: i64) -> Self {
        Self { at: self.at + seconds, ..self.clone() }
    }

    /// As an older netd would have written it.
    #[cfg(test)]
    pub(crate) fn without_boot(&self) -> Self {
        Self { boot: None, ..self.clone() }
    }
}

impl SinceBoot {
    fn now() -> Option<Self> {
        static ID: OnceLock<Option<String>> = OnceLock::new();
        let id = ID.get_or_init(|| fs::read_to_string(BOOT_ID).ok().map(|text| text.trim().to_owned()));
        Some(Self { id: id.clone()?, seconds: clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?.tv_sec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_YEARS: i64 = 10 * 365 * 24 * 60 * 60;

    #[test]
    fn an_age_is_of_the_boots_clock_and_over_a_boot_of_the_wall_clock() {
        let now = Moment::now();
        assert!(now.boot.is_some(), "this kernel tells its boot");
        let old = now.before(90);
        for jump in [0, TEN_YEARS, -TEN_YEARS] {
            assert_eq!(old.with_wall_clock_ahead(jump).seconds_until(&now), 90, "{jump}");
            let of_another_boot = old.without_boot().with_wall_clock_ahead(-jump);
            assert_eq!(of_another_boot.seconds_until(&now), 90 + jump);
        }
    }

    #[test]
    fn what_an_older_netd_wrote_is_read() {
        let old: Moment = serde_json::from_str(r#"{"at":1700000000}"#).expect("reads");
        assert_eq!(old, Moment { at: 1_700_000_000, boot: None });
        let now = Moment::now();
        let text = serde_json::to_string(&now).expect("writes");
        assert_eq!(serde_json::from_str::<Moment>(&text).expect("reads"), now);
    }
}
