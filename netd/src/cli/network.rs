//! `netd network`: what docker users know as `docker network`.

mod create;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use create::Create;

use super::{
    Outcome, arguments,
    failure::{Doing, Failure},
    output::{FormatOption, Listing, View, lines, print},
};
use crate::{
    api::{
        Client, Filters,
        dto::{ConnectRequest, DisconnectRequest, EndpointConfig, EndpointIpam, NetworkResource},
    },
    controller::Code,
};

/// Make, look at and remove networks
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
EXAMPLES:
  netd network create app
  netd network create --subnet 172.30.0.0/24 --gateway 172.30.0.254 --ipv6 app
  netd network ls
  netd network connect app web
  netd network inspect app
  netd network rm app"
)]
pub(super) struct Network {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Create),
    #[command(visible_alias = "list")]
    Ls(Ls),
    Inspect(Inspect),
    #[command(visible_alias = "remove")]
    Rm(Rm),
    Prune(Prune),
    Connect(Connect),
    Disconnect(Disconnect),
}

/// List networks
#[derive(Debug, Args)]
#[command(after_help = "\
FILTERS: dangling, driver, id, label, name, type (builtin or custom)

EXAMPLES:
  netd network ls
  netd network ls --filter driver=bridge --filter label=team=blue
  netd network ls --format '{{.Name}} {{json .IPAM.Config}}'
  netd network ls -q --no-trunc")]
struct Ls {
    #[command(flatten)]
    listing: Listing,
}

/// Show networks in full, as JSON in docker's shape
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd network inspect app
  netd network inspect --format '{{.Id}} {{.Internal}}' app bridge")]
struct Inspect {
    #[command(flatten)]
    format: FormatOption,
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
    networks: Vec<String>,
}

/// Remove networks that have no sandboxes
#[derive(Debug, Args)]
#[command(after_help = "\
All are looked up first: when one does not exist or is in use, none is removed.

EXAMPLES:
  netd network rm app
  netd network rm $(netd network ls -q --filter label=team=blue)")]
struct Rm {
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
    networks: Vec<String>,
}

/// Remove every network that has no sandboxes
#[derive(Debug, Args)]
#[command(after_help = "\
FILTERS: label, label! (not), until (an age such as 24h, or a time)

EXAMPLES:
  netd network prune
  netd network prune --filter label!=keep --filter until=24h")]
struct Prune {
    /// Do not ask (netd never asks; scripts written for docker pass it)
    #[arg(short, long)]
    force: bool,
    /// Remove only what matches
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Attach a sandbox to one more network
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd network connect app web
  netd network connect --ip 172.30.0.7 --alias www app web
  netd network connect --gw-priority 10 uplink web")]
struct Connect {
    /// IPv4 address [default: the lowest free one]
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address [default: the lowest free one]
    #[arg(long, value_name = "IP")]
    ip6: Option<Ipv6Addr>,
    /// One more name of the sandbox on this network
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// The network with the highest priority provides the default route
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    gw_priority: i64,
    /// Set an option of the endpoint
    #[arg(long, value_name = "KEY=VALUE", value_parser = arguments::key_value)]
    driver_opt: Vec<(String, String)>,
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    network: String,
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    sandbox: String,
}

/// Take a sandbox off a network
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd network disconnect app web
  netd network disconnect -f app web             the same, in scripts written for docker")]
struct Disconnect {
    /// As docker's; a sandbox that is not connected is an error all the same
    #[arg(short, long)]
    force: bool,
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    network: String,
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    sandbox: String,
}

impl Network {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        match self.verb {
            Verb::Create(command) => command.run(client).await,
            Verb::Ls(command) => command.run(client).await,
            Verb::Inspect(command) => command.run(client).await,
            Verb::Rm(command) => command.run(client).await,
            Verb::Prune(command) => command.run(client).await,
            Verb::Connect(command) => command.run(client).await,
            Verb::Disconnect(command) => command.run(client).await,
        }
    }
}

