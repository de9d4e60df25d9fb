//! A short timing at the end: connections through the published port, beside iptables and beside no NAT at all.

use std::time::Duration;

use anyhow::Result;

use super::{
    scene::{Scene, WEB},
    story::{self, Story},
};
use crate::bench::race::{Contender, Race};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(250);

/// Races netd against the same path with iptables, where that is installed, and against host networking.
pub fn tell(story: &mut Story, scene: &Scene) {
    story::part("A short timing (connect, ask, answer, close; one client; a glance, not a benchmark)");
    let mut table = String::new();
    story.shows("connections through the published port", || {
        let (summary, lines) = race(scene)?;
        table = lines;
        Ok(summary)
    });
    story::print(&table);
}

fn race(scene: &Scene) -> Result<(String, String)> {
    let mut race = Race::default();
    race.enter(Contender::netd(scene.daemon(), WEB, scene.world())?);
    race.enter(Contender::host(scene.world())?);
    let twin = Contender::iptables()?;
    let installed = twin.is_some();
    if let Some(twin) = twin {
        race.enter(twin);
    }
    let results = race.run(ROUNDS, ROUND)?;
    let summary = match results.ratio("netd", "iptables") {
        Some(ratio) => format!("netd makes {ratio:.2} times as many as iptables"),
        None if installed => "netd and host networking".to_owned(),
        None => "iptables is not installed here: nothing to compare with".to_owned(),
    };
    Ok((summary, results.table()))
}
