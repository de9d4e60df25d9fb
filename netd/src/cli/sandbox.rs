//! `netd sandbox` and `netd ps`: network namespaces with their endpoints.

use std::path::PathBuf;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{
    Outcome, arguments,
    endpoint::EndpointOptions,
    failure::{Doing, Failure},
    output::{FormatOption, Listing, View, print},
};
use crate::{
    api::{
        Client,
        dto::{Container, EndpointSettings, SandboxCreated, bindings_of},
    },
    controller::Code,
    model::ports_column,
};

const FILTERS: &[&str] = &["id", "label", "name", "network", "status"];

/// Make, look at and remove sandboxes
///
/// A sandbox is one network namespace with its endpoints: what docker makes for a container.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
EXAMPLES:
  netd sandbox create --network app -p 8080:80 web
  netd sandbox create --pid $(pidof myserver) myserver
  netd sandbox ls
  netd sandbox inspect web
  netd sandbox rm web"
)]
pub(super) struct Sandbox {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Box<Create>),
    #[command(visible_alias = "list")]
    Ls(Ls),
    Inspect(Inspect),
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

/// Make a sandbox; prints its id
#[derive(Debug, Args)]
#[command(after_help = "\
Without --netns or --pid the namespace is made, and mounted at RUN_DIR/netns/NAME.

EXAMPLES:
  netd sandbox create web
  netd sandbox create --network app,ip=172.30.0.7 --network backend -p 8080:80 -p 53:53/udp web
  netd sandbox create --netns /run/netns/blue --network app blue
  netd sandbox create --pid 4711 --network app worker
  netd exec web -- ip addr")]
struct Create {
    /// Use the existing namespace at this path; `rm` leaves it in place
    #[arg(long, value_name = "PATH", value_parser = arguments::absolute_path, conflicts_with = "pid")]
    netns: Option<PathBuf>,
    /// Use the namespace of this process; `rm` leaves it in place
    #[arg(long)]
    pid: Option<u32>,
    #[command(flatten)]
    endpoints: EndpointOptions,
    /// Name of the sandbox
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
}

/// List sandboxes
#[derive(Debug, Args)]
#[command(after_help = "\
FILTERS: id, label, name, network, status (running or exited)

EXAMPLES:
  netd sandbox ls
  netd sandbox ls --filter network=app -q
  netd sandbox ls --format '{{.Name}} {{.NetNS}}'")]
struct Ls {
    #[command(flatten)]
    listing: Listing,
}

/// Show sandboxes in full, as JSON in docker's shape
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd sandbox inspect web
  netd sandbox inspect --format '{{.NetworkSettings.Networks.app.IPAddress}}' web
  netd sandbox inspect --format '{{json .NetworkSettings.Ports}}' web")]
struct Inspect {
    #[command(flatten)]
    format: FormatOption,
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
    sandboxes: Vec<String>,
}

/// Remove sandboxes: endpoints, published ports, and the namespace where netd made it
#[derive(Debug, Args)]
#[command(after_help = "\
All are looked up first: when one does not exist or still runs (without -f), none is removed.

EXAMPLES:
  netd sandbox rm web
  netd sandbox rm -f web                         also while its command runs, which ends it
  netd sandbox rm --link web/db                  only the link that `--link NAME:db` made
  netd sandbox rm $(netd sandbox ls -q --filter status=exited)")]
struct Rm {
    /// Also while the command of `netd run` runs; ends it
    #[arg(short, long)]
    force: bool,
    /// Remove links, named SANDBOX/ALIAS, and nothing else
    #[arg(short, long, conflicts_with = "force")]
    link: bool,
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
    sandboxes: Vec<String>,
}

/// Every sandbox with its networks, addresses and ports
#[derive(Debug, Args)]
#[command(after_help = "\
FILTERS: id, label, name, network, status (running or exited)

EXAMPLES:
  netd ps
  netd ps --filter network=app
  netd ps --format '{{.Name}}: {{json .NetworkSettings.Ports}}'")]
pub(super) struct Ps {
    #[command(flatten)]
    listing: Listing,
    /// Also those whose command has ended (always so; scripts written for docker pass it)
    #[arg(short, long)]
    all: bool,
}

impl Sandbox {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        match self.verb {
            Verb::Create(command) => command.run(client).await,
            Verb::Ls(command) => command.run(client).await,
            Verb::Inspect(command) => command.run(client).await,
            Verb::Rm(command) => command.run(client).await,
        }
    }
}

