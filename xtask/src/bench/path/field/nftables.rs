//! The nftables layouts of Docker 29 (moby `integration/network/bridge/nftablesdoc`, userland proxy off) and of netavark
//! (its `src/firewall/nft.rs`), given to `nft -f -`.

use std::fmt::Write as _;

use anyhow::Result;

use super::{
    bridged::Network,
    tables::{Published, Table, feed, line, others},
};
use crate::{bench::path::plan::Family, stage::netns::Netns};

/// Gives rules to nft.
pub fn load(host: &Netns, rules: &str) -> Result<()> {
    feed(host, "nft", &["-f", "-"], rules)
}

/// Docker's tables of both families.
pub fn docker(table: &Table) -> String {
    let mut text = String::new();
    for family in [Family::V4, Family::V6] {
        let ip = word(family);
        line!(text, "table {ip} docker-bridges {{");
        let text = &mut text;
        jumps(table, text);
        line!(
            text,
            "chain filter-FORWARD {{ type filter hook forward priority filter; policy accept;\n\
             oifname vmap @filter-forward-in-jumps\niifname vmap @filter-forward-out-jumps\n}}"
        );
        for (chain, hook) in [("nat-OUTPUT", "output"), ("nat-PREROUTING", "prerouting")] {
            line!(
                text,
                "chain {chain} {{ type nat hook {hook} priority -100; policy accept;\n\
                 fib daddr type local counter jump nat-prerouting-and-output\n}}"
            );
        }
        line!(
            text,
            "chain nat-POSTROUTING {{ type nat hook postrouting priority srcnat; policy accept;\n\
             iifname vmap @nat-postrouting-out-jumps\noifname vmap @nat-postrouting-in-jumps\n}}"
        );
        let container = table.container(family);
        line!(text, "chain nat-prerouting-and-output {{");
        for Published { protocol, host_port, port } in table.published() {
            let target = std::net::SocketAddr::new(container, port);
            line!(text, "{protocol} dport {host_port} counter dnat to {target}");
        }
        line!(text, "}}\nchain raw-PREROUTING {{ type filter hook prerouting priority raw; policy accept;");
        for network in table.networks {
            let containers = if network.bridge == table.measured.bridge { 2..=3 } else { 2..=2 };
            for host in containers {
                let address = network.address(family, host);
                line!(text, "{ip} daddr {address} iifname != \"{}\" counter drop", network.bridge);
            }
        }
        line!(text, "}}");
        for network in table.networks {
            network_chains(table, network, family, text);
        }
        line!(text, "}}");
    }
    text
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The chains of a network come first in nft's eyes: a map cannot name what is not there yet.
fn jumps(table: &Table, text: &mut String) {
    const MAPS: [&str; 4] =
        ["filter-forward-in", "filter-forward-out", "nat-postrouting-in", "nat-postrouting-out"];
    for map in MAPS {
        for network in table.networks {
            line!(text, "chain {map}__{} {{ }}", network.bridge);
        }
        let elements: Vec<String> = table
            .networks
            .iter()
            .map(|network| format!("\"{0}\" : jump {map}__{0}", network.bridge))
            .collect();
        line!(text, "map {map}-jumps {{ type ifname : verdict; elements = {{ {} }} }}", elements.join(", "));
    }
}

fn network_chains(table: &Table, network: &Network, family: Family, text: &mut String) {
    let (bridge, subnet, ip) = (&network.bridge, network.subnet(family), word(family));
    let measured = *bridge == table.measured.bridge;
    let container = table.container(family);
    let published = if measured { table.published() } else { Vec::new() };
    line!(text, "chain filter-forward-in__{bridge} {{\nct state established,related counter accept");
    line!(text, "iifname \"{bridge}\" counter accept");
    for Published { protocol, port, .. } in &published {
        line!(text, "{ip} daddr {container} {protocol} dport {port} counter accept");
    }
    line!(text, "counter drop\n}}");
    line!(
        text,
        "chain filter-forward-out__{bridge} {{\nct state established,related counter accept\ncounter accept\n}}"
    );
    line!(text, "chain nat-postrouting-in__{bridge} {{\nfib saddr type local counter masquerade");
    for Published { protocol, port, .. } in &published {
        line!(
            text,
            "{ip} saddr {container} {ip} daddr {container} {protocol} dport {port} counter masquerade"
        );
    }
    line!(
        text,
        "}}\nchain nat-postrouting-out__{bridge} {{\noifname != \"{bridge}\" {ip} saddr {subnet} counter masquerade\n}}"
    );
}

/// netavark's one table. A range of ports is one rule there, as it is one mapping in podman.
pub fn netavark(table: &Table) -> String {
    let mut text = String::new();
    line!(text, "table inet netavark {{");
    line!(text, "chain NETAVARK-HOSTPORT-SETMARK {{ meta mark set meta mark | 0x2000 ; }}");
    line!(text, "chain NETAVARK-ISOLATION-1 {{ }}");
    let subnets = || table.networks.iter().flat_map(|n| [Family::V4, Family::V6].map(|family| (n, family)));
    for (network, family) in subnets() {
        let (name, subnet, ip) = (chain(network, family), network.subnet(family), word(family));
        let multicast = if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
        line!(text, "chain {name} {{\n{ip} daddr {subnet} accept\n{ip} daddr != {multicast} masquerade\n}}");
    }
    let mapped: Vec<(&str, String, Option<u16>)> = mapped(table);
    for family in [Family::V4, Family::V6] {
        dnat(table, family, &mapped, &mut text);
    }
    line!(text, "chain NETAVARK-HOSTPORT-DNAT {{");
    for family in [Family::V4, Family::V6] {
        for (protocol, ports, _) in &mapped {
            let name = chain(table.measured, family);
            line!(text, "meta nfproto {} {protocol} dport {ports} jump {name}_dnat", nfproto(family));
        }
    }
    line!(text, "}}");
    for (name, hook) in [("PREROUTING", "prerouting"), ("OUTPUT", "output")] {
        line!(
            text,
            "chain {name} {{ type nat hook {hook} priority -100; policy accept;\nfib daddr type local jump NETAVARK-HOSTPORT-DNAT\n}}"
        );
    }
    line!(
        text,
        "chain POSTROUTING {{ type nat hook postrouting priority srcnat; policy accept;\nmeta mark & 0x2000 == 0x2000 masquerade"
    );
    for (network, family) in subnets() {
        line!(text, "{} saddr {} jump {}", word(family), network.subnet(family), chain(network, family));
    }
    line!(
        text,
        "}}\nchain FORWARD {{ type filter hook forward priority filter; policy accept;\n\
         ct state invalid drop\njump NETAVARK-ISOLATION-1"
    );
    for (network, family) in subnets() {
        let (ip, subnet) = (word(family), network.subnet(family));
        line!(text, "{ip} daddr {subnet} ct state established,related accept\n{ip} saddr {subnet} accept");
    }
    line!(text, "}}\n}}");
    text
}

/// Protocol, host ports, and the container's port where it is another one.
fn mapped(table: &Table) -> Vec<(&'static str, String, Option<u16>)> {
    let single = Table { ports: 1, ..*table };
    let mut mapped: Vec<_> = single
        .published()
        .into_iter()
        .map(|published| (published.protocol, published.host_port.to_string(), Some(published.port)))
        .collect();
    if let Some(range) = others(table.ports) {
        mapped.insert(0, ("tcp", format!("{}-{}", range.start(), range.end()), None));
    }
    mapped
}

fn dnat(table: &Table, family: Family, mapped: &[(&str, String, Option<u16>)], text: &mut String) {
    let (ip, subnet) = (word(family), table.measured.subnet(family));
    let container = table.container(family);
    line!(text, "chain {}_dnat {{", chain(table.measured, family));
    for (protocol, ports, port) in mapped {
        line!(text, "{ip} saddr {subnet} {protocol} dport {ports} jump NETAVARK-HOSTPORT-SETMARK");
        if family == Family::V4 {
            line!(text, "ip saddr 127.0.0.1 {protocol} dport {ports} jump NETAVARK-HOSTPORT-SETMARK");
        }
        let target = match port {
            Some(port) => std::net::SocketAddr::new(container, *port).to_string(),
            None => container.to_string(),
        };
        line!(text, "{protocol} dport {ports} dnat {ip} to {target}");
    }
    line!(text, "}}");
}

fn chain(network: &Network, family: Family) -> String {
    format!("nv_{}_{}", network.bridge, word(family))
}

fn nfproto(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}
