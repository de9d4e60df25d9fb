//! What the fast parts move by themselves, and what the routing table is spared.

use super::*;
use crate::{maps::features, net::Addr6};

/// The fast part of `from_endpoint` alone.
fn at_once<F: Cast>(fake: &Fake, ifindex: u32, wire: &Wire<F::Addr>) -> Option<Outcome<F>>
where
    Fake: Env<F>,
{
    let mut packet = FakePacket::new(wire.build::<F>(), ifindex);
    let decision = from_endpoint_fast::<F, _, _>(fake, &mut packet)?;
    Some(Outcome { decision, bytes: packet.bytes })
}

both_families! {
    fn the_first_answer_to_a_sandbox_knows_its_way<F>() {
        let fake = Fake::new(10_000, 1000);
        let out = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::Remote, 80, TCP_SYN));
        let back = answer::<F>(&out.headers(), Kind::Tcp(SYN_ACK));
        let mut packet = FakePacket::new(back.build::<F>(), ifindex::UP0);
        let decision = from_uplink_fast::<F, _, _>(&fake, &mut packet);
        assert_eq!(decision, Some(Ok(Verdict::ToSandbox(ifindex::A1))));
        let got = Outcome::<F> { decision: Ok(Verdict::Pass), bytes: packet.bytes.clone() }.headers();
        assert_eq!((got.dst, u16::from(got.dport)), (F::of(Party::A1), 40_000));
        assert_eq!(packet.bytes[..6], <[u8; 6]>::from(mac(Party::A1)), "its own link address");
    }

    fn a_neighbours_answer_from_a_published_port_is_direct_unless_it_was_dialled_by_the_hosts_address<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A2, ifindex::A2, 80);
        let reply = wire::<F>(Party::A2, 80, Party::A1, 40_000, Kind::Tcp(SYN_ACK));
        let direct = at_once::<F>(&fake, ifindex::A2, &reply).expect("nobody dialled it otherwise");
        assert_eq!(direct.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        assert_eq!(direct.headers().src, F::of(Party::A2));
        // The same answer, once the neighbour has dialled the host.
        leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::Host, 8080, TCP_SYN));
        let dialled = leave::<F>(&fake, ifindex::A2, &reply);
        assert_eq!(dialled.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        let got = dialled.headers();
        assert_eq!((got.src, u16::from(got.sport)), (F::of(Party::Host), 8080));
    }
}

/// Opens a connection to the outside, and returns what it shows and how often the routing table was asked for a source.
fn masqueraded<F: Cast>(fake: &Fake, sport: u16) -> (F::Addr, u32)
where
    Fake: Env<F>,
{
    let before = fake.sourced.get();
    let out = leave::<F>(fake, ifindex::A1, &wire::<F>(Party::A1, sport, Party::Remote, 80, TCP_SYN));
    (out.headers().src, fake.sourced.get() - before)
}

#[test]
fn the_routing_table_is_asked_for_a_source_where_there_is_a_choice() {
    let other = Addr6::from_raw([u32::from_ne_bytes([0x20, 1, 0xd, 0xb8]), 0, 0, 77]);
    let mut fake = Fake::new(10_000, 1000);
    fake.v6.preferred = other;
    let (source, asked) = masqueraded::<V6>(&fake, 1);
    assert_eq!(source, other);
    assert!(asked > 0);
    fake.config.features |= features::SOLE_SOURCE6;
    assert_eq!(masqueraded::<V6>(&fake, 2), (V6::of(Party::Host), 0));
    let (_, asked) = masqueraded::<V4>(&fake, 2);
    assert!(asked > 0, "IPv4's are not said to be without a choice");
    // The uplink's address goes, and nobody has told the packet path.
    fake.v6.local.retain(|addr| *addr != V6::of(Party::Host));
    let (source, asked) = masqueraded::<V6>(&fake, 3);
    assert_eq!(source, other);
    assert!(asked > 0);
}
