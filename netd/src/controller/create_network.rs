//! From a request to a network, or to the reason why not. Pure: the facts about the world come in as arguments.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{Code, CreateNetwork, Error};
use crate::{
    ipam::{Families, WithoutGateway, World, plan_pools},
    model::{BridgeOptions, Driver, GatewayMode, Id, Ipam, Name, Network, parse_bool},
};

/// Smallest MTU of a link that carries IPv6 (RFC 8200 §5).
const MIN_MTU_IPV6: u32 = 1280;

/// What a new network needs to know and to be given.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Networks, host prefixes and default pools.
    pub world: World<'a>,
    /// The id it gets.
    pub id: Id,
    /// The time it is made, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// A free slot of the dataplane's `NETWORK` map, as `free_index` returns it; None: all are taken.
    pub index: Option<u16>,
}

/// Returns the lowest slot from 1 to `slots - 1` that no network has; slot 0 stands for "no network".
pub fn free_index(networks: &[&Network], slots: u16) -> Option<u16> {
    let used: std::collections::BTreeSet<u16> = networks.iter().filter_map(|network| network.index).collect();
    (1..slots).find(|index| !used.contains(index))
}

/// Checks `network create` and returns the network to be made.
///
/// # Errors
/// In Docker's words; nothing has changed.
pub fn create_network(request: &CreateNetwork, facts: Facts<'_>) -> Result<Network, Error> {
    let name = check_name(&request.name, &facts.world)?;
    check_driver(&request.driver)?;
    build(name, request, facts)
}

