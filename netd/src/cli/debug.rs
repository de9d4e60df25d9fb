//! `netd debug`: what the people who build netd look at.

use clap::{Args, Subcommand};

use super::{
    Outcome,
    failure::Failure,
    output::{FormatOption, print, table},
};
use crate::{controller::Code, dataplane};

/// Look at netd's own parts, for those who build it
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
EXAMPLES:
  netd debug programs"
)]
pub(super) struct Debug {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Programs(Programs),
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

impl Debug {
    pub(super) fn run(self) -> Outcome {
        let Command::Programs(Programs { format }) = self.command;
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
