//! Goes through the points of an operation: break off, look, start again, look, finish, look, take back, look.

use std::{
    process::Output,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    calls::Call,
    operation::{Act, Done, Operation},
    recovery::Recovery,
    subject::{Picture, Subject},
    tracer::{Traced, Trap},
};
use crate::{Run, invariants};

/// What happens at each point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The process is killed.
    Kill,
    /// The call fails with each error that it can meet, or with this one.
    Fail(Option<Errno>),
}

/// Which points are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Points {
    /// Every one.
    All,
    /// So many, spread evenly, the first and the last among them; a single one lies in the middle.
    Spread(usize),
    /// From this one to that one.
    Range(usize, usize),
}

/// Something that was not as it must be.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The operation.
    pub operation: &'static str,
    /// Number of the call.
    pub number: usize,
    /// The call.
    pub call: String,
    /// What happened to it.
    pub event: String,
    /// What was wrong.
    pub wrong: Vec<String>,
}

/// The outcome of all points of an operation.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Changing calls of the operation.
    pub calls: usize,
    /// Points that were tried.
    pub tried: usize,
    /// Those of them that were reached. An operation may make fewer calls than when they were counted, and its last points break nothing off.
    pub reached: usize,
    /// What was wrong.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Tries points of an operation.
pub fn sweep(operation: &Operation, mode: Mode, points: Points, progress: bool) -> Outcome {
    let began = Instant::now();
    let mut outcome = Outcome::default();
    let mut bench = Bench::new(operation);
    let calls = bench.record(mode);
    outcome.calls = calls.len();
    for number in chosen(points, calls.len()) {
        let call = calls.get(number - 1);
        let errors: Vec<Option<Errno>> = match (mode, call) {
            (Mode::Kill, _) => vec![None],
            (Mode::Fail(Some(errno)), _) => vec![Some(errno)],
            (Mode::Fail(None), Some(call)) => call.kind.errors().iter().copied().map(Some).collect(),
            (Mode::Fail(None), None) => Vec::new(),
        };
        for errno in errors {
            let trap = errno.map_or(Trap::Kill(number), |errno| Trap::Fail(number, errno));
            let (hit, wrong) = bench.point(trap);
            outcome.tried += 1;
            outcome.reached += usize::from(hit.is_some());
            if !wrong.is_empty() {
                let event = errno.map_or_else(|| "killed".to_owned(), |errno| format!("{errno:?}"));
                let call = hit.as_ref().or(call).map_or_else(|| "?".to_owned(), ToString::to_string);
                let finding = Finding { operation: operation.name, number, call, event, wrong };
                if progress {
                    eprintln!("  {finding}");
                }
                outcome.findings.push(finding);
                bench = Bench::new(operation);
            }
        }
        if progress && number.is_multiple_of(10) {
            eprintln!("  {} {number} of {} after {:.0?}", operation.name, calls.len(), began.elapsed());
        }
    }
    outcome.elapsed = began.elapsed();
    outcome
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} call {} ({}), {}:", self.operation, self.number, self.call, self.event)?;
        for line in self.wrong.iter().take(20) {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

pub(super) fn chosen(points: Points, count: usize) -> Vec<usize> {
    match points {
        Points::All => (1..=count).collect(),
        Points::Range(first, last) => (first..=last.min(count)).collect(),
        Points::Spread(1) => vec![count.div_ceil(2)],
        Points::Spread(wanted) if wanted >= count => (1..=count).collect(),
        Points::Spread(wanted) => {
            let step = |index: usize| 1 + index * (count - 1) / (wanted - 1).max(1);
            (0..wanted).map(step).collect()
        }
    }
}

/// A subject at an operation's beginning.
pub(super) struct Bench<'a> {
    operation: &'a Operation,
    subject: Option<Subject>,
    /// As it was before anything of the operation.
    began: Option<Picture>,
    /// The start after a kill.
    pub(super) recovery: Recovery,
}

impl<'a> Bench<'a> {
    pub(super) fn new(operation: &'a Operation) -> Self {
        Self { operation, subject: None, began: None, recovery: Recovery::default() }
    }

    /// Lets the operation run through and returns its calls.
    pub(super) fn record(&mut self, mode: Mode) -> Vec<Call> {
        // A trap that never springs.
        let trap = match mode {
            Mode::Kill => Trap::Kill(usize::MAX),
            Mode::Fail(_) => Trap::Fail(usize::MAX, Errno::EIO),
        };
        // The second time is like every later one: what is made on first use is there.
        for _ in 0..2 {
            let mut calls = Vec::new();
            let (_, wrong) = self.point_with(trap, &mut calls);
            assert!(
                wrong.is_empty(),
                "{} left alone: {wrong:#?}\n{}",
                self.operation.name,
                tail(&self.log())
            );
            if !calls.is_empty() && !matches!(self.operation.act, Act::Command { .. }) {
                return calls;
            }
            if self.began.is_some() && !calls.is_empty() {
                self.began = self.subject.as_ref().map(Subject::picture);
            }
        }
        let mut calls = Vec::new();
        let (_, wrong) = self.point_with(trap, &mut calls);
        assert!(wrong.is_empty(), "{} left alone: {wrong:#?}\n{}", self.operation.name, tail(&self.log()));
        calls
    }

