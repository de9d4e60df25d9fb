//! Rung: namespaces, dataplane §12 case 111. Thousands of published ports: all lead in, none costs a packet anything (figures: `cargo xtask bench quick
//! --more-ports 5000`).

use netd_tests::{Family, H, Lab, Outcome, Proto, at};

#[test]
fn case111_with_five_thousand_published_ports_every_way_goes_as_with_one() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80, 9_000, 11_500, 13_999]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let mut streams = Family::BOTH.map(|family| lab.r.connect_stream(at(H.ip(family), 8080)).0);
    lab.netd(&["publish", "a1", "20000-24999:9000-13999", "20000-24999:9000-13999/udp"]).ok();
    for family in Family::BOTH {
        for port in [20_000, 22_500, 24_999] {
            for proto in Proto::BOTH {
                for client in [&lab.r, &*a2, &lab.h] {
                    assert_eq!(client.reach(proto, at(H.ip(family), port)).server, "a1", "{proto:?} {port}");
                }
            }
        }
        assert_eq!(lab.r.probe(Proto::Tcp, at(H.ip(family), 25_000)), Outcome::Refused);
    }
    lab.netd(&["unpublish", "a1", "20000-24999:9000-13999", "20000-24999:9000-13999/udp"]).ok();
    for (family, stream) in Family::BOTH.into_iter().zip(&mut streams) {
        stream.echo(b"all the while").expect("a stream of before");
        for port in [20_000, 24_999] {
            assert_eq!(lab.r.probe(Proto::Tcp, at(H.ip(family), port)), Outcome::Refused);
        }
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).server, "a1");
    }
    drop(a1);
}
