//! What the host itself says to the outside by protocols whose sockets cannot be looked up (`conntrack::own`).

use super::*;

/// The host sends this by an uplink; its bytes stay.
fn host_says<F: Cast>(fake: &Fake, wire: &Wire<F::Addr>)
where
    Fake: Env<F>,
{
    let sent = wire.build::<F>();
    let mut packet = FakePacket::new(sent.clone(), ifindex::UP0);
    packet.ingress = 0;
    crate::hook::own::<F, _, _>(fake, &mut packet).expect("kept in mind");
    assert_eq!(packet.bytes, sent);
}

both_families! {
    fn answers_to_the_hosts_own_tunnel_are_no_sandboxs<F>() {
        let gre = Kind::Other(47);
        let dials = |party| wire::<F>(Party::A1, 0, party, 0, gre);
        let out = |fake: &Fake, party| leave::<F>(fake, ifindex::A1, &dials(party)).decision;
        let back = |fake: &Fake| arrive::<F>(fake, &wire::<F>(Party::Remote, 0, Party::Host, 0, gre)).decision;
        // The host was first.
        let fake = Fake::new(10_000, 100);
        host_says::<F>(&fake, &wire::<F>(Party::Host, 0, Party::Remote, 0, gre));
        assert_eq!(out(&fake, Party::Remote), Err(DropReason::NatConflict));
        assert_eq!(back(&fake), Ok(Verdict::Pass));
        assert!(out(&fake, Party::Remote2).is_ok(), "another machine");
        // The sandbox was: it loses what the host cannot have otherwise.
        let fake = Fake::new(10_000, 100);
        assert!(out(&fake, Party::Remote).is_ok());
        assert_eq!(back(&fake), Ok(Verdict::ToSandbox(ifindex::A1)), "control");
        host_says::<F>(&fake, &wire::<F>(Party::Host, 0, Party::Remote, 0, gre));
        assert_eq!(back(&fake), Ok(Verdict::Pass));
        assert_eq!(Env::<F>::usage(&fake, ifindex::A1), 0, "nobody pays for it any more");
        assert_eq!(out(&fake, Party::Remote), Err(DropReason::NatConflict));
        // Once the host has been silent for long enough, it is free again.
        fake.now.set(fake.now.get() + fake.config.timeouts.other + 1);
        assert!(out(&fake, Party::Remote).is_ok());
    }

    fn an_echo_of_the_host_keeps_its_identifier_from_sandboxes<F>() {
        let fake = Fake::new(10_000, 2);
        let asks = wire::<F>(Party::A1, 7, Party::Remote, 0, Kind::Echo { reply: false });
        let id = || u16::from(leave::<F>(&fake, ifindex::A1, &asks).headers().sport);
        let first = id();
        let reply = |id| arrive::<F>(&fake, &wire::<F>(Party::Remote, 0, Party::Host, id, Kind::Echo { reply: true })).decision;
        assert_eq!(reply(first), Ok(Verdict::ToSandbox(ifindex::A1)), "control");
        host_says::<F>(&fake, &wire::<F>(Party::Host, first, Party::Remote, 0, Kind::Echo { reply: false }));
        assert_eq!(reply(first), Ok(Verdict::Pass), "the host's");
        let second = id();
        assert_ne!(second, first);
        assert_eq!(reply(second), Ok(Verdict::ToSandbox(ifindex::A1)));
        // What the host answers, and what it sends of protocols whose sockets are looked up, leaves flows alone.
        host_says::<F>(&fake, &wire::<F>(Party::Host, 0, Party::Remote, second, Kind::Echo { reply: true }));
        assert_eq!(reply(second), Ok(Verdict::ToSandbox(ifindex::A1)));
        let udp = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 7, Party::Remote, 53, Kind::Udp)).headers();
        host_says::<F>(&fake, &wire::<F>(Party::Host, udp.sport.into(), Party::Remote, 53, Kind::Udp));
        assert_eq!(arrive::<F>(&fake, &answer::<F>(&udp, Kind::Udp)).decision, Ok(Verdict::ToSandbox(ifindex::A1)));
    }

    fn what_others_send_through_the_host_is_not_the_hosts<F>() {
        let fake = Fake::new(10_000, 100);
        let gre = Kind::Other(47);
        let out = || leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 0, Party::Remote, 0, gre));
        let sent = out();
        assert!(sent.decision.is_ok());
        // The sandbox's own packet, translated, on its way out of the uplink.
        let mut packet = FakePacket::new(sent.bytes, ifindex::UP0);
        packet.ingress = ifindex::A1;
        crate::hook::own::<F, _, _>(&fake, &mut packet).expect("left alone");
        // And what somebody else routes through the host.
        host_says::<F>(&fake, &wire::<F>(Party::Remote2, 0, Party::Remote, 0, gre));
        assert!(F::tables(&fake).asked.borrow().is_empty());
        assert!(out().decision.is_ok());
    }
}
