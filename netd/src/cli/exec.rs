//! `netd exec`: a command in a sandbox that exists.

use std::ffi::OsString;

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{
    Outcome, block_on,
    failure::Doing,
    instance::Instance,
    launch::{self, Terminal},
    wait::Signals,
};
use crate::api::Client;

/// Run a command in an existing sandbox; exits with the command's exit code
///
/// Works in every sandbox: also those of `sandbox create`, and those that use another's namespace.
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT CODES:
  the command's own; 128 + N when signal N killed it; 127 not found; 126 not executable;
  before the command starts, netd's own (see `netd --help`)

EXAMPLES:
  netd exec web -- ip addr
  netd exec web -- ping -c 1 172.18.0.1
  netd exec web bash")]
pub(super) struct Exec {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    sandbox: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) fn run(self, client: &Client) -> Outcome {
        let signals = Signals::block()?;
        let process = block_on(async {
            let doing = format!("run in sandbox {}", self.sandbox);
            let sandbox = client.sandbox(&self.sandbox).await.doing(&doing)?;
            launch::launch(&sandbox, &self.command, Terminal::Inherited, &signals).await
        })?;
        signals.wait(process, &Instance::watch(client))
    }
}
