//! `netd run`: a sandbox and a command in it.

use std::{
    ffi::OsString,
    io::Read,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{
    Outcome, block_on,
    endpoint::EndpointOptions,
    failure::{Doing, Failure},
    instance::Instance,
    launch::{self, Terminal},
    output::print,
    sandbox,
    told::Told,
    wait::{Signals, killed_by},
};
use crate::{
    api::{Client, dto::Container},
    controller::Code,
};

/// Make a sandbox and run a command in it; exits with the command's exit code
///
/// The command has its own network, /etc/hosts, /etc/resolv.conf, host name and /sys; files and processes are the host's.
/// There is no image: the first word is the command. Terminal, environment and working directory are the caller's, so
/// that docker's -e, -v and -w have no counterpart, and -i and -t change nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT CODES:
  the command's own; 128 + N when signal N killed it; 127 not found; 126 not executable;
  before the command starts, netd's own (see `netd --help`)

EXAMPLES:
  netd run --rm -- ip addr
  netd run --rm --network app --link web -- curl -s http://web
  netd run -d --name web --network app -p 8080:80 -- busybox httpd -f -p 80
  netd run --rm --network sandbox:web -- ss -ltn
  netd run --rm --network none -- make test")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Run {
    /// Remove the sandbox when the command ends
    #[arg(long)]
    rm: bool,
    /// Run in the background and print the sandbox's id; its output goes to `LogPath` of inspect
    #[arg(short, long)]
    detach: bool,
    /// Accepted as in docker: standard input is the caller's anyway
    #[arg(short, long)]
    interactive: bool,
    /// Accepted as in docker: the terminal is the caller's anyway
    #[arg(short, long)]
    tty: bool,
    /// Name of the sandbox [default: a made-up one]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    #[command(flatten)]
    endpoints: EndpointOptions,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    pub(super) fn run(self, client: &Client) -> Outcome {
        let signals = Signals::block()?;
        let Self { rm, detach, name, endpoints, command, .. } = self;
        let mut request = endpoints.request(name)?;
        request.command = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let sandbox = block_on(async {
            let doing = match &request.name {
                Some(name) => format!("create sandbox {name}"),
                None => "create sandbox".to_owned(),
            };
            let created = client.create_sandbox(&request).await.doing(&doing)?;
            sandbox::warn(&created);
            client.sandbox(&created.id).await.doing(&doing)
        })?;
        if let Some(signal) = signals.asked_to_end()? {
            remove(client, &sandbox);
            return Ok(killed_by(signal));
        }
        // Nothing ran: nothing shall stay.
        let undone = |failure: Failure| {
            remove(client, &sandbox);
            failure
        };
        if detach {
            supervise(client, &sandbox, rm, &command).map_err(undone)?;
            print(&format!("{}\n", sandbox.id))?;
            return Ok(0);
        }
        let process =
            block_on(launch::launch(&sandbox, &command, Terminal::Inherited, &signals)).map_err(undone)?;
        let instance = Instance::watch(client);
        let told = Told::started(client, &sandbox.id, process);
        let code = signals.wait(process, &instance)?;
        told.ended(process);
        report(block_on(async { client.exited(&sandbox.id, code).await.doing("report the command's end") }));
        if rm {
            remove(client, &sandbox);
        }
        Ok(code)
    }
}

/// Removes the sandbox; a failure is said and does not change the exit code.
fn remove(client: &Client, sandbox: &Container) {
    let doing = format!("remove sandbox {}", sandbox.name);
    report(block_on(async { client.remove_sandbox(&sandbox.id, true).await.doing(&doing) }));
}

fn report(result: Result<(), Failure>) {
    if let Err(failure) = result {
        failure.print(false);
    }
}

/// Starts a process of this program that outlives it, and waits until the command runs.
fn supervise(client: &Client, sandbox: &Container, rm: bool, command: &[OsString]) -> Result<(), Failure> {
    let doing = format!("start the supervisor of sandbox {}", sandbox.name);
    let failed = |error: &std::io::Error| Failure::io(&doing, error);
    let mut process = Command::new("/proc/self/exe");
    process.arg0("netd").arg("-H").arg(client.host()).arg("supervise");
    if rm {
        process.arg("--rm");
    }
    process.arg(&sandbox.id).arg("--").args(command);
    process.env_remove("NETD_HOST").env_remove(super::OPERATION).stdin(Stdio::null()).stdout(Stdio::piped());
    process.stderr(launch::open_log(sandbox)?);
    let mut supervisor = process.spawn().map_err(|error| failed(&error))?;
    let mut answer = String::new();
    if let Some(mut output) = supervisor.stdout.take() {
        output.read_to_string(&mut answer).map_err(|error| failed(&error))?;
    }
    match answer.split_once(' ') {
        Some(("started", _)) => Ok(()),
        Some((code, message)) => {
            let exit = code.parse().unwrap_or_else(|_| Code::Failure.exit());
            Err(Failure { exit, message: message.trim_end().to_owned(), hint: None })
        }
        None => Err(Failure::new(Code::Failure, format!("{doing}: it ended without a word"))
            .hint(format!("see {}", sandbox.log_path))),
    }
}
