//! The topology of the truth table (Docker semantics 5.2), built once and shared by the rows that change nothing.

use std::{collections::HashMap, net::IpAddr, ops::Deref};

use crate::{Family, H, H1, Lab, Net, Ns, Options, R, R2, Sandbox, Server, Topology, eventually};

use super::{Place, Who};

/// The default bridge without ICC, with the subnets that the lab would give number 30.
const CONFIG: &str = "icc = false\nbip = \"172.30.0.1/24\"\nipv6 = true\nfixed-cidr-v6 = \"fd00:c:30::/64\"\n[flows]\nentries = 65536\n";

/// The host's service on all its addresses.
pub(crate) const SERVICE: u16 = 2222;

/// Networks: name, number, options. The default bridge exists already.
const NETWORKS: [(&str, u8, &[&str]); 10] = [
    ("netA", 20, &[]),
    ("netB", 21, &[]),
    ("netC", 22, &["-o", "com.docker.network.bridge.enable_icc=false"]),
    ("netI", 23, &["--internal"]),
    (
        "netS",
        24,
        &[
            "--internal",
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv4=isolated",
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv6=isolated",
        ],
    ),
    (
        "netU",
        25,
        &[
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected",
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv6=nat-unprotected",
        ],
    ),
    (
        "netT",
        26,
        &[
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv4=routed",
            "-o",
            "com.docker.network.bridge.gateway_mode_ipv6=routed",
        ],
    ),
    ("netX", 27, &["-o", "com.docker.network.bridge.trusted_host_interfaces=eth0"]),
    ("netM", 28, &["-o", "com.docker.network.bridge.enable_ip_masquerade=false"]),
    (
        "netP",
        29,
        &["-o", "com.docker.network.host_ipv4=10.0.0.22", "-o", "com.docker.network.host_ipv6=fd00:a::22"],
    ),
];