    fn log(&self) -> String {
        self.subject.as_ref().map(Subject::log).unwrap_or_default()
    }

    /// Tries one point; returns the call that was hit and what was wrong.
    pub(super) fn point(&mut self, trap: Trap) -> (Option<Call>, Vec<String>) {
        self.point_with(trap, &mut Vec::new())
    }

    fn point_with(&mut self, trap: Trap, calls: &mut Vec<Call>) -> (Option<Call>, Vec<String>) {
        match self.operation.act {
            Act::Command { line, done, again } => self.command(line, done, again, trap, calls),
            Act::Start => self.start(trap, calls),
            Act::FirstStart => first_start(trap, calls, &mut self.recovery),
            Act::Down => down(trap, calls, &mut self.recovery),
            Act::DownAlone => down_alone(trap, calls, &mut self.recovery),
        }
    }

    fn command(
        &mut self,
        line: &[&str],
        done: Done,
        again: i32,
        trap: Trap,
        calls: &mut Vec<Call>,
    ) -> (Option<Call>, Vec<String>) {
        let operation = self.operation;
        let subject = self.subject.get_or_insert_with(|| Subject::new(trap.opens()));
        let began = self.began.get_or_insert_with(|| subject.picture()).clone();
        let mut wrong = Wrong::default();
        run_all(subject, operation.before, &mut wrong);
        let before = subject.picture();
        subject.daemon().set(Some(trap));
        let id = operation_id();
        let ran = subject.run_as(&id, line);
        // The last calls of an operation are made when the caller has its answer.
        subject.run(&["status"]);
        let (made, hit) = subject.daemon().unset();
        *calls = made;
        let killed = hit.is_some() && matches!(trap, Trap::Kill(_));
        if killed {
            subject.bury();
            if !self.recovery.run(subject, &mut wrong) {
                return (hit, wrong.0);
            }
        } else if let Some(code) = subject.daemon().ended() {
            wrong.add("the daemon", vec![format!("ended with {code}"), tail(&subject.log())]);
            return (hit, wrong.0);
        }
        let is_done = is_done(subject, done);
        if ran.code == 0 && !is_done {
            wrong.add("acknowledged", vec!["and lost".to_owned()]);
        }
        if !killed && ran.code != 0 {
            wrong.add("the refusal", refusal(&ran));
            if is_done {
                wrong.add("refused", vec![format!("and done: {}", ran.stderr)]);
            }
        }
        if is_done {
            wrong.add("after it", subject.violations());
        } else {
            // What was right before is right again where nothing differs.
            wrong.add("after it", subject.violations_of_files());
            wrong.add("undone, but not as before", before.diff_by_name(&subject.picture()));
        }
        // Whoever did not hear the answer hears it now, done or not; `run` is a call for each of its steps, and begins anew.
        let repeats = operation.name != "run";
        if repeats {
            let repeated = subject.run_as(&id, line);
            if repeated.code != 0 {
                wrong.add(
                    "the repetition",
                    vec![format!("exit code {}, not 0: {}", repeated.code, repeated.stderr)],
                );
            }
        }
        let retried = subject.run(line);
        let expected = if is_done || repeats { again } else { 0 };
        if retried.code != expected {
            wrong.add(
                "the retry",
                vec![format!("exit code {}, not {expected}: {}", retried.code, retried.stderr)],
            );
        }
        wrong.add("after the retry", subject.violations());
        run_all(subject, operation.after, &mut wrong);
        if !killed {
            // What it could not put right at once it tries again after a second.
            subject.until_ready();
        }
        wrong.add("in the end not as in the beginning", began.diff(&subject.picture()));
        (hit, wrong.0)
    }

    /// A daemon that finds everything as the one before it left it.
    fn start(&mut self, trap: Trap, calls: &mut Vec<Call>) -> (Option<Call>, Vec<String>) {
        let subject = self.subject.get_or_insert_with(|| Subject::new(trap.opens()));
        let began = self.began.get_or_insert_with(|| subject.picture()).clone();
        let mut wrong = Wrong::default();
        subject.kill();
        let hit = broken_start(subject, trap, calls, &mut self.recovery, &mut wrong);
        wrong.add("after it", subject.violations());
        wrong.add("not as before", began.diff(&subject.picture()));
        (hit, wrong.0)
    }
}

/// Starts a daemon under a trap, and once more if it ended.
fn broken_start(
    subject: &mut Subject,
    trap: Trap,
    calls: &mut Vec<Call>,
    recovery: &mut Recovery,
    wrong: &mut Wrong,
) -> Option<Call> {
    let ended = subject.try_start(Some(trap));
    let (made, hit) = subject.daemon().unset();
    *calls = made;
    // The trap may have sprung just when the daemon was ready.
    let killed = hit.is_some() && matches!(trap, Trap::Kill(_));
    if ended.is_some() || killed {
        subject.bury();
        recovery.run(subject, wrong);
    }
    hit
}

