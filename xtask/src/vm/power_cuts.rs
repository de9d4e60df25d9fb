//! `cargo xtask vm power-cuts`: QEMU is killed at random moments while the daemon in the guest works; what it had acknowledged must be there
//! when the guest boots again from the same disk (reliability F4, F24).
//!
//! The disk is a chain of qcow2 layers, one for each boot. QEMU keeps the tables of a layer in its own memory until the guest flushes, so a block that
//! was not flushed is lost with it, also one that the guest's kernel had written; a second disk that is never flushed is the control.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    guest::{Accelerator, Guest},
    kernel::Unpacked,
};
use crate::{
    command,
    ui::{self, Task},
};

/// The file of `tests/tests` that works in the guest.
pub const TEST: &str = "power_cuts";
/// Sizes of the disks.
const DISK: u64 = 256 << 20;
/// How long after the first acknowledgement the power may last, in milliseconds; an emulated processor takes seconds for an operation.
const LASTS: (u64, u64) = (500, 15_000);
const LASTS_EMULATED: (u64, u64) = (500, 45_000);
/// Bytes of a cluster of a layer: the first write to each is lost unless it is flushed.
const CLUSTER: u64 = 4096;

/// What the guest does.
pub fn step() -> (String, String) {
    let script = format!(
        "mkdir -p /disk && mount -t ext4 /dev/vda /disk && mkdir -p /disk/netd/run && mount -t tmpfs tmpfs /disk/netd/run && \
         NETD_POWER_CUTS=/disk/netd NETD_POWER_CUTS_CONTROL=/dev/vdb test-{TEST} --ignored --nocapture"
    );
    ("power-cuts".to_owned(), script)
}

/// Where it happens.
pub struct Scene<'a> {
    pub kernel: &'a Unpacked,
    pub image: PathBuf,
    pub accelerator: Accelerator,
    pub cache: &'a Path,
    pub limit: Duration,
}

/// Cuts the power so many times; whether everything acknowledged was there each time.
pub fn run(scene: &Scene<'_>, cuts: u32, seed: Option<u64>) -> Result<bool> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = seed.unwrap_or(u64::from(now.subsec_nanos()));
    println!("Linux {} ({}), {cuts} cuts, seed {seed}", scene.kernel.release, scene.accelerator.name());
    let dir = scene.cache.join("power-cuts");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut disks = [Disk::new(&dir, "state")?, Disk::new(&dir, "control")?];
    command::run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disks[0].last))?;
    let (mut random, mut ledger, mut wrong) = (Random(seed), Ledger::default(), 0);
    let mut console = String::new();
    println!(
        "{:>4} {:>8} {:>6} {:>8} {:>9} {:>9}  wrong",
        "boot", "power s", "acked", "checked", "control", "in flight"
    );
    let (least, most) = if scene.accelerator == Accelerator::Tcg { LASTS_EMULATED } else { LASTS };
    for boot in 0..=cuts {
        let lasts = (boot < cuts).then(|| Duration::from_millis(random.between(least, most)));
        let layers = disks.iter_mut().map(Disk::layer).collect::<Result<Vec<_>>>()?;
        let guest = Guest {
            kernel: scene.kernel,
            image: scene.image.clone(),
            accelerator: scene.accelerator,
            disks: layers,
        };
        let task = Task::start(format!("boot {boot}"));
        let seen = live(&guest, lasts, scene.limit, &mut ledger, &task, &mut console);
        fs::write(dir.join("console.log"), &console).context("write the consoles' log")?;
        let seen = seen.with_context(|| format!("boot {boot}; see {}", dir.join("console.log").display()))?;
        task.done();
        wrong += seen.wrong.len();
        print(boot, lasts, &seen);
    }
    println!("{}", verdict(&ledger, wrong));
    ensure!(cuts == 0 || ledger.lost_blocks > 0, "the control's disk lost nothing: these cuts prove nothing");
    Ok(wrong == 0)
}

fn print(boot: u32, lasts: Option<Duration>, seen: &Seen) {
    let lasts = lasts.map_or_else(|| "-".to_owned(), |lasts| format!("{:.1}", lasts.as_secs_f64()));
    let control = seen.control.map_or_else(|| "-".to_owned(), |(kept, of)| format!("{kept}/{of}"));
    println!(
        "{boot:>4} {lasts:>8} {:>6} {:>8} {control:>9} {:>9}  {}",
        seen.acknowledged,
        seen.checked,
        seen.in_flight.as_deref().unwrap_or("-"),
        seen.wrong.len()
    );
    seen.wrong.iter().for_each(|line| println!("     {}", ui::paint("31", line)));
}

