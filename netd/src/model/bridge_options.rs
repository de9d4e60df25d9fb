//! Docker's `-o` keys of a bridge network, parsed with Docker's words (Docker semantics B; moby `bridge_linux.go` `fromLabels`).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use super::{
    Announcements, BridgeOptions, Device, GatewayMode, HairpinSource, HostAccess, Id, IfName,
    publish_spec::parse_expose,
};

/// Smallest MTU that IPv4 works with (RFC 791).
const MIN_MTU: u32 = 68;
/// Largest MTU of a veth or bridge (kernel `ETH_MAX_MTU`).
const MAX_MTU: u32 = 65_535;

/// Says which option was refused and why, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidOption(String);

impl BridgeOptions {
    /// Key of the bridge's interface name (B1).
    pub const NAME: &'static str = "com.docker.network.bridge.name";
    /// Key of traffic between endpoints of the network (B3).
    pub const ENABLE_ICC: &'static str = "com.docker.network.bridge.enable_icc";
    /// Key of SNAT for egress (B4).
    pub const ENABLE_IP_MASQUERADE: &'static str = "com.docker.network.bridge.enable_ip_masquerade";
    /// Key of the default host address of published ports (B5).
    pub const HOST_BINDING: &'static str = "com.docker.network.bridge.host_binding_ipv4";
    /// Key of the MTU (B12).
    pub const MTU: &'static str = "com.docker.network.driver.mtu";
    /// Key that switches IPv4 on or off (B15).
    pub const ENABLE_IPV4: &'static str = "com.docker.network.enable_ipv4";
    /// Key that switches IPv6 on or off (B15).
    pub const ENABLE_IPV6: &'static str = "com.docker.network.enable_ipv6";
    /// Key of what joins sandboxes to the bridge.
    pub const DEVICE: &'static str = "netd.device";
    /// Key that makes the host answer neighbours outside for a routed network's endpoints (dataplane 7.5 walk 13).
    pub const NEIGHBOUR_PROXY: &'static str = "netd.neighbour_proxy";
    /// Mark of the default network (B2).
    pub const DEFAULT_BRIDGE: &'static str = "com.docker.network.bridge.default_bridge";

    /// Returns what a network has without any option: a bridge named after its id, ICC and masquerade on.
    ///
    /// # Errors
    /// Never for a valid id: `br-` and 12 digits are an interface name.
    fn defaults(id: &Id) -> Result<Self, InvalidOption> {
        let ifname = format!("br-{}", id.short());
        let ifname = IfName::try_from(ifname).map_err(|error| InvalidOption(error.to_string()))?;
        Ok(Self {
            ifname,
            icc: true,
            masquerade: true,
            host_binding: None,
            mtu: None,
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
            host_ipv4: None,
            host_ipv6: None,
            trusted_host_interfaces: Vec::new(),
            iface_prefix: "eth".to_owned(),
            inhibit_ipv4: false,
            publish_internal: false,
            any_source: false,
            host_access: HostAccess::All,
            hairpin_source: HairpinSource::Auto,
            device: Device::Veth,
            neighbour_proxy: false,
            announcements: Announcements::default(),
        })
    }

