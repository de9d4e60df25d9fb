//! What a run of the `netd` command came to.

use std::process::Output;

use serde_json::Value;

/// A finished command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; 128 + signal when it was killed.
    pub code: i32,
    /// Its data.
    pub stdout: String,
    /// All else.
    pub stderr: String,
}

impl Run {
    /// What a command that has ended came to.
    pub fn new(args: &[&str], out: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or_default());
        Self {
            line: format!("netd {}", args.join(" ")),
            code,
            stdout: text(&out.stdout),
            stderr: text(&out.stderr),
        }
    }

    /// Expects success and returns its data without the last line end.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{} failed: {}{}", self.line, self.stderr, self.stdout);
        self.stdout.trim_end().to_owned()
    }

    /// Expects success and returns its data as JSON.
    pub fn json(self) -> Value {
        let line = self.line.clone();
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line} printed no JSON ({e}): {text}"))
    }

    /// Expects this exit code, no data, and one line of error, perhaps with a hint; returns the line.
    pub fn refused(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}: exit code; stderr: {}", self.line, self.stderr);
        assert_eq!(self.stdout, "", "{}: a refused command prints no data", self.line);
        let (hints, lines): (Vec<_>, Vec<_>) =
            self.stderr.lines().partition(|line| line.starts_with("hint: "));
        assert!(lines.len() == 1 && hints.len() <= 1, "{}: not one line: {:?}", self.line, self.stderr);
        lines[0].to_owned()
    }
}
