//! What the maps hold when they are in step with everything else: computed by what fills them, and written nowhere.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use netd_common::{
    maps::{Config, RouteKey, TrustKey, UNKNOWN_RULES, features, port_set},
    net::{Addr4, Addr6},
    wire::l4,
};

use super::{
    super::{
        EndpointEntry, LinkEntry, NetworkEntry, OpenEntry, PublishEntry, Rules, Settings, UplinkEntry,
        maps::{Ports, bytes_of},
        pinned::{Entries, Lists},
    },
    config, direct, ports, rules, subnets, values,
};

/// What an instance consists of, as far as the maps tell of it.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Networks with bridges that are there.
    pub networks: Vec<NetworkEntry>,
    /// Endpoints whose host sides are there.
    pub endpoints: Vec<EndpointEntry>,
    /// Host ports that are reserved.
    pub reserved: Vec<PublishEntry>,
    /// Those of them that lead to an endpoint.
    pub published: Vec<PublishEntry>,
    /// Ports open on endpoints' own addresses.
    pub open: Vec<OpenEntry>,
    /// What links and policies open.
    pub links: Vec<LinkEntry>,
    /// Interfaces to the outside.
    pub uplinks: Vec<UplinkEntry>,
    /// The host's own addresses.
    pub local: Vec<IpAddr>,
    /// Interfaces that networks trust.
    pub trusted: Vec<(u16, u32)>,
    /// Every interface of the host, by name.
    pub interfaces: BTreeMap<String, u32>,
    /// Those that are netd's own. Nobody comes by them from outside, so that lists of interfaces need not follow them.
    pub own: BTreeSet<u32>,
    /// Rules of IPv6 policy routing.
    pub rules: Option<Rules>,
}

/// Entries of maps, by the maps' names.
#[derive(Debug, Default)]
pub struct Tables(pub BTreeMap<String, Entries>);

impl Tables {
    fn put<K: aya::Pod, V: aya::Pod>(&mut self, map: &str, key: &K, value: &V) {
        self.0.entry(map.to_owned()).or_default().insert(bytes_of(key).to_vec(), bytes_of(value).to_vec());
    }

    /// Puts an entry of a trie, whose key begins with the length of the prefix.
    fn put_prefix<K: aya::Pod, V: aya::Pod>(&mut self, map: &str, bits: u32, key: &K, value: &V) {
        let key = [bytes_of(&bits), bytes_of(key)].concat();
        self.0.entry(map.to_owned()).or_default().insert(key, bytes_of(value).to_vec());
    }
}

impl Wanted {
    /// Returns what the maps hold of this. Lists of sources and ways are numbered by `lists`.
    pub fn tables(&self, settings: &Settings, found: Config, lists: &mut Lists) -> Tables {
        let mut tables = Tables::default();
        let subnets = self.networks(&mut tables);
        self.publishes(&mut tables, lists);
        self.endpoints(&mut tables, &subnets);
        self.open(&mut tables, lists);
        self.host(&mut tables);
        for prefix in settings.guard.deny.iter().map(IpNet::trunc) {
            let bits = u32::from(prefix.prefix_len());
            match prefix.network() {
                IpAddr::V4(ip) => tables.put_prefix("DENY4", bits, &Addr4::from(ip), &1_u32),
                IpAddr::V6(ip) => tables.put_prefix("DENY6", bits, &Addr6::from(ip), &1_u32),
            }
        }
        let rules6 = self.rules(&mut tables);
        tables.put("CONFIG", &0_u32, &configuration(settings, found, &subnets, rules6));
        tables
    }

    fn networks(&self, tables: &mut Tables) -> HashMap<IpNet, u32> {
        let mut subnets = HashMap::new();
        for network in &self.networks {
            let slot = u32::from(network.index);
            tables.put("NETWORK", &slot, &values::network(network));
            if let Some((net, _)) = network.ipv4 {
                tables.put_prefix("SUBNET4", net.prefix_len().into(), &Addr4::from(net.network()), &slot);
                subnets.insert(IpNet::V4(net.trunc()), slot);
            }
            if let Some((net, _)) = network.ipv6 {
                tables.put_prefix("SUBNET6", net.prefix_len().into(), &Addr6::from(net.network()), &slot);
                subnets.insert(IpNet::V6(net.trunc()), slot);
            }
        }
        subnets
    }

