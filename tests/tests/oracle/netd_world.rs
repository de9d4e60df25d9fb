//! The world in which netd runs.

use netd_tests::{Family, Lab, Options};

use crate::{
    plan::{Edge, Mode, NETWORKS, PUBLISHES},
    world::{World, topology},
};

/// Room for every flow between two calls of [`World::forget`].
const CONFIG: &str = "[flows]\nentries = 131072\nper_endpoint = 131072\n";

/// The options of a gateway mode in both families.
macro_rules! mode {
    ($mode:literal) => {
        [
            "-o",
            concat!("com.docker.network.bridge.gateway_mode_ipv4=", $mode),
            "-o",
            concat!("com.docker.network.bridge.gateway_mode_ipv6=", $mode),
        ]
    };
}

/// Builds it.
pub fn build() -> World {
    let lab = Lab::on(topology(), &Options { config: CONFIG.into(), ..Options::default() });
    let nets = NETWORKS.map(|network| {
        let mut extra = Vec::new();
        if !network.icc {
            extra.extend(["-o", "com.docker.network.bridge.enable_icc=false"]);
        }
        if network.internal {
            extra.push("--internal");
        }
        if !network.masquerade && network.mode == Mode::Nat {
            extra.extend(["-o", "com.docker.network.bridge.enable_ip_masquerade=false"]);
        }
        if network.trusts {
            extra.extend(["-o", "com.docker.network.bridge.trusted_host_interfaces=eth0"]);
        }
        extra.extend(match network.mode {
            Mode::Nat => &[][..],
            Mode::Unprotected => &mode!("nat-unprotected"),
            Mode::Routed => &mode!("routed"),
            Mode::Isolated => &mode!("isolated"),
        });
        if network.shows() {
            lab.allow_on_uplinks(&network.subnet(Family::V4));
            lab.allow_on_uplinks(&network.subnet(Family::V6));
        }
        lab.network(network.name, network.number, &extra)
    });
    for (gateway, bits) in NETWORKS
        .iter()
        .filter(|network| network.has_gateway())
        .flat_map(|network| [(network.ip(Family::V4, 1), 32), (network.ip(Family::V6, 1), 128)])
    {
        lab.allow_on_uplinks(&format!("{gateway}/{bits}")); // the host's own addresses answer who dials them
    }
    let mut spaces = vec![(Edge::R, lab.r.clone()), (Edge::R2, lab.r2.clone())];
    for edge in Edge::SANDBOXES {
        let (network, host) = edge.place().expect("a sandbox has a network");
        let net = nets.iter().find(|net| net.name() == network.name).expect("its network");
        let publishes = publishes(edge);
        let sandbox =
            lab.sandbox(edge.name(), *net, host, &publishes.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            (sandbox.ip(Family::V4), sandbox.ip(Family::V6)),
            (edge.ip(Family::V4), edge.ip(Family::V6))
        );
        spaces.push((edge, sandbox.clone()));
    }
    let h = lab.h.clone();
    let (dirs, ns) = (lab.daemon.dirs().socket(), lab.h.clone());
    let forget = move || {
        let mut flush = std::process::Command::new(netd_tests::binary());
        flush.env("NETD_HOST", format!("unix://{}", dirs.display())).args(["flow", "flush"]);
        let out = ns.output(&mut flush);
        assert!(out.status.success(), "netd flow flush: {}", String::from_utf8_lossy(&out.stderr));
    };
    World::new("netd", &h, &spaces, Box::new(forget), Box::new(lab))
}

fn publishes(edge: Edge) -> Vec<String> {
    let mine = PUBLISHES.iter().filter(|publish| publish.edge == edge);
    mine.flat_map(|publish| {
        let address = publish.address.map_or(String::new(), |address| format!("{address}:"));
        let ports = if publish.is_on_host() {
            format!("{address}{}:{}", publish.host_port, publish.port)
        } else {
            publish.port.to_string()
        };
        ["tcp", "udp", "sctp"].into_iter().flat_map(move |proto| ["-p".into(), format!("{ports}/{proto}")])
    })
    .collect()
}
