//! Many objects: how long creating, publishing, restarting and deleting take, and what each costs in memory.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::stage::daemon::Daemon;

/// Sandboxes of one network: a bridge has 1,024 ports (`net/bridge/br_private.h`, `BR_MAX_PORTS`).
const PER_NETWORK: usize = 500;

/// What so many sandboxes took. Times in seconds, memory in KiB.
#[derive(Debug, Serialize)]
pub struct Many {
    /// How many, in networks of up to 500, each with one published port.
    pub sandboxes: usize,
    /// Creating all of them, a command each.
    pub create: f64,
    /// From the start of a new daemon, after a crash, to its first answer: everything is compared with what should be.
    pub ready_again: f64,
    /// Until `netd ps` has listed them.
    pub list: f64,
    /// Deleting all of them, fifty in a command.
    pub delete: f64,
    /// The daemon's memory for each.
    pub kib_each: f64,
}

/// Measures it.
pub fn measure(daemon: &mut Daemon, sandboxes: usize, progress: impl Fn(usize)) -> Result<Many> {
    let networks: Vec<String> = (0..sandboxes.div_ceil(PER_NETWORK)).map(|n| format!("many{n}")).collect();
    for network in &networks {
        daemon.run(&["network", "create", "--ipv6", network])?;
    }
    let names: Vec<String> = (0..sandboxes).map(|n| format!("object{n}")).collect();
    let before = daemon.resident_kib()?;
    let started = Instant::now();
    for (n, name) in names.iter().enumerate() {
        let port = format!("{}:80", 10_000 + n);
        daemon.run(&["sandbox", "create", "--network", &networks[n / PER_NETWORK], "-p", &port, name])?;
        progress(n + 1);
    }
    let create = started.elapsed();
    let after = daemon.resident_kib()?;
    daemon.kill()?;
    let ready_again = timed(|| daemon.start_again())?;
    let list = timed(|| daemon.run(&["ps", "--format", "json"]).map(drop))?;
    let delete = timed(|| {
        for some in names.chunks(50) {
            let mut remove = vec!["sandbox", "rm", "-f"];
            remove.extend(some.iter().map(String::as_str));
            daemon.run(&remove)?;
        }
        Ok(())
    })?;
    for network in &networks {
        daemon.run(&["network", "rm", network])?;
    }
    Ok(Many {
        sandboxes,
        create: create.as_secs_f64(),
        ready_again: ready_again.as_secs_f64(),
        list: list.as_secs_f64(),
        delete: delete.as_secs_f64(),
        kib_each: number(after.saturating_sub(before)) / number(sandboxes as u64),
    })
}

/// Publishes a range of ports on a sandbox, takes it back, and returns how long each took, in seconds.
pub fn range(daemon: &Daemon, sandbox: &str, ports: u16) -> Result<[f64; 2]> {
    const FIRST: u16 = 2_000;
    let range = format!("{FIRST}-{}", FIRST + (ports - 1));
    let spec = format!("{range}:{range}");
    let publish = timed(|| daemon.run(&["publish", sandbox, &spec]).map(drop))?;
    let unpublish = timed(|| daemon.run(&["unpublish", sandbox, &spec]).map(drop))?;
    Ok([publish, unpublish].map(|time| time.as_secs_f64()))
}

fn timed(what: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    what()?;
    Ok(started.elapsed())
}

#[expect(clippy::cast_precision_loss, reason = "memory in KiB and counts are far below 2^52")]
fn number(value: u64) -> f64 {
    value as f64
}
