//! I2, I3, I7: files of the state and of sandboxes, and that nothing is had twice.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use super::{Findings, I2, I3, I7, Subject};
use crate::{
    model::{Endpoint, Id, Network},
    store::Peeked,
};

/// Looks at the state by itself.
pub fn check(state: &Peeked, subject: &Subject, findings: &mut Findings) {
    for (path, why) in &state.faults {
        let hint = "a start goes on with what is left and sets a damaged file aside";
        findings.add_with(I7, format!("file {}", path.display()), why, hint);
    }
    if state.meta.is_none() && state.faults.is_empty() {
        findings.add(I7, format!("file {}", subject.state_dir.join("meta.json").display()), "missing");
    }
    if let Some(intent) = state.journal.as_ref().filter(|_| !subject.runs) {
        let operation = serde_json::to_value(intent).ok();
        let operation =
            operation.as_ref().and_then(|value| value["operation"].as_str()).unwrap_or("an operation");
        let object = format!("file {}", subject.state_dir.join("journal.json").display());
        findings.add(I7, object, format!("{} broke off", operation.replace('_', " ")));
    }
    unique(state, findings);
    addresses(state, findings);
}

/// Looks at the files that a sandbox's processes have as `/etc/hosts` and `/etc/resolv.conf`.
pub fn files(run_dir: &Path, sandbox: &Id, findings: &mut Findings) {
    for name in ["hosts", "resolv.conf"] {
        let path = run_dir.join("sandboxes").join(sandbox.as_str()).join(name);
        let problem = match fs::metadata(&path) {
            Ok(file) if file.len() > 0 => continue,
            Ok(_) => "it is empty".to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "missing".to_owned(),
            Err(error) => error.to_string(),
        };
        findings.add(I7, format!("file {}", path.display()), problem);
    }
}

/// Counts what must be unique.
fn unique(state: &Peeked, findings: &mut Findings) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = |thing: String| *seen.entry(thing).or_default() += 1;
    for network in &state.networks {
        count(format!("network name {}", network.name));
        if let Some(slot) = network.index {
            count(format!("network slot {slot}"));
            count(format!("bridge {}", network.bridge.ifname));
        }
    }
    for sandbox in &state.sandboxes {
        count(format!("sandbox name {}", sandbox.name));
        for endpoint in &sandbox.endpoints {
            count(format!("endpoint {}", endpoint.id.short()));
            count(format!("interface {}", endpoint.host_ifname));
            count(format!("MAC {} on network {}", endpoint.mac, endpoint.network.short()));
            for ip in ips(endpoint) {
                count(format!("address {ip}"));
            }
        }
        for binding in sandbox.bindings.iter().filter(|binding| binding.takes_host_port()) {
            count(format!("published port {}:{}/{}", binding.host_ip, binding.host_port, binding.protocol));
        }
    }
    for (thing, times) in seen.into_iter().filter(|(_, times)| *times > 1) {
        findings.add_with(I2, thing, format!("it is stored {times} times"), LOOK);
    }
}

/// What no start mends.
const LOOK: &str = "no start mends this: remove one of them";

/// Compares addresses of endpoints with the subnets of their networks.
fn addresses(state: &Peeked, findings: &mut Findings) {
    for sandbox in &state.sandboxes {
        for endpoint in &sandbox.endpoints {
            let network = state.networks.iter().find(|network| network.id == endpoint.network);
            let Some(network) = network else {
                let object = format!("endpoint {} of sandbox {}", endpoint.id.short(), sandbox.name);
                findings.add_with(I3, object, "its network is not stored", LOOK);
                continue;
            };
            for ip in ips(endpoint) {
                if let Some(problem) = misplaced(network, ip) {
                    findings.add_with(I3, format!("address {ip} of sandbox {}", sandbox.name), problem, LOOK);
                }
            }
        }
    }
}

fn misplaced(network: &Network, ip: IpAddr) -> Option<String> {
    let Some(pool) = network.ipam.pools.iter().find(|pool| pool.subnet.contains(&ip)) else {
        return Some(format!("it is in no subnet of network {}", network.name));
    };
    let taken = pool.gateway == Some(ip) || pool.aux.values().any(|aux| *aux == ip);
    taken.then(|| format!("it is the gateway's of network {}, or reserved there", network.name))
}

fn ips(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    let ipv4 = endpoint.ipv4.map(|net| IpAddr::V4(net.addr()));
    ipv4.into_iter().chain(endpoint.ipv6.map(|net| IpAddr::V6(net.addr())))
}
