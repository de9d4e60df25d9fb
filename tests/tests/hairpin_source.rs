//! Rung: namespaces, truth-table rows T37 to T40 and T64. As whom a server sees sandboxes that come to its published port through the host: its
//! network says (`-o netd.hairpin_source`).

use std::net::IpAddr;

use netd_tests::{Family, H, Lab, Outcome, Proto, R, Sandbox, at, denied};

const PUBLISH: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

fn sees(client: &Sandbox, family: Family, source: IpAddr, why: &str) {
    for proto in Proto::BOTH {
        let seen = client.reach(proto, at(H.ip(family), 8080));
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", source), "{why}, {proto:?}");
    }
}

/// a1 serves on a network with this option; a2 is beside it, b1 on another network. With and without ICC.
fn world(option: &str, icc: &str, check: impl Fn(&Lab, &netd_tests::Net, [&Sandbox; 3])) {
    let lab = Lab::new();
    let icc = format!("com.docker.network.bridge.enable_icc={icc}");
    let net = lab.network("netA", 20, &["-o", option, "-o", &icc]);
    let other = lab.network("netB", 21, &[]);
    let a1 = lab.sandbox("a1", net, 2, &PUBLISH).serving(&[80]);
    let (a2, b1) = (lab.sandbox("a2", net, 3, &[]), lab.sandbox("b1", other, 2, &[]));
    check(&lab, &net, [&a1, &a2, &b1]);
}

#[test]
fn t40_t64_the_gateway_is_the_source_where_the_servers_network_wants_it() {
    for icc in ["true", "false"] {
        world("netd.hairpin_source=gateway", icc, |lab, net, [a1, a2, b1]| {
            for family in Family::BOTH {
                let gateway = net.gateway(family);
                sees(a2, family, gateway, "a neighbour");
                sees(b1, family, gateway, "another network's sandbox");
                sees(a1, family, gateway, "itself");
                assert_eq!(
                    lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).source.ip(),
                    R.ip(family),
                    "outside"
                );
                let (mut stream, _) = a2.connect_stream(at(H.ip(family), 8080));
                stream.echo(&vec![7; 1 << 20]).expect("a stream carries its data");
                if icc == "true" {
                    let direct = a2.reach(Proto::Tcp, at(a1.ip(family), 80));
                    assert_eq!(direct.source.ip(), a2.ip(family), "by its own address it is seen as itself");
                }
            }
        });
    }
}

#[test]
fn t40_t64_a_neighbour_is_seen_as_itself_and_by_choice_every_sandbox() {
    for (option, icc) in [("netd.hairpin_source=auto", "false"), ("netd.hairpin_source=client", "true")] {
        world(option, icc, |_, net, [a1, a2, b1]| {
            for family in Family::BOTH {
                sees(a2, family, a2.ip(family), "a neighbour");
                let other = if option.ends_with("client") { b1.ip(family) } else { net.gateway(family) };
                sees(b1, family, other, option);
                sees(a1, family, net.gateway(family), "itself: its own address would be a martian");
            }
        });
    }
}

#[test]
fn t40_a_gateway_that_the_bridge_does_not_have_hides_nobody() {
    let options = ["netd.hairpin_source=gateway", "com.docker.network.bridge.inhibit_ipv4=true"];
    let lab = Lab::new();
    let net = lab.network("netA", 20, &["-o", options[0], "-o", options[1]]);
    let other = lab.network("netB", 21, &[]);
    let a1 = lab.sandbox("a1", net, 2, &PUBLISH).serving(&[80]);
    let (a2, b1) = (lab.sandbox("a2", net, 3, &[]), lab.sandbox("b1", other, 2, &[]));
    // IPv6 has its gateway.
    for client in [&a2, &b1, &a1] {
        sees(client, Family::V6, net.gateway(Family::V6), "IPv6");
    }
    // Nobody has IPv4's: what would have to show it finds no address to show, and nothing arrives from 0.0.0.0.
    for proto in Proto::BOTH {
        denied(&lab, &a1, &["NO_ROUTE"], || {
            assert_eq!(b1.probe(proto, at(H.ip(Family::V4), 8080)), Outcome::Timeout, "{proto:?}");
        });
    }
    assert_eq!(a2.reach(Proto::Tcp, at(a1.ip(Family::V4), 80)).source.ip(), a2.ip(Family::V4), "as itself");
}
