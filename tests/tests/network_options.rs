//! Rung: namespaces, truth-table rows T50 and T58 with netd's own options: publishing on an internal network, networks kept from the host's services.

use std::net::IpAddr;

use netd_tests::{Family, H, Lab, Net, Outcome, Proto, R, Sandbox, Server, at, denied};

const PUBLISH: [&str; 4] = ["-p", "6060:60", "-p", "6060:60/udp"];

#[test]
fn t58_an_internal_network_publishes_where_it_was_asked_to() {
    let lab = Lab::new();
    let net = lab.network("netI", 23, &["--internal", "-o", "netd.publish_internal=true"]);
    let a = lab.network("netA", 20, &[]);
    let i1 = lab.sandbox("i1", net, 2, &PUBLISH).serving(&[60]);
    let a1 = lab.sandbox("a1", a, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for client in [&lab.r, &*a1] {
                let seen = client.reach(proto, at(H.ip(family), 6060));
                let shown = (seen.server.as_str(), seen.source.ip());
                assert_eq!(shown, ("i1", net.gateway(family)), "{} {proto:?}", client.name());
            }
            assert_eq!(lab.h.reach(proto, at(family.loopback(), 6060)).server, "i1", "{proto:?}");
            assert_eq!(
                i1.attempt(proto, at(R.ip(family), 80)),
                Outcome::Unreachable,
                "it reaches nobody itself"
            );
        }
        i1.ip_batch(&format!("route add default via {}", net.gateway(family)));
        denied(&lab, &lab.r, &["INTERNAL"], || {
            assert_eq!(
                i1.probe(Proto::Tcp, at(R.ip(family), 80)),
                Outcome::Timeout,
                "not by a route of its own"
            );
        });
        denied(&lab, &i1, &["INTERNAL"], || {
            assert_eq!(
                lab.r.probe(Proto::Tcp, at(i1.ip(family), 60)),
                Outcome::Timeout,
                "nor is it reached directly"
            );
        });
        let (mut stream, _) = lab.r.connect_stream(at(H.ip(family), 6060));
        stream.echo(&vec![5; 1 << 20]).expect("a stream carries its data");
    }
    let shown = lab.netd(&["port", "i1"]).ok();
    assert!(shown.contains("60/tcp -> 0.0.0.0:6060") && shown.contains("60/udp -> [::]:6060"), "{shown}");
}

/// Sandboxes before the lab: dropped in this order.
struct World {
    a1: Sandbox,
    b1: Sandbox,
    a: Net,
    b: Net,
    lab: Lab,
}

/// a1 on a network with these rules for the host, b1 on a usual one; the host serves 53 and 2222.
fn world(host_access: &str) -> (World, Server) {
    let lab = Lab::new();
    let option = format!("netd.host_access={host_access}");
    let (a, b) = (lab.network("netA", 20, &["-o", &option]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &[]).serving(&[80]);
    let b1 = lab.sandbox("b1", b, 2, &["-p", "9090:90"]).serving(&[90]);
    let server = Server::start(&lab.h, &[53, 2222]);
    (World { a1, b1, a, b, lab }, server)
}

impl World {
    /// Where the host's services answer: a datagram to another address than the bridge's would be answered from the bridge's.
    fn host_addresses(&self, family: Family, proto: Proto) -> Vec<IpAddr> {
        let gateway = self.a.gateway(family);
        if proto == Proto::Tcp { vec![gateway, H.ip(family)] } else { vec![gateway] }
    }

    fn is_denied(&self, family: Family, proto: Proto, port: u16) {
        for host in self.host_addresses(family, proto) {
            let before = self.lab.drops()["hostaccess"];
            assert_eq!(self.a1.probe(proto, at(host, port)), Outcome::Timeout, "{host} {proto:?} {port}");
            assert!(self.lab.drops()["hostaccess"] > before, "{host} {proto:?} {port}: no drop counted");
        }
        assert_eq!(self.b1.reach(proto, at(self.b.gateway(family), port)).server, "H", "the server is there");
    }
}

#[test]
fn t50_a_network_may_be_kept_from_every_service_of_the_host() {
    let (w, _server) = world("none");
    let _remote = Server::start(&w.lab.r, &[80]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            w.is_denied(family, proto, 53);
            w.is_denied(family, proto, 2222);
            assert_eq!(w.lab.h.reach(proto, at(w.a1.ip(family), 80)).server, "a1", "the host reaches it");
            assert_eq!(
                w.a1.reach(proto, at(R.ip(family), 80)).source.ip(),
                H.ip(family),
                "it reaches the world"
            );
        }
        assert_eq!(w.a1.probe_ping(w.a.gateway(family)), Outcome::Timeout);
        w.lab.h.ping(w.a1.ip(family));
        assert_eq!(w.a1.reach(Proto::Tcp, at(H.ip(family), 9090)).server, "b1", "published ports stay open");
        let (mut stream, _) = w.lab.h.connect_stream(at(w.a1.ip(family), 80));
        stream.echo(&vec![5; 1 << 20]).expect("a stream of the host's carries its data");
    }
}

#[test]
fn t50_a_network_may_reach_single_ports_of_the_host() {
    let (w, _server) = world("53/udp,53/tcp");
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for host in w.host_addresses(family, proto) {
                assert_eq!(w.a1.reach(proto, at(host, 53)).server, "H", "{host} {proto:?}");
            }
            w.is_denied(family, proto, 2222);
        }
    }
}

#[test]
fn options_that_say_nothing_are_refused() {
    let lab = Lab::new();
    for option in
        ["netd.host_access=sshd", "netd.host_access=", "netd.publish_internal=perhaps", "netd.unknown=1"]
    {
        let error = lab.netd(&["network", "create", "-o", option, "bad"]).refused(2);
        assert!(error.contains(option.split('=').next().expect("a key")), "{error}");
    }
}
