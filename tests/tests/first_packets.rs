//! Rung: namespaces. A new sandbox's first packets: its announcements reach its neighbours, and cost it none of the answers it waits for.

use std::net::IpAddr;

use netd_tests::{Capture, Family, Lab, PATIENCE, Packet, Sandbox};

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

fn count(heard: &[Packet], sandbox: &Sandbox) -> [usize; 2] {
    Family::BOTH.map(|family| heard.iter().filter(|packet| announces(packet, sandbox.ip(family))).count())
}

/// Waits until a sandbox has announced each of its addresses so many times, and returns all that was heard.
fn hear(wire: &Capture, sandbox: &Sandbox, times: usize) -> Vec<Packet> {
    let mut heard = Vec::new();
    let missing = |heard: &[Packet]| {
        Family::BOTH.into_iter().zip(count(heard, sandbox)).find(|(_, count)| *count < times)
    };
    while let Some((family, _)) = missing(&heard) {
        let what = format!("an announcement of {}", sandbox.ip(family));
        heard.extend(wire.until(&what, PATIENCE, |packet| announces(packet, sandbox.ip(family))));
    }
    heard
}

#[test]
fn b16_a_network_says_how_often_its_sandboxes_announce_their_addresses() {
    const TIMES: &str = "com.docker.network.advertise_addr_nmsgs";
    let lab = Lab::new();
    // In this order: the usual ones are through with theirs, two intervals later, when the others long are.
    let networks = [("netS", 21, Some("0")), ("netO", 22, Some("1")), ("netA", 20, None)];
    let worlds = networks.map(|(name, number, times)| {
        let option = times.map(|times| format!("{TIMES}={times}"));
        let extra: Vec<&str> = option.iter().flat_map(|option| ["-o", option]).collect();
        let net = lab.network(name, number, &extra);
        let wire = lab.sandbox(&format!("{name}-2"), net, 3, &[]);
        (wire.capture(), lab.sandbox(&format!("{name}-1"), net, 2, &[]), wire)
    });
    let [(silent, quiet, _), (once, brief, _), (often, usual, _)] = &worlds;
    hear(often, usual, ANNOUNCEMENTS);
    assert_eq!(count(&hear(once, brief, 1), brief), [1, 1], "and no more");
    // What went before the question has come before it.
    worlds[0].2.ping(quiet.ip(Family::V4));
    let heard = silent.until("a question", PATIENCE, |packet| packet.ethertype == 0x0806);
    assert_eq!(count(&heard, quiet), [0, 0]);
    let shown = lab.netd(&["network", "inspect", "netO", "--format", "{{json .Options}}"]).ok();
    assert!(shown.contains(&format!("{TIMES:?}:\"1\"")), "{shown}");
    for (value, why) in [("4", "must be in the range 0 to 3"), ("many", "must be an integer")] {
        let refused = lab.netd(&["network", "create", "-o", &format!("{TIMES}={value}"), "netN"]);
        assert!(refused.code != 0 && refused.stderr.contains(why), "{}", refused.stderr);
    }
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
    hear(&wire, &a1, ANNOUNCEMENTS);
    for stranger in strangers {
        let known = a1.neighbour(stranger.parse().expect("an address"));
        assert_eq!(
            known,
            Some([2, 0, 0, 0, 0, 0x99]),
            "the entry of {stranger} has outlived the announcements"
        );
    }
}
