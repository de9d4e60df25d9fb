//! Networks as the Docker Engine API shows and takes them (API 1.50, `types/network`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::nullable;
use crate::model::{Driver, Endpoint, Network, Pool, Sandbox};

/// A network: the answer of `GET /networks/{id}`, and an element of `GET /networks`.
#[expect(clippy::struct_excessive_bools, reason = "Docker's keys")]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkResource {
    /// Its unique name.
    pub name: String,
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Always `local`.
    pub scope: String,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// Whether its endpoints have IPv4 addresses.
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: bool,
    /// Whether its endpoints have IPv6 addresses.
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    /// Its address pools.
    #[serde(rename = "IPAM")]
    pub ipam: IpamConfig,
    /// Whether nothing may enter or leave it.
    pub internal: bool,
    /// Always false: a word of swarm.
    pub attachable: bool,
    /// Always false: a word of swarm.
    pub ingress: bool,
    /// Always empty: a word of swarm.
    pub config_from: ConfigReference,
    /// Always false: a word of swarm.
    pub config_only: bool,
    /// Its endpoints, by the id of their sandbox.
    pub containers: BTreeMap<String, EndpointResource>,
    /// Every `-o` key as given.
    pub options: BTreeMap<String, String>,
    /// User metadata.
    pub labels: BTreeMap<String, String>,
}

/// `IPAM` of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamConfig {
    /// Always `default`.
    #[serde(deserialize_with = "nullable")]
    pub driver: String,
    /// Options of the IPAM driver; none are known.
    #[serde(deserialize_with = "nullable")]
    pub options: BTreeMap<String, String>,
    /// One entry for each subnet.
    #[serde(deserialize_with = "nullable")]
    pub config: Vec<IpamPool>,
}

/// An entry of `IPAM.Config`, as text: the reader decides what is valid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamPool {
    /// The subnet in CIDR form.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub subnet: String,
    /// Dynamic addresses come only from here.
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub ip_range: String,
    /// The bridge's address.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub gateway: String,
    /// Addresses never handed out, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

/// `ConfigFrom` of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConfigReference {
    /// Name of a config-only network.
    #[serde(deserialize_with = "nullable")]
    pub network: String,
}

/// An element of a network's `Containers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointResource {
    /// Name of the sandbox.
    pub name: String,
    /// Id of the endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// Address of the interface inside the sandbox.
    pub mac_address: String,
    /// IPv4 address with prefix length, or empty.
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    /// IPv6 address with prefix length, or empty.
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}

/// The answer of `POST /networks/create`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkCreated {
    /// Id of the new network.
    pub id: String,
    /// Always empty; docker's clients expect the key.
    pub warning: String,
}

/// The answer of `POST /networks/prune`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworksPruned {
    /// Names of the removed networks.
    #[serde(deserialize_with = "nullable")]
    pub networks_deleted: Vec<String>,
}

impl NetworkResource {
    /// Shows a network with its endpoints.
    pub fn new<'a>(network: &Network, endpoints: impl Iterator<Item = (&'a Sandbox, &'a Endpoint)>) -> Self {
        let containers = endpoints
            .map(|(sandbox, endpoint)| (sandbox.id.to_string(), EndpointResource::new(sandbox, endpoint)))
            .collect();
        Self { containers, ..Self::from(network) }
    }
}

impl From<&Network> for NetworkResource {
    /// Shows a network without its endpoints, as lists do.
    fn from(network: &Network) -> Self {
        Self {
            name: network.name.to_string(),
            id: network.id.to_string(),
            created: network.created.clone(),
            scope: "local".into(),
            driver: driver_name(network.driver).into(),
            enable_ipv4: network.ipv4,
            enable_ipv6: network.ipv6,
            ipam: IpamConfig {
                driver: "default".into(),
                options: BTreeMap::new(),
                config: network.ipam.pools.iter().map(IpamPool::from).collect(),
            },
            internal: network.internal,
            options: network.options.clone(),
            labels: network.labels.clone(),
            ..Self::default()
        }
    }
}

/// Returns Docker's name of a driver.
pub(in crate::api) const fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::Bridge => "bridge",
        Driver::Host => "host",
        Driver::Null => "null",
    }
}

impl From<&Pool> for IpamPool {
    fn from(pool: &Pool) -> Self {
        Self {
            subnet: pool.subnet.to_string(),
            ip_range: pool.ip_range.map(|range| range.to_string()).unwrap_or_default(),
            gateway: pool.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
            auxiliary_addresses: pool.aux.iter().map(|(name, ip)| (name.clone(), ip.to_string())).collect(),
        }
    }
}

impl EndpointResource {
    fn new(sandbox: &Sandbox, endpoint: &Endpoint) -> Self {
        Self {
            name: sandbox.name.to_string(),
            endpoint_id: endpoint.id.to_string(),
            mac_address: endpoint.mac.to_string(),
            ipv4_address: endpoint.ipv4.map(|net| net.to_string()).unwrap_or_default(),
            ipv6_address: endpoint.ipv6.map(|net| net.to_string()).unwrap_or_default(),
        }
    }
}
