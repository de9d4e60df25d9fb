//! Runs a table's tests as the standard harness would: names, filters, a line each, a summary at the very end, the matrix just before it.
//! Rows that share a world run one after the other; rows with a lab of their own run beside them.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::Mutex,
    thread,
    time::Instant,
};

use clap::Parser;

/// A test.
pub struct Trial<'a> {
    /// Its name.
    pub name: String,
    /// Why it is not run.
    pub ignored: Option<String>,
    /// Whether it shares a world with others.
    pub shared: bool,
    /// The test; an error or a panic is a failure.
    pub run: Box<dyn FnOnce() -> Result<(), String> + Send + 'a>,
}

/// The options of the standard harness that matter here; the rest is accepted and has no effect.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
#[command(about = "The truth table, a test for each row and family")]
struct Args {
    /// Run only tests whose name contains one of these
    filters: Vec<String>,
    /// Match whole names
    #[arg(long)]
    exact: bool,
    /// Leave out tests whose name contains this
    #[arg(long)]
    skip: Vec<String>,
    /// Print the names and run nothing
    #[arg(long)]
    list: bool,
    /// Tests at the same time
    #[arg(long)]
    test_threads: Option<usize>,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(short, long, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, hide = true)]
    color: Option<String>,
    #[arg(long, hide = true)]
    format: Option<String>,
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        let matches = |text: &String| if self.exact { name == text } else { name.contains(text.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skip.iter().any(matches)
    }
}

/// What came of the tests.
#[derive(Default)]
struct Results {
    passed: usize,
    ignored: usize,
    failed: Vec<(String, String)>,
}

/// Runs the tests that the command line asks for, then `last` (its error is one more failure), and ends with a summary.
pub fn run(trials: Vec<Trial<'_>>, last: impl FnOnce() -> Result<(), String>) -> ExitCode {
    let args = Args::parse();
    let (wanted, others): (Vec<_>, Vec<_>) = trials.into_iter().partition(|trial| args.wants(&trial.name));
    if args.list {
        for trial in &wanted {
            println!("{}: test", trial.name);
        }
        return ExitCode::SUCCESS;
    }
    let (started, count) = (Instant::now(), wanted.len());
    println!("\nrunning {count} tests");
    let results = Mutex::new(Results::default());
    let (shared, own): (VecDeque<_>, VecDeque<_>) = wanted.into_iter().partition(|trial| trial.shared);
    let (shared, own) = (Mutex::new(shared), Mutex::new(own));
    let take = |queue: &Mutex<VecDeque<_>>| queue.lock().expect("the queue").pop_front();
    let threads = args.test_threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    thread::scope(|scope| {
        for number in 0..threads.max(1) {
            let (shared, own, results) = (&shared, &own, &results);
            scope.spawn(move || {
                let next = || if number == 0 { take(shared).or_else(|| take(own)) } else { take(own) };
                while let Some(trial) = next() {
                    execute(trial, results);
                }
            });
        }
    });

    let mut results = results.into_inner().expect("the results");
    let closed = if count == 0 { Ok(()) } else { last() };
    if let Err(why) = closed {
        results.failed.push(("what_all_rows_leave_behind".into(), why));
    }
    summary(&results, others.len(), started)
}

fn execute(trial: Trial<'_>, results: &Mutex<Results>) {
    let Trial { name, ignored, run, .. } = trial;
    if let Some(why) = ignored {
        println!("test {name} ... ignored, {why}");
        results.lock().expect("the results").ignored += 1;
        return;
    }
    let ran = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panicked: see above".into()));
    // The reason beside the verdict too: what is kept of a long log may be the lines around it.
    match &ran {
        Ok(()) => println!("test {name} ... ok"),
        Err(why) => println!("{why}\ntest {name} ... FAILED"),
    }
    let mut results = results.lock().expect("the results");
    match ran {
        Ok(()) => results.passed += 1,
        Err(why) => results.failed.push((name, why)),
    }
}

fn summary(results: &Results, filtered: usize, started: Instant) -> ExitCode {
    if !results.failed.is_empty() {
        println!("\nfailures:\n");
        results.failed.iter().for_each(|(name, why)| println!("---- {name} ----\n{why}\n"));
        println!("\nfailures:");
        results.failed.iter().for_each(|(name, _)| println!("    {name}"));
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
        if results.failed.is_empty() { "ok" } else { "FAILED" },
        results.passed,
        results.failed.len(),
        results.ignored,
        started.elapsed().as_secs_f64()
    );
    if results.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
