//! The short way of a netkit: what takes it leaves as it would have left by the long one.

use super::*;
use crate::hook::{Decision, from_netkit};

/// What the program makes of a packet, and the packet's bytes then.
fn send<F: Cast>(fake: &Fake, wire: &Wire<F::Addr>) -> (Option<Decision<F>>, Vec<u8>)
where
    Fake: Env<F>,
{
    let mut packet = FakePacket::new(wire.build::<F>(), ifindex::A1);
    let decision = from_netkit::<F, _, _>(fake, &mut packet);
    (decision, packet.bytes)
}

/// Checks that a packet is left as it is.
fn assert_untouched<F: Cast>(fake: &Fake, wire: &Wire<F::Addr>, why: &str)
where
    Fake: Env<F>,
{
    let (decision, bytes) = send::<F>(fake, wire);
    assert_eq!((decision, bytes), (None, wire.build::<F>()), "{why}");
}

both_families! {
    fn an_established_flow_to_the_outside_leaves_as_from_endpoint_would_send_it<F>() {
        let fake = Fake::new(20_000, 100);
        for (kind, next) in [(Kind::Udp, Kind::Udp), (TCP_SYN, Kind::Tcp(ACK))] {
            let first = wire::<F>(Party::A1, 5000, Party::Remote, 80, kind);
            assert_untouched::<F>(&fake, &first, "it opens a flow");
            let opened = leave::<F>(&fake, ifindex::A1, &first);
            if kind == TCP_SYN {
                let reply = answer::<F>(&opened.headers(), Kind::Tcp(SYN_ACK));
                assert!(arrive::<F>(&fake, &reply).decision.is_ok(), "control");
            }
            let packet = Wire { kind: next, ..first };
            let (short, bytes) = send::<F>(&fake, &packet);
            let long = leave::<F>(&fake, ifindex::A1, &packet);
            assert!(matches!(short, Some(Ok(Verdict::ToNeighbour(ifindex::UP0, _)))), "{short:?}");
            assert_eq!((short, &bytes), (Some(long.decision), &long.bytes));
            assert_ne!(bytes, packet.build::<F>(), "masqueraded");
        }
    }

    fn what_does_not_simply_leave_takes_the_receive_queue<F>() {
        let mut fake = Fake::new(20_000, 100);
        fake.publish_port::<F>(F::of(Party::Host), 17, 8080, Party::A1, ifindex::A1, 80);
        let echo = wire::<F>(Party::A1, 7, Party::Remote, 0, Kind::Echo { reply: false });
        let tcp = wire::<F>(Party::A1, 5000, Party::Remote, 80, TCP_SYN);
        let hairpin = wire::<F>(Party::A1, 6000, Party::Host, 8080, Kind::Udp);
        for first in [&echo, &tcp, &hairpin] {
            assert!(leave::<F>(&fake, ifindex::A1, first).decision.is_ok(), "control");
        }
        assert_untouched::<F>(&fake, &echo, "an echo would look like the host's own at the uplink");
        assert_untouched::<F>(&fake, &Wire { kind: Kind::Tcp(RST), ..tcp }, "a flow that turns");
        assert_untouched::<F>(&fake, &hairpin, "into a sandbox");
        assert_untouched::<F>(&fake, &wire::<F>(Party::A1, 5000, Party::A2, 80, Kind::Udp), "a neighbour");
        let udp = wire::<F>(Party::A1, 5001, Party::Remote, 53, Kind::Udp);
        assert!(leave::<F>(&fake, ifindex::A1, &udp).decision.is_ok(), "control");
        assert!(send::<F>(&fake, &udp).0.is_some(), "control");
        assert_untouched::<F>(&fake, &Wire { src: F::of(Party::A2), ..udp }, "another's source has no flow");
        assert_untouched::<F>(&fake, &Wire { ttl: 1, ..udp }, "the stack answers what ends here");
        let mut tagged = FakePacket::new(udp.build::<F>(), ifindex::A1);
        tagged.vlan = true;
        assert_eq!(from_netkit::<F, _, _>(&fake, &mut tagged), None, "a VLAN of the sandbox's choice");
    }
}