impl Ls {
    async fn run(self, client: &Client) -> Outcome {
        let filters =
            self.listing.filters(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let networks = client.networks(&filters).await.doing("list networks")?;
        self.listing.print(
            &networks,
            &View {
                columns: &["NETWORK ID", "NAME", "DRIVER", "SCOPE", "SUBNETS"],
                row: |network: &NetworkResource, short| {
                    let subnets: Vec<&str> =
                        network.ipam.config.iter().map(|pool| pool.subnet.as_str()).collect();
                    vec![
                        short(&network.id),
                        network.name.clone(),
                        network.driver.clone(),
                        network.scope.clone(),
                        subnets.join(", "),
                    ]
                },
                id: |network| &network.id,
            },
        )?;
        Ok(0)
    }
}

impl Inspect {
    async fn run(self, client: &Client) -> Outcome {
        let mut networks = Vec::new();
        for word in &self.networks {
            networks.push(client.network(word).await.doing(&format!("inspect network {word}"))?);
        }
        self.format.print(&networks)?;
        Ok(0)
    }
}

impl Rm {
    async fn run(self, client: &Client) -> Outcome {
        // One alone is refused by the daemon, in its own words.
        if let [word] = self.networks.as_slice() {
            return remove(client, word, word).await;
        }
        let mut found: Vec<(String, String)> = Vec::new();
        for word in self.networks {
            let doing = format!("remove network {word}");
            let network = client.network(&word).await.doing(&doing)?;
            if already_named(&found, &network) {
                continue;
            }
            found.push((word, network.id));
        }
        for (word, id) in &found {
            let network = client.network(id).await.doing(&format!("remove network {word}"))?;
            in_use(word, &network)?;
        }
        for (word, id) in found {
            remove(client, &word, &id).await?;
        }
        Ok(0)
    }
}

/// Removes a network and prints the word that the user has for it.
async fn remove(client: &Client, word: &str, id: &str) -> Outcome {
    client.remove_network(id).await.doing(&format!("remove network {word}"))?;
    print(&format!("{word}\n"))?;
    Ok(0)
}

/// Whether the same network was already named by another word.
fn already_named(found: &[(String, String)], network: &NetworkResource) -> bool {
    found.iter().any(|(_, id)| *id == network.id)
}

fn in_use(word: &str, network: &NetworkResource) -> Result<(), Failure> {
    let names: Vec<&str> = network.containers.values().map(|endpoint| endpoint.name.as_str()).collect();
    let predefined = matches!(network.name.as_str(), "bridge" | "host" | "none");
    let why = match (predefined, names.is_empty()) {
        (true, _) => format!("{} is a pre-defined network and cannot be removed", network.name),
        (false, false) => format!("network {word} has active endpoints ({})", names.join(", ")),
        (false, true) => return Ok(()),
    };
    Err(Failure::new(Code::Forbidden, format!("remove network {word}: {why}")))
}

impl Prune {
    async fn run(self, client: &Client) -> Outcome {
        // `label!=keep` is the key `label!` and the value `keep`, as in docker.
        let filters = Filters::from_options(&self.filter, &["label", "label!", "until"])?;
        let pruned = client.prune_networks(&filters).await.doing("prune networks")?;
        print(&lines(pruned.networks_deleted))?;
        Ok(0)
    }
}

impl Connect {
    async fn run(self, client: &Client) -> Outcome {
        let doing = format!("connect sandbox {} to network {}", self.sandbox, self.network);
        let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
        let endpoint_config = EndpointConfig {
            ipam_config: EndpointIpam {
                ipv4_address: text(self.ip.map(IpAddr::from)),
                ipv6_address: text(self.ip6.map(IpAddr::from)),
            },
            aliases: self.alias,
            gw_priority: self.gw_priority,
            driver_opts: arguments::map(&self.driver_opt),
            ..EndpointConfig::default()
        };
        let request = ConnectRequest { container: self.sandbox, endpoint_config };
        client.connect(&self.network, &request).await.doing(&doing)?;
        Ok(0)
    }
}

impl Disconnect {
    async fn run(self, client: &Client) -> Outcome {
        let doing = format!("disconnect sandbox {} from network {}", self.sandbox, self.network);
        let request = DisconnectRequest { container: self.sandbox, force: self.force };
        client.disconnect(&self.network, &request).await.doing(&doing)?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn malformed_addresses_do_not_parse() {
        #[derive(Debug, Parser)]
        struct Line {
            #[command(subcommand)]
            _verb: Verb,
        }
        for arguments in [
            "create --subnet 172.30.0.0 a",
            "create --gateway 1.2.3.4/8 a",
            "connect --ip fd00::1 a b",
            "create",
        ] {
            assert!(
                Line::try_parse_from(["x"].into_iter().chain(arguments.split(' '))).is_err(),
                "{arguments}"
            );
        }
    }
}
