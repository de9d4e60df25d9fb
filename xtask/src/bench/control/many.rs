//! Many objects: how long creating, publishing, restarting and deleting take, and what each costs in memory.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::{bench::statistics::Samples, command, stage::daemon::Daemon};

/// Sandboxes of one network: a bridge has 1,024 ports (`net/bridge/br_private.h`, `BR_MAX_PORTS`).
const PER_NETWORK: usize = 500;

/// The daemon gives memory back when it looks for expired flows: every second.
const SETTLED: Duration = Duration::from_secs(3);

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
    /// Publishing one more port of one of them: the median of ten.
    pub publish: f64,
    /// From the deletion of every tenth veth by somebody else until all are there again.
    pub reconcile: f64,
    /// Deleting all of them, fifty in a command.
    pub delete: f64,
    /// The daemon's memory for each, once it has been killed and started again: what it needs, and not what it needed in passing.
    pub kib_each: f64,
}

/// Measures it.
pub fn measure(daemon: &mut Daemon, sandboxes: usize, progress: impl Fn(usize)) -> Result<Many> {
    let networks: Vec<String> = (0..sandboxes.div_ceil(PER_NETWORK)).map(|n| format!("many{n}")).collect();
    for network in &networks {
        daemon.run(&["network", "create", "--ipv6", network])?;
    }
    let names: Vec<String> = (0..sandboxes).map(|n| format!("object{n}")).collect();
    let before = settled_kib(daemon)?;
    let started = Instant::now();
    for (n, name) in names.iter().enumerate() {
        let port = format!("{}:80", 10_000 + n);
        daemon.run(&["sandbox", "create", "--network", &networks[n / PER_NETWORK], "-p", &port, name])?;
        progress(n + 1);
    }
    let create = started.elapsed();
    daemon.kill()?;
    let ready_again = timed(|| daemon.start_again())?;
    thread::sleep(SETTLED);
    let after = daemon.resident_kib()?;
    let list = timed(|| daemon.run(&["ps", "--format", "json"]).map(drop))?;
    let publish = publish_one(daemon, &names)?;
    let reconcile = damage()?;
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
        publish,
        reconcile: reconcile.as_secs_f64(),
        delete: delete.as_secs_f64(),
        kib_each: number(after.saturating_sub(before)) / number(sandboxes as u64),
    })
}

/// Returns the memory of a daemon that has only just been started.
fn settled_kib(daemon: &mut Daemon) -> Result<u64> {
    daemon.kill()?;
    daemon.start_again()?;
    thread::sleep(SETTLED);
    daemon.resident_kib()
}

/// Publishes a port, ten times, and returns the median in seconds.
fn publish_one(daemon: &Daemon, names: &[String]) -> Result<f64> {
    let mut samples = Samples::default();
    for n in 0..10 {
        let (sandbox, spec) = (&names[n * names.len() / 10], format!("{}:81", 50_000 + n));
        samples.push(timed(|| daemon.run(&["publish", sandbox, &spec]).map(drop))?.as_secs_f64());
    }
    Ok(samples.median())
}

/// Deletes every tenth veth of the host's and returns how long it took until there were as many as before.
fn damage() -> Result<Duration> {
    const PATIENCE: Duration = Duration::from_mins(10);
    let before = veths()?;
    let doomed: Vec<_> = before.iter().step_by(10).map(|name| format!("link del {name}")).collect();
    command::feed(Command::new("ip").args(["-batch", "-"]), &doomed.join("\n"))?;
    let started = Instant::now();
    while veths()?.len() < before.len() {
        if started.elapsed() > PATIENCE {
            bail!("veths that were deleted did not come back");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(started.elapsed())
}

/// Lists the host sides of sandboxes' veths.
fn veths() -> Result<Vec<String>> {
    let text = command::capture(Command::new("ip").args(["-br", "link", "show", "type", "veth"]))?;
    let names = text.lines().filter_map(|line| line.split(['@', ' ']).next());
    Ok(names.filter(|name| name.starts_with("veth")).map(str::to_owned).collect())
}

/// What so many networks took, in seconds.
#[derive(Debug, Serialize)]
pub struct Networks {
    /// How many, each with an IPv4 and an IPv6 subnet.
    pub count: usize,
    /// Creating all of them, a command each.
    pub create: f64,
    /// From the start of a new daemon, after a crash, to its first answer.
    pub ready_again: f64,
    /// Deleting all of them, fifty in a command.
    pub delete: f64,
    /// The daemon's memory for each, as for sandboxes.
    pub kib_each: f64,
}

/// Measures it.
pub fn networks(daemon: &mut Daemon, count: usize, progress: impl Fn(usize)) -> Result<Networks> {
    let names: Vec<String> = (0..count).map(|n| format!("network{n}")).collect();
    let before = settled_kib(daemon)?;
    let started = Instant::now();
    for (n, name) in names.iter().enumerate() {
        let subnet = format!("10.{}.{}.0/24", 100 + n / 256, n % 256);
        daemon.run(&["network", "create", "--ipv6", "--subnet", &subnet, name])?;
        progress(n + 1);
    }
    let create = started.elapsed().as_secs_f64();
    daemon.kill()?;
    let ready_again = timed(|| daemon.start_again())?.as_secs_f64();
    thread::sleep(SETTLED);
    let after = daemon.resident_kib()?;
    let delete = timed(|| {
        for some in names.chunks(50) {
            let mut remove = vec!["network", "rm"];
            remove.extend(some.iter().map(String::as_str));
            daemon.run(&remove)?;
        }
        Ok(())
    })?;
    Ok(Networks {
        count,
        create,
        ready_again,
        delete: delete.as_secs_f64(),
        kib_each: number(after.saturating_sub(before)) / number(count as u64),
    })
}

/// What a range of ports took, in seconds and KiB.
pub struct Range {
    /// Publishing it.
    pub publish: f64,
    /// Taking it back.
    pub unpublish: f64,
    /// What the daemon has grown by while it was published, once it has given back what the request itself took.
    pub grown_kib: u64,
}

/// Publishes a range of ports on a sandbox and takes it back.
pub fn range(daemon: &Daemon, sandbox: &str, ports: u16) -> Result<Range> {
    const FIRST: u16 = 2_000;
    let range = format!("{FIRST}-{}", FIRST + (ports - 1));
    let spec = format!("{range}:{range}");
    let before = daemon.resident_kib()?;
    let publish = timed(|| daemon.run(&["publish", sandbox, &spec]).map(drop))?.as_secs_f64();
    thread::sleep(SETTLED);
    let grown_kib = daemon.resident_kib()?.saturating_sub(before);
    let unpublish = timed(|| daemon.run(&["unpublish", sandbox, &spec]).map(drop))?.as_secs_f64();
    Ok(Range { publish, unpublish, grown_kib })
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
