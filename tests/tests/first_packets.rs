//! Rung: namespaces. A new sandbox's first packets: its announcements reach its neighbours, and cost it none of the answers it waits for.

use std::net::IpAddr;

use netd_tests::{Family, Lab, PATIENCE, Packet};

/// As many as Docker sends of each kind (Docker semantics B16).
const ANNOUNCEMENTS: usize = 3;

/// Whether a packet tells a neighbour, unasked, that it has this address.
fn announces(packet: &Packet, address: IpAddr) -> bool {
    let (what, said) = match address {
        IpAddr::V4(_) => (packet.ethertype == 0x0806, packet.dst),
        IpAddr::V6(_) => (packet.proto == Some(58) && packet.bytes.get(54) == Some(&136), packet.src),
    };
    what && !packet.outgoing && packet.src == Some(address) && said == Some(address)
}

#[test]
fn a_sandbox_announces_its_addresses_and_keeps_what_it_knows_of_its_neighbours() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let wire = a2.capture();
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let strangers = ["172.20.0.99", "fd00:c:20::99"];
    for stranger in strangers {
        a1.ip_batch(&format!("neigh replace {stranger} lladdr 02:00:00:00:00:99 dev eth0 nud permanent"));
    }
    let mut heard = Vec::new();
    let missing = |heard: &[Packet]| {
        let count = |family| heard.iter().filter(|packet| announces(packet, a1.ip(family))).count();
        Family::BOTH.into_iter().find(|family| count(*family) < ANNOUNCEMENTS)
    };
    while let Some(family) = missing(&heard) {
        let what = format!("an announcement of {}", a1.ip(family));
        heard.extend(wire.until(&what, PATIENCE, |packet| announces(packet, a1.ip(family))));
    }
    for stranger in strangers {
        let known = a1.neighbour(stranger.parse().expect("an address"));
        assert_eq!(
            known,
            Some([2, 0, 0, 0, 0, 0x99]),
            "the entry of {stranger} has outlived the announcements"
        );
    }
}
