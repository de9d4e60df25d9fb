//! Sandboxes addressed directly: every gateway mode, from outside, from another network, and on the way back.

use super::*;
use crate::{
    family::Family,
    maps::{LinkKey, features},
};

/// The slots of networks A and B.
const A: u16 = 1;
const B: u16 = 2;
const ECHO: Kind = Kind::Echo { reply: false };

/// What may come: an opened port, one that is not, an echo request, a protocol without ports.
const PROBES: [(u16, Kind); 5] =
    [(80, TCP_SYN), (81, TCP_SYN), (81, Kind::Udp), (0, ECHO), (0, Kind::Other(47))];

fn mode<F: Family>(fake: &mut Fake, slot: u16, mode: u32) {
    fake.flag(slot, F::ROUTED | F::UNPROTECTED, false);
    fake.flag(slot, mode, true);
    fake.flag(slot, F::MASQUERADE, mode != F::ROUTED);
}

fn from_remote<F: Cast>(fake: &Fake, dport: u16, kind: Kind) -> super::super::Decision<F>
where
    Fake: Env<F>,
{
    arrive::<F>(fake, &wire::<F>(Party::Remote, 50_000, Party::B1, dport, kind)).decision
}

fn from_a1<F: Cast>(fake: &Fake, dport: u16, kind: Kind) -> Outcome<F>
where
    Fake: Env<F>,
{
    leave::<F>(fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::B1, dport, kind))
}

/// Sends a packet through the gate in front of b1, as the stack delivers it.
fn through_gate<F: Cast>(
    fake: &Fake,
    ingress: u32,
    mark: u32,
    wire: &Wire<F::Addr>,
) -> super::super::Decision<F>
where
    Fake: Env<F>,
{
    let mut packet = FakePacket::new(wire.build::<F>(), ifindex::B1);
    (packet.ingress, packet.mark) = (ingress, mark);
    let headers = Headers::<F>::read(&packet).expect("readable");
    to_endpoint::<F, _, _>(fake, &mut packet, &headers)
}

/// Expects that b1's answer leaves as it is.
fn answers_untranslated<F: Cast>(fake: &Fake)
where
    Fake: Env<F>,
{
    let probe = wire::<F>(Party::Remote, 50_000, Party::B1, 80, TCP_SYN);
    let arrived = arrive::<F>(fake, &probe);
    assert_eq!(arrived.decision, Ok(Verdict::ToSandbox(ifindex::B1)));
    let got = arrived.headers();
    assert_eq!(
        (got.src, got.dst, u16::from(got.dport), got.ttl),
        (F::of(Party::Remote), F::of(Party::B1), 80, 63)
    );
    let reply = Wire { from: mac(Party::B1), ..answer::<F>(&got, Kind::Tcp(SYN_ACK)) };
    let left = leave::<F>(fake, ifindex::B1, &reply);
    assert_eq!(left.decision, Ok(Verdict::ToNeighbour(ifindex::UP0, F::of(Party::Remote))));
    let sent = left.headers();
    assert_eq!((sent.src, u16::from(sent.sport), u16::from(sent.dport)), (F::of(Party::B1), 80, 50_000));
    let mut packet = FakePacket::new(left.bytes, ifindex::UP0);
    assert_eq!(
        to_uplink::<F, _, _>(fake, &mut packet, &sent),
        Ok(Verdict::Pass),
        "past the guard against leaks"
    );
}

#[test]
fn who_asks_on_the_link_whether_a_sandbox_is_there_is_left_to_the_host() {
    let asks = |fake: &Fake, ttl| {
        let mut bytes = Wire { ttl, ..wire::<V6>(Party::Remote, 0, Party::B1, 0, ECHO) }.build::<V6>();
        bytes[14 + 40] = 135; // a neighbour solicitation
        let mut packet = FakePacket::new(bytes, ifindex::UP0);
        slow::<V6, _, _>(fake, &mut packet, UPLINK_ZONE, from_uplink_decide)
    };
    let mut fake = Fake::new(10_000, 100);
    assert_eq!(asks(&fake, 255), Err(DropReason::DirectAccess));
    for (shows, farther) in [(V6::ROUTED, DropReason::Unpublished), (V6::UNPROTECTED, DropReason::CtInvalid)]
    {
        mode::<V6>(&mut fake, B, shows);
        assert_eq!(asks(&fake, 255), Ok(Verdict::Pass));
        assert_eq!(asks(&fake, 254), Err(farther), "from beyond the link");
    }
}

