//! What a guest's console says: steps, how each ended, programs, tests.

use serde::{Deserialize, Serialize};

/// The outcome of one guest.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// `uname -r`; none when the guest did not come up.
    pub release: Option<String>,
    /// In the order of running.
    pub steps: Vec<Step>,
    /// Whether the guest came to the end of its steps.
    pub complete: bool,
}

/// A command that ran in the guest.
#[derive(Debug, PartialEq, Serialize)]
pub struct Step {
    /// What the steps call it.
    pub name: String,
    /// Its exit code; none when the guest ended before it did.
    pub code: Option<i32>,
    /// How long it took, in seconds of the guest.
    pub seconds: f64,
    /// What it wrote.
    #[serde(skip)]
    pub output: String,
}

/// A program as `netd debug programs` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Instructions after translation.
    pub instructions: u64,
    /// Instructions that the verifier walked through.
    pub verified_instructions: u64,
}

/// A finding of `netd doctor`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Finding {
    check: String,
    found: String,
}

/// Tests of a guest.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tests {
    /// Those that passed.
    pub passed: usize,
    /// Those that did not.
    pub failed: usize,
}

impl Report {
    /// Reads a console.
    pub fn parse(console: &str) -> Self {
        let mut report = Self::default();
        let mut started = 0.0;
        for line in console.lines() {
            // A program may leave the console in the middle of a line.
            let Some((before, marker)) = line.split_once("@@ ") else {
                report.say(line);
                continue;
            };
            report.say(before);
            match marker.split(' ').collect::<Vec<_>>()[..] {
                ["up", release, _] => report.release = Some(release.to_owned()),
                ["begin", name, at] => {
                    started = at.parse().unwrap_or_default();
                    report.steps.push(Step {
                        name: name.to_owned(),
                        code: None,
                        seconds: 0.0,
                        output: String::new(),
                    });
                }
                ["end", _, code, at] => {
                    if let Some(step) = report.steps.last_mut() {
                        step.code = code.parse().ok();
                        step.seconds = at.parse().unwrap_or(started) - started;
                    }
                }
                ["down"] => report.complete = true,
                _ => report.say(line),
            }
        }
        report
    }

    fn say(&mut self, line: &str) {
        if let Some(step) = self.steps.last_mut().filter(|step| step.code.is_none() && !line.is_empty()) {
            step.output.push_str(line);
            step.output.push('\n');
        }
    }

    /// Whether all steps ran and none failed.
    pub fn passed(&self) -> bool {
        self.complete && self.failed().next().is_none()
    }

    /// The steps that failed or never ended.
    pub fn failed(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.code != Some(0))
    }

    /// The programs that this kernel has taken.
    pub fn programs(&self) -> Vec<Program> {
        self.lines_of("programs")
    }

    /// What `netd doctor` found under this name.
    pub fn finding(&self, check: &str) -> Option<String> {
        let findings: Vec<Finding> = self.lines_of("doctor");
        findings.into_iter().find(|finding| finding.check == check).map(|finding| finding.found)
    }

    /// Counts tests, of every step.
    pub fn tests(&self) -> Tests {
        let mut tests = Tests::default();
        let lines = self.steps.iter().flat_map(|step| step.output.lines());
        for line in lines.filter(|line| line.starts_with("test ")) {
            tests.passed += usize::from(line.ends_with("... ok"));
            tests.failed += usize::from(line.ends_with("... FAILED"));
        }
        tests
    }

    /// Reads the JSON lines of a step.
    fn lines_of<T: for<'de> Deserialize<'de>>(&self, step: &str) -> Vec<T> {
        let step = self.steps.iter().find(|candidate| candidate.name == step);
        let lines = step.into_iter().flat_map(|step| step.output.lines());
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
SeaBIOS
@@ up 6.1.0-50-cloud-amd64 5.25
@@ begin doctor 5.30
{\"Status\":\"note\",\"Check\":\"attachment\",\"Found\":\"clsact filters\"}
@@ end doctor 0 5.80
@@ begin programs 5.90
{\"Name\":\"bind4\",\"Type\":\"socket\",\"Instructions\":117,\"VerifiedInstructions\":138,\"LoadMicros\":9}
@@ end programs 0 7.00
@@ begin smoke 7.00
test one ... ok
test two ... FAILED
no newline@@ end smoke 101 9.50
";

    #[test]
    fn steps_keep_their_output_and_how_they_ended() {
        let report = Report::parse(CONSOLE);
        assert_eq!(report.release.as_deref(), Some("6.1.0-50-cloud-amd64"));
        let codes: Vec<_> = report.steps.iter().map(|step| (step.name.as_str(), step.code)).collect();
        assert_eq!(codes, [("doctor", Some(0)), ("programs", Some(0)), ("smoke", Some(101))]);
        assert!((report.steps[2].seconds - 2.5).abs() < 1e-9);
        assert_eq!(report.steps[2].output, "test one ... ok\ntest two ... FAILED\nno newline\n");
        assert_eq!(report.finding("attachment").as_deref(), Some("clsact filters"));
        assert_eq!(report.programs()[0].verified_instructions, 138);
        assert_eq!(report.tests(), Tests { passed: 1, failed: 1 });
        assert!(!report.passed());
    }

    #[test]
    fn a_guest_passes_only_when_it_came_to_its_end() {
        let whole = "@@ up 6.1 1.0\n@@ begin a 1.0\n@@ end a 0 2.0\n@@ down\n";
        assert!(Report::parse(whole).passed());
        let panicked = whole.replace("@@ down\n", "Kernel panic");
        assert!(!Report::parse(&panicked).passed());
        let cut = "@@ up 6.1 1.0\n@@ begin a 1.0\n";
        assert_eq!(Report::parse(cut).failed().count(), 1);
    }
}
