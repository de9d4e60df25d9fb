//! Rung: namespaces, reliability S3 and F23. Debian's firewalld, as it is, comes up with a zone that drops everything, is reloaded in both ways and goes, while
//! probes and attackers go on.

use netd_tests::{
    Family, Firewalld, H, Lab, Options, Outcome, Proto, Server, at, eventually,
    probe::{Attacker, Kind, Probe, Victim},
    rig::{Rig, World},
};

/// A service of the host itself.
const HOST: u16 = 9000;
/// Both ways of reading everything anew; the second one takes netfilter's modules along, where it may.
const RELOADS: [&str; 2] = ["--reload", "--complete-reload"];

/// Tries the host's own service from outside.
fn host_service(lab: &Lab, reachable: bool) {
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let to = at(H.ip(family), HOST);
            if reachable {
                lab.r.reach(proto, to);
            } else {
                assert_eq!(lab.r.probe(proto, to), Outcome::Timeout, "{to} {proto:?}");
            }
        }
    }
}

#[test]
fn s03_cve_2025_54388_cve_2025_54410_a_reload_of_firewalld_loses_nothing_and_lets_nobody_in() {
    let w = World::new(&Options { config: String::new(), ..Options::default() });
    let _host = Server::start(&w.lab.h, &[HOST]);
    let rig = Rig::start(&w, Kind::New);
    host_service(&w.lab, true);
    let mut firewalld = Firewalld::start(&w.lab.h, "drop");
    host_service(&w.lab, false);
    firewalld.cmd(&["--permanent", "--zone=drop", "--add-interface=eth0"]);
    for reload in RELOADS {
        rig.beat();
        let before = firewalld.table();
        firewalld.cmd(&[reload]);
        assert!(before.is_some() && firewalld.table() > before, "{reload} has made its rules anew");
        rig.beat();
        host_service(&w.lab, false);
    }
    firewalld.stop();
    host_service(&w.lab, true);
    rig.beat();
    rig.finish("firewalld");
}

/// Ports of a sandbox, one for each family: a victim hears both.
const BEHIND: [(Family, u16); 2] = [(Family::V4, 7004), (Family::V6, 7006)];

#[test]
fn s03_with_firewalld_asked_a_port_that_it_closes_stays_closed_while_it_is_reloaded() {
    let asks = "[flows]\nentries = 4096\n[publish]\nrespect_host_firewall = true\n";
    let lab = Lab::with(&Options { config: asks.into(), ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let ports = ["8080:80", "7004:7004", "7006:7006"];
    let published = ports.map(|ports| ["-p".to_owned(), ports.into(), "-p".into(), format!("{ports}/udp")]);
    let published: Vec<&str> = published.iter().flatten().map(String::as_str).collect();
    let a1 = lab.sandbox("a1", net, 2, &published).serving(&[80]);
    let mut firewalld = Firewalld::start(&lab.h, "drop");
    for port in ["8080/tcp", "8080/udp"] {
        firewalld.cmd(&["--permanent", "--zone=drop", &format!("--add-port={port}")]);
    }
    firewalld.cmd(&["--reload"]);
    let ways = Family::BOTH.map(|family| at(H.ip(family), 8080));
    let open = || {
        for (to, proto) in ways.into_iter().flat_map(|to| Proto::BOTH.map(|proto| (to, proto))) {
            lab.r.reach(proto, to);
        }
    };
    open();
    let flows = ways.map(|to| [Kind::Stream, Kind::Datagrams].map(|kind| Probe::start(&lab.r, kind, to)));
    // What netd publishes and the zone does not open, and beside it what the host itself serves.
    let victims = BEHIND.map(|(family, port)| {
        let doors = [(&*a1, port), (&lab.h, HOST + port)];
        doors.map(|(ns, port)| (Victim::start(ns, port), at(H.ip(family), port)))
    });
    let victims = victims.as_flattened();
    let attackers: Vec<Attacker> =
        victims.iter().cycle().take(3 * victims.len()).map(|(_, to)| Attacker::start(&lab.r, *to)).collect();
    let hits = || victims.iter().map(|(victim, _)| victim.hits()).collect::<Vec<_>>();
    for reload in RELOADS.iter().cycle().take(6) {
        let before = firewalld.table();
        firewalld.cmd(&[reload]);
        assert!(before.is_some() && firewalld.table() > before, "{reload} has made its rules anew");
        flows.iter().flatten().for_each(|probe| probe.beat(3));
        open();
        assert_eq!(hits(), [0; 4], "{reload} has opened what is closed");
    }
    let knocks: u64 = attackers.iter().map(Attacker::knocks).sum();
    // Nobody but firewalld has kept them out.
    firewalld.stop();
    for (victim, to) in victims {
        eventually(&format!("a knock to arrive at {to}"), || victim.hits() > 0);
    }
    for report in flows.into_iter().flatten().map(Probe::finish) {
        assert!(report.is_clean(), "{report:?}");
    }
    println!("{knocks} knocks during six reloads, none let in");
}