both_families! {
    fn t09_to_t11_a_nat_network_is_closed_to_everybody_outside<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.open_port::<F>(Party::B1, 6, 80, ifindex::B1);
        for (dport, kind) in PROBES {
            assert_eq!(from_remote::<F>(&fake, dport, kind), Err(DropReason::DirectAccess), "{dport} {kind:?}");
            assert_eq!(from_a1::<F>(&fake, dport, kind).decision, Err(DropReason::Isolation), "{dport} {kind:?}");
        }
    }

    fn t12_t36_an_unprotected_network_is_open_to_everybody<F>() {
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, B, F::UNPROTECTED);
        for (dport, kind) in PROBES {
            assert_eq!(from_remote::<F>(&fake, dport, kind), Ok(Verdict::ToSandbox(ifindex::B1)), "{dport} {kind:?}");
            assert_eq!(from_a1::<F>(&fake, dport, kind).decision, Ok(Verdict::ToSandbox(ifindex::B1)), "{dport} {kind:?}");
        }
        answers_untranslated::<F>(&fake);
        let out = leave::<F>(&fake, ifindex::B1, &wire::<F>(Party::B1, 40_000, Party::Remote, 443, TCP_SYN));
        assert_eq!(out.headers().src, F::of(Party::Host), "what it opens itself is masqueraded");
    }

    fn t13_to_t15_a_routed_network_opens_published_ports_and_echo<F>() {
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, B, F::ROUTED);
        fake.open_port::<F>(Party::B1, 6, 80, ifindex::B1);
        for (dport, kind) in PROBES {
            let open = (dport, kind) == (80, TCP_SYN) || kind == ECHO;
            let wanted = if open { Ok(Verdict::ToSandbox(ifindex::B1)) } else { Err(DropReason::Unpublished) };
            assert_eq!(from_remote::<F>(&fake, dport, kind), wanted, "{dport} {kind:?}");
            assert_eq!(from_a1::<F>(&fake, dport, kind).decision, wanted, "{dport} {kind:?}");
        }
        answers_untranslated::<F>(&fake);
    }

    fn t17_what_a_routed_network_opens_keeps_its_address<F>() {
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, B, F::ROUTED);
        let out = leave::<F>(&fake, ifindex::B1, &wire::<F>(Party::B1, 40_000, Party::Remote, 443, TCP_SYN));
        let sent = out.headers();
        assert_eq!((sent.src, u16::from(sent.sport)), (F::of(Party::B1), 40_000));
        let back = arrive::<F>(&fake, &answer::<F>(&sent, Kind::Tcp(SYN_ACK)));
        assert_eq!(back.decision, Ok(Verdict::ToSandbox(ifindex::B1)));
        let stray = wire::<F>(Party::Remote2, 443, Party::B1, 40_000, Kind::Tcp(SYN_ACK));
        assert_eq!(arrive::<F>(&fake, &stray).decision, Err(DropReason::Unpublished));
    }

    fn a_segment_from_the_middle_opens_nothing_where_its_port_is_open<F>() {
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, B, F::ROUTED);
        fake.open_port::<F>(Party::B1, 6, 80, ifindex::B1);
        assert_eq!(from_remote::<F>(&fake, 80, Kind::Tcp(ACK)), Err(DropReason::CtInvalid));
        assert!(F::tables(&fake).flows.borrow().is_empty());
        answers_untranslated::<F>(&fake);
    }

    fn sources_that_cannot_be_outside_reach_nobody<F>() {
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, B, F::UNPROTECTED);
        for pretended in [Party::A1, Party::GatewayA, Party::B1, Party::Host] {
            let spoofed = wire::<F>(pretended, 50_000, Party::B1, 80, TCP_SYN);
            assert_eq!(arrive::<F>(&fake, &spoofed).decision, Err(DropReason::DirectAccess), "{pretended:?}");
        }
        assert!(from_remote::<F>(&fake, 80, TCP_SYN).is_ok());
    }

    fn t33_a_nat_network_shows_itself_to_another_as_that_ones_gateway<F>() {
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, B, F::ROUTED);
        fake.open_port::<F>(Party::B1, 6, 80, ifindex::B1);
        let got = from_a1::<F>(&fake, 80, TCP_SYN).headers();
        assert_eq!((got.src, got.dst, got.ttl), (F::of(Party::GatewayB), F::of(Party::B1), 63));
        let reply = Wire { from: mac(Party::B1), ..answer::<F>(&got, Kind::Tcp(SYN_ACK)) };
        let back = leave::<F>(&fake, ifindex::B1, &reply);
        assert_eq!(back.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        let back = back.headers();
        assert_eq!((back.src, u16::from(back.sport), u16::from(back.dport)), (F::of(Party::B1), 80, 40_000));
    }

    fn t35_a_routed_network_reaches_no_nat_network<F>() {
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, A, F::ROUTED);
        fake.open_port::<F>(Party::B1, 6, 80, ifindex::B1);
        for (dport, kind) in PROBES {
            assert_eq!(from_a1::<F>(&fake, dport, kind).decision, Err(DropReason::Isolation), "{dport} {kind:?}");
        }
        mode::<F>(&mut fake, B, F::UNPROTECTED);
        assert_eq!(from_a1::<F>(&fake, 80, TCP_SYN).headers().src, F::of(Party::A1), "nobody masquerades it");
    }

    fn the_modes_of_the_two_families_are_apart<F>() {
        let mut fake = Fake::new(10_000, 100);
        if F::V6 { mode::<V4>(&mut fake, B, V4::UNPROTECTED) } else { mode::<V6>(&mut fake, B, V6::UNPROTECTED) }
        assert_eq!(from_remote::<F>(&fake, 80, TCP_SYN), Err(DropReason::DirectAccess));
        mode::<F>(&mut fake, B, F::ROUTED);
        let other = if F::V6 { V4::MASQUERADE } else { V6::MASQUERADE };
        assert!(fake.networks[&B].flags & other != 0, "the other family stays masqueraded");
    }

    fn t18_to_t20_a_trusted_interface_reaches_published_ports_alone<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.flag(B, endpoint_flags::TRUSTS, true);
        fake.open_port::<F>(Party::B1, 6, 80, ifindex::B1);
        assert_eq!(from_remote::<F>(&fake, 80, TCP_SYN), Err(DropReason::DirectAccess), "not trusted yet");
        fake.trusted.push((A, ifindex::UP0));
        assert_eq!(from_remote::<F>(&fake, 80, TCP_SYN), Err(DropReason::DirectAccess), "another network trusts it");
        fake.trusted.push((B, ifindex::UP0));
        for (dport, kind) in &PROBES[1..] {
            assert_eq!(from_remote::<F>(&fake, *dport, *kind), Err(DropReason::Unpublished), "{dport} {kind:?}");
        }
        answers_untranslated::<F>(&fake);
    }

    fn t21_with_direct_routing_published_ports_are_open_on_every_network<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.config.features |= features::DIRECT_ROUTING;
        fake.open_port::<F>(Party::B1, 6, 80, ifindex::B1);
        assert_eq!(from_a1::<F>(&fake, 80, TCP_SYN).decision, Ok(Verdict::ToSandbox(ifindex::B1)));
        assert_eq!(from_a1::<F>(&fake, 81, TCP_SYN).decision, Err(DropReason::Unpublished));
        assert_eq!(from_remote::<F>(&fake, 81, TCP_SYN), Err(DropReason::Unpublished));
        answers_untranslated::<F>(&fake);
    }

    fn t22_an_accepted_mark_opens_every_port_of_a_network_that_trusts_the_interface<F>() {
        let mut fake = Fake::new(10_000, 100);
        (fake.config.accept_mark, fake.config.accept_mask) = (0x10, 0xf0);
        fake.flag(B, endpoint_flags::TRUSTS, true);
        assert_eq!(from_remote::<F>(&fake, 81, TCP_SYN), Err(DropReason::DirectAccess), "a mark alone does not help");
        fake.trusted.push((B, ifindex::UP0));
        let probe = wire::<F>(Party::Remote, 50_000, Party::B1, 81, TCP_SYN);
        assert_eq!(from_remote::<F>(&fake, 81, TCP_SYN), Ok(Verdict::Pass), "the host's rules may mark it");
        for mark in [0, 0x20, 0x30] {
            assert_eq!(through_gate::<F>(&fake, ifindex::UP0, mark, &probe), Err(DropReason::Unpublished), "{mark:#x}");
        }
        assert_eq!(through_gate::<F>(&fake, 99, 0x10, &probe), Err(DropReason::DirectAccess), "by an interface not trusted");
        assert_eq!(through_gate::<F>(&fake, ifindex::UP0, 0x1f, &probe), Ok(Verdict::Pass), "bits outside the mask");
        let next = wire::<F>(Party::Remote, 50_000, Party::B1, 81, Kind::Tcp(ACK));
        assert_eq!(arrive::<F>(&fake, &next).decision, Ok(Verdict::ToSandbox(ifindex::B1)), "its flow is open");
        let reply = wire::<F>(Party::B1, 81, Party::Remote, 50_000, Kind::Tcp(SYN_ACK));
        let left = leave::<F>(&fake, ifindex::B1, &reply);
        assert_eq!(left.decision, Ok(Verdict::ToNeighbour(ifindex::UP0, F::of(Party::Remote))));
    }

    fn the_gate_opens_what_the_uplink_would_open<F>() {
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, B, F::ROUTED);
        fake.open_port::<F>(Party::B1, 6, 80, ifindex::B1);
        let probe = |dport| wire::<F>(Party::Remote, 50_000, Party::B1, dport, TCP_SYN);
        assert_eq!(through_gate::<F>(&fake, 99, 0, &probe(80)), Ok(Verdict::Pass));
        assert_eq!(through_gate::<F>(&fake, 99, 0, &probe(81)), Err(DropReason::Unpublished));
        let stolen = wire::<F>(Party::Remote, 50_000, Party::A2, 80, TCP_SYN);
        assert_eq!(through_gate::<F>(&fake, 99, 0, &stolen), Err(DropReason::Unpublished), "another's address");
        let neighbour = wire::<F>(Party::A1, 50_000, Party::B1, 80, TCP_SYN);
        assert_eq!(through_gate::<F>(&fake, 99, 0, &neighbour), Err(DropReason::Isolation));
    }

    fn an_internal_network_stays_closed_in_every_mode<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.flag(B, endpoint_flags::INTERNAL, true);
        fake.config.features |= features::DIRECT_ROUTING;
        fake.open_port::<F>(Party::B1, 6, 80, ifindex::B1);
        for flag in [0, F::ROUTED, F::UNPROTECTED] {
            mode::<F>(&mut fake, B, flag);
            assert_eq!(from_remote::<F>(&fake, 80, TCP_SYN), Err(DropReason::Internal));
            assert_eq!(from_a1::<F>(&fake, 80, TCP_SYN).decision, Err(DropReason::Internal));
        }
    }

    fn a_client_may_come_directly_and_by_a_published_port_from_one_port_of_its_own<F>() {
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, B, F::UNPROTECTED);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::B1, ifindex::B1, 80);
        let seen = [(Party::B1, 80), (Party::Host, 8080)].map(|(to, dport)| {
            arrive::<F>(&fake, &wire::<F>(Party::Remote, 50_000, to, dport, TCP_SYN)).headers()
        });
        assert_ne!((seen[0].src, seen[0].sport), (seen[1].src, seen[1].sport), "b1 could not tell them apart");
        for (got, from) in seen.into_iter().zip([Party::B1, Party::Host]) {
            let reply = Wire { from: mac(Party::B1), ..answer::<F>(&got, Kind::Tcp(SYN_ACK)) };
            let sent = leave::<F>(&fake, ifindex::B1, &reply).headers();
            assert_eq!((sent.src, sent.dst, u16::from(sent.dport)), (F::of(from), F::of(Party::Remote), 50_000));
        }
    }

    fn a_tunnel_of_the_sandboxs_own_is_not_met_by_one_as_its_gateway<F>() {
        let gre = Kind::Other(47);
        let mut fake = Fake::new(10_000, 100);
        mode::<F>(&mut fake, B, F::UNPROTECTED);
        let out = leave::<F>(&fake, ifindex::B1, &wire::<F>(Party::B1, 0, Party::Remote, 0, gre)).decision;
        assert!(out.is_ok(), "masqueraded");
        let direct = |party| arrive::<F>(&fake, &wire::<F>(party, 0, Party::B1, 0, gre)).decision;
        assert_eq!(direct(Party::Remote), Err(DropReason::NatConflict), "its answers would leave by the other flow");
        assert_eq!(direct(Party::Remote2), Ok(Verdict::ToSandbox(ifindex::B1)));
        // Nobody holds the gateway's place: another network's sandbox shows as it.
        assert!(from_a1::<F>(&fake, 0, gre).decision.is_ok());
    }

    fn t65_t66_a_link_opens_its_port_one_way<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.flag(A, endpoint_flags::ICC, false);
        fake.flag(A, endpoint_flags::LINKS, true);
        let key = |src, dst, port: u16| LinkKey { src: F::of(src), dst: F::of(dst), port: port.into(), proto: 6, pad: 0 };
        F::tables_mut(&mut fake).links.push(key(Party::A1, Party::A2, 80));
        let to_a2 = |sport, dport, kind| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, sport, Party::A2, dport, kind));
        let to_a1 = |sport, dport, kind| leave::<F>(&fake, ifindex::A2, &wire::<F>(Party::A2, sport, Party::A1, dport, kind));
        for (dport, kind) in [(81, TCP_SYN), (80, Kind::Udp), (0, ECHO), (80, Kind::Tcp(ACK))] {
            assert_eq!(to_a2(40_000, dport, kind).decision, Err(DropReason::Icc), "{dport} {kind:?}");
        }
        let got = to_a2(40_000, 80, TCP_SYN);
        assert_eq!(got.decision, Ok(Verdict::ToSandbox(ifindex::A2)));
        assert_eq!((got.headers().src, got.headers().ttl), (F::of(Party::A1), 64));
        assert_eq!(to_a1(80, 40_000, Kind::Tcp(SYN_ACK)).decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        for (sport, dport) in [(50_000, 40_000), (50_000, 80), (80, 40_001)] {
            assert_eq!(to_a1(sport, dport, TCP_SYN).decision, Err(DropReason::Icc), "{sport} to {dport}");
        }
    }

    fn t68_a_policy_opens_a_port_or_everything_to_one_or_to_all<F>() {
        let probes = [(80, TCP_SYN), (81, TCP_SYN), (80, Kind::Udp), (0, ECHO), (0, Kind::Other(47))];
        let anybody = F::Addr::UNSPECIFIED;
        let opens = |src, port: u16, proto| -> Vec<bool> {
            let mut fake = Fake::new(10_000, 100);
            fake.flag(A, endpoint_flags::ICC, false);
            fake.flag(A, endpoint_flags::LINKS, true);
            let key = LinkKey { src, dst: F::of(Party::A2), port: port.into(), proto, pad: 0 };
            F::tables_mut(&mut fake).links.push(key);
            let sent = |ifindex, wire| leave::<F>(&fake, ifindex, &wire).decision;
            let decided = probes.map(|(dport, kind)| {
                let there = sent(ifindex::A1, wire::<F>(Party::A1, 40_000, Party::A2, dport, kind));
                // Nothing is opened the other way. (After the probe, whose flow a UDP answer or an echo of its own would be.)
                let back = sent(ifindex::A2, wire::<F>(Party::A2, 50_000, Party::A1, dport, kind));
                assert!(back == Err(DropReason::Icc) || matches!(kind, Kind::Other(_)), "{kind:?} {back:?}");
                there == Ok(Verdict::ToSandbox(ifindex::A2))
            });
            decided.to_vec()
        };
        let a1 = F::of(Party::A1);
        assert_eq!(opens(a1, 80, 6), [true, false, false, false, false]);
        assert_eq!(opens(anybody, 80, 17), [false, false, true, false, false]);
        assert_eq!(opens(a1, 0, 0), [true; 5]);
        assert_eq!(opens(anybody, 0, 0), [true; 5]);
        assert_eq!(opens(F::of(Party::B1), 0, 0), [false; 5], "another sandbox's");
    }
}
