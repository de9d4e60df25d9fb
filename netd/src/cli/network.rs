//! `netd network`: what docker users know as `docker network`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use ipnet::IpNet;

use super::{
    Outcome, arguments,
    failure::{Doing, Failure},
    output::{FormatOption, Listing, View, lines, print},
};
use crate::{
    api::{
        Client, Filters,
        dto::{
            ConnectRequest, DisconnectRequest, EndpointConfig, EndpointIpam, IpamConfig, IpamPool,
            NetworkCreateRequest, NetworkResource,
        },
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

/// Make a network; prints its id
#[derive(Debug, Args)]
#[command(after_help = "\
Without --subnet the first default pool that overlaps nothing on the host is taken (172.18.0.0/16, ...).

OPTIONS FOR -o (docker's keys):
  com.docker.network.bridge.enable_icc=false            sandboxes of the network cannot reach each other
  com.docker.network.bridge.enable_ip_masquerade=false  keep the sandboxes' addresses on the way out
  com.docker.network.bridge.host_binding_ipv4=ADDRESS   where published ports listen unless -p says otherwise
  com.docker.network.bridge.name=IFNAME                 name of the bridge
  com.docker.network.driver.mtu=BYTES                   MTU of the bridge and of the sandboxes' interfaces

EXAMPLES:
  netd network create app
  netd network create --subnet 172.30.0.0/24 --ip-range 172.30.0.128/25 --aux-address printer=172.30.0.9 app
  netd network create --ipv6 --subnet fd00:30::/64 --subnet 172.30.0.0/24 dual
  netd network create --internal backend
  netd network create -o com.docker.network.bridge.enable_icc=false --label team=blue strict")]
struct Create {
    /// What carries the packets: bridge
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Subnet in CIDR form, one for each family
    #[arg(long, value_name = "CIDR", value_parser = cidr)]
    subnet: Vec<IpNet>,
    /// Address of the bridge, which sandboxes use as gateway [default: the subnet's first]
    #[arg(long, value_name = "IP", value_parser = address)]
    gateway: Vec<IpAddr>,
    /// Hand out addresses from this part of the subnet only
    #[arg(long, value_name = "CIDR", value_parser = cidr)]
    ip_range: Vec<IpNet>,
    /// Never hand out this address
    #[arg(long, value_name = "NAME=IP", value_parser = arguments::name_address)]
    aux_address: Vec<(String, IpAddr)>,
    /// Nothing may enter or leave
    #[arg(long)]
    internal: bool,
    /// Give sandboxes IPv6 addresses (a /64 of the host's own when no subnet is given)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ipv6: Option<bool>,
    /// Give sandboxes IPv4 addresses [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ipv4: Option<bool>,
    /// Attach metadata
    #[arg(long, value_name = "KEY=VALUE", value_parser = arguments::label)]
    label: Vec<(String, String)>,
    /// Set an option of the driver
    #[arg(short = 'o', long = "opt", value_name = "KEY=VALUE", value_parser = arguments::key_value)]
    options: Vec<(String, String)>,
    /// Name of the network
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
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
  netd network disconnect -f app web             also when the sandbox itself is gone")]
struct Disconnect {
    /// Also when the sandbox itself is gone
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

impl Create {
    async fn run(self, client: &Client) -> Outcome {
        let doing = format!("create network {}", self.name);
        let created = client.create_network(&self.request(&doing)?).await.doing(&doing)?;
        print(&format!("{}\n", created.id))?;
        Ok(0)
    }

    fn request(self, doing: &str) -> Result<NetworkCreateRequest, Failure> {
        let config = self.pools().map_err(|why| Failure::usage(format!("{doing}: {why}")))?;
        Ok(NetworkCreateRequest {
            name: self.name,
            driver: self.driver,
            enable_ipv4: self.ipv4,
            enable_ipv6: self.ipv6,
            ipam: IpamConfig { driver: "default".into(), options: BTreeMap::new(), config },
            internal: self.internal,
            options: arguments::map(&self.options),
            labels: arguments::map(&self.label),
            ..NetworkCreateRequest::default()
        })
    }

    /// Gives each range, gateway and reserved address to the subnet that holds it (docker/cli `network/create.go`).
    fn pools(&self) -> Result<Vec<IpamPool>, String> {
        let mut pools: Vec<IpamPool> = self
            .subnet
            .iter()
            .map(|subnet| IpamPool { subnet: subnet.to_string(), ..IpamPool::default() })
            .collect();
        if pools.is_empty() && !(self.ip_range.is_empty() && self.gateway.is_empty()) {
            return Err("every ip-range or gateway must have a corresponding subnet".into());
        }
        let holder = |what: &str, ip: IpAddr, text: &str| {
            let found = self.subnet.iter().position(|subnet| subnet.contains(&ip));
            found.ok_or_else(|| format!("no matching subnet for {what} {text}"))
        };
        for range in &self.ip_range {
            let text = range.to_string();
            let pool = &mut pools[holder("range", range.addr(), &text)?];
            once(&mut pool.ip_range, text, "ranges", &pool.subnet)?;
        }
        for gateway in &self.gateway {
            let text = gateway.to_string();
            let pool = &mut pools[holder("gateway", *gateway, &text)?];
            once(&mut pool.gateway, text, "gateways", &pool.subnet)?;
        }
        for (name, ip) in &self.aux_address {
            let text = ip.to_string();
            let pool = &mut pools[holder("aux-address", *ip, &text)?];
            pool.auxiliary_addresses.insert(name.clone(), text);
        }
        Ok(pools)
    }
}

/// Fills a field that a subnet has once.
fn once(field: &mut String, text: String, what: &str, subnet: &str) -> Result<(), String> {
    if field.is_empty() {
        *field = text;
        return Ok(());
    }
    Err(format!("cannot configure multiple {what} ({field}, {text}) on the same subnet ({subnet})"))
}

fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "an address with a prefix length, such as 172.30.0.0/24 or fd00:1::/64".into())
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "an address without a prefix length, such as 172.30.0.1".into())
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
        let mut found: Vec<(String, String)> = Vec::new();
        for word in self.networks {
            let doing = format!("remove network {word}");
            let network = client.network(&word).await.doing(&doing)?;
            if already_named(&found, &network) {
                continue;
            }
            found.push((word, network.id));
        }
        // One alone is refused by the daemon, in its own words.
        if found.len() > 1 {
            for (word, id) in &found {
                let network = client.network(id).await.doing(&format!("remove network {word}"))?;
                in_use(word, &network)?;
            }
        }
        for (word, id) in found {
            client.remove_network(&id).await.doing(&format!("remove network {word}"))?;
            print(&format!("{word}\n"))?;
        }
        Ok(0)
    }
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
    use clap::{FromArgMatches, Parser};

    use super::*;

    fn create(arguments: &str) -> Result<NetworkCreateRequest, Failure> {
        let command = Create::augment_args(clap::Command::new("create"));
        let matches = command.try_get_matches_from(["create"].into_iter().chain(arguments.split(' ')));
        let create = Create::from_arg_matches(&matches.expect("grammar")).expect("grammar");
        create.request("create network")
    }

    #[test]
    fn ranges_gateways_and_reserved_addresses_find_their_subnet() {
        let request = create(
            "--subnet 172.30.0.0/24 --subnet fd00:30::/64 --gateway fd00:30::9 --gateway 172.30.0.9 \
             --ip-range 172.30.0.128/25 --aux-address a=fd00:30::7 --ipv4=false --ipv6 -o a=b=c app",
        );
        let request = request.expect("valid");
        let [v4, v6] = request.ipam.config.as_slice() else { panic!("{:?}", request.ipam) };
        assert_eq!((v4.gateway.as_str(), v4.ip_range.as_str()), ("172.30.0.9", "172.30.0.128/25"));
        assert_eq!((v6.gateway.as_str(), v6.auxiliary_addresses["a"].as_str()), ("fd00:30::9", "fd00:30::7"));
        assert_eq!((request.enable_ipv4, request.enable_ipv6), (Some(false), Some(true)));
        assert_eq!(request.options["a"], "b=c");
    }

    #[test]
    fn what_finds_no_subnet_is_a_usage_error() {
        for arguments in [
            "--gateway 172.30.0.9 app",
            "--ip-range 172.30.0.0/25 app",
            "--subnet 172.30.0.0/24 --gateway 172.31.0.9 app",
            "--subnet 172.30.0.0/24 --ip-range 172.31.0.0/25 app",
            "--subnet 172.30.0.0/24 --aux-address a=172.31.0.9 app",
            "--subnet 172.30.0.0/24 --gateway 172.30.0.1 --gateway 172.30.0.2 app",
        ] {
            let failure = create(arguments).expect_err(arguments);
            assert_eq!(failure.exit, 2, "{arguments}");
        }
    }

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
