//! Rung: namespaces, truth-table row T32. Networks do not reach each other's sandboxes.

use netd_tests::{Family, H, Lab, Outcome, Proto, R, Sandbox, at, denied};

fn two_networks() -> (Lab, Sandbox, Sandbox) {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &[]);
    let b1 = lab.sandbox("b1", b, 2, &["-p", "9090:90", "-p", "9090:90/udp"]).serving(&[90, 91]);
    (lab, a1, b1)
}

#[test]
fn t32_another_networks_sandbox_is_out_of_reach_published_or_not() {
    let (lab, a1, b1) = two_networks();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for port in [90, 91] {
                denied(&lab, &b1, &["ISOLATION"], || {
                    assert_eq!(
                        a1.probe(proto, at(b1.ip(family), port)),
                        Outcome::Timeout,
                        "{family:?} {proto:?}"
                    );
                });
                assert_eq!(lab.h.reach(proto, at(b1.ip(family), port)).server, "b1");
            }
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 9090)).source.ip(), R.ip(family));
        }
    }
}

#[test]
fn t32_another_networks_sandbox_does_not_answer_pings() {
    let (lab, a1, b1) = two_networks();
    for family in Family::BOTH {
        denied(&lab, &b1, &["ISOLATION"], || assert_eq!(a1.probe_ping(b1.ip(family)), Outcome::Timeout));
        denied(&lab, &a1, &["ISOLATION"], || assert_eq!(b1.probe_ping(a1.ip(family)), Outcome::Timeout));
        lab.h.ping(b1.ip(family));
        a1.ping(R.ip(family));
    }
}

#[test]
fn t32_a_route_by_hand_does_not_lead_across() {
    let (lab, a1, b1) = two_networks();
    // Straight to the other bridge's port by its Ethernet address: the networks share no segment.
    let mac = b1.link("eth0").expect("eth0").mac.map(|byte| format!("{byte:02x}")).join(":");
    for family in Family::BOTH {
        a1.ip_batch(&format!("route add {} dev eth0", b1.ip(family)));
        a1.ip_batch(&format!("neigh replace {} lladdr {mac} nud permanent dev eth0", b1.ip(family)));
        denied(&lab, &b1, &["ISOLATION"], || {
            assert_eq!(a1.probe(Proto::Tcp, at(b1.ip(family), 90)), Outcome::Timeout);
        });
    }
}
