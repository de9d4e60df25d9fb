//! `netd debug`: what the people who build netd look at.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    Outcome,
    failure::Failure,
    output::{FormatOption, print, table},
};
use crate::{
    audit::{self, Break, Checked},
    controller::Code,
    dataplane,
};

/// Where the daemon keeps its log, unless it was told another state directory.
const LOG: &str = "/var/lib/netd/audit";

/// Look at netd's own parts, for those who build it
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
EXAMPLES:
  netd debug programs
  netd debug audit"
)]
pub(super) struct Debug {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Programs(Programs),
    Audit(Audit),
}

/// Load every eBPF program into the running kernel and show what its verifier says; attaches nothing
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd debug programs
  netd debug programs --format '{{.Name}} {{.Instructions}}'")]
struct Programs {
    #[command(flatten)]
    format: FormatOption,
}

/// Check that nobody has changed the audit log: every line names the hash of the one before it
///
/// Works without the daemon. Exit code 1, and the first line that does not fit, if there is one. A last line that is incomplete, as a power cut leaves it,
/// is told and is no failure.
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd debug audit
  netd debug audit /srv/logs/log.jsonl.1 /srv/logs/log.jsonl
  netd debug audit --format '{{.File}} {{.Records}}'")]
struct Audit {
    /// Files of a log, the oldest first, or its directory [default: /var/lib/netd/audit]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    format: FormatOption,
}

impl Debug {
    pub(super) fn run(self) -> Outcome {
        match self.command {
            Command::Programs(command) => command.run(),
            Command::Audit(command) => command.run(),
        }
    }
}

impl Audit {
    fn run(self) -> Outcome {
        const DOING: &str = "check the audit log";
        let given = if self.files.is_empty() { vec![LOG.into()] } else { self.files };
        let mut files = Vec::new();
        for path in given {
            if path.is_file() {
                files.push(path);
                continue;
            }
            let listed = audit::files_of(&path);
            files
                .extend(listed.map_err(|error| Failure::io(&format!("{DOING} {}", path.display()), &error))?);
        }
        let checked = audit::check(&files).map_err(|error| match &error {
            Break::Read { source, .. } => {
                Failure { message: format!("{DOING}: {error}"), ..Failure::io(DOING, source) }
            }
            Break::Line { .. } => Failure::new(Code::Failure, format!("{DOING}: {error}")),
        })?;
        if self.format.is_for_scripts() {
            self.format.print(&checked)?;
            return Ok(0);
        }
        let columns = ["FILE", "RECORDS", "LOST", "FIRST", "LAST", "STATE"];
        print(&table(&columns, checked.iter().map(row)))?;
        Ok(0)
    }
}

fn row(file: &Checked) -> [String; 6] {
    let state = file.incomplete.map_or_else(
        || "whole".to_owned(),
        |line| format!("line {line} is incomplete: a power cut, or it is being written"),
    );
    let (records, lost) = (file.records.to_string(), file.lost.to_string());
    [file.file.clone(), records, lost, file.first.clone(), file.last.clone(), state]
}

impl Programs {
    fn run(self) -> Outcome {
        let Self { format } = self;
        let programs = dataplane::verify().map_err(|error| Failure::new(Code::Unsupported, chain(&error)))?;
        if format.is_for_scripts() {
            format.print(&programs)?;
            return Ok(0);
        }
        let columns = ["PROGRAM", "TYPE", "INSTRUCTIONS", "VERIFIED", "LOAD"];
        print(&table(
            &columns,
            programs.iter().map(|p| {
                [
                    p.name.clone(),
                    p.kind.to_owned(),
                    p.instructions.to_string(),
                    p.verified_instructions.to_string(),
                    format!("{:.1} ms", std::time::Duration::from_micros(p.load_micros).as_secs_f64() * 1e3),
                ]
            }),
        ))?;
        Ok(0)
    }
}

/// Returns an error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
