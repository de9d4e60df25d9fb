//! Rung: namespaces, truth-table rows T9, T10, T11. Remote hosts that route straight to a sandbox get nothing.

use netd_tests::{Family, H, Lab, Outcome, Proto, R, Sandbox, at, denied};

fn lab_with_a1() -> (Lab, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let publish = ["-p", "8080:80", "-p", "8080:80/udp"];
    let a1 = lab.sandbox("a1", net, 2, &publish).serving(&[80, 81]);
    (lab, a1)
}

fn direct_access_is_dropped(port: u16) {
    let (lab, a1) = lab_with_a1();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            for remote in [&lab.r, &lab.r2] {
                denied(&lab, &a1, &["DIRECT_ACCESS"], || {
                    assert_eq!(
                        remote.probe(proto, at(a1.ip(family), port)),
                        Outcome::Timeout,
                        "{family:?} {proto:?}"
                    );
                });
            }
            // The control: the same server through the host's address, and the same port from the host.
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family));
            assert_eq!(lab.h.reach(proto, at(a1.ip(family), port)).server, "a1");
        }
    }
}

#[test]
fn t09_remote_to_a_published_port_on_the_sandboxs_own_address_is_dropped() {
    direct_access_is_dropped(80);
}

#[test]
fn t10_remote_to_an_unpublished_port_on_the_sandboxs_own_address_is_dropped() {
    direct_access_is_dropped(81);
}

#[test]
fn t11_remote_ping_to_a_sandbox_is_dropped() {
    let (lab, a1) = lab_with_a1();
    for family in Family::BOTH {
        denied(&lab, &a1, &["DIRECT_ACCESS"], || {
            assert_eq!(lab.r.probe_ping(a1.ip(family)), Outcome::Timeout);
        });
        lab.h.ping(a1.ip(family));
        lab.r.ping(H.ip(family));
    }
}
