//! A sandbox: one network namespace with its endpoints and published ports.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Id, IfName, Name, Sources};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A transport protocol whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Protocol {
    /// IANA 6.
    Tcp = 6,
    /// IANA 17.
    Udp = 17,
    /// IANA 132.
    Sctp = 132,
}

/// Where a sandbox's network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// Its own namespace with one endpoint per network.
    Endpoints,
    /// The host's namespace.
    Host,
    /// Its own namespace with loopback alone.
    None,
    /// The namespace of another sandbox.
    Sandbox(Id),
}

/// The namespace of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// A path that `setns` accepts.
    pub path: PathBuf,
    /// Whether netd made it and removes it with the sandbox.
    pub owned: bool,
    /// Inode of the namespace, to recognise a recycled path or pid.
    pub inode: u64,
}

/// A sandbox as the controller keeps it and the state file stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id, 64 hexadecimal digits.
    pub id: Id,
    /// Its unique name.
    pub name: Name,
    /// When it was made, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// Where its network comes from.
    pub mode: SandboxMode,
    /// Its namespace; none in host mode.
    pub netns: Option<Netns>,
    /// Host name inside; the short id where none was given.
    pub hostname: String,
    /// Name resolution inside.
    pub dns: DnsConfig,
    /// Its interfaces, in the order of attachment.
    pub endpoints: Vec<Endpoint>,
    /// What the user asked to publish (`-p`), kept so that connecting a network later can apply it.
    pub publish: Vec<PublishSpec>,
    /// Whether every exposed port is published (`-P`).
    pub publish_all: bool,
    /// Exposed ports (`--expose`), for `-P`, links and `inspect`.
    pub exposed: Vec<(u16, Protocol)>,
    /// Published ports with their final host ports.
    #[serde(with = "super::binding_ranges")]
    pub bindings: Vec<Binding>,
    /// Every `--link NAME[:ALIAS]`.
    pub links: Vec<Link>,
    /// User metadata.
    pub labels: BTreeMap<String, String>,
    /// The command `netd run` started, if any.
    pub command: Vec<String>,
    /// Its process while it runs.
    pub pid: Option<u32>,
}

/// Another sandbox that this one knows by a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The sandbox that had the target's name when the link was made.
    pub target: Id,
    /// That name. A sandbox that is made anew under it takes the place of one that is gone, as a container that is started again.
    pub name: Name,
    /// What this sandbox calls it.
    pub alias: String,
}

/// `--dns`, `--dns-search`, `--dns-option`, `--add-host`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Name servers, replacing the host's.
    pub servers: Vec<IpAddr>,
    /// Search domains, replacing the host's.
    pub search: Vec<String>,
    /// Resolver options, replacing the host's.
    pub options: Vec<String>,
    /// Extra lines of /etc/hosts.
    pub extra_hosts: Vec<(String, IpAddr)>,
}

/// A sandbox's interface on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id, 64 hexadecimal digits.
    pub id: Id,
    /// The network it belongs to.
    pub network: Id,
    /// Interface name inside the sandbox.
    pub ifname: IfName,
    /// Host side of the veth.
    pub host_ifname: IfName,
    /// Address of the interface inside the sandbox.
    pub mac: Mac,
    /// IPv4 address with the network's prefix length.
    pub ipv4: Option<Ipv4Net>,
    /// IPv6 address with the network's prefix length.
    pub ipv6: Option<Ipv6Net>,
    /// IPv4 gateway of the network, where it has one.
    pub gateway4: Option<Ipv4Addr>,
    /// IPv6 gateway of the network, where it has one.
    pub gateway6: Option<Ipv6Addr>,
    /// Names on this network besides the sandbox's own.
    pub aliases: Vec<String>,
    /// The endpoint with the highest value provides the default route.
    pub gw_priority: i64,
    /// `driver-opt` as given.
    pub driver_opts: BTreeMap<String, String>,
    /// Whether the user chose the IPv4 address, the IPv6 address, the MAC (they survive a reconnect).
    pub requested: (bool, bool, bool),
}

/// One `-p` with its ranges, as parsed; host port None: an ephemeral one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublishSpec {
    /// Host address; None: the network's default, else every address of both families.
    pub host_ip: Option<IpAddr>,
    /// First and last host port.
    pub host_ports: Option<(u16, u16)>,
    /// First and last port inside the sandbox.
    pub ports: (u16, u16),
    /// The protocol.
    pub protocol: Protocol,
    /// Who may come.
    #[serde(default)]
    pub allow: Sources,
}

/// A published port: a host address and port that lead to an endpoint's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Binding {
    /// Host address; unspecified (`0.0.0.0` or `::`): every local address of that family.
    pub host_ip: IpAddr,
    /// Port on the host; 0: none, the port is open on the endpoint's own address (gateway mode `routed`).
    pub host_port: u16,
    /// Port inside the sandbox.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The endpoint that serves it.
    pub endpoint: Id,
    /// Who may come.
    pub allow: Sources,
}

impl Binding {
    /// Whether it takes a port of the host; else it is open on the endpoint's own address alone (Docker semantics B8).
    pub const fn takes_host_port(&self) -> bool {
        self.host_port != 0
    }
}

impl Protocol {
    /// Returns `tcp`, `udp` or `sctp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.pad(&bytes.join(":"))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Mac {
    type Err = String;
    /// Parses six hexadecimal bytes with `:` or `-` between them; refuses group and zero addresses.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("invalid MAC address {text:?}: six hexadecimal bytes such as 02:42:ac:11:00:02");
        let mut bytes = [0_u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refused)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        if parts.next().is_some() {
            return Err(refused());
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(format!("invalid MAC address {text:?}: an interface needs a unicast address"));
        }
        Ok(Self(bytes))
    }
}

impl Sandbox {
    /// Returns the endpoint on a network, if it has one.
    pub fn endpoint_on(&self, network: &Id) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.network == *network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_parse_and_print() {
        let mac: Mac = "02:42:ac:11:00:02".parse().expect("valid");
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in
            ["", "02:42", "02:42:ac:11:00:02:03", "01:00:5e:00:00:01", "00:00:00:00:00:00", "0x:1:2:3:4:5"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
