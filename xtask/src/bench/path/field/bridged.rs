//! Fields whose packets the kernel carries: host networking, a bridge, a bridge with a filter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::{
    Addresses, Places, nftables,
    tables::{self, Table},
};
use crate::{
    bench::path::plan::{Contender, Family, Setting},
    stage::{
        cable::{self, HOST4, HOST6, World},
        netns::Netns,
    },
};

/// Name of a veth's sandbox side.
const INSIDE: &str = "eth0";

/// A network of a host: subnets of both families whose first address is the gateway's, and a bridge.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its interface.
    pub bridge: String,
    number: u16,
}

impl Network {
    fn new(number: u16) -> Self {
        Self { bridge: format!("br{number}"), number }
    }

    /// The `host`th address.
    pub fn address(&self, family: Family, host: u8) -> IpAddr {
        let [high, low] = self.number.to_be_bytes();
        match family {
            Family::V4 => Ipv4Addr::new(172, 20 + high, low, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0xbe, 0, self.number, 0, 0, 0, host.into()).into(),
        }
    }

    /// Its subnet.
    pub fn subnet(&self, family: Family) -> String {
        let length = if family == Family::V4 { 24 } else { 64 };
        format!("{}/{length}", self.address(family, 0))
    }
}

/// Host networking: the server stands in the host itself.
pub fn host() -> Result<Places> {
    let World { host, outside, .. } = World::around(Netns::new()?)?;
    Ok(Places {
        _daemon: None,
        proxies: Vec::new(),
        host,
        outside,
        serving: None,
        asking: None,
        addresses: Addresses::default(),
    })
}

/// A bridge, and the contender's rules.
pub fn build(contender: Contender, setting: Setting) -> Result<Places> {
    let networks: Vec<Network> = (0..u16::try_from(setting.networks)?).map(Network::new).collect();
    let places = bridge(&networks, contender)?;
    // The measured network's and the measured port's rules stand in the middle of all others: the average place.
    let mut order = networks.clone();
    order.rotate_left(1);
    order.rotate_left(networks.len() / 2);
    let table = Table { networks: &order, measured: &networks[0], ports: setting.ports };
    match contender {
        Contender::IptablesLegacy => tables::restore(&places.host, "legacy", &table)?,
        Contender::IptablesNft => tables::restore(&places.host, "nft", &table)?,
        Contender::DockerNft => nftables::load(&places.host, &nftables::docker(&table))?,
        Contender::Netavark => nftables::load(&places.host, &nftables::netavark(&table))?,
        _ => {}
    }
    Ok(places)
}

/// A host with bridges, and two sandboxes on the first of them.
pub fn bridge(networks: &[Network], contender: Contender) -> Result<Places> {
    let World { host, outside, .. } = World::around(Netns::new()?)?;
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.route_localnet"] {
        host.sysctl(key, "1")?;
    }
    // Docker turns it on where its proxy is off; netavark and plain routing have no use for it.
    let docker =
        [Contender::IptablesLegacy, Contender::IptablesNft, Contender::DockerNft].contains(&contender);
    for key in ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"] {
        // Without br_netfilter nothing of the kind happens.
        let _ = host.sysctl(key, if docker { "1" } else { "0" });
    }
    for network in networks {
        host.ip(&["link", "add", &network.bridge, "type", "bridge"])?;
        host.address(&network.bridge, network.address(Family::V4, 1), 24)?;
        host.address(&network.bridge, network.address(Family::V6, 1), 64)?;
    }
    let measured = &networks[0];
    let serving = sandbox(&host, measured, 2)?;
    let asking = sandbox(&host, measured, 3)?;
    // Only plain routing needs the way back: the others masquerade.
    for (subnet, via) in
        [(measured.subnet(Family::V4), IpAddr::from(HOST4)), (measured.subnet(Family::V6), HOST6.into())]
    {
        outside.ip(&["route", "add", &subnet, "via", &via.to_string()])?;
    }
    let both = |host: u8| [Family::V4, Family::V6].map(|family| measured.address(family, host)).to_vec();
    Ok(Places {
        _daemon: None,
        proxies: Vec::new(),
        host,
        outside,
        serving: Some(serving),
        asking: Some(asking),
        addresses: Addresses { serving: both(2), asking: both(3), gateway: both(1) },
    })
}

fn sandbox(host: &Netns, network: &Network, number: u8) -> Result<Netns> {
    let sandbox = Netns::new()?;
    let port = format!("veth{number}");
    cable::join(host, &port, &sandbox, INSIDE)?;
    host.ip(&["link", "set", &port, "master", &network.bridge])?;
    host.ip(&["link", "set", &port, "type", "bridge_slave", "hairpin", "on"])?;
    for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
        sandbox.address(INSIDE, network.address(family, number), length)?;
    }
    for family in [Family::V4, Family::V6] {
        sandbox.ip(&["route", "add", "default", "via", &network.address(family, 1).to_string()])?;
    }
    Ok(sandbox)
}

/// The network of fields that have one.
pub fn first() -> Network {
    Network::new(0)
}
