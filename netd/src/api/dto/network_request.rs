//! What docker's clients send to `/networks`: bodies as text, parsed into the controller's requests.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ConfigReference, IpamConfig, IpamPool, nullable};
use crate::{
    controller::{Attachment, Code, CreateNetwork, Error, PoolRequest},
    model::Mac,
};

/// The body of `POST /networks/create`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkCreateRequest {
    /// The new network's name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Empty: `bridge`.
    #[serde(deserialize_with = "nullable")]
    pub driver: String,
    /// None: on.
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: Option<bool>,
    /// None: on when an IPv6 subnet is given.
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: Option<bool>,
    /// Address pools.
    #[serde(rename = "IPAM", deserialize_with = "nullable")]
    pub ipam: IpamConfig,
    /// Whether nothing may enter or leave it.
    #[serde(deserialize_with = "nullable")]
    pub internal: bool,
    /// Refused when true: a word of swarm.
    #[serde(deserialize_with = "nullable")]
    pub ingress: bool,
    /// Refused when true: a word of swarm.
    #[serde(deserialize_with = "nullable")]
    pub config_only: bool,
    /// Refused when not empty: a word of swarm.
    #[serde(deserialize_with = "nullable")]
    pub config_from: ConfigReference,
    /// `-o` as given.
    #[serde(deserialize_with = "nullable")]
    pub options: BTreeMap<String, String>,
    /// `--label` as given.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

/// The body of `POST /networks/{id}/connect`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConnectRequest {
    /// Name, id or id prefix of the sandbox.
    #[serde(deserialize_with = "nullable")]
    pub container: String,
    /// What the endpoint shall be like.
    #[serde(deserialize_with = "nullable")]
    pub endpoint_config: EndpointConfig,
}

/// The body of `POST /networks/{id}/disconnect`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DisconnectRequest {
    /// Name, id or id prefix of the sandbox.
    #[serde(deserialize_with = "nullable")]
    pub container: String,
    /// Succeeds also where the sandbox is already gone.
    #[serde(deserialize_with = "nullable")]
    pub force: bool,
}

/// `EndpointConfig`: the part of Docker's endpoint settings that a user may choose.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointConfig {
    /// Static addresses.
    #[serde(rename = "IPAMConfig", deserialize_with = "nullable")]
    pub ipam_config: EndpointIpam,
    /// Static MAC address.
    #[serde(deserialize_with = "nullable")]
    pub mac_address: String,
    /// Extra names on the network.
    #[serde(deserialize_with = "nullable")]
    pub aliases: Vec<String>,
    /// The highest provides the default route.
    #[serde(deserialize_with = "nullable")]
    pub gw_priority: i64,
    /// `driver-opt` as given.
    #[serde(deserialize_with = "nullable")]
    pub driver_opts: BTreeMap<String, String>,
}

/// `IPAMConfig` of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointIpam {
    /// Static IPv4 address, or empty.
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub ipv4_address: String,
    /// Static IPv6 address, or empty.
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub ipv6_address: String,
}

impl TryFrom<NetworkCreateRequest> for CreateNetwork {
    type Error = Error;

    fn try_from(request: NetworkCreateRequest) -> Result<Self, Error> {
        let doing = format!("create network {}", request.name);
        let swarm = request.ingress || request.config_only || !request.config_from.network.is_empty();
        if swarm {
            let text =
                format!("{doing}: ingress and config-only networks belong to swarm, which netd has not");
            return Err(Error::new(Code::Unsupported, text));
        }
        if !matches!(request.ipam.driver.as_str(), "" | "default") {
            let text = format!("{doing}: IPAM driver {:?} is not known", request.ipam.driver);
            return Err(Error::new(Code::Unsupported, text).hint("leave it out, or say `default`"));
        }
        let pools =
            request.ipam.config.into_iter().map(|pool| pool.parse(&doing)).collect::<Result<_, _>>()?;
        Ok(Self {
            name: request.name,
            driver: request.driver,
            internal: request.internal,
            ipv4: request.enable_ipv4,
            ipv6: request.enable_ipv6,
            pools,
            options: request.options,
            labels: request.labels,
        })
    }
}

impl IpamPool {
    fn parse(self, doing: &str) -> Result<PoolRequest, Error> {
        let aux = self.auxiliary_addresses.into_iter().map(|(name, ip)| {
            let ip = address(doing, "auxiliary address", &ip)?;
            Ok::<_, Error>((name, ip))
        });
        Ok(PoolRequest {
            aux: aux.collect::<Result<_, _>>()?,
            subnet: given(self.subnet).map(|text| cidr(doing, "subnet", &text)).transpose()?,
            ip_range: given(self.ip_range).map(|text| cidr(doing, "ip-range", &text)).transpose()?,
            gateway: given(self.gateway).map(|text| address(doing, "gateway", &text)).transpose()?,
        })
    }
}