fn verdict(ledger: &Ledger, wrong: usize) -> String {
    format!(
        "{} operations acknowledged, {} facts compared after cuts, {wrong} wrong; the control lost {} of {} blocks",
        ledger.acknowledged, ledger.checked, ledger.lost_blocks, ledger.blocks
    )
}

/// Lets a guest live until its power is cut, and reads what it says.
fn live(
    guest: &Guest<'_>,
    lasts: Option<Duration>,
    limit: Duration,
    ledger: &mut Ledger,
    task: &Task,
    console: &mut String,
) -> Result<Seen> {
    let running = guest.start()?;
    let mut seen = Seen::default();
    let mut has = Vec::new();
    let mut deadline = Instant::now() + limit;
    let mut cut_at = None;
    let mut hear = |line: &str, seen: &mut Seen, ledger: &mut Ledger| {
        console.push_str(line);
        console.push('\n');
        task.detail(line);
        let Some((_, said)) = line.split_once("@@ ") else { return false };
        match said.split_once(' ').unwrap_or((said, "")) {
            ("kept", blocks) => seen.control = ledger.kept(blocks.parse().unwrap_or_default()),
            ("has", fact) => has.push(fact.to_owned()),
            ("recovered", _) => {
                seen.in_flight.clone_from(&ledger.asked);
                (seen.checked, seen.wrong) = {
                    let (checked, mut wrong) = ledger.compare(&has);
                    wrong.append(&mut seen.wrong);
                    (checked, wrong)
                };
                return true;
            }
            ("ask", change) => ledger.ask(change),
            ("ack", change) => {
                ledger.acknowledge(change);
                seen.acknowledged += 1;
            }
            ("unflushed", blocks) => ledger.written = blocks.parse().unwrap_or_default(),
            ("wrong", what) => seen.wrong.push(what.to_owned()),
            _ => {}
        }
        false
    };
    loop {
        match running.line(deadline) {
            Ok(line) => {
                if hear(&line, &mut seen, ledger) {
                    let Some(lasts) = lasts else { break };
                    cut_at = Some(lasts);
                }
                // The power lasts from the first acknowledgement on.
                if seen.acknowledged > 0
                    && let Some(lasts) = cut_at.take()
                {
                    deadline = Instant::now() + lasts;
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => break,
            Err(error) => bail!("the guest ended by itself: {error}"),
        }
    }
    for line in running.cut() {
        hear(&line, &mut seen, ledger);
    }
    ensure!(
        lasts.is_none() || seen.acknowledged > 0,
        "the guest acknowledged nothing in {} s",
        limit.as_secs()
    );
    Ok(seen)
}

/// What came of one boot.
#[derive(Debug, Default)]
struct Seen {
    /// Operations acknowledged in it.
    acknowledged: usize,
    /// Facts from before that were compared.
    checked: usize,
    /// Blocks of the control that were kept, of those written.
    control: Option<(u64, u64)>,
    /// What had been asked when the power went, and not answered.
    in_flight: Option<String>,
    wrong: Vec<String>,
}

/// What must be there, by all that was acknowledged.
#[derive(Debug, Default)]
struct Ledger {
    /// Facts, such as `network n5`: whether they must be, or must not; what is not listed may or may not be.
    facts: BTreeMap<String, bool>,
    asked: Option<String>,
    acknowledged: usize,
    checked: usize,
    /// Blocks on the control's disk: when this boot began, and by now.
    kept: u64,
    written: u64,
    blocks: u64,
    lost_blocks: u64,
}

impl Ledger {
    /// From now on it may be either way.
    fn ask(&mut self, change: &str) {
        for fact in facts_of(change, &self.facts) {
            self.facts.remove(&fact);
        }
        self.asked = Some(change.to_owned());
    }

    fn acknowledge(&mut self, change: &str) {
        let (sign, fact) = change.split_once(' ').unwrap_or((change, ""));
        self.facts.insert(fact.to_owned(), sign == "+");
        self.asked = None;
        self.acknowledged += 1;
    }

    /// Compares with what there is; sandboxes end with a boot, so what is known of them does too.
    fn compare(&mut self, has: &[String]) -> (usize, Vec<String>) {
        let mut wrong = Vec::new();
        for (fact, must) in &self.facts {
            match (*must, has.contains(fact)) {
                (true, false) => wrong.push(format!("acknowledged, and lost: {fact}")),
                (false, true) => wrong.push(format!("removed, and there again: {fact}")),
                _ => {}
            }
        }
        let checked = self.facts.len();
        let asked = self.asked.take().map(|change| facts_of(&change, &self.facts)).unwrap_or_default();
        for fact in has {
            if !self.facts.contains_key(fact) && !asked.contains(fact) && !implied(fact, &asked, &self.facts)
            {
                wrong.push(format!("there, and nobody asked for it: {fact}"));
            }
        }
        self.checked += checked;
        // What was in flight is decided now, and stays as it is.
        self.facts =
            has.iter().filter(|fact| fact.starts_with("network ")).map(|fact| (fact.clone(), true)).collect();
        (checked, wrong)
    }

    /// Notes how many of the blocks written before the cut are there.
    fn kept(&mut self, kept: u64) -> Option<(u64, u64)> {
        let (kept, of) = (kept.saturating_sub(self.kept), self.written - self.kept);
        self.blocks += of;
        self.lost_blocks += of.saturating_sub(kept);
        self.kept += kept;
        self.written = self.kept;
        (of > 0).then_some((kept, of))
    }
}

/// The facts that a change decides: a sandbox's ports come and go with it.
fn facts_of(change: &str, known: &BTreeMap<String, bool>) -> Vec<String> {
    let (_, fact) = change.split_once(' ').unwrap_or((change, ""));
    let ports = fact.strip_prefix("sandbox ").map(|sandbox| format!("port {sandbox} "));
    let ports = ports.into_iter().flat_map(|prefix| {
        known.keys().filter(move |known| known.starts_with(&prefix)).cloned().collect::<Vec<_>>()
    });
    ports.chain([fact.to_owned()]).collect()
}

/// Whether a port came with its sandbox and was not spoken of by itself.
fn implied(fact: &str, asked: &[String], known: &BTreeMap<String, bool>) -> bool {
    let Some(sandbox) = fact.strip_prefix("port ").and_then(|rest| rest.split(' ').next()) else {
        return false;
    };
    let sandbox = format!("sandbox {sandbox}");
    asked.contains(&sandbox) || known.get(&sandbox) == Some(&true)
}

/// A disk in layers: what a boot writes goes to the last one.
struct Disk {
    dir: PathBuf,
    name: &'static str,
    layers: u32,
    last: PathBuf,
}

impl Disk {
    fn new(dir: &Path, name: &'static str) -> Result<Self> {
        let base = dir.join(format!("{name}.raw"));
        let file = File::create(&base).with_context(|| format!("create {}", base.display()))?;
        file.set_len(DISK).with_context(|| format!("size {}", base.display()))?;
        Ok(Self { dir: dir.to_owned(), name, layers: 0, last: base })
    }

    /// Puts an empty layer on top and returns it.
    fn layer(&mut self) -> Result<PathBuf> {
        let format = if self.layers == 0 { "raw" } else { "qcow2" };
        self.layers += 1;
        let layer = self.dir.join(format!("{}-{}.qcow2", self.name, self.layers));
        let mut create = Command::new("qemu-img");
        create.args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &format!("cluster_size={CLUSTER}"),
            "-F",
            format,
            "-b",
        ]);
        command::run(create.arg(&self.last).arg(&layer))?;
        self.last.clone_from(&layer);
        Ok(layer)
    }
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (word ^ (word >> 31)) % (high - low + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(changes: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        for change in changes {
            ledger.ask(change);
            ledger.acknowledge(change);
        }
        ledger
    }

    fn has(facts: &[&str]) -> Vec<String> {
        facts.iter().map(|fact| (*fact).to_owned()).collect()
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_what_was_removed_must_not() {
        let changes = ["+ network n1", "+ network n2", "- network n1", "+ sandbox s2", "+ port s2 20005"];
        let good = has(&["network n2", "sandbox s2", "port s2 20005", "port s2 20004"]);
        assert_eq!(ledger(&changes).compare(&good), (4, Vec::new()));
        let (_, wrong) = ledger(&changes).compare(&has(&["network n1", "sandbox s2", "port s2 20005"]));
        assert_eq!(wrong, ["removed, and there again: network n1", "acknowledged, and lost: network n2"]);
        let (_, wrong) = ledger(&changes[..1]).compare(&has(&["network n1", "network n7", "port s7 20015"]));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }

    #[test]
    fn what_was_in_flight_may_be_either_way_with_the_ports_of_its_sandbox() {
        for present in [&["network n1", "sandbox s1", "port s1 20003"][..], &["network n1"]] {
            let mut ledger = ledger(&["+ network n1", "+ sandbox s1", "+ port s1 20003"]);
            ledger.ask("- sandbox s1");
            assert_eq!(ledger.compare(&has(present)), (1, Vec::new()), "{present:?}");
        }
    }
}
