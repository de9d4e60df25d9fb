//! `netd policy`: who may talk to whom on a network whose sandboxes may not talk to each other.

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{
    Outcome,
    failure::Doing,
    output::{FormatOption, Listing, View, lines, print},
};
use crate::{
    api::{
        Client,
        dto::{PolicyCreateRequest, PolicyResource},
    },
    model::parse_expose,
};

const FILTERS: &[&str] = &["id", "network", "sandbox"];

/// Say who may talk to whom on a network without traffic between its sandboxes
///
/// Policies are for networks whose sandboxes may not talk to each other (`enable_icc=false`). Each lets a sandbox, or every one on the
/// network, open connections to another one: to single ports, or to everything, ping included. Answers come back; nothing is
/// opened the other way.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
EXAMPLES:
  netd network create -o com.docker.network.bridge.enable_icc=false app
  netd policy add --network app --from web --to db --port 5432
  netd policy ls
  netd policy rm 3f2a91c07d4e"
)]
pub(super) struct Policy {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(visible_alias = "create")]
    Add(Add),
    #[command(visible_alias = "list")]
    Ls(Ls),
    Inspect(Inspect),
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

/// Let a sandbox open connections to another one; prints the policy's id
#[derive(Debug, Args)]
#[command(after_help = "\
A policy speaks of names: it follows them to other addresses and to sandboxes that are made anew, and waits for those that
do not exist yet. It belongs to its network and goes with it.

EXAMPLES:
  netd policy add --network app --from web --to db --port 5432
  netd policy add --network app --to dns --port 53/udp --port 53/tcp         from every sandbox on the network
  netd policy add --network app --from monitor --to web                      everything, ping included")]
struct Add {
    /// The network: name, id or beginning of the id
    #[arg(long, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    network: String,
    /// Who may open connections [default: every sandbox on the network]
    #[arg(long, value_name = "SANDBOX", value_parser = NonEmptyStringValueParser::new())]
    from: Option<String>,
    /// To whom
    #[arg(long, value_name = "SANDBOX", value_parser = NonEmptyStringValueParser::new())]
    to: String,
    /// Port there, or a range of ports, over tcp, udp or sctp (repeat) [default: everything]
    #[arg(long, value_name = "PORT[/PROTO]", value_delimiter = ',', value_parser = typed_port)]
    port: Vec<String>,
}

/// List policies
#[derive(Debug, Args)]
#[command(after_help = "\
FILTERS: network, sandbox (as --from or --to), id

EXAMPLES:
  netd policy ls
  netd policy ls --filter network=app
  netd policy ls --format '{{.From}} to {{.To}}: {{.State}}'")]
struct Ls {
    #[command(flatten)]
    listing: Listing,
}

/// Show policies in full
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd policy inspect 3f2a91c07d4e
  netd policy inspect --format '{{.State}}' 3f2a91c07d4e")]
struct Inspect {
    #[command(flatten)]
    format: FormatOption,
    /// Id or beginning of the id
    #[arg(required = true, value_name = "POLICY", value_parser = NonEmptyStringValueParser::new())]
    policies: Vec<String>,
}

/// Remove policies; established TCP connections go on (end them with `netd flow flush`)
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd policy rm 3f2a91c07d4e
  netd policy rm $(netd policy ls -q --filter network=app)")]
struct Rm {
    /// Id or beginning of the id
    #[arg(required = true, value_name = "POLICY", value_parser = NonEmptyStringValueParser::new())]
    policies: Vec<String>,
}

fn typed_port(text: &str) -> Result<String, String> {
    parse_expose(text).map(|_| text.to_owned()).map_err(|why| why.to_string())
}

impl Policy {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        match self.verb {
            Verb::Add(command) => command.run(client).await,
            Verb::Ls(command) => command.run(client).await,
            Verb::Inspect(command) => command.run(client).await,
            Verb::Rm(command) => command.run(client).await,
        }
    }
}

impl Add {
    async fn run(self, client: &Client) -> Outcome {
        let request = PolicyCreateRequest {
            network: self.network,
            from: self.from.unwrap_or_default(),
            to: self.to,
            ports: self.port,
        };
        let created = client.add_policy(&request).await.doing("add policy")?;
        print(&lines([created.id]))?;
        Ok(0)
    }
}

impl Ls {
    async fn run(self, client: &Client) -> Outcome {
        let policies = client.policies(&self.listing.filters(FILTERS)?).await.doing("list policies")?;
        self.listing.print(
            &policies,
            &View {
                columns: &["POLICY ID", "NETWORK", "FROM", "TO", "PORTS", "STATE"],
                row: |policy: &PolicyResource, short| {
                    let or = |text: &str, else_: &str| {
                        if text.is_empty() { else_.to_owned() } else { text.to_owned() }
                    };
                    vec![
                        short(&policy.id),
                        policy.network.clone(),
                        or(&policy.from, "*"),
                        policy.to.clone(),
                        or(&policy.ports.join(", "), "*"),
                        policy.state.clone(),
                    ]
                },
                id: |policy| &policy.id,
            },
        )?;
        Ok(0)
    }
}

impl Inspect {
    async fn run(self, client: &Client) -> Outcome {
        let mut policies = Vec::new();
        for word in &self.policies {
            policies.push(client.policy(word).await.doing(&format!("inspect policy {word}"))?);
        }
        self.format.print(&policies)?;
        Ok(0)
    }
}

impl Rm {
    async fn run(self, client: &Client) -> Outcome {
        // All are found before the first goes.
        let mut found: Vec<(String, String)> = Vec::new();
        for word in self.policies {
            let policy = client.policy(&word).await.doing(&format!("remove policy {word}"))?;
            if !found.iter().any(|(_, id)| *id == policy.id) {
                found.push((word, policy.id));
            }
        }
        for (word, id) in found {
            client.remove_policy(&id).await.doing(&format!("remove policy {word}"))?;
            print(&lines([word]))?;
        }
        Ok(0)
    }
}
