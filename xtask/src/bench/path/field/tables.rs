//! Docker's iptables rules (Docker semantics 5.1: Docker 28 and later, userland proxy off), given to `iptables-restore`.

use std::{fmt::Write as _, io::Write as _, net::IpAddr, process::Stdio};

use anyhow::{Context, Result, ensure};

use super::{MOST_PORTS, PORT, PUBLISHED, STREAM_PORT, STREAM_PUBLISHED, bridged::Network};
use crate::{bench::path::plan::Family, stage::netns::Netns};

/// What rules are about.
#[derive(Debug)]
pub struct Table<'a> {
    /// In the order of their rules; each has a container with the second address.
    pub networks: &'a [Network],
    /// The one that is measured.
    pub measured: &'a Network,
    /// Published TCP ports.
    pub ports: u32,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The host's.
    pub host_port: u16,
    /// The container's.
    pub port: u16,
}

impl Table<'_> {
    /// The measured ports, and half of the others on each side of them.
    pub fn published(&self) -> Vec<Published> {
        let measured =
            [("tcp", PUBLISHED, PORT), ("udp", PUBLISHED, PORT), ("tcp", STREAM_PUBLISHED, STREAM_PORT)];
        let others: Vec<Published> = others(self.ports)
            .into_iter()
            .flatten()
            .map(|port| Published { protocol: "tcp", host_port: port, port })
            .collect();
        let (before, after) = others.split_at(others.len() / 2);
        let measured = measured.map(|(protocol, host_port, port)| Published { protocol, host_port, port });
        [before, &measured, after].concat()
    }

    /// The container that serves.
    pub fn container(&self, family: Family) -> IpAddr {
        self.measured.address(family, 2)
    }
}

/// The ports that are published beside the measured one, as a range at the top; none if there is only that one.
pub fn others(ports: u32) -> Option<std::ops::RangeInclusive<u16>> {
    let more = ports.min(MOST_PORTS).checked_sub(2)?;
    Some(u16::MAX - u16::try_from(more).unwrap_or(u16::MAX)..=u16::MAX)
}

/// Gives both families' rules to `iptables-VARIANT-restore`.
pub fn restore(host: &Netns, variant: &str, table: &Table) -> Result<()> {
    for (program, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
        let program = format!("{program}-{variant}-restore");
        feed(host, &program, &["--wait"], &rules(table, family))?;
    }
    Ok(())
}

/// Runs a program with a text on its stdin.
pub fn feed(host: &Netns, program: &str, args: &[&str], text: &str) -> Result<()> {
    let mut command = host.command(program)?;
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {program}"))?;
    let written = child.stdin.take().context("its stdin")?.write_all(text.as_bytes());
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && written.is_ok(), "{program} refused its rules: {}", stderr.trim());
    Ok(())
}

fn rules(table: &Table, family: Family) -> String {
    let mut text = String::new();
    raw(table, family, &mut text);
    nat(table, family, &mut text);
    filter(table, family, &mut text);
    text
}

/// Writing to a string cannot fail.
macro_rules! line {
    ($text:expr, $($arg:tt)*) => {{ let _ = writeln!($text, $($arg)*); }};
}
pub(super) use line;

fn raw(table: &Table, family: Family, text: &mut String) {
    line!(text, "*raw");
    for network in table.networks {
        let containers = if network.bridge == table.measured.bridge { 2..=3 } else { 2..=2 };
        for host in containers {
            let (address, bridge) = (network.address(family, host), &network.bridge);
            line!(text, "-A PREROUTING -d {address} ! -i {bridge} -j DROP");
        }
    }
    line!(text, "COMMIT");
}

fn nat(table: &Table, family: Family, text: &mut String) {
    line!(text, "*nat\n:DOCKER - [0:0]");
    for chain in ["PREROUTING", "OUTPUT"] {
        line!(text, "-A {chain} -m addrtype --dst-type LOCAL -j DOCKER");
    }
    for network in table.networks {
        let (bridge, subnet) = (&network.bridge, network.subnet(family));
        line!(text, "-A POSTROUTING -o {bridge} -m addrtype --src-type LOCAL -j MASQUERADE");
        line!(text, "-A POSTROUTING -s {subnet} ! -o {bridge} -j MASQUERADE");
    }
    let container = table.container(family);
    let not_link_local = if family == Family::V6 { "! -s fe80::/10 " } else { "" };
    for Published { protocol, host_port, port } in table.published() {
        let target = std::net::SocketAddr::new(container, port);
        line!(
            text,
            "-A POSTROUTING -s {container} -d {container} -p {protocol} --dport {port} -j MASQUERADE"
        );
        line!(
            text,
            "-A DOCKER {not_link_local}-p {protocol} --dport {host_port} -j DNAT --to-destination {target}"
        );
    }
    line!(text, "COMMIT");
}

fn filter(table: &Table, family: Family, text: &mut String) {
    line!(text, "*filter\n:FORWARD DROP [0:0]");
    for chain in ["DOCKER", "DOCKER-BRIDGE", "DOCKER-CT", "DOCKER-FORWARD", "DOCKER-INTERNAL", "DOCKER-USER"]
    {
        line!(text, ":{chain} - [0:0]");
    }
    line!(text, "-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD");
    for chain in ["DOCKER-CT", "DOCKER-INTERNAL", "DOCKER-BRIDGE"] {
        line!(text, "-A DOCKER-FORWARD -j {chain}");
    }
    for network in table.networks {
        let bridge = &network.bridge;
        line!(text, "-A DOCKER-FORWARD -i {bridge} -j ACCEPT");
        line!(text, "-A DOCKER-CT -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
        line!(text, "-A DOCKER-BRIDGE -o {bridge} -j DOCKER");
    }
    let (container, measured) = (table.container(family), &table.measured.bridge);
    for Published { protocol, port, .. } in table.published() {
        line!(
            text,
            "-A DOCKER -d {container} ! -i {measured} -o {measured} -p {protocol} --dport {port} -j ACCEPT"
        );
    }
    for network in table.networks {
        let bridge = &network.bridge;
        line!(text, "-A DOCKER ! -i {bridge} -o {bridge} -j DROP");
    }
    line!(text, "COMMIT");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_ports_stand_in_the_middle_of_all() {
        let network = super::super::bridged::first();
        let table = Table { networks: &[], measured: &network, ports: 60_000 };
        let published = table.published();
        assert_eq!(published.len(), 59_999 + 3);
        let at = published.iter().position(|port| port.host_port == PUBLISHED).expect("published");
        assert_eq!(at, 59_999 / 2);
        assert!(published.iter().filter(|port| port.host_port < 5537).count() == 3);
        assert_eq!(Table { ports: 1, ..table }.published().len(), 3);
    }
}
