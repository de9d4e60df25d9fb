//! `netd debug audit`: whether the audit log is as it was written.

use std::path::PathBuf;

use clap::Args;

use super::super::{
    Outcome,
    failure::Failure,
    output::{FormatOption, print, table},
    place::Place,
};
use crate::{
    api::Client,
    audit::{self, Break, Checked},
    controller::Code,
};

const DOING: &str = "check the audit log";

/// Check that nobody has changed the audit log: every line names the hash of the one before it
///
/// Works without the daemon. Exit code 1, and the first line that does not fit, if there is one. A last line that is incomplete, as a power cut leaves it,
/// is told and is no failure.
#[derive(Debug, Args)]
#[command(after_help = "\
Without files, give it the options that the daemon has, as root.

EXAMPLES:
  netd debug audit
  netd debug audit --state-dir /var/lib/netd-blue --run-dir /run/netd-blue
  netd debug audit /srv/logs/log.jsonl.1 /srv/logs/log.jsonl
  netd debug audit --format '{{.File}} {{.Records}}'")]
pub(in super::super) struct Audit {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatOption,
    /// Files of a log, the oldest first, or its directory [default: the daemon's, `audit` in its state directory]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Audit {
    pub(super) fn run(self, host: Option<&Client>, default: &Client) -> Outcome {
        let given = if self.files.is_empty() {
            vec![audit::directory(&self.place.settings(DOING, host, default)?.state_dir)]
        } else {
            self.files
        };
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
