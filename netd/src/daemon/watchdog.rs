//! Tells the service manager that the daemon lives, for as long as its controller gets on: one that hangs is ended and started again
//! (reliability 8.2). Traffic does not notice either.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::notify;
use crate::pulse;

/// How often it looks in the time that the service manager waits: a step may take most of that.
const LOOKS: u32 = 10;
/// A shorter time would be nobody's.
const SHORTEST: Duration = Duration::from_millis(10);

/// Looks for ever; ends at once where no service manager waits to hear of it (`WatchdogSec=`, `sd_watchdog_enabled(3)`).
pub async fn watch() {
    let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| *patience >= SHORTEST) else {
        return;
    };
    let mut looks = interval(patience / LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        looks.tick().await;
        let beats = pulse::beats();
        if seen.replace(beats) != Some(beats) {
            // A service manager that does not read would keep this thread, and on a host with one processor there is no other.
            let told = spawn_blocking(|| notify(NotifyState::Watchdog)).await;
            if let Err(error) = told {
                tracing::error!(%error, "the service manager was not told");
            }
        }
    }
}
