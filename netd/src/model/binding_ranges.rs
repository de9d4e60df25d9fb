//! Published ports in the state file: neighbours fold into one range, so that 60,000 of them take one line and not ten megabytes.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Binding, Id, Protocol, Sources};

/// Bindings whose host port and port count up together.
#[derive(Serialize, Deserialize)]
struct Run {
    host_ip: IpAddr,
    host_ports: (u16, u16),
    ports: (u16, u16),
    protocol: Protocol,
    endpoint: Id,
    #[serde(default, skip_serializing_if = "Sources::is_everybody")]
    allow: Sources,
}

impl Run {
    fn of(binding: &Binding) -> Self {
        Self {
            host_ip: binding.host_ip,
            host_ports: (binding.host_port, binding.host_port),
            ports: (binding.port, binding.port),
            protocol: binding.protocol,
            endpoint: binding.endpoint.clone(),
            allow: binding.allow.clone(),
        }
    }

    /// Takes the binding in where it continues the run.
    fn extend(&mut self, binding: &Binding) -> bool {
        let follows = (self.host_ip, self.protocol, &self.endpoint, &self.allow)
            == (binding.host_ip, binding.protocol, &binding.endpoint, &binding.allow)
            && self.next_host_port() == Some(binding.host_port)
            && self.ports.1.checked_add(1) == Some(binding.port);
        if follows {
            (self.host_ports.1, self.ports.1) = (binding.host_port, binding.port);
        }
        follows
    }

    /// Returns the host port that continues the run; ports that take none have none to count up.
    fn next_host_port(&self) -> Option<u16> {
        if self.host_ports == (0, 0) { Some(0) } else { self.host_ports.1.checked_add(1) }
    }

    /// Returns its bindings; None: the two ranges differ in length.
    fn bindings(self) -> Option<impl Iterator<Item = Binding>> {
        let length = self.ports.1.checked_sub(self.ports.0)?;
        let counts = self.host_ports != (0, 0);
        let same_length = !counts || self.host_ports.1.checked_sub(self.host_ports.0)? == length;
        same_length.then(|| {
            (0..=length).map(move |offset| Binding {
                host_ip: self.host_ip,
                host_port: if counts { self.host_ports.0 + offset } else { 0 },
                port: self.ports.0 + offset,
                protocol: self.protocol,
                endpoint: self.endpoint.clone(),
                allow: self.allow.clone(),
            })
        })
    }
}

/// Writes bindings as runs, in ascending order.
pub(super) fn serialize<S: Serializer>(bindings: &[Binding], serializer: S) -> Result<S::Ok, S::Error> {
    let mut sorted: Vec<&Binding> = bindings.iter().collect();
    sorted.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for binding in sorted {
        if !runs.last_mut().is_some_and(|run| run.extend(binding)) {
            runs.push(Run::of(binding));
        }
    }
    runs.serialize(serializer)
}

/// Reads runs back into bindings, in ascending order.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Binding>, D::Error> {
    let mut bindings = Vec::new();
    for run in Vec::<Run>::deserialize(deserializer)? {
        bindings.extend(run.bindings().ok_or_else(|| D::Error::custom("a run of ports with two lengths"))?);
    }
    Ok(bindings)
}
