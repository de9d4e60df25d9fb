//! Rung: namespaces, truth-table rows T18 to T22. Who may address published ports directly: interfaces that a network trusts, everybody, packets
//! with a mark.

use std::process::Command;

use netd_tests::{Family, H, Lab, Net, Ns, Options, Outcome, Proto, R, Sandbox, Tunnel, at, denied};

const PUBLISH: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

/// Sandboxes before the lab: dropped in this order.
struct World {
    x1: Sandbox,
    a1: Sandbox,
    x: Net,
    lab: Lab,
}

/// x1 on a network that trusts these interfaces, a1 on one that trusts none; 80 is published, 81 not.
fn world(trusted: &str, config: &str) -> World {
    let defaults = Options::default();
    let lab = Lab::with(&Options { config: format!("{config}\n{}", defaults.config), ..defaults });
    for subnet in ["172.27.0.0/24", "fd00:c:27::/64", "172.20.0.0/24", "fd00:c:20::/64"] {
        lab.allow_on_uplinks(subnet);
    }
    let option = format!("com.docker.network.bridge.trusted_host_interfaces={trusted}");
    let (x, a) = (lab.network("netX", 27, &["-o", &option]), lab.network("netA", 20, &[]));
    let x1 = lab.sandbox("x1", x, 2, &PUBLISH).serving(&[80, 81]);
    let a1 = lab.sandbox("a1", a, 2, &["-p", "7070:80", "-p", "7070:80/udp"]).serving(&[80, 81]);
    World { x1, a1, x, lab }
}

fn reaches(from: &Ns, to: &Sandbox, port: u16, source: impl Fn(Family) -> std::net::IpAddr) {
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = from.reach(proto, at(to.ip(family), port));
            assert_eq!(
                (seen.server.as_str(), seen.source.ip()),
                (to.name(), source(family)),
                "{proto:?} {port}"
            );
        }
    }
}

fn is_denied(w: &World, from: &Ns, to: &Sandbox, port: u16, reason: &str) {
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            denied(&w.lab, to, &[reason], || {
                assert_eq!(from.probe(proto, at(to.ip(family), port)), Outcome::Timeout, "{proto:?} {port}");
            });
        }
    }
}

fn ping_is_denied(w: &World, from: &Ns, to: &Sandbox, reason: &str) {
    for family in Family::BOTH {
        denied(&w.lab, to, &[reason], || {
            assert_eq!(from.probe_ping(to.ip(family)), Outcome::Timeout, "{family:?}");
        });
    }
}

#[test]
fn t18_t19_t20_a_trusted_interface_leads_to_published_ports_and_no_other_does() {
    let w = world("eth0", "");
    reaches(&w.lab.r, &w.x1, 80, |family| R.ip(family));
    is_denied(&w, &w.lab.r, &w.x1, 81, "UNPUBLISHED");
    ping_is_denied(&w, &w.lab.r, &w.x1, "UNPUBLISHED");
    is_denied(&w, &w.lab.r2, &w.x1, 80, "DIRECT_ACCESS");
    is_denied(&w, &w.lab.r, &w.a1, 80, "DIRECT_ACCESS");
    is_denied(&w, &w.a1, &w.x1, 80, "ISOLATION");
    for family in Family::BOTH {
        assert_eq!(w.lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).server, "x1", "published as ever");
    }
}

