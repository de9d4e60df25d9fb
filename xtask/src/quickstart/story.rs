//! Tells the steps of the quickstart: what each shows, whether it held, how long it took.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::ui::{paint, seconds};

/// Prints a line; nobody listening (`| head`) is no reason to stop before everything is cleaned up.
macro_rules! say {
    ($($line:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}

/// The story so far.
#[derive(Debug)]
pub struct Story {
    started: Instant,
    failed: usize,
}

impl Story {
    /// Begins with a title.
    pub fn begin(title: &str, subtitle: &str) -> Self {
        say!("\n  {}\n  {}\n", paint("1", title), paint("2", subtitle));
        Self { started: Instant::now(), failed: 0 }
    }

    /// Does a step that shows something. When it does not hold, the story goes on, and ends badly.
    pub fn shows(&mut self, claim: &str, step: impl FnOnce() -> Result<String>) {
        let started = Instant::now();
        match step() {
            Ok(seen) => {
                held(claim, started.elapsed());
                say!("      {}", paint("2", &seen));
            }
            Err(error) => {
                self.failed += 1;
                say!("  {} {claim}\n      {}", paint("31", "✗"), paint("31", &format!("{error:#}")));
            }
        }
    }

    /// Whether a step did not hold.
    pub fn failed(&self) -> bool {
        self.failed > 0
    }

    /// Ends the story and returns whether every step held.
    pub fn end(self) -> bool {
        let took = seconds(self.started.elapsed());
        match self.failed {
            0 => say!("\n  {} in {took}, and everything is cleaned up.\n", paint("32;1", "Every step held")),
            1 => say!("\n  {} ({took})\n", paint("31;1", "One step did not hold")),
            n => say!("\n  {} ({took})\n", paint("31;1", &format!("{n} steps did not hold"))),
        }
        self.failed == 0
    }
}

/// Starts a part.
pub fn part(name: &str) {
    say!("\n  {}", paint("1", name));
}

/// Does a step that the rest needs and says what it did; an error ends the story.
pub fn must<T>(step: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
    let started = Instant::now();
    let (value, text) = step()?;
    held(&text, started.elapsed());
    Ok(value)
}

/// Prints text between the steps, indented.
pub fn print(text: &str) {
    for line in text.lines() {
        say!("      {line}");
    }
}

fn held(text: &str, took: Duration) {
    say!("  {} {text}  {}", paint("32", "✓"), paint("2", &seconds(took)));
}