    /// Parses the options of a network with this id.
    ///
    /// Keys nobody knows are left to whoever knows them (B20), except in netd's own name space.
    ///
    /// # Errors
    /// A value that does not parse, or an unknown key that starts with `netd.`.
    pub fn parse(options: &BTreeMap<String, String>, id: &Id) -> Result<Self, InvalidOption> {
        let mut parsed = Self::defaults(id)?;
        for (key, value) in options {
            parsed.set(key, value)?;
        }
        Ok(parsed)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), InvalidOption> {
        let refused = |why: &str| InvalidOption(format!("failed to parse {key} value: {value} ({why})"));
        match key {
            Self::NAME => self.ifname = value.parse().map_err(|_| refused("not an interface name"))?,
            Self::ENABLE_ICC => self.icc = parse_bool(value).map_err(|why| refused(&why))?,
            Self::ENABLE_IP_MASQUERADE => self.masquerade = parse_bool(value).map_err(|why| refused(&why))?,
            Self::HOST_BINDING => {
                // 0.0.0.0 is Docker's way to say "no preference": ports appear on `[::]` too.
                let address: IpAddr = value.parse().map_err(|_| refused("nil ip"))?;
                self.host_binding = Some(address).filter(|ip| *ip != Ipv4Addr::UNSPECIFIED);
            }
            Self::MTU => self.mtu = parse_mtu(value).map_err(|why| why.into_option(key, value))?,
            "com.docker.network.bridge.gateway_mode_ipv4" => {
                self.gateway_mode_ipv4 = parse_mode(value).map_err(|why| refused(&why))?;
            }
            "com.docker.network.bridge.gateway_mode_ipv6" => {
                self.gateway_mode_ipv6 = parse_mode(value).map_err(|why| refused(&why))?;
            }
            "com.docker.network.host_ipv4" => match value.parse().map_err(|_| refused("nil ip"))? {
                IpAddr::V4(v4) => self.host_ipv4 = Some(v4),
                IpAddr::V6(_) => return Err(refused("not an IPv4 address")),
            },
            "com.docker.network.host_ipv6" => match value.parse().map_err(|_| refused("nil ip"))? {
                IpAddr::V6(v6) => self.host_ipv6 = Some(v6),
                IpAddr::V4(_) => return Err(refused("not an IPv6 address")),
            },
            "com.docker.network.bridge.trusted_host_interfaces" => {
                let names = value.split(':').filter(|name| !name.is_empty()).map(str::parse);
                self.trusted_host_interfaces =
                    names.collect::<Result<_, _>>().map_err(|_| refused("not an interface name"))?;
            }
            "com.docker.network.container_iface_prefix" if !value.is_empty() => {
                self.iface_prefix = parse_iface_prefix(value).map_err(refused)?;
            }
            "com.docker.network.bridge.inhibit_ipv4" => {
                self.inhibit_ipv4 = parse_bool(value).map_err(|why| refused(&why))?;
            }
            Self::DEFAULT_BRIDGE | Self::ENABLE_IPV4 | Self::ENABLE_IPV6 => {
                parse_bool(value).map_err(|why| refused(&why))?;
            }
            "com.docker.network.advertise_addr_nmsgs" => {
                self.announcements.times = parse_within(key, value, "an integer", 0..=3)?;
            }
            "com.docker.network.advertise_addr_ms" => {
                self.announcements.every_ms = parse_within(key, value, "integer milliseconds", 100..=2000)?;
            }
            "netd.publish_internal" => {
                self.publish_internal = parse_bool(value).map_err(|why| refused(&why))?;
            }
            "netd.anti_spoofing" => {
                self.any_source = !parse_bool(value).map_err(|why| refused(&why))?;
            }
            Self::NEIGHBOUR_PROXY => {
                self.neighbour_proxy = parse_bool(value).map_err(|why| refused(&why))?;
            }
            "netd.host_access" => self.host_access = parse_host_access(value).map_err(|why| refused(&why))?,
            "netd.hairpin_source" => {
                self.hairpin_source = parse_hairpin_source(value).map_err(|why| refused(&why))?;
            }
            Self::DEVICE => self.device = parse_device(value).map_err(|why| refused(&why))?,
            key if key.starts_with("netd.") => {
                return Err(InvalidOption(format!("unknown option {key}: netd has no such key")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Parses a truth value as Go's `strconv.ParseBool` does.
///
/// # Errors
/// Go's text, because Docker users know it.
pub fn parse_bool(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {value:?}: invalid syntax")),
    }
}

/// Why an MTU was refused: it is no number, or no interface can have it.
enum BadMtu {
    Syntax,
    Range,
}

impl BadMtu {
    fn into_option(self, key: &str, value: &str) -> InvalidOption {
        InvalidOption(match self {
            Self::Syntax => {
                format!(
                    "failed to parse {key} value: {value} (strconv.Atoi: parsing {value:?}: invalid syntax)"
                )
            }
            Self::Range => format!("invalid MTU number: {value} (it is {MIN_MTU} to {MAX_MTU} bytes)"),
        })
    }
}

/// Parses an MTU in bytes; 0 is the default.
fn parse_mtu(value: &str) -> Result<Option<u32>, BadMtu> {
    match value.parse::<i64>().map_err(|_| BadMtu::Syntax)? {
        0 => Ok(None),
        mtu => {
            let mtu = u32::try_from(mtu).map_err(|_| BadMtu::Range)?;
            if (MIN_MTU..=MAX_MTU).contains(&mtu) { Ok(Some(mtu)) } else { Err(BadMtu::Range) }
        }
    }
}

fn parse_mode(value: &str) -> Result<GatewayMode, String> {
    match value {
        "nat" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" => Ok(GatewayMode::Isolated),
        _ => Err(format!("unknown gateway mode {value}")),
    }
}

/// Parses `all`, `none`, or ports with commas between them: `53/udp,53/tcp,8000-8010`.
fn parse_host_access(value: &str) -> Result<HostAccess, String> {
    match value {
        "all" => Ok(HostAccess::All),
        "none" => Ok(HostAccess::Only(Vec::new())),
        _ => {
            let ports = value.split(',').map(|text| {
                parse_expose(text).map_err(|_| {
                    format!("{text:?} is no port; it is all, none, or ports such as 53/udp,80/tcp")
                })
            });
            let mut ports: Vec<_> = ports.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
            ports.sort_unstable();
            ports.dedup();
            Ok(HostAccess::Only(ports))
        }
    }
}

fn parse_hairpin_source(value: &str) -> Result<HairpinSource, String> {
    match value {
        "auto" => Ok(HairpinSource::Auto),
        "gateway" => Ok(HairpinSource::Gateway),
        "client" => Ok(HairpinSource::Client),
        _ => Err(format!("unknown source {value}: it is auto, gateway or client")),
    }
}

fn parse_device(value: &str) -> Result<Device, String> {
    match value {
        "veth" => Ok(Device::Veth),
        "netkit" => Ok(Device::Netkit),
        _ => Err(format!("unknown device {value}: it is veth or netkit")),
    }
}

/// Checks that the prefix leaves room for a number of two digits.
fn parse_iface_prefix(value: &str) -> Result<String, &'static str> {
    let longest = format!("{value}99");
    longest.parse::<IfName>().map_err(|_| "not the start of an interface name of at most 15 bytes")?;
    Ok(value.to_owned())
}

/// Parses a number within bounds, or says in Docker's words what it must be (moby `libnetwork/network_unix.go`).
fn parse_within(
    key: &str,
    value: &str,
    what: &str,
    range: RangeInclusive<u32>,
) -> Result<u32, InvalidOption> {
    let number: i64 = value
        .parse()
        .map_err(|_| InvalidOption(format!("value for option {key} {value:?} must be {what}")))?;
    u32::try_from(number).ok().filter(|number| range.contains(number)).ok_or_else(|| {
        InvalidOption(format!("{key} must be in the range {} to {}", range.start(), range.end()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<BridgeOptions, InvalidOption> {
        let options = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        BridgeOptions::parse(&options, &Id::from_bytes(&[0xab; 32]))
    }

    #[test]
    fn without_options_a_bridge_is_named_after_its_id() {
        let options = parse(&[]).expect("defaults");
        assert_eq!(options.ifname.as_str(), "br-abababababab");
        assert!(options.icc && options.masquerade);
        assert_eq!((options.mtu, options.host_binding, options.iface_prefix.as_str()), (None, None, "eth"));
    }

    #[test]
    fn every_key_of_docker_has_its_effect() {
        let options = parse(&[
            ("com.docker.network.bridge.name", "br0"),
            ("com.docker.network.bridge.enable_icc", "false"),
            ("com.docker.network.bridge.enable_ip_masquerade", "0"),
            ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "routed"),
            ("com.docker.network.bridge.gateway_mode_ipv6", "nat-unprotected"),
            ("com.docker.network.host_ipv4", "192.0.2.1"),
            ("com.docker.network.host_ipv6", "2001:db8::1"),
            ("com.docker.network.bridge.trusted_host_interfaces", "vxlan.1:eth3"),
            ("com.docker.network.container_iface_prefix", "net"),
            ("com.docker.network.bridge.inhibit_ipv4", "true"),
            ("com.docker.network.bridge.default_bridge", "true"),
            ("com.docker.network.advertise_addr_nmsgs", "0"),
            ("com.docker.network.advertise_addr_ms", "2000"),
            ("com.example.other", "kept"),
        ])
        .expect("valid");
        assert_eq!(options.ifname.as_str(), "br0");
        assert!(!options.icc && !options.masquerade && options.inhibit_ipv4);
        assert_eq!(options.host_binding, Some("127.0.0.1".parse().expect("an address")));
        assert_eq!((options.mtu, options.iface_prefix.as_str()), (Some(1400), "net"));
        assert_eq!(options.gateway_mode_ipv4, GatewayMode::Routed);
        assert_eq!(options.gateway_mode_ipv6, GatewayMode::NatUnprotected);
        assert!(options.host_ipv4.is_some() && options.host_ipv6.is_some());
        assert_eq!(options.device, Device::Veth);
        assert_eq!(options.trusted_host_interfaces.len(), 2);
        assert_eq!(options.announcements, Announcements { times: 0, every_ms: 2000 });
        assert_eq!(
            parse(&[]).expect("defaults").announcements,
            Announcements { times: 3, every_ms: 1000 },
            "RFC 4861"
        );
    }

    #[test]
    fn a_network_of_netkit_pairs_is_asked_for_by_name() {
        for (value, device) in [("netkit", Device::Netkit), ("veth", Device::Veth)] {
            assert_eq!(parse(&[(BridgeOptions::DEVICE, value)]).expect("valid").device, device);
        }
    }

    #[test]
    fn a_network_says_as_whom_it_sees_sandboxes_that_come_through_the_host() {
        use HairpinSource::{Auto, Client, Gateway};
        for (value, source) in [("auto", Auto), ("gateway", Gateway), ("client", Client)] {
            assert_eq!(parse(&[("netd.hairpin_source", value)]).expect("valid").hairpin_source, source);
        }
    }

    #[test]
    fn a_wildcard_host_binding_is_no_preference() {
        for (value, expected) in [("0.0.0.0", None), ("::", Some("::")), ("192.0.2.1", Some("192.0.2.1"))] {
            let binding = parse(&[(BridgeOptions::HOST_BINDING, value)]).expect("valid").host_binding;
            assert_eq!(binding.map(|ip| ip.to_string()).as_deref(), expected);
        }
    }

    #[test]
    fn bad_values_are_refused_with_dockers_texts() {
        for (key, value, text) in [
            (
                "com.docker.network.bridge.enable_icc",
                "maybe",
                "failed to parse com.docker.network.bridge.enable_icc value: maybe (strconv.ParseBool: parsing \"maybe\": invalid syntax)",
            ),
            (
                "com.docker.network.driver.mtu",
                "big",
                "failed to parse com.docker.network.driver.mtu value: big (strconv.Atoi: parsing \"big\": invalid syntax)",
            ),
            ("com.docker.network.driver.mtu", "-1", "invalid MTU number: -1 (it is 68 to 65535 bytes)"),
            (
                "com.docker.network.bridge.host_binding_ipv4",
                "nowhere",
                "failed to parse com.docker.network.bridge.host_binding_ipv4 value: nowhere (nil ip)",
            ),
            (
                "com.docker.network.bridge.gateway_mode_ipv4",
                "x",
                "failed to parse com.docker.network.bridge.gateway_mode_ipv4 value: x (unknown gateway mode x)",
            ),
            (
                "com.docker.network.host_ipv4",
                "::1",
                "failed to parse com.docker.network.host_ipv4 value: ::1 (not an IPv4 address)",
            ),
            (
                "com.docker.network.bridge.name",
                "a/b",
                "failed to parse com.docker.network.bridge.name value: a/b (not an interface name)",
            ),
            (
                "com.docker.network.container_iface_prefix",
                "much-too-long-x",
                "failed to parse com.docker.network.container_iface_prefix value: much-too-long-x (not the start of an interface name of at most 15 bytes)",
            ),
            (
                "com.docker.network.advertise_addr_ms",
                "99",
                "com.docker.network.advertise_addr_ms must be in the range 100 to 2000",
            ),
            (
                "com.docker.network.advertise_addr_ms",
                "2001",
                "com.docker.network.advertise_addr_ms must be in the range 100 to 2000",
            ),
            (
                "com.docker.network.advertise_addr_ms",
                "1s",
                "value for option com.docker.network.advertise_addr_ms \"1s\" must be integer milliseconds",
            ),
            (
                "com.docker.network.advertise_addr_nmsgs",
                "-1",
                "com.docker.network.advertise_addr_nmsgs must be in the range 0 to 3",
            ),
            (
                "com.docker.network.advertise_addr_nmsgs",
                "4",
                "com.docker.network.advertise_addr_nmsgs must be in the range 0 to 3",
            ),
            (
                "com.docker.network.advertise_addr_nmsgs",
                "",
                "value for option com.docker.network.advertise_addr_nmsgs \"\" must be an integer",
            ),
            (
                "netd.device",
                "macvlan",
                "failed to parse netd.device value: macvlan (unknown device macvlan: it is veth or netkit)",
            ),
            (
                "netd.hairpin_source",
                "proxy",
                "failed to parse netd.hairpin_source value: proxy (unknown source proxy: it is auto, gateway or client)",
            ),
            ("netd.colour", "red", "unknown option netd.colour: netd has no such key"),
        ] {
            assert_eq!(parse(&[(key, value)]).expect_err(key).to_string(), text);
        }
    }
}
