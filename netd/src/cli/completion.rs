//! `netd completion` and `netd man`: generated from the command line itself.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use super::{Outcome, failure::Failure, output::print};
use crate::controller::Code;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd completion bash > /etc/bash_completion.d/netd
  netd completion zsh > /usr/local/share/zsh/site-functions/_netd
  netd completion fish > ~/.config/fish/completions/netd.fish")]
pub(super) struct Completion {
    /// The shell
    shell: Shell,
}

/// Write manual pages into a directory
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd man /usr/local/share/man/man1
  netd man ./man && man ./man/netd-network-create.1")]
pub(super) struct Man {
    /// An existing directory
    directory: PathBuf,
}

impl Completion {
    pub(super) fn run(self, command: &mut Command) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "netd", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}

impl Man {
    pub(super) fn run(self, command: Command) -> Outcome {
        let doing = format!("write manual pages into {}", self.directory.display());
        if !self.directory.is_dir() {
            return Err(Failure::new(Code::NotFound, format!("{doing}: no such directory")));
        }
        clap_mangen::generate_to(command, &self.directory).map_err(|error| Failure::io(&doing, &error))?;
        Ok(0)
    }
}
