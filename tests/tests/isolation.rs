//! Rung: namespaces, beside truth-table row T32. Networks do not reach each other's sandboxes by tricks either.

use netd_tests::{Family, Lab, Outcome, Proto, at, denied};

#[test]
fn t32_a_route_by_hand_does_not_lead_across() {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &[]);
    let b1 = lab.sandbox("b1", b, 2, &[]).serving(&[90]);
    // Straight to the other bridge's port by its Ethernet address: the networks share no segment.
    let mac = b1.link("eth0").expect("eth0").mac.map(|byte| format!("{byte:02x}")).join(":");
    for family in Family::BOTH {
        a1.ip_batch(&format!("route add {} dev eth0", b1.ip(family)));
        a1.ip_batch(&format!("neigh replace {} lladdr {mac} nud permanent dev eth0", b1.ip(family)));
        denied(&lab, &b1, &["ISOLATION"], || {
            assert_eq!(a1.probe(Proto::Tcp, at(b1.ip(family), 90)), Outcome::Timeout);
        });
        assert_eq!(lab.h.reach(Proto::Tcp, at(b1.ip(family), 90)).server, "b1");
    }
}
