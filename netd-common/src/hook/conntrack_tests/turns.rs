//! Rung: unit tests. Who may open by a flow that is there, and what lets one in that is withdrawn meanwhile.

use super::*;
use crate::{
    conntrack,
    env::Draft,
    maps::{LinkKey, endpoint_flags},
    wire::{Headers, l4::SYN},
};

/// A world where a1 is linked to a2's port 80, and may not talk to it otherwise.
fn linked<F: Cast>() -> Fake {
    let mut fake = Fake::new(10_000, 1000);
    fake.flag(1, endpoint_flags::ICC, false);
    fake.flag(1, endpoint_flags::LINKS, true);
    let (src, dst) = (F::of(Party::A1), F::of(Party::A2));
    let link = |proto| LinkKey { src, dst, port: 80.into(), proto, pad: 0 };
    F::tables_mut(&mut fake).links = std::vec![link(6), link(17)];
    fake
}

/// What a1 sends to a2's port, and what a2 sends back.
fn link_wires<F: Cast>() -> [Wire<F::Addr>; 2] {
    [
        wire::<F>(Party::A1, 40_000, Party::A2, 80, TCP_SYN),
        wire::<F>(Party::A2, 80, Party::A1, 40_000, TCP_SYN),
    ]
}

/// Opens a flow, and lets something happen between decision and insertion. Returns the flow's state.
fn opens_while<F: Cast>(
    fake: &mut Fake,
    wire: &Wire<F::Addr>,
    zone: u32,
    happens: impl FnOnce(&mut Fake),
) -> Option<State>
where
    Fake: Env<F>,
{
    let device = if zone == UPLINK_ZONE { ifindex::UP0 } else { zone };
    let mut packet = FakePacket::new(wire.build::<F>(), device);
    let mut draft = Draft::<F> { headers: Headers::read(&packet).expect("a packet"), ..Draft::default() };
    let decided = if zone == UPLINK_ZONE {
        from_uplink_decide(&*fake, &mut packet, &draft.headers, &mut draft.opening)
    } else {
        from_endpoint_decide(&*fake, &mut packet, &draft.headers, &mut draft.opening)
    };
    assert_eq!(decided, Ok(None), "it may open");
    happens(fake);
    conntrack::admit(&*fake, &mut draft).expect("room");
    conntrack::open(&*fake, &mut draft).expect("an entry");
    let key = draft.headers.tuple(zone);
    let stays = conntrack::examine(&*fake, &key);
    assert_eq!(stays, state::<F>(fake, &key).is_some());
    state::<F>(fake, &key)
}

