//! `netd debug`: what an instance has in the kernel, for operators who doubt it and for the people who build netd.

mod audit;
mod check;
mod dump;

use clap::{Args, Subcommand};

pub(super) use check::look;

use super::{
    Outcome,
    failure::Failure,
    output::{FormatOption, print, table},
};
use crate::{api::Client, controller::Code, dataplane};

/// See whether state, kernel and maps agree, and what is in the maps
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
EXAMPLES:
  netd debug check
  netd debug dump PUBLISH4
  netd debug audit
  netd debug programs"
)]
pub(super) struct Debug {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Check),
    Dump(dump::Dump),
    Programs(Programs),
    Audit(audit::Audit),
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
    pub(super) async fn run(self, host: Option<&Client>, default: &Client) -> Outcome {
        match self.command {
            Command::Check(command) => command.run(host, default).await,
            Command::Dump(command) => command.run(host, default).await,
            Command::Programs(command) => command.run(),
            Command::Audit(command) => command.run(host, default),
        }
    }
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
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