    fn endpoints(&self, tables: &mut Tables, subnets: &HashMap<IpNet, u32>) {
        let networks: HashMap<u16, _> =
            self.networks.iter().map(|network| (network.index, values::network(network))).collect();
        let mut published: HashMap<u32, [u32; 2]> = HashMap::new();
        for entry in &self.published {
            values::mark_published(published.entry(entry.ifindex).or_default(), entry.backend_port);
        }
        for endpoint in &self.endpoints {
            let network = networks.get(&endpoint.network).copied().unwrap_or_default();
            let bits = published.get(&endpoint.ifindex).copied().unwrap_or_default();
            let masks = values::masks(subnets, endpoint.network);
            let value = values::endpoint(endpoint, &network, masks, bits);
            let owner = values::owner(endpoint, value.flags);
            tables.put("ENDPOINT", &endpoint.ifindex, &value);
            if let Some(ip) = endpoint.ipv4 {
                tables.put("ADDRESS4", &Addr4::from(ip), &owner);
            }
            if let Some(ip) = endpoint.ipv6 {
                tables.put("ADDRESS6", &Addr6::from(ip), &owner);
            }
        }
    }

    fn publishes(&self, tables: &mut Tables, lists: &mut Lists) {
        let networks: HashMap<u32, u16> =
            self.endpoints.iter().map(|endpoint| (endpoint.ifindex, endpoint.network)).collect();
        let outside = self.outside();
        let mut sets: BTreeMap<u32, Ports> = BTreeMap::new();
        let all = self.reserved.iter().map(|entry| (entry, false));
        for (entry, live) in all.chain(self.published.iter().map(|entry| (entry, true))) {
            let network = networks.get(&entry.ifindex).copied().filter(|_| live).unwrap_or(0);
            let numbers = if live { lists.of(&entry.allow, &outside) } else { (0, 0) };
            let purpose = match entry.host_ip {
                IpAddr::V4(ip) => {
                    let IpAddr::V4(backend) = entry.backend else { continue };
                    let value = ports::publish(Addr4::from(backend), entry, (network, numbers), live);
                    tables.put("PUBLISH4", &ports::key(Addr4::from(ip), entry), &value);
                    port_set::PUBLISHED4
                }
                IpAddr::V6(ip) => {
                    let backend = match entry.backend {
                        IpAddr::V4(backend) => Addr6::mapped(backend.into()),
                        IpAddr::V6(backend) => backend.into(),
                    };
                    let value = ports::publish(backend, entry, (network, numbers), live);
                    tables.put("PUBLISH6", &ports::key(Addr6::from(ip), entry), &value);
                    port_set::PUBLISHED6
                }
            };
            if let Some(set) = port_set::index(purpose, entry.protocol as u8) {
                sets.entry(set).or_insert(Ports([0; 2048])).set(entry.host_port, true);
            }
        }
        for (set, ports) in sets {
            tables.put("PORTS", &set, &ports);
        }
    }

    /// Returns the interfaces that are not netd's.
    fn outside(&self) -> BTreeMap<String, u32> {
        let others = self.interfaces.iter().filter(|(_, ifindex)| !self.own.contains(ifindex));
        others.map(|(name, ifindex)| (name.clone(), *ifindex)).collect()
    }

    fn open(&self, tables: &mut Tables, lists: &mut Lists) {
        let outside = self.outside();
        for entry in &self.open {
            let (allow, via) = lists.of(&entry.allow, &outside);
            let open = netd_common::maps::Open { ifindex: entry.ifindex, allow, via };
            match entry.ip {
                IpAddr::V4(ip) => tables.put("OPEN4", &direct::key(Addr4::from(ip), entry), &open),
                IpAddr::V6(ip) => tables.put("OPEN6", &direct::key(Addr6::from(ip), entry), &open),
            }
        }
        let mut by4: HashMap<_, u32> = HashMap::new();
        let mut by6: HashMap<_, u32> = HashMap::new();
        for entry in &self.links {
            match direct::link_key(entry) {
                Some(direct::Either::V4(key)) => *by4.entry(key).or_default() |= direct::bit(entry.by),
                Some(direct::Either::V6(key)) => *by6.entry(key).or_default() |= direct::bit(entry.by),
                None => {}
            }
        }
        for (key, by) in &by4 {
            tables.put("LINK4", key, by);
        }
        for (key, by) in &by6 {
            tables.put("LINK6", key, by);
        }
    }