/// Returns the default network: `bridge` on the interface `netd0` and the first free default pool, or what the request says
/// (configuration keys `bip`, `mtu`, ...).
///
/// # Errors
/// As `create_network`, where the request's pools or options are wrong or nothing is free.
pub fn default_bridge(request: &CreateNetwork, facts: Facts<'_>) -> Result<Network, Error> {
    let mut request = request.clone();
    for (key, value) in [
        (BridgeOptions::DEFAULT_BRIDGE, "true"),
        (BridgeOptions::NAME, "netd0"),
        (BridgeOptions::ENABLE_ICC, "true"),
        (BridgeOptions::ENABLE_IP_MASQUERADE, "true"),
        (BridgeOptions::HOST_BINDING, &Ipv4Addr::UNSPECIFIED.to_string()),
        (BridgeOptions::MTU, "1500"),
    ] {
        request.options.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    build(predefined_name("bridge")?, &request, facts)
}

/// Returns the network `host` or `none`, which have no pools and no interface.
///
/// # Errors
/// Never for these two drivers.
pub fn pseudo_network(driver: Driver, id: Id, created: String) -> Result<Network, Error> {
    let name = predefined_name(if driver == Driver::Host { "host" } else { "none" })?;
    Ok(Network {
        bridge: BridgeOptions::parse(&BTreeMap::new(), &id).map_err(usage)?,
        id,
        name,
        driver,
        created,
        internal: false,
        ipv4: true,
        ipv6: false,
        ipam: Ipam::default(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        index: None,
        policies: Vec::new(),
    })
}

fn predefined_name(name: &str) -> Result<Name, Error> {
    name.parse().map_err(usage)
}

fn usage(error: impl std::fmt::Display) -> Error {
    Error::new(Code::Usage, error.to_string())
}

/// Names are unique; Docker's own ones are reserved (Docker semantics B21; moby `network.IsPredefined`).
fn check_name(name: &str, world: &World<'_>) -> Result<Name, Error> {
    if matches!(name, "bridge" | "host" | "none" | "default") {
        let message = format!("operation is not permitted on predefined {name} network");
        return Err(Error::new(Code::Forbidden, message));
    }
    let name: Name =
        name.parse().map_err(|error| Error::new(Code::Usage, format!("create network: {error}")))?;
    if world.networks.iter().any(|network| network.name == name) {
        return Err(Error::new(Code::Conflict, format!("network with name {name} already exists")));
    }
    Ok(name)
}

fn check_driver(driver: &str) -> Result<(), Error> {
    match driver {
        "" | "bridge" => Ok(()),
        "host" | "null" => {
            let message = format!("only one instance of \"{driver}\" network is allowed");
            Err(Error::new(Code::Forbidden, message))
        }
        "macvlan" | "ipvlan" | "overlay" => {
            let message = format!("create network: driver {driver} is not supported yet");
            Err(Error::new(Code::Unsupported, message).hint("use the driver bridge"))
        }
        _ => {
            let message = format!("could not find a network driver named {driver:?}");
            Err(Error::new(Code::NotFound, message).hint("netd has the driver bridge"))
        }
    }
}

fn build(name: Name, request: &CreateNetwork, facts: Facts<'_>) -> Result<Network, Error> {
    let families = families(request)?;
    let bridge = BridgeOptions::parse(&request.options, &facts.id).map_err(usage)?;
    check_bridge(&bridge, request.internal, families, &facts.world)?;
    let ipam =
        plan_pools(&request.pools, families, without_gateway(&bridge, request.internal), &facts.world)?;
    let direct = |mode| matches!(mode, GatewayMode::Routed | GatewayMode::NatUnprotected);
    let asked = (families.ipv4 && direct(bridge.gateway_mode_ipv4))
        || (families.ipv6 && direct(bridge.gateway_mode_ipv6));
    if bridge.neighbour_proxy && (request.internal || !asked) {
        let text = "netd.neighbour_proxy needs the gateway mode routed or nat-unprotected, and no internal network: nobody \
                    outside addresses its sandboxes otherwise";
        return Err(usage(text));
    }
    let index = facts.index.ok_or_else(|| {
        let message = "every slot of the map NETWORK is taken";
        Error::new(Code::Unsupported, message).hint("remove unused networks with `netd network prune`")
    })?;
    Ok(Network {
        id: facts.id,
        name,
        driver: Driver::Bridge,
        created: facts.created,
        internal: request.internal,
        ipv4: families.ipv4,
        ipv6: families.ipv6,
        ipam,
        options: request.options.clone(),
        bridge,
        labels: request.labels.clone(),
        index: Some(index),
        policies: Vec::new(),
    })
}

/// Returns the network's families: the flags, else the options, else IPv4 and whatever the subnets ask for (B15).
fn families(request: &CreateNetwork) -> Result<Families, Error> {
    let option = |key: &str| {
        let value = request.options.get(key);
        let parse = |value: &String| {
            parse_bool(value).map_err(|_| usage(format!("driver-opt {key:?} is not a valid bool")))
        };
        value.map(parse).transpose()
    };
    let has_ipv6_subnet =
        request.pools.iter().any(|pool| pool.subnet.is_some_and(|subnet| subnet.addr().is_ipv6()));
    let ipv4 = request.ipv4.or(option(BridgeOptions::ENABLE_IPV4)?).unwrap_or(true);
    let ipv6 = request.ipv6.or(option(BridgeOptions::ENABLE_IPV6)?).unwrap_or(has_ipv6_subnet);
    if !ipv4 && !ipv6 {
        return Err(usage("IPv4 or IPv6 must be enabled"));
    }
    Ok(Families { ipv4, ipv6 })
}

/// An isolated bridge has no address, and one with `inhibit_ipv4` needs none when there is no way out (B9, B11).
fn without_gateway(bridge: &BridgeOptions, internal: bool) -> WithoutGateway {
    WithoutGateway {
        ipv4: bridge.gateway_mode_ipv4 == GatewayMode::Isolated || (bridge.inhibit_ipv4 && internal),
        ipv6: bridge.gateway_mode_ipv6 == GatewayMode::Isolated,
    }
}

fn check_bridge(
    bridge: &BridgeOptions,
    internal: bool,
    families: Families,
    world: &World<'_>,
) -> Result<(), Error> {
    let isolated = [bridge.gateway_mode_ipv4, bridge.gateway_mode_ipv6].contains(&GatewayMode::Isolated);
    if isolated && !internal {
        return Err(usage("gateway mode 'isolated' can only be used for an internal network"));
    }
    if let Some(mtu) = bridge.mtu.filter(|mtu| families.ipv6 && *mtu < MIN_MTU_IPV6) {
        return Err(usage(format!("invalid MTU number: {mtu} (IPv6 needs at least {MIN_MTU_IPV6} bytes)")));
    }
    let bridges = world.networks.iter().filter(|network| network.driver == Driver::Bridge);
    match bridges.into_iter().find(|network| network.bridge.ifname == bridge.ifname) {
        Some(other) => {
            let message = format!(
                "networks have same bridge name: {} belongs to network {}",
                bridge.ifname, other.name
            );
            Err(Error::new(Code::Forbidden, message))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        controller::PoolRequest,
        ipam::{DefaultPool, docker_default_pools, ula_pool},
    };

    fn pools() -> Vec<DefaultPool> {
        let mut pools = docker_default_pools();
        pools.push(ula_pool(&Id::from_bytes(&[1; 32])));
        pools
    }

    fn facts<'a>(networks: &'a [&'a Network], default_pools: &'a [DefaultPool], id: u8) -> Facts<'a> {
        Facts {
            world: World { networks, host: &[], default_pools },
            id: Id::from_bytes(&[id; 32]),
            created: "2001-02-03T04:05:06Z".to_owned(),
            index: free_index(networks, 16),
        }
    }

    fn named(name: &str) -> CreateNetwork {
        CreateNetwork { name: name.to_owned(), ..CreateNetwork::default() }
    }

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn networks_get_successive_pools_and_slots() {
        let pools = pools();
        let bridge = default_bridge(&CreateNetwork::default(), facts(&[], &pools, 1)).expect("valid");
        assert_eq!((bridge.name.as_str(), bridge.bridge.ifname.as_str()), ("bridge", "netd0"));
        assert_eq!(bridge.ipam.pools[0].subnet.to_string(), "172.17.0.0/16");
        assert_eq!((bridge.bridge.host_binding, bridge.index), (None, Some(1)));

        let web = create_network(&named("web"), facts(&[&bridge], &pools, 2)).expect("valid");
        assert_eq!(web.ipam.pools[0].subnet.to_string(), "172.18.0.0/16");
        assert_eq!(web.bridge.ifname.as_str(), "br-020202020202");
        assert_eq!((web.ipv6, web.ipam.pools.len(), web.index), (false, 1, Some(2)));

        let both = [&bridge, &web];
        let db = CreateNetwork { ipv6: Some(true), ..named("db") };
        let db = create_network(&db, facts(&both, &pools, 3)).expect("valid");
        assert_eq!((db.ipam.pools.len(), db.ipam.pools[1].subnet.prefix_len(), db.index), (2, 64, Some(3)));

        assert_eq!(free_index(&[&bridge, &db], 16), Some(2));
        assert_eq!(free_index(&[&bridge, &web], 3), None);
    }

    #[test]
    fn host_and_none_have_no_pools() {
        for (driver, name) in [(Driver::Host, "host"), (Driver::Null, "none")] {
            let network = pseudo_network(driver, Id::from_bytes(&[1; 32]), String::new()).expect("valid");
            assert_eq!((network.name.as_str(), network.ipam.pools.len(), network.index), (name, 0, None));
            assert!(network.is_predefined());
        }
    }

    #[test]
    fn an_ipv6_subnet_switches_ipv6_on() {
        let pools = pools();
        let pool = PoolRequest { subnet: "fd00:9::/64".parse().ok(), ..PoolRequest::default() };
        let request = CreateNetwork { pools: vec![pool], ..named("six") };
        let network = create_network(&request, facts(&[], &pools, 1)).expect("valid");
        assert!(network.ipv4 && network.ipv6);

        let only = CreateNetwork { ipv4: Some(false), ..request.clone() };
        let network = create_network(&only, facts(&[], &pools, 1)).expect("valid");
        assert_eq!((network.ipv4, network.ipam.pools.len()), (false, 1));

        let off = CreateNetwork { ipv6: Some(false), ..request };
        assert!(!create_network(&off, facts(&[], &pools, 1)).expect("valid").ipv6);
    }

    #[test]
    fn refusals_carry_dockers_texts_and_codes() {
        let pools = pools();
        let bridge = default_bridge(&CreateNetwork::default(), facts(&[], &pools, 1)).expect("valid");
        let web = create_network(&named("web"), facts(&[&bridge], &pools, 2)).expect("valid");
        let with = |pairs| CreateNetwork { options: options(pairs), ..named("new") };
        for (request, code, text) in [
            (named("bridge"), Code::Forbidden, "operation is not permitted on predefined bridge network"),
            (named("default"), Code::Forbidden, "operation is not permitted on predefined default network"),
            (named("web"), Code::Conflict, "network with name web already exists"),
            (named(""), Code::Usage, "create network: invalid name \"\""),
            (named("a b"), Code::Usage, "create network: invalid name \"a b\""),
            (
                CreateNetwork { driver: "host".into(), ..named("new") },
                Code::Forbidden,
                "only one instance of \"host\" network is allowed",
            ),
            (
                CreateNetwork { driver: "macvlan".into(), ..named("new") },
                Code::Unsupported,
                "create network: driver macvlan is not supported yet",
            ),
            (
                CreateNetwork { driver: "weave".into(), ..named("new") },
                Code::NotFound,
                "could not find a network driver named \"weave\"",
            ),
            (
                CreateNetwork { ipv4: Some(false), ..named("new") },
                Code::Usage,
                "IPv4 or IPv6 must be enabled",
            ),
            (
                with(&[("com.docker.network.enable_ipv6", "x")]),
                Code::Usage,
                "driver-opt \"com.docker.network.enable_ipv6\" is not a valid bool",
            ),
            (
                with(&[("com.docker.network.bridge.enable_icc", "x")]),
                Code::Usage,
                "failed to parse com.docker.network.bridge.enable_icc value: x",
            ),
            (
                with(&[("com.docker.network.bridge.gateway_mode_ipv4", "isolated")]),
                Code::Usage,
                "gateway mode 'isolated' can only be used for an internal network",
            ),
            (
                with(&[("com.docker.network.bridge.name", "netd0")]),
                Code::Forbidden,
                "networks have same bridge name: netd0 belongs to network bridge",
            ),
            (
                with(&[
                    ("com.docker.network.driver.mtu", "1279"),
                    ("com.docker.network.enable_ipv6", "true"),
                ]),
                Code::Usage,
                "invalid MTU number: 1279 (IPv6 needs at least 1280 bytes)",
            ),
        ] {
            let error = create_network(&request, facts(&[&bridge, &web], &pools, 3)).expect_err(text);
            assert_eq!(error.code, code, "{text}");
            assert!(error.message.starts_with(text), "{error} is not {text}");
        }
    }

    #[test]
    fn an_isolated_network_sets_no_gateway_aside() {
        let pools = pools();
        let keys = options(&[("com.docker.network.bridge.gateway_mode_ipv4", "isolated")]);
        let request = CreateNetwork { internal: true, options: keys, ..named("island") };
        let network = create_network(&request, facts(&[], &pools, 1)).expect("valid");
        assert_eq!(network.ipam.pools[0].gateway, None);
        assert!(network.internal);
    }

    #[test]
    fn a_full_dataplane_says_which_map() {
        let pools = pools();
        let full = Facts { index: None, ..facts(&[], &pools, 1) };
        let error = create_network(&named("web"), full).expect_err("full");
        assert_eq!((error.code, error.message.contains("NETWORK")), (Code::Unsupported, true));
    }
}
