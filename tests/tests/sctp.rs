//! Rung: namespaces, truth-table rows T30, T37 to T40, T64 and T68 for SCTP: interfaces of a published port, as whom its server sees sandboxes, and
//! policies. INIT and INIT ACK of raw sockets, whether the kernel speaks SCTP or not.

use std::net::IpAddr;

use netd_tests::{Family, H, H1, Lab, Net, Ns, Outcome, PATIENCE, R, R2, SILENCE, Sandbox, at, denied};

/// Associations that this client opens, one after the other.
struct Client<'a> {
    ns: &'a Ns,
    port: u16,
}

impl<'a> Client<'a> {
    fn new(ns: &'a Ns) -> Self {
        Self { ns, port: 40_000 }
    }

    /// Who answers, and whom it sees.
    fn reaches(&mut self, ip: IpAddr, port: u16) -> (String, IpAddr) {
        self.port += 1;
        let outcome = self.ns.init_sctp(at(ip, port), self.port, PATIENCE);
        let seen = outcome.clone().seen();
        let seen = seen.unwrap_or_else(|| panic!("{} to {ip} port {port}: {outcome:?}", self.ns.name()));
        (seen.server, seen.source.ip())
    }

    /// Nobody answers, and netd says why.
    fn is_denied(&mut self, lab: &Lab, victim: &Sandbox, reason: &str, ip: IpAddr, port: u16) {
        self.port += 1;
        denied(lab, victim, &[reason], || {
            let outcome = self.ns.init_sctp(at(ip, port), self.port, SILENCE);
            assert_eq!(outcome, Outcome::Timeout, "{} to {ip} port {port}", self.ns.name());
        });
    }
}

#[test]
fn t30_t40_t64_sctp_comes_by_the_ports_interfaces_and_as_whom_its_network_wants_it() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &["-o", "netd.hairpin_source=gateway"]);
    let other = lab.network("netB", 21, &[]);
    let publish = ["-p", "8080:80/sctp", "-p", "9090:80/sctp,via=eth1"];
    let a1 = lab.sandbox("a1", net, 2, &publish).serving(&[80]);
    let (a2, b1) = (lab.sandbox("a2", net, 3, &[]), lab.sandbox("b1", other, 2, &[]));
    let (mut r, mut r2) = (Client::new(&lab.r), Client::new(&lab.r2));
    let mut sandboxes = [&a1, &a2, &b1].map(|sandbox| Client::new(sandbox));
    for family in Family::BOTH {
        let seen = |source: IpAddr| ("a1".to_owned(), source);
        assert_eq!(r.reaches(H.ip(family), 8080), seen(R.ip(family)), "outside, as itself");
        assert_eq!(r2.reaches(H1.ip(family), 9090), seen(R2.ip(family)), "by the interface that is named");
        r.is_denied(&lab, &a1, "NOT_ALLOWED", H.ip(family), 9090);
        for client in &mut sandboxes {
            for port in [8080, 9090] {
                assert_eq!(client.reaches(H.ip(family), port), seen(net.gateway(family)), "{port}");
            }
        }
    }
}

#[test]
fn t68_a_policy_opens_an_sctp_port_one_way_until_it_is_removed() {
    let lab = Lab::new();
    let net: Net = lab.network("netC", 22, &["-o", "com.docker.network.bridge.enable_icc=false"]);
    let db = lab.sandbox("db", net, 2, &[]).serving(&[80, 81]);
    let web = lab.sandbox("web", net, 3, &[]).serving(&[80]);
    let (mut from_web, mut from_db) = (Client::new(&web), Client::new(&db));
    let closed = |from_web: &mut Client<'_>| {
        for family in Family::BOTH {
            from_web.is_denied(&lab, &db, "ICC", db.ip(family), 80);
        }
    };
    closed(&mut from_web);
    let add = ["policy", "add", "--network", "netC", "--from", "web", "--to", "db", "--port", "80/sctp"];
    let policy = lab.netd(&add).ok();
    for family in Family::BOTH {
        assert_eq!(from_web.reaches(db.ip(family), 80), ("db".to_owned(), web.ip(family)));
        from_web.is_denied(&lab, &db, "ICC", db.ip(family), 81);
        from_db.is_denied(&lab, &web, "ICC", web.ip(family), 80);
    }
    lab.netd(&["policy", "rm", &policy]).ok();
    closed(&mut from_web);
}