both_families! {
    fn a_syn_against_a_connection_is_passed_on_while_that_lasts<F>() {
        let fake = Fake::new(10_000, 1000);
        let syn = wire::<F>(Party::A1, 40_000, Party::Remote, 80, TCP_SYN);
        let sent = leave::<F>(&fake, ifindex::A1, &syn).headers();
        let crossed = arrive::<F>(&fake, &answer::<F>(&sent, TCP_SYN)).decision;
        assert_eq!(crossed, Ok(Verdict::ToSandbox(ifindex::A1)), "both open at once");
        let (_, back, key) = established::<F>(&fake);
        let challenged = arrive::<F>(&fake, &Wire { kind: TCP_SYN, ..back }).decision;
        assert_eq!(challenged, Ok(Verdict::ToSandbox(ifindex::A1)), "a1 answers by a challenge");
        assert_eq!(state::<F>(&fake, &key), Some(State::Established));
    }

    fn two_sandboxes_that_open_at_once_may_repeat_themselves<F>() {
        const SYN_ACK: u8 = SYN | ACK;
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::of(Party::Host), 6, 8080, Party::B1, ifindex::B1, 80);
        let dials = wire::<F>(Party::A1, 40_000, Party::Host, 8080, TCP_SYN);
        let got = leave::<F>(&fake, ifindex::A1, &dials).headers();
        let back = Wire { from: mac(Party::B1), ..answer::<F>(&got, TCP_SYN) };
        let there = |flags| leave::<F>(&fake, ifindex::A1, &Wire { kind: Kind::Tcp(flags), ..dials }).decision;
        let answers = |flags| leave::<F>(&fake, ifindex::B1, &Wire { kind: Kind::Tcp(flags), ..back }).decision;
        let (to_a1, to_b1) = (Ok(Verdict::ToSandbox(ifindex::A1)), Ok(Verdict::ToSandbox(ifindex::B1)));
        // Each SYN, and each answer to it, may be lost behind netd (RFC 9293 §3.5, figure 8).
        for _ in 0..3 {
            assert_eq!((answers(SYN), there(SYN)), (to_a1, to_b1));
        }
        for _ in 0..3 {
            assert_eq!((there(SYN_ACK), answers(SYN)), (to_b1, to_a1));
        }
        assert_eq!((answers(SYN_ACK), there(ACK)), (to_a1, to_b1));
        // Once it has acknowledged, another SYN of it opens nothing.
        assert_ne!(answers(SYN), to_a1);
        assert_eq!(answers(ACK), to_a1, "and the connection goes on");
    }

    fn t66_the_target_of_a_link_opens_nothing_by_a_flow_of_its_peers<F>() {
        for steps in 0..5 {
            let mut fake = linked::<F>();
            let [there, back] = link_wires::<F>();
            let ways = [(ifindex::A1, there), (ifindex::A2, back)];
            let life = [(0, SYN), (1, SYN | ACK), (0, ACK), (0, FIN | ACK), (1, FIN | ACK)];
            for (side, flags) in &life[..steps] {
                let (zone, wire) = ways[*side];
                let sent = leave::<F>(&fake, zone, &Wire { kind: Kind::Tcp(*flags), ..wire }).decision;
                assert_eq!(sent, Ok(Verdict::ToSandbox(ways[1 - side].0)), "the connection itself: {flags:#x}");
            }
            if steps == 1 {
                continue; // both may open at once
            }
            let against = leave::<F>(&fake, ifindex::A2, &Wire { kind: TCP_SYN, ..back }).decision;
            assert_eq!(against, Err(DropReason::Icc), "after {steps} steps");
            let data = leave::<F>(&fake, ifindex::A2, &Wire { kind: Kind::Tcp(ACK), ..back }).decision;
            assert_eq!(data.is_ok(), steps >= 2, "what belongs to it goes on: after {steps} steps");
            // Once it has expired, too.
            fake.now.set(fake.now.get() + 200_000);
            assert_eq!(leave::<F>(&fake, ifindex::A2, &Wire { kind: TCP_SYN, ..back }).decision, Err(DropReason::Icc));
            fake.config.epoch += 1;
            assert!(leave::<F>(&fake, ifindex::A1, &Wire { kind: TCP_SYN, ..there }).decision.is_ok(), "the opener may");
            assert_laws::<F>(&fake);
        }
    }

    fn a_port_that_closes_while_a_flow_opens_lets_nothing_in<F>() {
        for (proto, kind) in [(17, Kind::Udp), (6, TCP_SYN)] {
            // By a port on the sandbox's own address, and by a link.
            let mut fake = Fake::new(10_000, 1000);
            fake.flag(1, F::ROUTED, true);
            fake.open_port::<F>(Party::A1, proto, 80, ifindex::A1);
            let direct = wire::<F>(Party::Remote, 5000, Party::A1, 80, kind);
            assert_eq!(arrive::<F>(&fake, &direct).decision, Ok(Verdict::ToSandbox(ifindex::A1)), "control");
            F::tables_mut(&mut fake).flows.get_mut().clear();
            let closes = |fake: &mut Fake| F::tables_mut(fake).opened.clear();
            assert_eq!(opens_while::<F>(&mut fake, &direct, UPLINK_ZONE, closes), None, "{kind:?}");

            let mut fake = linked::<F>();
            let there = Wire { kind, ..link_wires::<F>()[0] };
            assert_eq!(leave::<F>(&fake, ifindex::A1, &there).decision, Ok(Verdict::ToSandbox(ifindex::A2)), "control");
            F::tables_mut(&mut fake).flows.get_mut().clear();
            let closes = |fake: &mut Fake| F::tables_mut(fake).links.clear();
            assert_eq!(opens_while::<F>(&mut fake, &there, ifindex::A1, closes), None, "{kind:?}");
        }
    }

    fn datagrams_end_with_the_open_port_or_the_link_and_connections_stay<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.flag(1, F::ROUTED, true);
        for (proto, kind) in [(17, Kind::Udp), (6, TCP_SYN)] {
            fake.open_port::<F>(Party::A1, proto, 80, ifindex::A1);
            assert!(arrive::<F>(&fake, &wire::<F>(Party::Remote, 5000, Party::A1, 80, kind)).decision.is_ok());
        }
        F::tables_mut(&mut fake).opened.clear();
        fake.config.epoch += 1;
        let sends = |fake: &Fake, kind| arrive::<F>(fake, &wire::<F>(Party::Remote, 5000, Party::A1, 80, kind)).decision;
        assert_eq!(sends(&fake, Kind::Tcp(ACK)), Ok(Verdict::ToSandbox(ifindex::A1)));
        assert_eq!(sends(&fake, Kind::Udp), Err(DropReason::Unpublished));

        let mut fake = linked::<F>();
        let [there, back] = link_wires::<F>();
        for kind in [Kind::Udp, TCP_SYN] {
            assert!(leave::<F>(&fake, ifindex::A1, &Wire { kind, ..there }).decision.is_ok());
        }
        F::tables_mut(&mut fake).links.clear();
        fake.config.epoch += 1;
        assert!(leave::<F>(&fake, ifindex::A2, &Wire { kind: Kind::Tcp(SYN_ACK), ..back }).decision.is_ok());
        assert_eq!(leave::<F>(&fake, ifindex::A1, &Wire { kind: Kind::Udp, ..there }).decision, Err(DropReason::Icc));
        assert_laws::<F>(&fake);
    }
}