/// Sandboxes with an address of their own choice: who, network, last byte of the address, options, ports with a server behind them.
type Made = (Who, &'static str, u8, &'static [&'static str], &'static [u16]);

const SANDBOXES: [Made; 15] = [
    (
        Who::A1,
        "netA",
        2,
        &["-p", "8080:80", "-p", "8080:80/udp", "-p", "8080:80/sctp", "--expose", "82"],
        &[80, 81, 82],
    ),
    (Who::A2, "netA", 3, &[], &[80]),
    (Who::L1, "netA", 4, SINGLE, &[80]),
    (Who::B1, "netB", 2, &["-p", "9090:90", "-p", "9090:90/udp", "-p", "9090:90/sctp"], &[90, 91]),
    (Who::C1, "netC", 2, &["-p", "7070:70", "-p", "7070:70/udp"], &[70, 71]),
    (Who::C2, "netC", 3, &[], &[70]),
    (Who::I1, "netI", 2, &["-p", "6060:60"], &[60]),
    (Who::I2, "netI", 3, &[], &[60]),
    (Who::S1, "netS", 2, &[], &[60]),
    (Who::S2, "netS", 3, &[], &[60]),
    (Who::U1, "netU", 2, &["-p", "5050:50", "-p", "5050:50/udp"], &[50, 51]),
    (Who::T1, "netT", 2, &["-p", "80", "-p", "80/udp"], &[80, 81]),
    (Who::X1, "netX", 2, &["-p", "8880:80", "-p", "8880:80/udp"], &[80, 81]),
    (Who::M1, "netM", 2, &[], &[80]),
    (Who::P1, "netP", 2, &[], &[80]),
];

/// Sandboxes that need more words: who, options, ports with a server behind them. A link's target comes before its owner.
const OTHERS: [(Who, &[&str], &[u16]); 5] = [
    (Who::D2, &["--network", "bridge", "--expose", "82"], &[82, 83]),
    (Who::D1, &["--network", "bridge", "--link", "d2"], &[82]),
    (Who::V1, &["--network", "netV", "-p", "8181:80", "-p", "8181:80/udp"], &[80]),
    (
        Who::W1,
        &[
            "--network",
            "netA,gw-priority=1,ip=172.20.0.5,ip6=fd00:c:20::5",
            "--network",
            "netB,ip=172.21.0.5,ip6=fd00:c:21::5",
        ],
        &[80],
    ),
    (
        Who::W2,
        &[
            "--network",
            "netA,gw-priority=1,ip=172.20.0.6,ip6=fd00:c:20::6",
            "--network",
            "netT,ip=172.26.0.6,ip6=fd00:c:26::6",
            "-p",
            "8780:80",
        ],
        &[80],
    ),
];

/// Publishes on single addresses: loopback, the second uplink's, the first uplink's.
const SINGLE: &[&str] = &[
    "-p",
    "127.0.0.1:8282:80",
    "-p",
    "127.0.0.1:8282:80/udp",
    "-p",
    "[::1]:8282:80",
    "-p",
    "[::1]:8282:80/udp",
    "-p",
    "10.0.1.2:8383:80",
    "-p",
    "10.0.1.2:8383:80/udp",
    "-p",
    "[fd00:b::2]:8383:80",
    "-p",
    "[fd00:b::2]:8383:80/udp",
    "-p",
    "10.0.0.2:8484:80",
    "-p",
    "10.0.0.2:8484:80/udp",
    "-p",
    "[fd00:a::2]:8484:80",
    "-p",
    "[fd00:a::2]:8484:80/udp",
];

/// Every host, network and sandbox of the table. What is in namespaces goes before the lab.
#[derive(Debug)]
pub struct World {
    sandboxes: HashMap<Who, Sandbox>,
    nets: HashMap<&'static str, Net>,
    _servers: [Server; 3],
    lab: Lab,
}

impl World {
    /// Builds all of it.
    pub fn new() -> Self {
        let topology = Topology::new();
        // Deprecated, so that nobody takes it without being told to (RFC 6724 rule 3): IPv6 would prefer the newest.
        topology.h.ip_batch(
            "addr add 10.0.0.22/24 dev eth0\naddr add fd00:a::22/64 dev eth0 nodad preferred_lft 0",
        );
        let lab = Lab::on(topology, &Options { config: CONFIG.into(), ..Options::default() });
        // Without translation, or reached directly: their addresses may show outside.
        for net in [25, 26, 27, 28] {
            lab.allow_on_uplinks(&format!("172.{net}.0.0/24"));
            lab.allow_on_uplinks(&format!("fd00:c:{net}::/64"));
        }
        let mut nets: HashMap<_, _> =
            NETWORKS.map(|(name, number, options)| (name, lab.network(name, number, options))).into();
        lab.netd(&["network", "create", "--subnet", "172.31.0.0/24", "netV"]).ok();
        nets.insert("netV", Net::existing("netV", 31));
        nets.insert("bridge", Net::existing("bridge", 30));
        let mut sandboxes = HashMap::new();
        for (who, net, host, options, ports) in SANDBOXES {
            sandboxes.insert(who, lab.sandbox(&who.name(), nets[net], host, options).serving(ports));
        }
        for (who, options, ports) in OTHERS {
            sandboxes.insert(who, lab.sandbox_with(&who.name(), options).serving(ports));
        }
        let servers = [
            Server::start(&lab.r, &[80, 8080]),
            Server::start(&lab.r2, &[80, 8080]),
            Server::start(&lab.h, &[SERVICE]),
        ];
        Self { sandboxes, nets, _servers: servers, lab }
    }

    /// The namespace of a party.
    pub fn ns(&self, who: Who) -> &Ns {
        match who {
            Who::R => &self.lab.r,
            Who::R2 => &self.lab.r2,
            Who::H => &self.lab.h,
            sandbox => &self.sandboxes[&sandbox],
        }
    }

    /// A sandbox.
    pub fn sandbox(&self, who: Who) -> &Sandbox {
        &self.sandboxes[&who]
    }

    /// The network whose gateway a sandbox has.
    pub fn net(&self, who: Who) -> Net {
        let name = match who {
            Who::D1 | Who::D2 => "bridge",
            Who::V1 => "netV",
            Who::W1 | Who::W2 => "netA",
            who => SANDBOXES
                .iter()
                .find(|made| made.0 == who)
                .map_or_else(|| panic!("{who:?} has no network"), |made| made.1),
        };
        self.nets[name]
    }

    /// The address of a place, as a client of a family dials it or a server sees it. None: any.
    pub fn address(&self, place: Place, client: Who, family: Family) -> Option<IpAddr> {
        let fixed = |v4: &str, v6: &str| {
            let text = if family == Family::V4 { v4 } else { v6 };
            text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
        };
        Some(match place {
            Place::Of(Who::R) => R.ip(family),
            Place::Of(Who::R2) => R2.ip(family),
            Place::Of(Who::H) => H.ip(family),
            Place::Of(Who::W1) => self.nets["netA"].ip(family, 5),
            Place::Of(Who::W2) => self.nets["netA"].ip(family, 6),
            Place::Of(who) => self.sandboxes[&who].ip(family),
            Place::Second(Who::H) => H1.ip(family),
            Place::Second(Who::W1) => self.nets["netB"].ip(family, 5),
            Place::Second(Who::W2) => self.nets["netT"].ip(family, 6),
            Place::Second(who) => panic!("{who:?} has one network"),
            Place::Gateway(who) => self.net(who).gateway(family),
            Place::Gateway4(who) => self.net(who).gateway(Family::V4),
            Place::Loopback(last) => fixed(&format!("127.0.0.{last}"), "::1"),
            Place::LinkLocal => self.link_local(client),
            Place::Fixed => fixed("10.0.0.22", "fd00:a::22"),
            Place::Nowhere => fixed("8.8.8.8", "2001:4860:4860::8888"),
            Place::Any => return None,
        })
    }

    /// The link-local address of the bridge that a sandbox is on, once it is found to be nobody else's (RFC 4862 §5.4).
    fn link_local(&self, client: Who) -> IpAddr {
        let id = self.lab.inspect_network(self.net(client).name())["Id"].as_str().expect("an id").to_owned();
        let bridge = format!("br-{}", &id[..12]);
        let mut found = None;
        eventually("a link-local address on the bridge", || {
            let shown = self.lab.h.ip_json(&["-6", "addr", "show", "dev", &bridge]);
            let all = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
            let settled = all.iter().find(|one| one["scope"] == "link" && one["tentative"].is_null());
            found = settled.and_then(|one| one["local"].as_str()?.parse().ok());
            found.is_some()
        });
        found.expect("an address")
    }

    /// The name of an address, for people; the first that fits.
    pub fn name_of(&self, address: IpAddr) -> String {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let hosts = [Who::R, Who::R2, Who::H].map(Place::Of);
        let sandboxes = self.sandboxes.keys().filter(|&&who| who != Who::V1 || family == Family::V4);
        let places = (hosts.into_iter().chain([Place::Second(Who::H), Place::Fixed]))
            .chain(sandboxes.clone().map(|&who| Place::Of(who)))
            .chain(sandboxes.map(|&who| Place::Gateway(who)))
            .chain([Place::Second(Who::W1), Place::Second(Who::W2), Place::Loopback(1)]);
        let mut places: Vec<_> =
            places.filter(|&p| self.address(p, Who::A1, family) == Some(address)).collect();
        places.sort_by_key(|place| place.name());
        places.first().map_or_else(|| address.to_string(), |place| place.name())
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for World {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}
