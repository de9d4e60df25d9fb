//! The process that stays behind `netd run -d`: it waits for the command, reports its end and removes the sandbox.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use clap::Args;
use nix::{
    sys::prctl::set_name,
    unistd::{dup2_stdout, setsid},
};

use super::{
    Outcome, block_on,
    failure::{Doing, Failure},
    launch::{self, Terminal},
    wait::Signals,
};
use crate::api::{Client, ClientError, dto::Container};

/// How long the supervisor waits for a daemon that is being restarted.
const PATIENCE: Duration = Duration::from_mins(5);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

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
        // Whoever typed `netd run -d` reads until here.
        say("started \n")?;
        let null = OpenOptions::new().write(true).open("/dev/null");
        let null = null.map_err(|error| Failure::io("open /dev/null", &error))?;
        dup2_stdout(&null).map_err(|error| Failure::io("close stdout", &error.into()))?;

        let code = signals.wait(process)?;
        let id = self.sandbox.as_str();
        block_on(patiently(client, || client.exited(id, code))).doing_last("report the command's end");
        if self.rm {
            block_on(patiently(client, || client.remove_sandbox(id, true))).doing_last("remove the sandbox");
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
            let process = launch::launch(&sandbox, &self.command, Terminal::Log(log), signals).await?;
            let pid = process.as_raw().unsigned_abs();
            client.started(&sandbox.id, pid).await.doing(&doing).doing_last("report the command's start");
            Ok(process)
        })
    }
}

fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    let said = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    said.map_err(|error| Failure::io("report the command's start", &error))
}

/// Calls until the daemon answers, or its run directory is gone: `netd down` has removed the sandbox then.
async fn patiently<F: Future<Output = Result<(), ClientError>>>(
    client: &Client,
    call: impl Fn() -> F,
) -> Result<(), Failure> {
    let start = Instant::now();
    let is_down = || !client.socket().parent().is_some_and(Path::exists);
    loop {
        match call().await {
            Err(ClientError::Unreachable { .. } | ClientError::NoAnswer { .. })
                if start.elapsed() < PATIENCE && !is_down() =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            result => return result.doing("call the daemon"),
        }
    }
}

/// Ends a chain of calls whose failure nobody waits for: it goes to the log.
trait Last {
    fn doing_last(self, what: &str);
}

impl Last for Result<(), Failure> {
    fn doing_last(self, what: &str) {
        if let Err(failure) = self {
            eprintln!("netd: {what}: {}", failure.message);
        }
    }
}
