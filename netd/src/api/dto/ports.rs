//! Published ports as Docker shows them: by port in `inspect`, one by one in lists (Docker semantics E29).

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{Binding, Id, IfPattern, Protocol, Sandbox, Sources, parse_expose};

/// Published ports by `PORT/PROTO`; null: exposed only (Docker semantics E29).
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// A host address and port that lead to a port of the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// Host address; unspecified: every local address of that family.
    pub host_ip: String,
    /// Host port in decimal.
    pub host_port: String,
    /// Who may come, netd's own word; everybody where it is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<IpNet>,
    /// By which interfaces what is outside may come, netd's own word; by all where it is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<IfPattern>,
}

/// A port in `GET /containers/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortSummary {
    /// Host address; empty: exposed only.
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Port inside the sandbox.
    pub private_port: u16,
    /// Host port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_port: Option<u16>,
    /// `tcp` or `udp`.
    pub r#type: String,
}

impl PortSummary {
    /// Shows a sandbox's ports one by one, those that are only exposed first.
    pub(super) fn list(sandbox: &Sandbox) -> Vec<Self> {
        let published = sorted(&sandbox.bindings);
        let served: BTreeSet<_> = published.iter().map(|binding| (binding.port, binding.protocol)).collect();
        let only_exposed = sandbox.exposed.iter().filter(|port| !served.contains(port));
        let exposed = only_exposed.map(|(port, protocol)| PortSummary {
            private_port: *port,
            r#type: protocol.to_string(),
            ..PortSummary::default()
        });
        let ports = published.iter().map(|binding| PortSummary {
            ip: binding.host_ip.to_string(),
            private_port: binding.port,
            public_port: Some(binding.host_port).filter(|_| binding.takes_host_port()),
            r#type: binding.protocol.to_string(),
        });
        exposed.chain(ports).collect()
    }
}

/// Returns published ports, and with null those that are only exposed.
pub(in crate::api) fn port_map(exposed: &[(u16, Protocol)], bindings: &[Binding]) -> PortMap {
    let mut ports: PortMap =
        exposed.iter().map(|(port, protocol)| (format!("{port}/{protocol}"), None)).collect();
    for binding in sorted(bindings) {
        let key = format!("{}/{}", binding.port, binding.protocol);
        // Docker's shape for a port of a routed network: an address, and no port of the host (test TestDisableNAT).
        let host_port = if binding.takes_host_port() { binding.host_port.to_string() } else { String::new() };
        let (allow, via) = (binding.allow.prefixes().to_vec(), binding.allow.via().to_vec());
        let shown = PortBinding { host_ip: binding.host_ip.to_string(), host_port, allow, via };
        ports.entry(key).or_default().get_or_insert_default().push(shown);
    }
    ports
}

/// Returns the bindings and the only exposed ports that a map shows; who serves them is not told.
pub fn bindings_of(ports: &PortMap) -> (Vec<Binding>, Vec<(u16, Protocol)>) {
    let mut bindings = Vec::new();
    let mut exposed = Vec::new();
    let endpoint = Id::from_bytes(&[0; 32]);
    for (key, hosts) in ports {
        let Some((port, protocol)) = parse_expose(key).ok().and_then(|ports| ports.first().copied()) else {
            continue;
        };
        match hosts {
            None => exposed.push((port, protocol)),
            Some(hosts) => bindings.extend(hosts.iter().filter_map(|host| {
                let host_ip = host.host_ip.parse().ok()?;
                let host_port = if host.host_port.is_empty() { 0 } else { host.host_port.parse().ok()? };
                let allow = Sources::new(&host.allow, &host.via);
                Some(Binding { host_ip, host_port, port, protocol, endpoint: endpoint.clone(), allow })
            })),
        }
    }
    (bindings, exposed)
}

/// Returns bindings by port, IPv4 before IPv6, each once: several endpoints may serve one host port.
fn sorted(bindings: &[Binding]) -> Vec<&Binding> {
    let key = |binding: &Binding| (binding.port, binding.protocol, binding.host_ip, binding.host_port);
    let mut sorted: Vec<&Binding> = bindings.iter().collect();
    sorted.sort_by_key(|binding| key(binding)); // IpAddr orders IPv4 before IPv6
    sorted.dedup_by_key(|binding| key(binding));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(ip: &str, host_port: u16, port: u16, protocol: Protocol, endpoint: u8) -> Binding {
        let endpoint = Id::from_bytes(&[endpoint; 32]);
        Binding {
            host_ip: ip.parse().expect("an address"),
            host_port,
            port,
            protocol,
            endpoint,
            allow: Sources::default(),
        }
    }

    #[test]
    fn ports_have_dockers_shape_and_parse_back() {
        let bindings = [
            binding("::", 8080, 80, Protocol::Tcp, 1),
            binding("0.0.0.0", 8080, 80, Protocol::Tcp, 1),
            binding("10.0.0.2", 53, 53, Protocol::Udp, 1),
        ];
        let map = port_map(&[(80, Protocol::Tcp), (81, Protocol::Tcp)], &bindings);
        let json = serde_json::to_value(&map).expect("JSON");
        let wanted = serde_json::json!({
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
            "53/udp": [{"HostIp": "10.0.0.2", "HostPort": "53"}],
            "81/tcp": null,
        });
        assert_eq!(json, wanted);
        let (back, exposed) = bindings_of(&map);
        assert_eq!(exposed, [(81, Protocol::Tcp)]);
        assert_eq!(port_map(&exposed, &back), map);
    }

    #[test]
    fn a_host_port_that_two_endpoints_serve_is_shown_once() {
        let bindings =
            [binding("0.0.0.0", 80, 80, Protocol::Tcp, 1), binding("0.0.0.0", 80, 80, Protocol::Tcp, 2)];
        assert_eq!(port_map(&[], &bindings)["80/tcp"].as_ref().map(Vec::len), Some(1));
    }
}
