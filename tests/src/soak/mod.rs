//! A soak (reliability 7.7): networks, sandboxes, ports and jobs come and go while the daemon is killed and stopped at random, probes and attackers
//! work all the time, and after each cycle everything is back where it was.

mod churn;
mod figures;
mod strikes;

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    Options, PATIENCE, Random, Snapshot,
    invariants::{self, Instance, MapDump},
    probe::Kind,
    rig::{Rig, World},
};
use churn::Crew;
use figures::{Figures, slope};
use strikes::Strikes;

/// Time of a cycle before everything is taken away and counted.
const CYCLE: Duration = Duration::from_secs(8);
/// Growth of the daemon's memory in percent of a cycle from which on it is a leak (reliability 7.7).
const SLOPE: f64 = 2.0;
/// Cycles that a slope needs.
const CYCLES: usize = 6;

/// What a soak is told.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long it goes on.
    pub duration: Duration,
    /// What all that happens comes from.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    cycles: Vec<Value>,
    /// What was wrong.
    pub wrong: Vec<String>,
    summary: Value,
}

impl Outcome {
    /// Everything, for other programs.
    pub fn json(&self) -> Value {
        json!({ "Cycles": self.cycles, "Summary": self.summary, "Wrong": self.wrong })
    }
}

/// Lets it run, and tells of each cycle on stderr.
pub fn run(settings: Settings) -> Outcome {
    let mut soak = Soak::new(settings);
    soak.cycle(false); // what is made on first use is made
    soak.baseline();
    eprintln!("{}", Figures::header());
    let began = Instant::now();
    // One third of the time the daemon lives on, so that its memory can be watched.
    let calm = settings.duration.mul_f64(2.0 / 3.0);
    while began.elapsed() < settings.duration {
        let strikes = began.elapsed() < calm;
        if !strikes && soak.one_life.is_none() {
            soak.new_life();
        }
        soak.cycle(strikes);
        soak.judge(began, strikes);
    }
    soak.finish(began)
}

/// Kernel objects, maps and what is stored, where nothing of the churn is left.
struct Rest {
    snapshot: Snapshot,
    maps: MapDump,
    stored: BTreeSet<String>,
    figures: Figures,
}

struct Soak {
    rig: Option<Rig>,
    world: World,
    crew: Crew,
    random: Random,
    strikes: Strikes,
    rest: Option<Rest>,
    /// The daemon's memory in KiB after each cycle of its one life.
    one_life: Option<Vec<f64>>,
    outcome: Outcome,
}

impl Soak {
    fn new(settings: Settings) -> Self {
        let options = Options { config: String::new(), counted: false, ..Options::default() };
        let world = World::new(&options);
        let rig = Some(Rig::start(&world, Kind::New));
        let mut random = Random::new(settings.seed);
        let crew = Crew::new(&world.lab, &mut random);
        Self {
            rig,
            world,
            crew,
            random,
            strikes: Strikes::default(),
            rest: None,
            one_life: None,
            outcome: Outcome::default(),
        }
    }

    /// Churn for a while; then all that was acknowledged is there, nothing is half done, and all of it goes.
    fn cycle(&mut self, strikes: bool) {
        self.crew.start();
        let end = Instant::now() + CYCLE;
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(self.random.between(200, 2000)));
            if strikes {
                self.strikes.strike(&mut self.world.lab.daemon, &mut self.random);
            } else {
                self.strikes.pause(&self.world.lab.daemon, &mut self.random);
            }
        }
        let mut wrong = self.crew.stop();
        wrong.extend(self.settled("while objects of the churn are there", |soak| {
            let mut lines = invariants::violations(soak.instance());
            lines.extend(soak.crew.missing(&invariants::stored(soak.world.lab.daemon.dirs())));
            lines
        }));
        wrong.extend(self.crew.clear());
        for line in &wrong {
            eprintln!("     {line}");
        }
        self.outcome.wrong.extend(wrong);
    }

    /// From now on every cycle ends as this one.
    fn baseline(&mut self) {
        let wrong = self.settled("at the beginning", |soak| invariants::violations(soak.instance()));
        self.outcome.wrong.extend(wrong);
        self.rest = Some(self.rest());
    }

    fn rest(&self) -> Rest {
        let dirs = self.world.lab.daemon.dirs();
        Rest {
            snapshot: Snapshot::with_files(&self.world.lab.h, dirs),
            maps: MapDump::of(dirs),
            stored: invariants::stored(dirs),
            figures: self.figures(),
        }
    }

    fn figures(&self) -> Figures {
        Figures::of(&self.world.lab.h, self.world.lab.daemon.dirs(), self.world.lab.daemon.pid())
    }

    /// A fresh daemon, whose memory is watched from now on.
    fn new_life(&mut self) {
        self.world.lab.daemon.end(Signal::SIGTERM);
        self.world.lab.daemon.restart();
        self.one_life = Some(Vec::new());
    }

    /// Compares with the beginning.
    fn judge(&mut self, began: Instant, strikes: bool) {
        let wrong = self.settled("when everything of the churn is gone", |soak| {
            let Some(then) = &soak.rest else { return Vec::new() };
            let now = soak.rest();
            let mut lines = then.snapshot.diff(&now.snapshot);
            lines.extend(then.maps.diff(&now.maps));
            lines.extend(then.stored.symmetric_difference(&now.stored).map(|line| format!("stored: {line}")));
            lines.extend(now.figures.above(&then.figures));
            lines.extend(invariants::violations(soak.instance()));
            lines
        });
        let figures = self.figures();
        if let Some(life) = &mut self.one_life {
            life.push(figures.memory());
        }
        let at = began.elapsed();
        eprintln!("{}", figures.row(at, self.crew.done(), &self.strikes, wrong.len()));
        self.outcome.cycles.push(json!({
            "Seconds": at.as_secs(),
            "Kills": strikes,
            "Operations": self.crew.done(),
            "Figures": figures.json(),
            "Wrong": wrong.len(),
        }));
        for line in &wrong {
            eprintln!("     {line}");
        }
        self.outcome.wrong.extend(wrong);
    }

    /// Looks until nothing is wrong: what packets change is read while they change it. What stays wrong is told.
    fn settled(&self, when: &str, look: impl Fn(&Self) -> Vec<String>) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let wrong = look(self);
            if wrong.is_empty() || Instant::now() > end {
                return wrong.into_iter().map(|line| format!("{when}: {line}")).collect();
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn instance(&self) -> Instance<'_> {
        let daemon = &self.world.lab.daemon;
        Instance { ns: &self.world.lab.h, dirs: daemon.dirs(), pid: daemon.pid(), held: false }
    }

    fn finish(mut self, began: Instant) -> Outcome {
        let seen = self.rig.take().expect("it is ended once").end();
        self.outcome.wrong.extend(seen.faults());
        let life = self.one_life.take().unwrap_or_default();
        let slope = slope(&life);
        if life.len() >= CYCLES && slope > SLOPE {
            self.outcome.wrong.push(format!("the daemon's memory grows by {slope:.2} % a cycle: {life:?}"));
        }
        self.outcome.summary = json!({
            "Seconds": began.elapsed().as_secs(),
            "Operations": self.crew.done(),
            "Unanswered": self.crew.unanswered(),
            "Strikes": self.strikes.json(),
            "Traffic": seen.summary(),
            "MemorySlopePercentPerCycle": slope,
            "CyclesOfOneLife": life.len(),
        });
        eprintln!("{}", serde_json::to_string_pretty(&self.outcome.summary).unwrap_or_default());
        self.outcome
    }
}
