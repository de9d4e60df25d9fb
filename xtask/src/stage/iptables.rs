//! The same path as Docker builds it with iptables: bridge, veth, DNAT to one published port, masquerade.

use anyhow::Result;

use super::{
    cable::{self, World},
    netns::Netns,
};
use crate::command;

const SUBNET: &str = "10.99.0.0/24";
const GATEWAY: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 99, 0, 1);
const CONTAINER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 99, 0, 2);

/// A host of its own whose one container is published by iptables.
#[derive(Debug)]
pub struct Twin {
    /// The host and its outside machine.
    pub world: World,
    /// The container.
    pub container: Netns,
    /// What `iptables --version` says, such as `iptables v1.8.9 (nf_tables)`.
    pub version: String,
}

impl Twin {
    /// Builds the twin with `host_port` leading to `port`; none where iptables is not installed.
    pub fn build(host_port: u16, port: u16) -> Result<Option<Self>> {
        if command::find("iptables", &command::sbin()).is_none() {
            return Ok(None);
        }
        let world = World::around(Netns::new()?)?;
        let container = Netns::new()?;
        let host = &world.host;
        host.sysctl("net.ipv4.ip_forward", "1")?;
        host.ip(&["link", "add", "twin0", "type", "bridge"])?;
        host.address("twin0", GATEWAY.into(), 24)?;
        cable::join(host, "veth0", &container, "eth0")?;
        host.ip(&["link", "set", "veth0", "master", "twin0"])?;
        container.address("eth0", CONTAINER.into(), 24)?;
        container.ip(&["route", "add", "default", "via", &GATEWAY.to_string()])?;
        for rule in docker_rules(host_port, port) {
            command::capture(host.command("iptables")?.arg("--wait").args(rule.split(' ')))?;
        }
        let version = command::capture(host.command("iptables")?.arg("--version"))?.trim().to_owned();
        Ok(Some(Self { world, container, version }))
    }
}

/// The rules that a packet of a published port walks through under Docker 28 (userland proxy off, one port).
fn docker_rules(host_port: u16, port: u16) -> Vec<String> {
    [
        "-t nat -N DOCKER",
        "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -A POSTROUTING -s SUBNET ! -o twin0 -j MASQUERADE",
        "-t nat -A POSTROUTING -s CONTAINER -d CONTAINER -p tcp --dport PORT -j MASQUERADE",
        "-t nat -A DOCKER ! -i twin0 -p tcp --dport PUBLISHED -j DNAT --to-destination CONTAINER:PORT",
        "-N DOCKER",
        "-N DOCKER-USER",
        "-N DOCKER-FORWARD",
        "-P FORWARD DROP",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-FORWARD",
        "-A DOCKER-FORWARD -o twin0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A DOCKER-FORWARD -o twin0 -j DOCKER",
        "-A DOCKER-FORWARD -i twin0 -j ACCEPT",
        "-A DOCKER -d CONTAINER ! -i twin0 -o twin0 -p tcp --dport PORT -j ACCEPT",
        "-A DOCKER ! -i twin0 -o twin0 -j DROP",
    ]
    .iter()
    .map(|rule| {
        rule.replace("SUBNET", SUBNET)
            .replace("CONTAINER", &CONTAINER.to_string())
            .replace("PUBLISHED", &host_port.to_string())
            .replace("PORT", &port.to_string())
    })
    .collect()
}