impl EndpointConfig {
    /// Parses the settings of an endpoint on a network.
    ///
    /// # Errors
    /// When an address is malformed or of the other family; `doing` starts the message.
    pub fn parse(self, network: String, doing: &str) -> Result<Attachment, Error> {
        let usage = |text: String| Error::new(Code::Usage, text);
        let ipv4 = given(self.ipam_config.ipv4_address);
        let ipv6 = given(self.ipam_config.ipv6_address);
        Ok(Attachment {
            network,
            ipv4: ipv4
                .map(|ip| ip.parse().map_err(|_| usage(format!("{doing}: invalid IPv4 address: {ip}"))))
                .transpose()?,
            ipv6: ipv6
                .map(|ip| ip.parse().map_err(|_| usage(format!("{doing}: invalid IPv6 address: {ip}"))))
                .transpose()?,
            mac: given(self.mac_address)
                .map(|mac| mac.parse::<Mac>().map_err(|why| usage(format!("{doing}: {why}"))))
                .transpose()?,
            aliases: self.aliases,
            gw_priority: self.gw_priority,
            driver_opts: self.driver_opts,
        })
    }
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn cidr(doing: &str, what: &str, text: &str) -> Result<IpNet, Error> {
    text.parse().map_err(|_| {
        Error::new(Code::Usage, format!("{doing}: invalid {what} {text:?}"))
            .hint("an address with a prefix length, such as 172.30.0.0/24 or fd00:1::/64")
    })
}

fn address(doing: &str, what: &str, text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| {
        Error::new(Code::Usage, format!("{doing}: invalid {what} {text:?}"))
            .hint("an address without a prefix length, such as 172.30.0.1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<CreateNetwork, Error> {
        CreateNetwork::try_from(serde_json::from_str::<NetworkCreateRequest>(body).expect("JSON"))
    }

    #[test]
    fn what_docker_28_sends_for_network_create_is_understood() {
        let body = r#"{"Name":"app","Driver":"bridge","Scope":"","EnableIPv4":null,"EnableIPv6":true,
            "IPAM":{"Driver":"default","Options":null,"Config":[{"Subnet":"172.30.0.0/24","IPRange":"172.30.0.128/25",
            "Gateway":"172.30.0.254","AuxiliaryAddresses":{"printer":"172.30.0.9"}}]},"Internal":false,
            "Attachable":false,"Ingress":false,"ConfigOnly":false,"ConfigFrom":null,"Options":{"a":"b"},"Labels":null}"#;
        let request = parse(body).expect("valid");
        assert_eq!((request.name.as_str(), request.ipv4, request.ipv6), ("app", None, Some(true)));
        let pool = &request.pools[0];
        assert_eq!(pool.subnet.map(|net| net.to_string()).as_deref(), Some("172.30.0.0/24"));
        assert_eq!(pool.gateway, "172.30.0.254".parse().ok());
        assert_eq!(pool.aux["printer"].to_string(), "172.30.0.9");
        assert_eq!(request.options["a"], "b");
    }

    #[test]
    fn malformed_addresses_are_usage_errors_that_name_the_network() {
        for config in [
            r#"{"Subnet":"172.30.0.0"}"#,
            r#"{"Subnet":"172.30.0.0/33"}"#,
            r#"{"IPRange":"x/8"}"#,
            r#"{"Gateway":"172.30.0.1/24"}"#,
            r#"{"AuxiliaryAddresses":{"a":"b"}}"#,
        ] {
            let error =
                parse(&format!(r#"{{"Name":"app","IPAM":{{"Config":[{config}]}}}}"#)).expect_err(config);
            assert_eq!(error.code, Code::Usage, "{config}");
            assert!(error.message.starts_with("create network app: invalid"), "{}", error.message);
        }
    }

    #[test]
    fn swarm_words_are_refused() {
        for body in [r#"{"ConfigOnly":true}"#, r#"{"Ingress":true}"#, r#"{"ConfigFrom":{"Network":"x"}}"#] {
            assert_eq!(parse(body).expect_err(body).code, Code::Unsupported);
        }
    }

    #[test]
    fn endpoint_settings_parse_into_an_attachment() {
        let body = r#"{"Container":"web","EndpointConfig":{"IPAMConfig":{"IPv4Address":"172.30.0.7"},"Links":null,
            "MacAddress":"02:42:ac:11:00:02","Aliases":["www"],"DriverOpts":null,"GwPriority":5}}"#;
        let request: ConnectRequest = serde_json::from_str(body).expect("JSON");
        let attachment = request.endpoint_config.parse("app".into(), "connect").expect("valid");
        assert_eq!(attachment.ipv4, "172.30.0.7".parse().ok());
        assert_eq!((attachment.aliases, attachment.gw_priority), (vec!["www".to_owned()], 5));
        let wrong = EndpointConfig {
            ipam_config: EndpointIpam { ipv4_address: "fd00::1".into(), ..EndpointIpam::default() },
            ..EndpointConfig::default()
        };
        assert_eq!(wrong.parse("app".into(), "connect").expect_err("wrong family").code, Code::Usage);
    }
}