    fn host(&self, tables: &mut Tables) {
        for address in &self.local {
            match address {
                IpAddr::V4(ip) => tables.put("LOCAL4", &Addr4::from(*ip), &1_u32),
                IpAddr::V6(ip) => tables.put("LOCAL6", &Addr6::from(*ip), &1_u32),
            }
        }
        for uplink in &self.uplinks {
            tables.put("UPLINK", &uplink.ifindex, &values::uplink(uplink));
        }
        let trusted = self.trusted.iter().filter(|(_, ifindex)| !self.own.contains(ifindex));
        let trusted: BTreeSet<TrustKey> = trusted.copied().map(values::trust).collect();
        for key in &trusted {
            tables.put("TRUST", key, &1_u32);
        }
    }

    /// Puts the rules; returns what `CONFIG` says of them. None: nobody has looked.
    fn rules(&self, tables: &mut Tables) -> Option<u32> {
        let entries = match self.rules.as_ref()? {
            Rules::Plain => return Some(0),
            Rules::Unknown(_) => return Some(UNKNOWN_RULES),
            Rules::Listed(entries) => entries,
        };
        for (place, entry) in (0_u32..).zip(entries) {
            tables.put("RULE6", &place, &rules::value(entry));
            for (net, device) in entry.longer.iter().flatten() {
                let key = RouteKey { rule: place, addr: net.network().into() };
                tables.put_prefix("LONGER6", rules::RULE_BITS + u32::from(net.prefix_len()), &key, device);
            }
        }
        u32::try_from(entries.len()).ok()
    }
}

/// Returns the configuration as it should be, with what only time and the kernel decide as it is.
fn configuration(
    settings: &Settings,
    found: Config,
    subnets: &HashMap<IpNet, u32>,
    rules6: Option<u32>,
) -> Config {
    let (filter4, filter6) = subnets::filters(subnets.keys());
    let of_kernel = found.features & (features::PEER_SCRUBS | features::CSUM_IPV6);
    let usual = config::configuration(settings, found, of_kernel);
    // They are shorter while room for flows is short.
    let shortened = found.timeouts == super::super::survey::shortened(&usual.timeouts);
    Config {
        filter4,
        filter6,
        rules6: rules6.unwrap_or(found.rules6),
        timeouts: if shortened { found.timeouts } else { usual.timeouts },
        ..usual
    }
}

/// Returns the sets of ports that no flow changes, as they should be, by their index in `PORTS`: those that are not to be taken. What stays of
/// interest only grows while flows live.
pub fn excluded(settings: &Settings) -> Vec<(u32, Ports)> {
    let of = |proto| Some((port_set::index(port_set::EXCLUDED, proto)?, ports::excluded(settings, proto)));
    [l4::TCP, l4::UDP].into_iter().filter_map(of).collect()
}

/// Returns what the set of interest of a protocol holds at least: what is published, and where masqueraded flows have their ports.
pub fn interest(set: u32, published: &BTreeMap<u32, Vec<u8>>, settings: &Settings) -> Vec<u8> {
    let mut wanted = Ports([0; 2048]);
    for port in settings.nat_port_ranges.iter().flat_map(|(first, last)| *first..=*last) {
        wanted.set(port, true);
    }
    let mut bytes = bytes_of(&wanted).to_vec();
    let first = set - set % port_set::PURPOSES;
    for ports in [port_set::PUBLISHED4, port_set::PUBLISHED6]
        .iter()
        .filter_map(|purpose| published.get(&(first + purpose)))
    {
        bytes.iter_mut().zip(ports).for_each(|(byte, published)| *byte |= published);
    }
    bytes
}
