//! Rung: namespaces. Streams to published ports through the host's addresses, from sandboxes (who reaches whom: the truth table).

use netd_tests::{Family, H, Lab, at};

#[test]
fn t40_streams_through_the_host_carry_their_data() {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80"]).serving(&[80]);
    let a2 = lab.sandbox("a2", a, 3, &[]);
    let _b1 = lab.sandbox("b1", b, 2, &["-p", "9090:90"]).serving(&[90]);
    let chunk = vec![0x5a; 60_000];
    for family in Family::BOTH {
        for (client, port) in [(&a1, 8080), (&a2, 8080), (&a1, 9090)] {
            let (mut stream, _) = client.connect_stream(at(H.ip(family), port));
            for _ in 0..50 {
                stream.echo(&chunk).expect("what was sent comes back");
            }
        }
    }
}
