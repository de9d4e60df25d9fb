//! Negative checks: nothing reached the victim, and netd counted why.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Capture, Lab, Ns, PATIENCE, Packet};

/// A watch on a victim's `eth0`, during which no packet may arrive that opens something.
#[derive(Debug)]
pub struct Silence(Capture);

impl Silence {
    /// Watches from now on.
    pub fn watch(victim: &Ns) -> Self {
        Self::watch_on(victim, "eth0")
    }

    /// Watches an interface of the victim from now on.
    pub fn watch_on(victim: &Ns, ifname: &str) -> Self {
        Self(Capture::start(victim, ifname))
    }

    /// Expects that no TCP segment, datagram or echo request has arrived.
    pub fn assert(&self, what: &str) {
        self.assert_without(what, disturbs);
    }

    /// Expects the same, but for segments of connections that were there before: their last ones may come late.
    pub fn assert_unopened(&self, what: &str) {
        self.assert_without(what, |p| disturbs(p) && p.may_open());
    }

    fn assert_without(&self, what: &str, disturbs: impl Fn(&Packet) -> bool) {
        let packets = self.0.take();
        let arrived: Vec<_> = packets.iter().filter(|p| !p.outgoing && disturbs(p)).collect();
        assert!(
            arrived.is_empty(),
            "{what}: {} packets arrived at the victim, first {:?}",
            arrived.len(),
            arrived[0]
        );
    }
}

fn disturbs(packet: &Packet) -> bool {
    matches!(packet.proto, Some(6 | 17)) || packet.is_echo_request()
}

/// Runs probes that must fail: nothing new arrives at the victim, and one of these drop reasons is counted.
///
/// Reasons are written as the specification lists them (`DIRECT_ACCESS`).
pub fn denied(lab: &Lab, victim: &Ns, reasons: &[&str], probes: impl FnOnce()) {
    let silence = Silence::watch(victim);
    let before = lab.drops();
    let count = |drops: &BTreeMap<String, u64>| -> u64 {
        reasons.iter().filter_map(|reason| drops.get(&plain(reason))).sum()
    };
    probes();
    // A packet may still be queued at a device when its sender has given up.
    eventually(&format!("a drop counted under {reasons:?}, before {before:?}"), || {
        count(&lab.drops()) > count(&before)
    });
    silence.assert_unopened(victim.name());
}

impl Lab {
    /// Packets dropped so far, by reason in lower case without separators.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        read_drops(&self.netd(&["drops", "--format", "json"]).json())
    }
}

/// Reads one array of objects, each with the reason's name and an integer.
fn read_drops(json: &Value) -> BTreeMap<String, u64> {
    let rows = json.as_array().unwrap_or_else(|| panic!("drops is no array: {json}"));
    let row = |row: &Value| {
        let fields = row.as_object()?;
        Some((plain(fields.values().find_map(Value::as_str)?), fields.values().find_map(Value::as_u64)?))
    };
    rows.iter().map(|r| row(r).unwrap_or_else(|| panic!("a drop without reason and count: {r}"))).collect()
}

pub(crate) fn plain(reason: &str) -> String {
    reason.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Waits until a condition holds; fails after [`PATIENCE`].
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
