//! Rung: namespaces. Streams between sandboxes of one network (who reaches whom: the truth table).

use netd_tests::{Family, Lab, at};

#[test]
fn t31_a_stream_between_sandboxes_carries_its_data() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]).serving(&[80]));
    let chunk: Vec<u8> = (0..16_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for family in Family::BOTH {
        let (mut stream, _) = a1.connect_stream(at(a2.ip(family), 80));
        for _ in 0..200 {
            stream.echo(&chunk).expect("what was sent comes back");
        }
    }
}