#[test]
fn a_stream_by_a_trusted_interface_carries_its_data() {
    let w = world("eth0", "");
    let chunk: Vec<u8> = (0..16_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for family in Family::BOTH {
        let (mut stream, _) = w.lab.r.connect_stream(at(w.x1.ip(family), 80));
        for _ in 0..50 {
            stream.echo(&chunk).expect("what was sent comes back");
        }
    }
}

#[test]
fn a_port_that_is_unpublished_is_closed_to_trusted_interfaces_too() {
    let w = world("eth0", "");
    w.lab.netd(&["unpublish", "x1", "8080:80", "8080:80/udp"]).ok();
    is_denied(&w, &w.lab.r, &w.x1, 80, "UNPUBLISHED");
    w.lab.netd(&["publish", "x1", "9090:80", "9090:80/udp"]).ok();
    reaches(&w.lab.r, &w.x1, 80, |family| R.ip(family));
}

#[test]
fn another_networks_bridge_may_be_trusted() {
    let w = world("br-trusted", "");
    let options = ["-o", "com.docker.network.bridge.name=br-trusted"];
    let b1 = w.lab.sandbox("b1", w.lab.network("netB", 21, &options), 2, &[]);
    reaches(&b1, &w.x1, 80, |family| w.x.gateway(family));
    is_denied(&w, &b1, &w.x1, 81, "UNPUBLISHED");
    is_denied(&w, &w.a1, &w.x1, 80, "ISOLATION");
}

/// Gives `H` an interface named wg7 with the far end in a namespace of its own, as `join` connects them, and tries what a pattern trusts.
fn comes_late<T>(join: impl FnOnce(&Ns, &Ns) -> T) {
    let w = world("wg*:other", "");
    is_denied(&w, &w.lab.r, &w.x1, 80, "DIRECT_ACCESS");
    let far = Ns::new("far");
    let link = join(&w.lab.h, &far);
    w.lab.h.ip_batch("addr add 10.0.7.2/24 dev wg7\naddr add fd00:a:7::2/64 dev wg7 nodad");
    far.ip_batch("addr add 10.0.7.3/24 dev eth0\naddr add fd00:a:7::3/64 dev eth0 nodad");
    far.ip_batch("route add 172.16.0.0/12 via 10.0.7.2\nroute add fd00:c::/32 via fd00:a:7::2");
    w.lab.until_uplink("wg7");
    let own = |family| match family {
        Family::V4 => "10.0.7.3".parse().expect("valid"),
        Family::V6 => "fd00:a:7::3".parse().expect("valid"),
    };
    reaches(&far, &w.x1, 80, own);
    is_denied(&w, &far, &w.x1, 81, "UNPUBLISHED");
    is_denied(&w, &far, &w.a1, 80, "DIRECT_ACCESS");
    for family in Family::BOTH {
        far.connect_stream(at(w.x1.ip(family), 80))
            .0
            .echo(&vec![3; 1 << 20])
            .expect("a stream carries its data");
    }
    drop((link, far)); // and the interface with them
    w.lab.until_no_uplink("wg7");
}

#[test]
fn a_trusted_interface_may_come_after_its_network_and_be_meant_by_a_pattern() {
    comes_late(|h, far| h.connect("wg7", far, "eth0"));
}

#[test]
fn a_trusted_interface_may_be_a_tunnel_without_link_addresses() {
    comes_late(|h, far| Tunnel::between((h, "wg7"), (far, "eth0"), false));
}

#[test]
fn t21_with_direct_routing_published_ports_of_every_network_are_reached() {
    let w = world("", "allow-direct-routing = true");
    reaches(&w.lab.r, &w.a1, 80, |family| R.ip(family));
    is_denied(&w, &w.lab.r, &w.a1, 81, "UNPUBLISHED");
    ping_is_denied(&w, &w.lab.r, &w.a1, "UNPUBLISHED");
    reaches(&w.a1, &w.x1, 80, |family| w.x.gateway(family));
    is_denied(&w, &w.a1, &w.x1, 81, "UNPUBLISHED");
}

/// Marks what comes in by eth0, as an administrator's rules do.
fn mark(h: &Ns, mark: &str) {
    for iptables in ["iptables", "ip6tables"] {
        let rule = ["-t", "mangle", "-A", "PREROUTING", "-i", "eth0", "-j", "MARK", "--set-mark", mark];
        let output = h.output(Command::new(iptables).args(rule));
        assert!(output.status.success(), "{iptables}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn t22_marked_packets_reach_every_port_where_the_interface_is_trusted() {
    let w = world("eth0", "bridge-accept-fwmark = \"0x10/0xf0\"");
    is_denied(&w, &w.lab.r, &w.x1, 81, "UNPUBLISHED");
    mark(&w.lab.h, "0x11");
    reaches(&w.lab.r, &w.x1, 80, |family| R.ip(family));
    reaches(&w.lab.r, &w.x1, 81, |family| R.ip(family));
    for family in Family::BOTH {
        w.lab.r.ping(w.x1.ip(family));
    }
    is_denied(&w, &w.lab.r, &w.a1, 81, "DIRECT_ACCESS"); // a mark does not make an interface trusted
    let chunk = vec![7; 64_000];
    for family in Family::BOTH {
        w.lab.r.connect_stream(at(w.x1.ip(family), 81)).0.echo(&chunk).expect("a marked stream");
    }
}
