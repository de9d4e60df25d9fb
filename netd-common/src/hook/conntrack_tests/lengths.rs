//! Rung: unit tests. Packets of flows that lie about their length (reliability A.4).

use super::*;

/// Changes the length that a frame's IP header gives.
fn lie<F: Cast>(frame: &mut [u8], said: u16) {
    let at = if F::V6 { 18 } else { 16 };
    frame[at..at + 2].copy_from_slice(&said.to_be_bytes());
}

both_families! {
    fn an_established_packet_whose_length_is_a_lie_is_dropped<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 17, 8080, Party::A1, ifindex::A1, 80);
        let out = wire::<F>(Party::A1, 4000, Party::Remote, 53, Kind::Udp);
        let dials = wire::<F>(Party::Remote, 5000, Party::Host, 8080, Kind::Udp);
        assert!(leave::<F>(&fake, ifindex::A1, &out).decision.is_ok());
        assert!(arrive::<F>(&fake, &dials).decision.is_ok());
        let there = (out.build::<F>().len() - 14) as u16 - if F::V6 { 40 } else { 0 };
        let least = if F::V6 { 8 } else { 28 };
        for (said, honest) in [
            (there, true),
            (there - 1, false), // UDP's own length is beyond it
            (least, false),
            (least - 1, false),
            (0, false), // only a packet too large for the field may leave it out
            (there + 1, false),
            (0xffff, false),
        ] {
            for (inside, wire) in [(true, &out), (false, &dials)] {
                let mut frame = wire.build::<F>();
                lie::<F>(&mut frame, said);
                let sent = send::<F>(&fake, inside, frame);
                // The careful look is asked once for what the fast one lets through: here UDP's length, which its receiver judges.
                let plain = (least..=there).contains(&said);
                assert_eq!(sent.is_ok(), honest || plain, "{inside} {said}: {sent:?}");
                assert!(sent.is_ok() || sent == Err(DropReason::Malformed), "{inside} {said}: {sent:?}");
            }
        }
        // Padding behind the packet, as on every short Ethernet frame.
        let padded = [out.build::<F>(), std::vec![0; 20]].concat();
        assert!(send::<F>(&fake, true, padded).is_ok());
    }

    fn a_packet_too_large_for_its_length_field_passes<F>() {
        let fake = Fake::new(10_000, 1000);
        let (out, _, _) = established::<F>(&fake);
        for (size, honest) in [(70_000, true), (1400, false)] {
            let mut frame = [Wire { kind: Kind::Tcp(ACK), ..out }.build::<F>(), std::vec![0; size]].concat();
            lie::<F>(&mut frame, 0);
            let mut packet = FakePacket { segment: 1400, ..FakePacket::new(frame, ifindex::A1) };
            let fast = from_endpoint_fast::<F, _, _>(&fake, &mut packet);
            assert_eq!(matches!(fast, Some(Ok(Verdict::ToNeighbour(..)))), honest, "{size} bytes");
        }
    }
}