fn first_start(trap: Trap, calls: &mut Vec<Call>, recovery: &mut Recovery) -> (Option<Call>, Vec<String>) {
    let mut wrong = Wrong::default();
    let mut subject = Subject::bare(trap.opens());
    let hit = broken_start(&mut subject, trap, calls, recovery, &mut wrong);
    wrong.add("after it", subject.violations());
    finish(&mut subject, &mut wrong);
    (hit, wrong.0)
}

fn down(trap: Trap, calls: &mut Vec<Call>, recovery: &mut Recovery) -> (Option<Call>, Vec<String>) {
    let mut wrong = Wrong::default();
    let mut subject = Subject::new(trap.opens());
    let programs = invariants::program_ids(subject.dirs());
    subject.daemon().set(Some(trap));
    let ran = Run::new(&["down"], &subject.host().output(&mut subject.down()));
    let (killed, fails) = (matches!(trap, Trap::Kill(_)), matches!(trap, Trap::Fail(..)));
    if ran.code == 0 || killed {
        subject.daemon().wait(Duration::from_secs(if ran.code == 0 { 10 } else { 1 }));
    }
    let (made, hit) = subject.daemon().unset();
    *calls = made;
    if ran.code != 0 && fails {
        wrong.add("the refusal", refusal(&ran));
    }
    if ran.code != 0 && killed {
        subject.bury();
        // Every other time a daemon starts in between, which finds half of everything.
        let number = if let Trap::Kill(number) = trap { number } else { 0 };
        if (number.is_multiple_of(2) || recovery.is_broken_off()) && recovery.run(&mut subject, &mut wrong) {
            wrong.add("after it", subject.violations());
        }
    }
    finish_with(&mut subject, &programs, &mut wrong);
    (hit, wrong.0)
}

fn down_alone(trap: Trap, calls: &mut Vec<Call>, recovery: &mut Recovery) -> (Option<Call>, Vec<String>) {
    let mut wrong = Wrong::default();
    let mut subject = Subject::new(trap.opens());
    let programs = invariants::program_ids(subject.dirs());
    subject.kill();
    let mut command = subject.down();
    let log =
        std::fs::File::options().create(true).append(true).open(subject.dirs().path("log")).expect("the log");
    command.stdout(log.try_clone().expect("a second descriptor")).stderr(log);
    let traced = Traced::start(subject.host(), command, trap.opens(), Some(trap));
    traced.wait(Duration::from_secs(30));
    let (made, hit) = traced.unset();
    *calls = made;
    drop(traced);
    if hit.is_some() && recovery.is_broken_off() && recovery.run(&mut subject, &mut wrong) {
        wrong.add("after it", subject.violations());
    }
    finish_with(&mut subject, &programs, &mut wrong);
    (hit, wrong.0)
}

/// An id that no other operation has.
fn operation_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("crash-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Takes everything down and looks at what is left.
fn finish(subject: &mut Subject, wrong: &mut Wrong) {
    let programs = invariants::program_ids(subject.dirs());
    finish_with(subject, &programs, wrong);
}

fn finish_with(subject: &mut Subject, programs: &[u32], wrong: &mut Wrong) {
    let out: Output = subject.host().output(&mut subject.down());
    let ran = Run::new(&["down"], &out);
    if ran.code != 0 {
        wrong.add("netd down", vec![format!("exit code {}: {}", ran.code, ran.stderr), tail(&subject.log())]);
    }
    subject.kill();
    wrong.add("after netd down", subject.remains(programs));
}

/// Longest line of a finding, in characters: some speak of 60,000 ports.
const LINE: usize = 900;

/// Lines of what is wrong, each with its place.
#[derive(Default)]
pub(super) struct Wrong(Vec<String>);

impl Wrong {
    pub(super) fn add(&mut self, place: &str, lines: Vec<String>) {
        self.0.extend(
            lines.into_iter().map(|line| format!("{place}: {}", line.chars().take(LINE).collect::<String>())),
        );
    }
}

fn run_all(subject: &Subject, lines: &[&[&str]], wrong: &mut Wrong) {
    for line in lines {
        let ran = subject.run(line);
        if ran.code != 0 {
            wrong.add(&ran.line, vec![format!("exit code {}: {}", ran.code, ran.stderr)]);
        }
    }
}

fn is_done(subject: &Subject, done: Done) -> bool {
    match done {
        Done::Works(line) => subject.run(line).code == 0,
        Done::Fails(line) => subject.run(line).code != 0,
        Done::Says(line, what) => subject.run(line).ok().contains(what),
        Done::Silent(line, what) => !subject.run(line).ok().contains(what),
    }
}

/// A failed command says in one line what was not done and why (reliability, Appendix B).
fn refusal(ran: &Run) -> Vec<String> {
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| !line.starts_with("hint: ")).collect();
    if lines.len() == 1 && lines[0].contains(": ") {
        Vec::new()
    } else {
        vec![format!("not one line: {:?}", ran.stderr)]
    }
}

/// The last lines of a log.
pub(super) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(6)..].join("\n      ")
}