impl Create {
    async fn run(self, client: &Client) -> Outcome {
        let doing = format!("create sandbox {}", self.name);
        let mut request = self.endpoints.request(Some(self.name))?;
        request.netns = self.netns;
        request.pid = self.pid;
        let created = client.create_sandbox(&request).await.doing(&doing)?;
        warn(&created);
        print(&format!("{}\n", created.id))?;
        Ok(0)
    }
}

/// Prints what the daemon ignored.
pub(super) fn warn(created: &SandboxCreated) {
    for warning in &created.warnings {
        eprintln!("warning: {warning}");
    }
}

impl Ls {
    async fn run(self, client: &Client) -> Outcome {
        let sandboxes = client.sandboxes(&self.listing.filters(FILTERS)?).await.doing("list sandboxes")?;
        self.listing.print(
            &sandboxes,
            &View {
                columns: &["SANDBOX ID", "NAME", "STATE", "NETWORKS", "NAMESPACE"],
                row: |sandbox: &Container, short| {
                    vec![
                        short(&sandbox.id),
                        sandbox.name.clone(),
                        sandbox.state.status.clone(),
                        networks(sandbox),
                        sandbox.netns.clone(),
                    ]
                },
                id: |sandbox| &sandbox.id,
            },
        )?;
        Ok(0)
    }
}

impl Ps {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let sandboxes = client.sandboxes(&self.listing.filters(FILTERS)?).await.doing("list sandboxes")?;
        self.listing.print(
            &sandboxes,
            &View {
                columns: &["NAME", "STATE", "NETWORKS", "IPV4", "IPV6", "PORTS"],
                row: |sandbox: &Container, _| {
                    let (bindings, exposed) = bindings_of(&sandbox.network_settings.ports);
                    vec![
                        sandbox.name.clone(),
                        sandbox.state.status.clone(),
                        networks(sandbox),
                        addresses(sandbox, |endpoint| &endpoint.ip_address),
                        addresses(sandbox, |endpoint| &endpoint.global_ipv6_address),
                        ports_column(&bindings, &exposed),
                    ]
                },
                id: |sandbox| &sandbox.id,
            },
        )?;
        Ok(0)
    }
}

/// Returns the networks' names, or the mode of a sandbox that shares another's namespace.
fn networks(sandbox: &Container) -> String {
    let names: Vec<&str> = sandbox.network_settings.networks.keys().map(String::as_str).collect();
    if names.is_empty() { sandbox.host_config.network_mode.clone() } else { names.join(", ") }
}

fn addresses(sandbox: &Container, of: fn(&EndpointSettings) -> &String) -> String {
    let all = sandbox.network_settings.networks.values().map(of);
    all.filter(|ip| !ip.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ")
}

impl Inspect {
    async fn run(self, client: &Client) -> Outcome {
        let mut sandboxes = Vec::new();
        for word in &self.sandboxes {
            sandboxes.push(client.sandbox(word).await.doing(&format!("inspect sandbox {word}"))?);
        }
        self.format.print(&sandboxes)?;
        Ok(0)
    }
}

impl Rm {
    /// Removes links, in docker's spelling: `web/db`, or `/web/db`.
    async fn unlink(self, client: &Client) -> Outcome {
        for word in self.sandboxes {
            let doing = format!("remove link {word}");
            let (sandbox, alias) = word.trim_start_matches('/').split_once('/').ok_or_else(|| {
                Failure::new(Code::Usage, format!("{doing}: a link is named SANDBOX/ALIAS"))
            })?;
            client.unlink(sandbox, alias).await.doing(&doing)?;
            print(&format!("{word}\n"))?;
        }
        Ok(0)
    }

    async fn run(self, client: &Client) -> Outcome {
        if self.link {
            return self.unlink(client).await;
        }
        // One alone is refused by the daemon, in its own words.
        if let [word] = self.sandboxes.as_slice() {
            return remove(client, word, word, self.force).await;
        }
        let mut found: Vec<(String, String)> = Vec::new();
        for word in self.sandboxes {
            let doing = format!("remove sandbox {word}");
            let sandbox = client.sandbox(&word).await.doing(&doing)?;
            if sandbox.state.pid != 0 && !self.force {
                return Err(Failure::new(Code::Conflict, format!("{doing}: its command is running"))
                    .hint("add -f to end it"));
            }
            if found.iter().all(|(_, id)| *id != sandbox.id) {
                found.push((word, sandbox.id));
            }
        }
        for (word, id) in found {
            remove(client, &word, &id, self.force).await?;
        }
        Ok(0)
    }
}

/// Removes a sandbox and prints the word that the user has for it.
async fn remove(client: &Client, word: &str, id: &str, force: bool) -> Outcome {
    client.remove_sandbox(id, force).await.doing(&format!("remove sandbox {word}"))?;
    print(&format!("{word}\n"))?;
    Ok(0)
}
