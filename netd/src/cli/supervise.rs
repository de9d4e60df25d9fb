//! The process that stays behind `netd run -d`: it waits for the command, reports its end and removes the sandbox.

use std::{ffi::OsString, fs::OpenOptions, io::Write};

use clap::Args;
use nix::{
    sys::prctl::set_name,
    unistd::{dup2_stdout, setsid},
};

use super::{
    Outcome, block_on,
    failure::{Doing, Failure},
    instance::Instance,
    launch::{self, Terminal},
    told::{Told, patiently},
    wait::Signals,
};
use crate::api::{Client, ClientError, dto::Container};

/// Stays behind `netd run -d`
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd run -d -- sleep 60                        starts one")]
pub(super) struct Supervise {
    /// Remove the sandbox when the command ends
    #[arg(long)]
    rm: bool,
    /// Id of the sandbox
    sandbox: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Supervise {
    pub(super) fn run(self, client: &Client) -> Outcome {
        let signals = Signals::block()?;
        let process = match self.start(client, &signals) {
            Ok(process) => process,
            Err(failure) => {
                say(&format!("{} {}\n", failure.exit, failure.message))?;
                return Ok(failure.exit);
            }
        };
        let instance = Instance::watch(client);
        let told = Told::started(client, &self.sandbox, process);
        // Whoever typed `netd run -d` reads until here.
        say("started \n")?;
        let null = OpenOptions::new().write(true).open("/dev/null");
        let null = null.map_err(|error| Failure::io("open /dev/null", &error))?;
        dup2_stdout(&null).map_err(|error| Failure::io("close stdout", &error.into()))?;

        let code = signals.wait(process, &instance)?;
        told.ended(process);
        let id = self.sandbox.as_str();
        last("report the command's end", client, || client.exited(id, code));
        if self.rm {
            last("remove the sandbox", client, || client.remove_sandbox(id, true));
        }
        Ok(code)
    }

    /// Leaves the caller's session and starts the command.
    fn start(&self, client: &Client, signals: &Signals) -> Result<nix::unistd::Pid, Failure> {
        // It was started as /proc/self/exe; people look for it by the program's name. Without it, nothing else changes.
        let _ = set_name(c"netd");
        setsid().map_err(|error| Failure::io("start a session", &error.into()))?;
        let doing = format!("run sandbox {}", self.sandbox);
        block_on(async {
            let sandbox: Container = client.sandbox(&self.sandbox).await.doing(&doing)?;
            let log = launch::open_log(&sandbox)?;
            launch::launch(&sandbox, &self.command, Terminal::Log(log), signals).await
        })
    }
}

fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    let said = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    said.map_err(|error| Failure::io("report the command's start", &error))
}

/// Makes a call whose failure nobody waits for: it goes to the log.
fn last<F: Future<Output = Result<(), ClientError>>>(what: &str, client: &Client, call: impl Fn() -> F) {
    if let Err(failure) = block_on(async { patiently(client, call, || false).await.doing("call the daemon") })
    {
        eprintln!("netd: {what}: {}", failure.message);
    }
}
