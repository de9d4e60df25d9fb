//! What processors do besides the benchmark: other processes before it, and a virtual machine's host meanwhile.

use std::{fs, thread, time::Duration};

/// Parts of processor time that are too much to trust a figure.
const BUSY: f64 = 0.1;
const STOLEN: f64 = 0.01;

/// Time of all processors since the machine started, in the kernel's ticks (`man 5 proc`, `/proc/stat`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Ticks {
    idle: u64,
    stolen: u64,
    all: u64,
}

impl Ticks {
    /// Returns the time so far; nothing where the kernel does not tell.
    pub fn now() -> Self {
        fs::read_to_string("/proc/stat").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Reads the line of all processors: user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two.
    fn parse(text: &str) -> Self {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or_default();
        Self { idle: at(3) + at(4), stolen: at(7), all: ticks.iter().sum() }
    }

    fn since(self, before: Self) -> Self {
        Self {
            idle: self.idle.saturating_sub(before.idle),
            stolen: self.stolen.saturating_sub(before.stolen),
            all: self.all.saturating_sub(before.all),
        }
    }

    /// Says what the machine's host took since then, where that is too much.
    pub fn stolen_until(self, now: Self) -> Option<String> {
        let Self { stolen, all, .. } = now.since(self);
        let part = part(stolen, all);
        (part > STOLEN)
            .then(|| format!("the machine's own host took {:.1} % of the processors meanwhile", part * 100.0))
    }
}

/// Watches for a second before anything is measured, and says so where processors have other work.
pub fn busy() -> Option<String> {
    let before = Ticks::now();
    thread::sleep(Duration::from_secs(1));
    let Ticks { idle, all, .. } = Ticks::now().since(before);
    let part = part(all.saturating_sub(idle), all);
    (part > BUSY).then(|| {
        format!(
            "the processors have other work to do ({:.0} % of their time): do not trust the figures",
            part * 100.0
        )
    })
}

#[expect(clippy::cast_precision_loss, reason = "ticks of years are below 2^52")]
fn part(some: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { some as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::Ticks;

    #[test]
    fn what_the_host_takes_is_told_where_it_is_too_much() {
        let before = Ticks::parse("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3 4\n");
        let quiet = Ticks::parse("cpu  600 0 300 1095 0 0 0 5 0 0\n");
        let stolen = Ticks::parse("cpu  600 0 300 1000 0 0 0 100 0 0\n");
        assert_eq!(before.stolen_until(quiet), None);
        let said = before.stolen_until(stolen).expect("a tenth");
        assert!(said.contains("took 10.0 %"), "{said}");
        assert_eq!(Ticks::default().stolen_until(Ticks::parse("nonsense")), None);
    }
}
