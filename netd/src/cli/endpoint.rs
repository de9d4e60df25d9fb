//! Endpoint options: what `sandbox create` and `run` share, with docker run's names.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use clap::Args;

use super::{arguments, failure::Failure};
use crate::{
    api::dto::{AttachmentSpec, DnsSpec, EndpointConfig, EndpointIpam, SandboxCreateRequest},
    model::{Mac, PublishSpec, parse_expose},
};

/// Options of the sandbox's endpoints.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network options")]
pub(super) struct EndpointOptions {
    /// Attach to this network (repeat for several); also host, none and sandbox:NAME
    ///
    /// After a comma: ip=, ip6=, mac-address=, alias=, gw-priority=, driver-opt=KEY=VALUE.
    #[arg(long = "network", alias = "net", value_name = "NET[,OPTION=VALUE...]", verbatim_doc_comment)]
    networks: Vec<NetworkOption>,
    /// IPv4 address on the first network [default: the lowest free one]
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address on the first network [default: the lowest free one]
    #[arg(long, value_name = "IP")]
    ip6: Option<Ipv6Addr>,
    /// MAC address on the first network [default: a random one]
    #[arg(long, value_name = "MAC")]
    mac_address: Option<Mac>,
    /// One more name of the sandbox on the first network
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Publish ports: [[IP:][HOST]:]PORT[/udp][,allow=CIDR][,via=IFACE]..., ranges as 8000-8010
    #[arg(short, long, value_name = "SPEC")]
    publish: Vec<PublishSpec>,
    /// Publish every exposed port on an ephemeral host port
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Expose a port or range, for -P, links and inspect
    #[arg(long, value_name = "PORT[/PROTO]", value_parser = exposed)]
    expose: Vec<String>,
    /// Know another sandbox of the same network by a name, as a line of /etc/hosts; on the default network without
    /// traffic between sandboxes, reach its exposed ports too
    #[arg(long, value_name = "NAME[:ALIAS]")]
    link: Vec<String>,
    /// Name server, instead of the host's
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,
    /// Search domain, instead of the host's
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Resolver option, instead of the host's
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// One more line of /etc/hosts; NAME:host-gateway names the host
    #[arg(long, value_name = "NAME:IP", value_parser = arguments::extra_host)]
    add_host: Vec<(String, String)>,
    /// Host name inside [default: the short id]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Attach metadata
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = arguments::label)]
    label: Vec<(String, String)>,
}

/// One `--network`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NetworkOption {
    network: String,
    ip: Option<Ipv4Addr>,
    ip6: Option<Ipv6Addr>,
    mac: Option<Mac>,
    aliases: Vec<String>,
    gw_priority: i64,
    driver_opts: BTreeMap<String, String>,
}

impl FromStr for NetworkOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut option = Self::default();
        for (position, field) in arguments::split_fields(text).into_iter().enumerate() {
            match field.split_once('=') {
                None if position == 0 => option.network = field,
                None => return Err(format!("{field:?} is not KEY=VALUE")),
                Some((key, value)) => option.set(&key.to_ascii_lowercase(), value)?,
            }
        }
        if option.network.is_empty() { Err("no network is named".into()) } else { Ok(option) }
    }
}

impl NetworkOption {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let address = |family: &str| format!("{value:?} is not an {family} address");
        match key {
            "name" => value.clone_into(&mut self.network),
            "ip" => self.ip = Some(value.parse().map_err(|_| address("IPv4"))?),
            "ip6" => self.ip6 = Some(value.parse().map_err(|_| address("IPv6"))?),
            "mac-address" => self.mac = Some(value.parse()?),
            "alias" => self.aliases.push(value.to_owned()),
            "gw-priority" => {
                self.gw_priority = value.parse().map_err(|_| format!("{value:?} is not a whole number"))?;
            }
            "driver-opt" => {
                let (key, value) = arguments::key_value(value).map_err(|_| "write driver-opt=KEY=VALUE")?;
                self.driver_opts.insert(key, value);
            }
            _ => {
                let known = "ip, ip6, mac-address, alias, gw-priority, driver-opt";
                return Err(format!("unknown option {key:?}; known are {known}"));
            }
        }
        Ok(())
    }

    fn spec(self) -> AttachmentSpec {
        let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
        AttachmentSpec {
            network: self.network,
            endpoint: EndpointConfig {
                ipam_config: EndpointIpam {
                    ipv4_address: text(self.ip.map(IpAddr::from)),
                    ipv6_address: text(self.ip6.map(IpAddr::from)),
                },
                mac_address: self.mac.map(String::from).unwrap_or_default(),
                aliases: self.aliases,
                gw_priority: self.gw_priority,
                driver_opts: self.driver_opts,
            },
        }
    }
}

