//! Rung: namespaces, reliability S27. Somebody with the rights of root writes to netd's maps while the daemon runs: within seconds they hold again what netd
//! has stored.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
};
use netd_common::{
    maps::{Config, Endpoint, LinkKey, PortSet, Publish, PublishKey, Rule6, port_set},
    net::{Addr4, Addr6},
};
use netd_tests::{Family, H, Lab, Outcome, Proto, Sandbox, at, eventually};
use nix::sys::signal::Signal;

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    a1: Sandbox,
    c1: Sandbox,
    c2: Sandbox,
    lab: Lab,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        let closed = ["-o", "com.docker.network.bridge.enable_icc=false"];
        let (net, other) = (lab.network("netA", 20, &[]), lab.network("netC", 22, &closed));
        let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
        let (c1, c2) = (lab.sandbox("c1", other, 2, &[]).serving(&[80]), lab.sandbox("c2", other, 3, &[]));
        Self { a1, c1, c2, lab }
    }

    /// A map of the instance.
    fn map(&self, name: &str) -> MapData {
        let layouts = std::fs::read_dir(self.lab.daemon.dirs().bpffs()).expect("the pins").flatten();
        let path = layouts.map(|layout| layout.path().join(name)).find(|path| path.exists());
        MapData::from_pin(path.expect("the map's pin")).expect("the map")
    }

    fn hash<K: Pod, V: Pod>(&self, name: &str) -> HashMap<MapData, K, V> {
        Map::HashMap(self.map(name)).try_into().expect("a hash map")
    }

    fn array<V: Pod>(&self, name: &str) -> Array<MapData, V> {
        Map::Array(self.map(name)).try_into().expect("an array")
    }

    /// Waits until the daemon has seen that the maps are what they were.
    fn settles(&self) {
        let looks = || self.lab.netd(&["status", "--format", "{{.MapLooks}}"]).stdout.trim().parse::<u64>();
        let before = looks().expect("a number");
        eventually("a look at the maps", || looks().expect("a number") > before);
    }

    /// Everything is as it was stored.
    fn holds(&self) {
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                let seen = self.lab.r.reach(proto, at(H.ip(family), 8080));
                assert_eq!(seen.server, self.a1.name(), "{proto:?}");
            }
            assert_eq!(self.c2.probe(Proto::Tcp, at(self.c1.ip(family), 80)), Outcome::Timeout, "{family:?}");
        }
    }
}

#[test]
fn s27_what_others_write_to_maps_does_not_stay() {
    let w = World::new();
    w.settles();
    w.holds();
    w.lab.daemon.signal(Signal::SIGSTOP);
    // A published port that leads elsewhere, and one that is gone.
    let mut publish4: HashMap<_, PublishKey<Addr4>, Publish<Addr4>> = w.hash("PUBLISH4");
    let mut publish6: HashMap<_, PublishKey<Addr6>, Publish<Addr6>> = w.hash("PUBLISH6");
    let (port, led) = publish4.iter().flatten().next().expect("a published port");
    publish4
        .insert(port, Publish { backend: Ipv4Addr::new(172, 22, 0, 2).into(), ..led }, 0)
        .expect("written");
    let gone = publish6.keys().flatten().next().expect("a published port");
    publish6.remove(&gone).expect("removed");
    // A way between two sandboxes that nobody has opened; the control: it opens.
    let mut links: HashMap<_, LinkKey<Addr4>, u32> = w.hash("LINK4");
    let [c1, c2] = [&w.c1, &w.c2].map(|sandbox| match sandbox.ip(Family::V4) {
        IpAddr::V4(ip) => Addr4::from(ip),
        IpAddr::V6(_) => unreachable!("asked for IPv4"),
    });
    let forged = LinkKey { src: c2, dst: c1, port: 80.into(), proto: 6, pad: 0 };
    links.insert(forged, 1, 0).expect("written");
    w.c2.reach(Proto::Tcp, at(w.c1.ip(Family::V4), 80));
    // A sandbox that may use any address.
    let mut endpoints: Array<_, Endpoint> = Map::Array(w.map("ENDPOINT")).try_into().expect("an array");
    let records = (0..endpoints.len()).filter_map(|index| Some((index, endpoints.get(&index, 0).ok()?)));
    let (index, bound) = { records }.find(|(_, endpoint)| endpoint.addr4 == c1).expect("c1's record");
    endpoints.set(index, Endpoint { flags: 0, ..bound }, 0).expect("written");
    w.lab.daemon.signal(Signal::SIGCONT);
    eventually("the maps to hold what is stored", || {
        publish4.get(&port, 0).is_ok_and(|now| now == led)
            && publish6.get(&gone, 0).is_ok()
            && links.get(&forged, 0).is_err()
            && endpoints.get(&index, 0).is_ok_and(|now| now == bound)
    });
    w.holds();
    assert!(w.lab.daemon.log().contains("maps were written by others"), "{}", w.lab.daemon.log());
    w.settles();
    assert!(!w.lab.daemon.log().contains("maps are not what they were"), "{}", w.lab.daemon.log());
}

/// A set of ports.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq)]
struct Ports(PortSet);

// SAFETY: an array of integers.
unsafe impl Pod for Ports {}

/// The daemon writes to all three at any time itself, which is not taken for somebody else's.
#[test]
fn s27_the_configuration_the_ports_of_interest_and_the_rules_of_the_host_do_not_stay_changed() {
    let w = World::new();
    // Only while a rule suppresses routes does the packet path have rules of its own to follow.
    let rule = |verb: &str| {
        let words = ["-6", "rule", verb, "pref", "100", "lookup", "main", "suppress_prefixlength", "0"];
        let out = w.lab.h.output(Command::new("ip").args(words));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    rule("add");
    let mut rules = w.array::<Rule6>("RULE6");
    let mut config = w.array::<Config>("CONFIG");
    let mut sets = w.array::<Ports>("PORTS");
    eventually("the rule to be followed", || config.get(&0, 0).is_ok_and(|config| config.rules6 > 0));
    w.settles();
    let tcp = port_set::index(port_set::INTEREST, 6).expect("a set");
    let of_interest =
        |sets: &Array<MapData, Ports>| sets.get(&tcp, 0).expect("read").0[8080 / 32] & 1 << (8080 % 32) != 0;
    assert!(of_interest(&sets), "the control: a published port is of interest");
    w.lab.daemon.signal(Signal::SIGSTOP);
    let known = config.get(&0, 0).expect("read");
    config.set(0, Config { quota4: 1, accept_mark: 1, accept_mask: 1, ..known }, 0).expect("written");
    let followed = rules.get(&0, 0).expect("read");
    rules.set(0, Rule6 { table: followed.table ^ 1, ..followed }, 0).expect("written");
    let mut set = sets.get(&tcp, 0).expect("read");
    set.0[8080 / 32] &= !(1 << (8080 % 32));
    sets.set(tcp, set, 0).expect("written");
    w.lab.daemon.signal(Signal::SIGCONT);
    eventually("the configuration to be the daemon's", || {
        let now = config.get(&0, 0).expect("read");
        Config { epoch: known.epoch, ..now } == known
    });
    eventually("the rules to be the host's", || rules.get(&0, 0).is_ok_and(|now| now == followed));
    eventually("the port to be of interest", || of_interest(&sets));
    w.holds();
    assert!(w.lab.daemon.log().contains("maps were written by others"), "{}", w.lab.daemon.log());
    w.settles();
    assert!(!w.lab.daemon.log().contains("maps are not what they were"), "{}", w.lab.daemon.log());
    rule("del");
}
