//! `netd doctor`: what netd needs of this machine, found or missing. Works without a daemon and changes nothing.

mod checks;

use clap::Args;
use serde::Serialize;

use super::{
    Outcome,
    output::{FormatOption, lines, print},
};
use crate::{api::Client, controller::Code};

/// Check what netd needs of this machine; works without a daemon and changes nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 7 when something that netd needs is missing.

EXAMPLES:
  netd doctor
  netd doctor --format '{{.Status}} {{.Check}}: {{.Found}}'")]
pub(super) struct Doctor {
    #[command(flatten)]
    format: FormatOption,
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// netd works, some of it less well.
    Warning,
    /// netd cannot work.
    Missing,
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Finding {
    status: Status,
    check: &'static str,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn new(status: Status, check: &'static str, found: impl Into<String>) -> Self {
        Self { status, check, found: found.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Looks at this machine and at the daemon.
pub(super) async fn findings(client: &Client) -> Vec<Finding> {
    let mut findings = checks::of_machine();
    findings.push(checks::of_daemon(client).await);
    findings
}

impl Doctor {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let findings = findings(client).await;
        if self.format.is_for_scripts() {
            self.format.print(&findings)?;
        } else {
            print(&text(&findings))?;
        }
        let missing = findings.iter().any(|finding| finding.status == Status::Missing);
        Ok(if missing { Code::Unsupported.exit() } else { 0 })
    }
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let of_one = |finding: &Finding| {
        let mark = match finding.status {
            Status::Ok => "ok      ",
            Status::Note => "note    ",
            Status::Warning => "warning ",
            Status::Missing => "MISSING ",
        };
        let found = format!("{mark} {:width$}  {}", finding.check, finding.found);
        let hint = finding.hint.as_ref().map(|hint| format!("{:9}{:width$}  hint: {hint}", "", ""));
        [Some(found), hint]
    };
    lines(findings.iter().flat_map(of_one).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_below_what_was_found() {
        let findings = [
            Finding::new(Status::Ok, "kernel", "6.18"),
            Finding::new(Status::Missing, "x", "no").hint("do y"),
        ];
        assert_eq!(
            text(&findings),
            "ok       kernel  6.18\nMISSING  x       no\n                 hint: do y\n"
        );
    }
}
