//! `netd network create`.

use std::{collections::BTreeMap, net::IpAddr};

use clap::{Args, builder::NonEmptyStringValueParser};
use ipnet::IpNet;

use crate::{
    api::{
        Client,
        dto::{IpamConfig, IpamPool, NetworkCreateRequest},
    },
    cli::{
        Outcome, arguments,
        failure::{Doing, Failure},
        output::print,
    },
};

/// Make a network; prints its id
#[derive(Debug, Args)]
#[command(after_help = "\
Without --subnet the first default pool that overlaps nothing on the host is taken (172.18.0.0/16, ...).

OPTIONS FOR -o (docker's keys):
  com.docker.network.bridge.enable_icc=false            no traffic between its sandboxes
  com.docker.network.bridge.enable_ip_masquerade=false  keep the sandboxes' addresses on the way out
  com.docker.network.bridge.host_binding_ipv4=ADDRESS   where -p listens by default
  com.docker.network.bridge.gateway_mode_ipv4=MODE      (_ipv6 too) nat: the default; routed: no NAT, -p opens ports on the
                                                        sandbox's own address; nat-unprotected: every port is open there
  com.docker.network.bridge.trusted_host_interfaces=A:B interfaces (also wg*) that may reach published ports there
  com.docker.network.bridge.name=IFNAME                 name of the bridge
  netd.publish_internal=true                            -p works on an --internal network too
  netd.anti_spoofing=false                              sandboxes may send from addresses that are not theirs
  netd.host_access=none | 53/udp,53/tcp                 reach no service of the host, or these alone
  netd.hairpin_source=gateway                           servers see sandboxes that come to a published port through the host
                                                        as the gateway, as with docker's proxy; client: as themselves, those
                                                        of other networks too (auto: those of their own network)
  netd.device=netkit                                    netkit pairs in place of veth pairs: a shorter way out, where
                                                        the kernel has them (6.8, CONFIG_NETKIT)
  netd.neighbour_proxy=true                             routed, within an uplink's own network: the host answers there for
                                                        its sandboxes, and neighbours need no route
  com.docker.network.driver.mtu=BYTES                   MTU of bridge and interfaces
  com.docker.network.advertise_addr_nmsgs=0..3          how often a new sandbox tells its neighbours of its addresses (3);
                                                        advertise_addr_ms=100..2000: milliseconds between (1000)

EXAMPLES:
  netd network create app
  netd network create --subnet 172.30.0.0/24 --ip-range 172.30.0.128/25 \\
      --aux-address printer=172.30.0.129 app
  netd network create --ipv6 --subnet fd00:30::/64 --subnet 172.30.0.0/24 dual
  netd network create --internal backend
  netd network create -o com.docker.network.bridge.enable_icc=false --label team=blue strict")]
pub(super) struct Create {
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

impl Create {
    pub(super) async fn run(self, client: &Client) -> Outcome {
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

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

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
}
