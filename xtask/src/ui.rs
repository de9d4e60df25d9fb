//! What a person sees: tasks with progress on a terminal, plain lines elsewhere. All of it goes to stderr.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Prints an error with its causes.
pub fn error(error: &anyhow::Error) {
    eprintln!("{} {error:#}", paint("31;1", "error:"));
}

/// Prints a line that informs.
pub fn note(text: &str) {
    eprintln!("{text}");
}

/// Wraps `text` in an SGR sequence where a person reads it: on a terminal, unless `NO_COLOR` is set.
pub fn paint(sgr: &str, text: &str) -> String {
    let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let plain = !terminal || std::env::var_os("NO_COLOR").is_some();
    if plain { text.to_owned() } else { format!("\x1b[{sgr}m{text}\x1b[0m") }
}

/// Formats a duration for reading: `340 ms`, `12.3 s`, `2 min 5 s`.
pub fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        1..=99 => format!("{:.1} s", duration.as_secs_f64()),
        total => format!("{} min {} s", total / 60, total % 60),
    }
}

/// Something that takes a while: a spinner with the last line of output, then one line of outcome.
pub struct Task {
    what: String,
    started: Instant,
    bar: ProgressBar,
    open: bool,
}

impl Task {
    /// Says what starts.
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = ProgressBar::new_spinner().with_message(what.clone());
        if bar.is_hidden() {
            eprintln!("… {what}");
        } else {
            if let Ok(style) =
                ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim} {prefix:.dim}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { what, started: Instant::now(), bar, open: true }
    }

    /// Shows what is going on right now, on terminals only.
    pub fn detail(&self, line: &str) {
        const WIDTH: usize = 60;
        self.bar.set_prefix(line.trim().chars().take(WIDTH).collect::<String>());
    }

    /// Says that it worked.
    pub fn done(mut self) {
        self.close(&paint("32", "✓"));
    }

    fn close(&mut self, mark: &str) {
        if std::mem::take(&mut self.open) {
            self.bar.finish_and_clear();
            eprintln!("{mark} {} ({})", self.what, seconds(self.started.elapsed()));
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.close(&paint("31", "✗"));
    }
}
