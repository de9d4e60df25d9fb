//! Rung: unit and property tests. Connections that are over make room for others, and open ones never do.

use super::*;
use crate::wire::Headers;

both_families! {
    fn short_connections_follow_each_other_as_fast_as_they_like<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.limit(64, 32);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A2, ifindex::A2, 80);
        let mut streams = Vec::new();
        for number in 0..2000_u16 {
            let sport = 1024 + number;
            // No time passes, but for those that end by a reset.
            let out = wire::<F>(Party::A1, sport, Party::Remote, 80, TCP_SYN);
            let sent = leave::<F>(&fake, ifindex::A1, &out);
            assert!(sent.decision.is_ok(), "{number}: {:?}", sent.decision);
            let back = answer::<F>(&sent.headers(), Kind::Tcp(SYN_ACK));
            let both = |kind| {
                assert!(leave::<F>(&fake, ifindex::A1, &Wire { kind, ..out }).decision.is_ok());
                assert!(arrive::<F>(&fake, &Wire { kind, ..back }).decision.is_ok());
            };
            assert!(arrive::<F>(&fake, &back).decision.is_ok());
            both(Kind::Tcp(ACK));
            if number % 100 == 50 {
                streams.push(out); // one that stays open
                continue;
            }
            both(Kind::Tcp(FIN | ACK));
            // And from outside.
            let dials = wire::<F>(Party::Remote, sport, Party::Host, 8080, TCP_SYN);
            let got = arrive::<F>(&fake, &dials);
            assert!(got.decision.is_ok(), "{number}: {:?}", got.decision);
            let accepts = Wire { from: mac(Party::A2), ..answer::<F>(&got.headers(), Kind::Tcp(SYN_ACK)) };
            for kind in [Kind::Tcp(SYN_ACK), Kind::Tcp(FIN | ACK)] {
                assert!(leave::<F>(&fake, ifindex::A2, &Wire { kind, ..accepts }).decision.is_ok());
            }
            assert!(arrive::<F>(&fake, &Wire { kind: Kind::Tcp(FIN | ACK), ..dials }).decision.is_ok());
        }
        for stream in &streams {
            let sends = leave::<F>(&fake, ifindex::A1, &Wire { kind: Kind::Tcp(ACK), ..*stream }).decision;
            assert!(matches!(sends, Ok(Verdict::ToNeighbour(..))), "an open one lives");
        }
        assert_laws::<F>(&fake);
    }
}

/// Lets connections of a1 live and die at random over a small quota. Whatever happens, one that is open stays.
fn lives<F: Cast>(steps: &[(u8, u8, u8)])
where
    Fake: Env<F>,
{
    let mut fake = Fake::new(10_000, 1000);
    fake.limit(16, 8);
    let (mut open, mut next) = (Vec::<(Connection<F::Addr>, u8)>::new(), 1024_u16);
    for &(action, which, flags) in steps {
        fake.now.set(fake.now.get() + u32::from(flags >> 6));
        if action < 3 || open.is_empty() {
            next += 1;
            let out = wire::<F>(Party::A1, next, Party::Remote, 80, TCP_SYN);
            let sent = leave::<F>(&fake, ifindex::A1, &out);
            let over = sent.decision == Err(DropReason::OverQuota);
            assert!(over || sent.decision.is_ok(), "{:?}", sent.decision);
            if over {
                continue;
            }
            let back = answer::<F>(&sent.headers(), Kind::Tcp(SYN_ACK));
            let mut key =
                Headers::<F>::read(&FakePacket::new(out.build::<F>(), 0)).expect("a SYN").tuple(ifindex::A1);
            key.zone = ifindex::A1;
            if action != 0 {
                assert!(arrive::<F>(&fake, &back).decision.is_ok());
                assert!(
                    leave::<F>(&fake, ifindex::A1, &Wire { kind: Kind::Tcp(ACK), ..out }).decision.is_ok()
                );
                open.push(((out, back, key), 0));
            }
        } else {
            let at = usize::from(which) % open.len();
            let ((out, back, _), closed) = &mut open[at];
            let inside = flags & 1 == 0;
            let (wire, bit) = if inside { (*out, 1) } else { (*back, 2) };
            // A side that has closed only acknowledges, or resets.
            let kind = if flags & 2 == 0 { FIN | ACK } else { ACK };
            let frame = segment::<F>(&Wire { kind: Kind::Tcp(kind), ..wire }, 1001, 5000);
            assert!(send::<F>(&fake, inside, frame).is_ok(), "of an open connection");
            *closed |= if kind & FIN == 0 { 0 } else { bit };
            if *closed == 3 {
                open.swap_remove(at);
            }
        }
        for ((_, _, key), _) in &open {
            let alive = state::<F>(&fake, key);
            assert!(
                matches!(alive, Some(State::Established | State::Closing)),
                "an open one was taken: {alive:?}"
            );
        }
        assert!(Env::<F>::usage(&fake, ifindex::A1) <= 16);
        assert_laws::<F>(&fake);
    }
}

proptest! {
    #[test]
    fn no_connection_that_is_open_makes_room_for_another(
        steps in proptest::collection::vec((0..8_u8, any::<u8>(), any::<u8>()), 1..200),
        v6 in any::<bool>(),
    ) {
        if v6 { lives::<V6>(&steps) } else { lives::<V4>(&steps) }
    }
}
