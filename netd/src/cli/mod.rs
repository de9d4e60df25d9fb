//! The command line: one file per noun. Only this module knows clap.

mod arguments;
mod bugreport;
mod completion;
mod daemon;
mod debug;
mod doctor;
mod endpoint;
mod events;
mod exec;
mod explain;
mod failure;
mod flow;
mod inside;
mod instance;
mod launch;
mod logging;
mod metrics;
mod monitor;
mod network;
mod output;
mod place;
mod policy;
mod ports;
mod run;
mod sandbox;
mod status;
mod supervise;
mod told;
mod version;
mod wait;

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::api::{Client, Repeats};
use failure::Failure;

/// What a command ends with: its exit code, or why it failed.
type Outcome = Result<u8, Failure>;

/// Environment variable with the operation's id: a script that gives a command again with the same one has it done once.
const OPERATION: &str = "NETD_OPERATION_ID";

const DEFAULT_HOST: &str = "unix:///run/netd/netd.sock";

const ABOUT: &str = "Container networking on Linux with eBPF, without iptables";

const LONG_ABOUT: &str = "Container networking on Linux with eBPF, without iptables.\n\n\
A daemon makes bridges, veth pairs and network namespaces; eBPF programs do masquerade, published ports and \
isolation. The words are Docker's: networks, published ports (-p), aliases. A sandbox is one network namespace with \
its endpoints: what `docker run` would make for a container.";

const EXAMPLES: &str = "\
EXAMPLES:
  netd daemon &                                  start the daemon (as root)
  netd network create app                        make a network
  netd run -d --name web --network app -p 8080:80 -- busybox httpd -f -p 80
  netd ps                                        see addresses and ports
  netd exec web -- ip addr                       look around inside
  netd flow ls                                   see the connection table
  netd explain web 10.0.0.5:443                  what would become of a packet, and why
  netd monitor --to web                          what is dropped, as it happens, and why
  netd sandbox rm -f web && netd network rm app  clean up

EXIT CODES:
  0 ok                1 failure            2 usage
  3 not found         4 conflict           5 daemon unreachable
  6 permission        7 kernel or feature missing";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "netd", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Debug, clap::Args)]
struct Global {
    #[arg(short = 'H', long, global = true, value_name = "unix://PATH", help_heading = "Global options")]
    #[arg(help = "The daemon's socket [env: NETD_HOST] [default: unix:///run/netd/netd.sock]")]
    host: Option<Client>,
    #[arg(long, global = true, value_name = "SECONDS", env = "NETD_RETRY", default_value_t = 10)]
    #[arg(hide_env_values = true, help_heading = "Global options")]
    /// How long to wait for the next daemon, and repeat the change, where one ends before it has answered
    retry: u16,
    /// Say more about what is done (twice: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    verbose: u8,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    color: Color,
}

impl Global {
    /// Returns the daemon's address: the option, else the variable, else the default.
    fn client(&self) -> Result<Client, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let repeats = Repeats::new(Duration::from_secs(self.retry.into()), variable(OPERATION));
        if let Some(host) = &self.host {
            return Ok(host.clone().repeating(repeats));
        }
        let host = variable("NETD_HOST");
        let client = host.as_deref().unwrap_or(DEFAULT_HOST).parse::<Client>();
        let client = client.map_err(|why| Failure::usage(format!("NETD_HOST: {why}")))?;
        Ok(client.repeating(repeats))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    Daemon(daemon::Daemon),
    Down(daemon::Down),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Version(version::Version),
    Network(network::Network),
    Sandbox(sandbox::Sandbox),
    Run(run::Run),
    Exec(exec::Exec),
    Ps(sandbox::Ps),
    Port(ports::Port),
    Publish(ports::Publish),
    Unpublish(ports::Unpublish),
    Policy(policy::Policy),
    Flow(flow::Flow),
    Drops(flow::Drops),
    Explain(explain::Explain),
    Events(events::Events),
    Metrics(metrics::Metrics),
    Monitor(monitor::Monitor),
    Bugreport(bugreport::Bugreport),
    Completion(completion::Completion),
    Man(completion::Man),
    Debug(debug::Debug),
    #[command(hide = true)]
    Supervise(supervise::Supervise),
}

/// Parses the command line, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    let color = wanted_color();
    let matches = match Cli::command().color(clap_color(color)).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return failure::usage(&error, colored(color)),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error, colored(color)),
    };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(colored(color)),
    }
}

fn dispatch(cli: Cli) -> Outcome {
    let Cli { global, command } = cli;
    if !matches!(command, Command::Daemon(_)) {
        logging::to_stderr(global.verbose);
    }
    let client = &global.client()?;
    match command {
        Command::Daemon(command) => command.run(global.verbose),
        Command::Run(command) => command.run(client),
        Command::Exec(command) => command.run(client),
        Command::Supervise(command) => command.run(client),
        Command::Completion(command) => command.run(&mut Cli::command()),
        Command::Man(command) => command.run(Cli::command()),
        Command::Down(command) => block_on(command.run(global.host.as_ref(), client)),
        Command::Status(command) => block_on(command.run(client)),
        Command::Doctor(command) => block_on(command.run(client)),
        Command::Version(command) => block_on(command.run(client)),
        Command::Debug(command) => block_on(command.run(global.host.as_ref(), client)),
        Command::Bugreport(command) => block_on(command.run(global.host.as_ref(), client)),
        Command::Network(command) => block_on(command.run(client)),
        Command::Sandbox(command) => block_on(command.run(client)),
        Command::Ps(command) => block_on(command.run(client)),
        Command::Port(command) => block_on(command.run(client)),
        Command::Publish(command) => block_on(command.run(client)),
        Command::Unpublish(command) => block_on(command.run(client)),
        Command::Policy(command) => block_on(command.run(client)),
        Command::Flow(command) => block_on(command.run(client)),
        Command::Drops(command) => block_on(command.run(client)),
        Command::Explain(command) => block_on(command.run(client)),
        Command::Events(command) => block_on(command.run(client)),
        Command::Metrics(command) => block_on(command.run(client)),
        Command::Monitor(command) => block_on(command.run(client)),
    }
}

/// Runs a client's calls on this thread: a command makes a few, one after the other.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::io("start the client", &error))?.block_on(future)
}

/// Looks for `--color` before parsing, because the parser's own errors have colours too.
fn wanted_color() -> Color {
    let mut arguments = std::env::args().take_while(|argument| argument != "--");
    let mut color = Color::Auto;
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix("--color") {
            Some("") => arguments.next(),
            Some(value) => value.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        if let Some(wanted) = value.and_then(|value| Color::from_str(&value, false).ok()) {
            color = wanted;
        }
    }
    color
}

fn clap_color(color: Color) -> ColorChoice {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
}

/// Whether messages on stderr are coloured (<https://no-color.org>).
fn colored(color: Color) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && std::io::stderr().is_terminal()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