fn exposed(text: &str) -> Result<String, String> {
    parse_expose(text).map(|_| text.to_owned()).map_err(|why| why.to_string())
}

impl EndpointOptions {
    /// Returns the request for a sandbox with these endpoints.
    ///
    /// # Errors
    /// When an option of the first network is given in two ways.
    pub(super) fn request(self, name: Option<String>) -> Result<SandboxCreateRequest, Failure> {
        let networks = self.networks()?;
        Ok(SandboxCreateRequest {
            name,
            networks: networks.into_iter().map(NetworkOption::spec).collect(),
            publish: self.publish.iter().map(ToString::to_string).collect(),
            publish_all: self.publish_all,
            expose: self.expose,
            links: self.link,
            hostname: self.hostname,
            dns: DnsSpec {
                servers: self.dns,
                search: self.dns_search,
                options: self.dns_option,
                extra_hosts: self.add_host,
            },
            labels: arguments::map(&self.label),
            ..SandboxCreateRequest::default()
        })
    }

    /// Returns the networks, the first with what `--ip` and its like say about it.
    fn networks(&self) -> Result<Vec<NetworkOption>, Failure> {
        let mut networks = self.networks.clone();
        let about_first = self.ip.is_some()
            || self.ip6.is_some()
            || self.mac_address.is_some()
            || !self.network_alias.is_empty();
        if networks.is_empty() && about_first {
            networks.push(NetworkOption { network: "bridge".into(), ..NetworkOption::default() });
        }
        if let Some(first) = networks.first_mut() {
            once("--ip", self.ip, &mut first.ip)?;
            once("--ip6", self.ip6, &mut first.ip6)?;
            once("--mac-address", self.mac_address, &mut first.mac)?;
            first.aliases.extend(self.network_alias.iter().cloned());
        }
        Ok(networks)
    }
}

fn once<T>(option: &str, value: Option<T>, field: &mut Option<T>) -> Result<(), Failure> {
    match (value, &field) {
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("conflicting options: {option} and the same in --network")))
        }
        (Some(value), None) => {
            *field = Some(value);
            Ok(())
        }
        (None, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn request(arguments: &[&str]) -> Result<SandboxCreateRequest, Failure> {
        let command = EndpointOptions::augment_args(clap::Command::new("x"));
        let matches = command.try_get_matches_from(["x"].iter().chain(arguments)).expect("grammar");
        EndpointOptions::from_arg_matches(&matches).expect("grammar").request(None)
    }

    #[test]
    fn a_network_carries_its_options() {
        let option: NetworkOption =
            r#"app,ip=172.30.0.7,ip6=fd00::7,mac-address=02:42:ac:1e:00:07,alias=a,alias=b,gw-priority=-3,"driver-opt=k=x,y""#
                .parse()
                .expect("valid");
        assert_eq!((option.network.as_str(), option.gw_priority), ("app", -3));
        assert_eq!(option.aliases, ["a", "b"]);
        assert_eq!(option.driver_opts["k"], "x,y");
        assert_eq!("name=app".parse::<NetworkOption>().expect("docker's long form").network, "app");
        for bad in [
            "",
            "ip=10.0.0.1",
            "app,ip=x",
            "app,ip6=10.0.0.1",
            "app,colour=red",
            "app,bare",
            "app,gw-priority=x",
        ] {
            assert!(bad.parse::<NetworkOption>().is_err(), "{bad}");
        }
    }

    #[test]
    fn short_options_speak_of_the_first_network() {
        let made =
            request(&["--network", "a", "--network", "b", "--ip", "10.0.0.2", "--network-alias", "www"]);
        let made = made.expect("valid");
        assert_eq!(made.networks[0].endpoint.ipam_config.ipv4_address, "10.0.0.2");
        assert_eq!(made.networks[0].endpoint.aliases, ["www"]);
        assert_eq!(made.networks[1].endpoint.ipam_config, EndpointIpam::default());
        let made = request(&["--mac-address", "02:42:ac:11:00:02"]).expect("valid");
        assert_eq!(made.networks[0].network, "bridge");
        assert_eq!(request(&["--network", "a,ip=10.0.0.3", "--ip", "10.0.0.2"]).expect_err("twice").exit, 2);
    }
}
