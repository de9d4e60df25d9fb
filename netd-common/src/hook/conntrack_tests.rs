//! Rung: unit and property tests. What floods, forgeries, withdrawn ports and a dead daemon do to flows, over a fake world.

mod lengths;
mod room;
mod turns;

use std::{collections::BTreeMap, vec::Vec};

use proptest::prelude::*;

use super::{
    from_endpoint_decide, from_endpoint_fast, from_uplink_decide, from_uplink_fast, slow,
    tests::{SYN_ACK, TCP_SYN, answer, arrive, leave, wire},
};
use crate::{
    conntrack::{Half, State, payer},
    env::Env,
    fake::{Cast, Fake, FakePacket, Kind, Party, Wire, ifindex, mac},
    family::{Address, V4, V6},
    maps::{Flow, Tuple, flow_flags},
    net::UPLINK_ZONE,
    verdict::{DropReason, Verdict},
    wire::l4::{ACK, FIN, RST},
};

/// Returns a segment's frame with these sequence and acknowledgement numbers; its checksum is left wrong, as no hook reads it.
fn segment<F: Cast>(wire: &Wire<F::Addr>, sequence: u32, acknowledgement: u32) -> Vec<u8> {
    let mut bytes = wire.build::<F>();
    let tcp = 14 + F::HEADER as usize;
    bytes[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
    bytes[tcp + 8..tcp + 12].copy_from_slice(&acknowledgement.to_be_bytes());
    bytes
}

/// Sends a frame through `from_endpoint` of a1, or through `from_uplink`.
fn send<F: Cast>(fake: &Fake, inside: bool, bytes: Vec<u8>) -> super::Decision<F>
where
    Fake: Env<F>,
{
    let (index, zone) = if inside { (ifindex::A1, ifindex::A1) } else { (ifindex::UP0, UPLINK_ZONE) };
    let mut packet = FakePacket::new(bytes, index);
    let fast = if inside {
        from_endpoint_fast::<F, _, _>(fake, &mut packet)
    } else {
        from_uplink_fast::<F, _, _>(fake, &mut packet)
    };
    fast.unwrap_or_else(|| {
        if inside {
            slow::<F, _, _>(fake, &mut packet, zone, from_endpoint_decide)
        } else {
            slow::<F, _, _>(fake, &mut packet, zone, from_uplink_decide)
        }
    })
}

/// Returns the flow that a key leads to, as its two halves.
fn halves<F: Cast>(fake: &Fake, key: &Tuple<F::Addr>) -> Option<(Half, Half)> {
    let flows = F::tables(fake).flows.borrow();
    let flow = flows.get(key)?;
    let other = key.counterpart(flow);
    let mine = Half::of(key, flow);
    Some((mine, mine.partner(flows.get(&other).map(|flow| Half::of(&other, flow)))?))
}

fn state<F: Cast>(fake: &Fake, key: &Tuple<F::Addr>) -> Option<State> {
    halves::<F>(fake, key).map(|(mine, theirs)| mine.state_with(theirs, key.proto))
}

/// What a1 sends, what the remote sends, and the key of the opener's entry.
type Connection<A> = (Wire<A>, Wire<A>, Tuple<A>);

/// Opens a connection of a1 to the remote and returns what the remote sees of it, with the key of its opener's entry.
fn established<F: Cast>(fake: &Fake) -> Connection<F::Addr>
where
    Fake: Env<F>,
{
    let out = wire::<F>(Party::A1, 40_000, Party::Remote, 80, Kind::Tcp(ACK));
    let sent = leave::<F>(fake, ifindex::A1, &Wire { kind: TCP_SYN, ..out }).headers();
    let back = answer::<F>(&sent, Kind::Tcp(ACK));
    assert!(arrive::<F>(fake, &Wire { kind: Kind::Tcp(SYN_ACK), ..back }).decision.is_ok());
    assert!(send::<F>(fake, true, segment::<F>(&out, 1001, 5000)).is_ok());
    assert!(send::<F>(fake, false, segment::<F>(&back, 5000, 1001)).is_ok());
    let key = Tuple {
        src: out.src,
        dst: out.dst,
        sport: out.sport.into(),
        dport: out.dport.into(),
        zone: ifindex::A1,
        proto: 6,
        pad: [0; 3],
    };
    assert_eq!(state::<F>(fake, &key), Some(State::Established));
    (out, back, key)
}

/// Checks the laws of every table: each opener's entry has its reply's, both name each other, and endpoints pay for just what there is.
fn assert_laws<F: Cast>(fake: &Fake)
where
    Fake: Env<F>,
{
    let flows = F::tables(fake).flows.borrow();
    let (mut usage, mut originals) = (BTreeMap::<u32, u32>::new(), 0);
    let is_original = |flow: &Flow<F::Addr>| flow.flags & flow_flags::ORIGINAL != 0;
    for (key, flow) in flows.iter().filter(|(_, flow)| is_original(flow)) {
        originals += 1;
        *usage.entry(payer(key, flow)).or_default() += 1;
        let other = key.counterpart(flow);
        let reply = flows.get(&other).expect("an opener's entry has its reply's");
        assert_eq!((reply.generation, is_original(reply)), (flow.generation, false));
        assert_eq!(other.counterpart(reply), *key, "they name each other");
        assert_eq!(payer(&other, reply), payer(key, flow));
    }
    assert_eq!(flows.len(), 2 * originals, "no entry is without its flow");
    for endpoint in [ifindex::A1, ifindex::A2, ifindex::B1] {
        assert_eq!(
            Env::<F>::usage(fake, endpoint),
            usage.get(&endpoint).copied().unwrap_or(0),
            "endpoint {endpoint}"
        );
    }
}

/// Returns a client outside that does not exist, by number.
fn nobody<F: Cast>(number: u32, dport: u16, kind: Kind) -> Wire<F::Addr> {
    let sport = 1024 + (number % 60_000) as u16;
    let from = if number % 120_000 < 60_000 { Party::Remote2 } else { Party::Remote };
    wire::<F>(from, sport, Party::Host, dport, kind)
}

both_families! {
    fn one_sandbox_fills_its_quota_and_not_the_table<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.limit(10, 4);
        let syn = |party, ifindex, sport| leave::<F>(&fake, ifindex, &wire::<F>(party, sport, Party::Remote, 80, TCP_SYN)).decision;
        for sport in 0..10 {
            assert!(syn(Party::A1, ifindex::A1, 40_000 + sport).is_ok());
        }
        assert_eq!(syn(Party::A1, ifindex::A1, 40_100), Err(DropReason::OverQuota));
        assert!(syn(Party::A1, ifindex::A1, 40_000).is_ok(), "what it has goes on");
        assert!(syn(Party::A2, ifindex::A2, 40_100).is_ok(), "others have their own");
        assert_laws::<F>(&fake);
    }

    fn a_quota_of_expired_flows_makes_room_without_a_collector<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.limit(8, 4);
        let udp = |sport| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, sport, Party::Remote, 80, Kind::Udp)).decision;
        for sport in 0..8 {
            assert!(udp(40_000 + sport).is_ok());
        }
        for sport in 0..20 {
            assert_eq!(udp(41_000 + sport), Err(DropReason::OverQuota), "all are alive");
        }
        fake.now.set(fake.now.get() + 31);
        for round in 0..10 {
            for sport in 0..4 {
                assert!(udp(42_000 + 10 * round + sport).is_ok(), "as many as there are places");
            }
            fake.now.set(fake.now.get() + 31);
        }
        assert_laws::<F>(&fake);
    }

    fn a_flood_of_syns_turns_its_own_ring<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A1, ifindex::A1, 80);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 9090, Party::A2, ifindex::A2, 90);
        fake.limit(128, 64);
        fake.capacity = 400;
        let of_a2 = wire::<F>(Party::Remote, 2000, Party::Host, 9090, TCP_SYN);
        assert!(arrive::<F>(&fake, &of_a2).decision.is_ok(), "half-open, of another sandbox");
        let mut streams = Vec::new();
        for number in 0..20_000 {
            let spoofed = nobody::<F>(number, 8080, TCP_SYN);
            assert_eq!(arrive::<F>(&fake, &spoofed).decision, Ok(Verdict::ToSandbox(ifindex::A1)), "{number}");
            if number % 1000 == 0 {
                // A client that exists: its answer and acknowledgement come while 30 more SYNs do.
                let client = wire::<F>(Party::Remote, 1 + (number / 1000) as u16, Party::Host, 8080, TCP_SYN);
                let got = arrive::<F>(&fake, &client).headers();
                for more in 0..30 {
                    assert!(arrive::<F>(&fake, &nobody::<F>(100_000 + number + more, 8080, TCP_SYN)).decision.is_ok());
                }
                let accept = Wire { from: mac(Party::A1), ..answer::<F>(&got, Kind::Tcp(SYN_ACK)) };
                assert!(matches!(leave::<F>(&fake, ifindex::A1, &accept).decision, Ok(Verdict::ToNeighbour(..))));
                let ack = Wire { kind: Kind::Tcp(ACK), ..client };
                assert!(arrive::<F>(&fake, &ack).decision.is_ok());
                streams.push(ack);
            }
            assert!(Env::<F>::usage(&fake, ifindex::A1) <= 64 + streams.len() as u32);
        }
        for ack in &streams {
            assert_eq!(arrive::<F>(&fake, ack).decision, Ok(Verdict::ToSandbox(ifindex::A1)), "an established stream lives");
        }
        let (a2, _) = (Env::<F>::usage(&fake, ifindex::A2), ());
        assert_eq!(a2, 1, "the other sandbox's client is still half-open");
        assert!(leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::Remote, 80, TCP_SYN)).decision.is_ok(), "and A1 itself has room");
        assert_laws::<F>(&fake);
    }

    fn a_flood_of_datagrams_leaves_who_is_answered_alone<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 17, 8080, Party::A1, ifindex::A1, 80);
        fake.limit(128, 64);
        let client = wire::<F>(Party::Remote, 2000, Party::Host, 8080, Kind::Udp);
        let got = arrive::<F>(&fake, &client).headers();
        let reply = Wire { from: mac(Party::A1), ..answer::<F>(&got, Kind::Udp) };
        for number in 0..5000 {
            if number % 50 == 0 {
                fake.now.set(fake.now.get() + 1);
                assert!(arrive::<F>(&fake, &client).decision.is_ok());
                assert!(matches!(leave::<F>(&fake, ifindex::A1, &reply).decision, Ok(Verdict::ToNeighbour(..))));
            }
            assert!(arrive::<F>(&fake, &nobody::<F>(number, 8080, Kind::Udp)).decision.is_ok());
        }
        assert!(Env::<F>::usage(&fake, ifindex::A1) <= 65);
        assert_laws::<F>(&fake);
    }

    fn a_forged_reset_ends_nothing_and_a_true_one_does<F>() {
        let fake = Fake::new(10_000, 1000);
        let (out, back, key) = established::<F>(&fake);
        let reset = |inside, sequence| {
            let wire = Wire { kind: Kind::Tcp(RST), ..if inside { out } else { back } };
            assert!(send::<F>(&fake, inside, segment::<F>(&wire, sequence, 0)).is_ok(), "every reset is passed on");
            state::<F>(&fake, &key)
        };
        // a1 has acknowledged 5000, the remote 1001: numbers far from these are blind.
        for blind in [0x4000_0000, 0x8000_0000, 0xc000_0000, 5000 + (129 << 20), 5000_u32.wrapping_sub(2 << 16)] {
            assert_eq!(reset(false, blind), Some(State::Established), "{blind:#x}");
            assert_eq!(reset(true, blind), Some(State::Established), "{blind:#x}");
        }
        // In the window, but not what a1 expects: a1 answers by a challenge (RFC 5961), and the flow is what it was.
        assert_eq!(reset(false, 6000), Some(State::Reset));
        assert!(send::<F>(&fake, true, segment::<F>(&out, 1001, 5000)).is_ok());
        assert_eq!(state::<F>(&fake, &key), Some(State::Established));
        // The true one is followed by silence.
        assert_eq!(reset(false, 5000), Some(State::Reset));
        fake.now.set(fake.now.get() + 11);
        let (mine, theirs) = halves::<F>(&fake, &key).expect("the flow");
        assert!(mine.is_dead_with(theirs, 6, &fake.config.timeouts, fake.now.get()));
    }

    fn a_refused_connection_is_over_at_once<F>() {
        let fake = Fake::new(10_000, 1000);
        let syn = wire::<F>(Party::A1, 40_000, Party::Remote, 80, TCP_SYN);
        let sent = leave::<F>(&fake, ifindex::A1, &syn).headers();
        assert!(arrive::<F>(&fake, &answer::<F>(&sent, Kind::Tcp(RST | ACK))).decision.is_ok());
        let key = Tuple { src: syn.src, dst: syn.dst, sport: 40_000.into(), dport: 80.into(), zone: ifindex::A1, proto: 6, pad: [0; 3] };
        assert_eq!(state::<F>(&fake, &key), Some(State::Reset));
        assert!(leave::<F>(&fake, ifindex::A1, &syn).decision.is_ok());
        assert_eq!(state::<F>(&fake, &key), Some(State::SynSent), "tried again");
    }

    fn half_a_close_keeps_the_other_half_open<F>() {
        let fake = Fake::new(10_000, 1000);
        let (out, back, key) = established::<F>(&fake);
        assert!(leave::<F>(&fake, ifindex::A1, &Wire { kind: Kind::Tcp(FIN | ACK), ..out }).decision.is_ok());
        for _ in 0..100 {
            fake.now.set(fake.now.get() + 900);
            assert_eq!(arrive::<F>(&fake, &back).decision, Ok(Verdict::ToSandbox(ifindex::A1)));
            let (mine, theirs) = halves::<F>(&fake, &key).expect("the flow");
            assert!(!mine.is_dead_with(theirs, 6, &fake.config.timeouts, fake.now.get() + 900));
        }
    }

    fn only_the_opener_opens_again<F>() {
        let fake = Fake::new(10_000, 1000);
        let (out, back, key) = established::<F>(&fake);
        assert!(leave::<F>(&fake, ifindex::A1, &Wire { kind: Kind::Tcp(FIN | ACK), ..out }).decision.is_ok());
        assert!(arrive::<F>(&fake, &Wire { kind: Kind::Tcp(FIN | ACK), ..back }).decision.is_ok());
        assert_eq!(state::<F>(&fake, &key), Some(State::Closed));
        let _ = arrive::<F>(&fake, &Wire { kind: TCP_SYN, ..back }).decision;
        assert_eq!(state::<F>(&fake, &key), Some(State::Closed), "a SYN from outside opens nothing");
        assert!(leave::<F>(&fake, ifindex::A1, &Wire { kind: TCP_SYN, ..out }).decision.is_ok());
        assert_eq!(state::<F>(&fake, &key), Some(State::SynSent));
    }

    fn an_expired_connection_that_nobody_collected_opens_again<F>() {
        let fake = Fake::new(10_000, 1000);
        let (out, _, key) = established::<F>(&fake);
        fake.now.set(fake.now.get() + 200_000);
        assert!(leave::<F>(&fake, ifindex::A1, &Wire { kind: TCP_SYN, ..out }).decision.is_ok());
        assert_eq!(state::<F>(&fake, &key), Some(State::SynSent));
        assert_laws::<F>(&fake);
    }

    fn datagrams_follow_their_published_port_and_connections_stay<F>() {
        let mut fake = Fake::new(10_000, 1000);
        for proto in [6, 17] {
            fake.publish_port::<F>(F::Addr::UNSPECIFIED, proto, 8080, Party::A1, ifindex::A1, 80);
        }
        let of = |kind| wire::<F>(Party::Remote, 50_000, Party::Host, 8080, kind);
        let got = arrive::<F>(&fake, &of(TCP_SYN)).headers();
        let accept = Wire { from: mac(Party::A1), ..answer::<F>(&got, Kind::Tcp(SYN_ACK)) };
        assert!(leave::<F>(&fake, ifindex::A1, &accept).decision.is_ok());
        assert_eq!(arrive::<F>(&fake, &of(Kind::Udp)).decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        F::tables_mut(&mut fake).publishes.clear();
        fake.config.epoch += 1;
        assert_eq!(arrive::<F>(&fake, &of(Kind::Tcp(ACK))).decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        assert_eq!(arrive::<F>(&fake, &of(Kind::Udp)).decision, Ok(Verdict::Pass), "to the host, which refuses it");
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 17, 8080, Party::A2, ifindex::A2, 80);
        assert_eq!(arrive::<F>(&fake, &of(Kind::Udp)).decision, Ok(Verdict::ToSandbox(ifindex::A2)), "its next owner");
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 17, 8080, Party::A2, ifindex::A2, 81);
        fake.config.epoch += 1;
        assert_eq!(u16::from(arrive::<F>(&fake, &of(Kind::Udp)).headers().dport), 81, "the same owner, another port");
        assert_laws::<F>(&fake);
    }

    fn a_removed_sandboxs_flows_are_decided_anew<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A1, ifindex::A1, 80);
        let client = wire::<F>(Party::Remote, 50_000, Party::Host, 8080, TCP_SYN);
        assert_eq!(arrive::<F>(&fake, &client).decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        fake.endpoints.remove(&ifindex::A1);
        F::tables_mut(&mut fake).publishes.clear();
        fake.config.epoch += 1;
        assert_eq!(arrive::<F>(&fake, &Wire { kind: Kind::Tcp(ACK), ..client }).decision, Ok(Verdict::Pass), "the host resets it");
        assert!(F::tables(&fake).flows.borrow().is_empty());
    }

    fn privileged_ports_are_kept_where_they_are_free<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.exclude_port(17, 19);
        let leaves = |party, ifindex, sport| leave::<F>(&fake, ifindex, &wire::<F>(party, sport, Party::Remote, 123, Kind::Udp)).headers();
        let first = leaves(Party::A1, ifindex::A1, 123);
        assert_eq!(u16::from(first.sport), 123);
        assert_eq!(arrive::<F>(&fake, &answer::<F>(&first, Kind::Udp)).decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        assert!(u16::from(leaves(Party::A2, ifindex::A2, 123).sport) >= 10_000, "taken towards this remote");
        assert!(u16::from(leaves(Party::A1, ifindex::A1, 19).sport) >= 10_000, "excluded");
        assert!(u16::from(leaves(Party::A1, ifindex::A1, 1024).sport) >= 10_000, "not privileged");
    }

    fn excluded_ports_are_not_given_out<F>() {
        let mut fake = Fake::new(10_000, 4);
        fake.exclude_port(17, 10_001);
        let udp = |sport| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, sport, Party::Remote, 80, Kind::Udp));
        let mut ports: Vec<u16> = (0..3).map(|n| udp(40_000 + n).headers().sport.into()).collect();
        ports.sort_unstable();
        assert_eq!(ports, [10_000, 10_002, 10_003]);
        assert_eq!(udp(40_003).decision, Err(DropReason::NatExhausted));
    }

    fn resets_of_netd_are_paced<F>() {
        let fake = Fake::new(10_000, 1000);
        let stray = wire::<F>(Party::A1, 40_000, Party::Remote, 80, Kind::Tcp(ACK));
        let answers = (0..1000).filter(|_| leave::<F>(&fake, ifindex::A1, &stray).decision == Ok(Verdict::ToSandbox(ifindex::A1)));
        assert_eq!(answers.count(), 64);
        assert_eq!(leave::<F>(&fake, ifindex::A1, &stray).decision, Err(DropReason::CtInvalid));
        let other = wire::<F>(Party::A2, 40_000, Party::Remote, 80, Kind::Tcp(ACK));
        assert_eq!(leave::<F>(&fake, ifindex::A2, &other).decision, Ok(Verdict::ToSandbox(ifindex::A2)), "another has its own");
    }

    fn a_takeover_leaves_another_flows_entry_alone<F>() {
        // One port, so that the second flow wants the tuple whose orphan the first one left.
        let fake = Fake::new(10_000, 1);
        let udp = |sport| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, sport, Party::Remote, 80, Kind::Udp));
        let first = udp(40_000).headers();
        let flows = &F::tables(&fake).flows;
        let original = *flows.borrow().keys().find(|key| key.zone == ifindex::A1).expect("the opener's entry");
        // Somebody else's entry has the orphan's counterpart by now.
        flows.borrow_mut().get_mut(&original).expect("the entry").generation ^= 1;
        fake.now.set(fake.now.get() + 1000);
        assert_eq!(udp(40_001).headers().sport, first.sport, "the orphan is dead and taken over");
        assert!(flows.borrow().contains_key(&original), "the other flow's entry is not its to remove");
    }
}

/// What a generated world does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A sandbox sends to the world.
    Out { who: usize, sport: u16, tcp: bool, flags: u8 },
    /// The world sends to a published port.
    In { sport: u16, tcp: bool, flags: u8 },
    /// The answer to the last packet that went through.
    Answer { flags: u8 },
    /// Time passes.
    Wait { ticks: u32 },
    /// The routes change.
    Reroute,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(std::vec![2_u8, 2, 0x12, 0x10, 0x10, 0x11, 0x04]);
    prop_oneof![
        4 => (0..3_usize, prop::sample::select(std::vec![100_u16, 123, 40_000, 40_001, 40_002]), any::<bool>(), flags.clone())
            .prop_map(|(who, sport, tcp, flags)| Step::Out { who, sport, tcp, flags }),
        4 => (1000..1030_u16, any::<bool>(), flags.clone()).prop_map(|(sport, tcp, flags)| Step::In { sport, tcp, flags }),
        4 => flags.prop_map(|flags| Step::Answer { flags }),
        1 => (0..200_u32).prop_map(|ticks| Step::Wait { ticks }),
        1 => Just(Step::Reroute),
    ]
}

fn walk<F: Cast>(steps: Vec<Step>)
where
    Fake: Env<F>,
{
    let mut fake = Fake::new(10_000, 6);
    for proto in [6, 17] {
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, proto, 8080, Party::A1, ifindex::A1, 80);
    }
    fake.limit(12, 4);
    fake.capacity = 40;
    let sandboxes = [(Party::A1, ifindex::A1), (Party::A2, ifindex::A2), (Party::B1, ifindex::B1)];
    let mut last = None;
    for step in steps {
        let kind = |tcp, flags| if tcp { Kind::Tcp(flags) } else { Kind::Udp };
        let outcome = match step {
            Step::Out { who, sport, tcp, flags } => {
                let (party, index) = sandboxes[who];
                leave::<F>(&fake, index, &wire::<F>(party, sport, Party::Remote, 80, kind(tcp, flags)))
            }
            Step::In { sport, tcp, flags } => {
                arrive::<F>(&fake, &wire::<F>(Party::Remote, sport, Party::Host, 8080, kind(tcp, flags)))
            }
            Step::Answer { flags } => match last.take() {
                Some((headers, Verdict::ToSandbox(ifindex::A1))) => {
                    let tcp = headers_are_tcp::<F>(&headers);
                    let reply = Wire { from: mac(Party::A1), ..answer::<F>(&headers, kind(tcp, flags)) };
                    leave::<F>(&fake, ifindex::A1, &reply)
                }
                Some((headers, Verdict::ToNeighbour(..))) => {
                    let tcp = headers_are_tcp::<F>(&headers);
                    arrive::<F>(&fake, &answer::<F>(&headers, kind(tcp, flags)))
                }
                _ => continue,
            },
            Step::Wait { ticks } => {
                fake.now.set(fake.now.get() + ticks);
                continue;
            }
            Step::Reroute => {
                fake.config.epoch += 1;
                continue;
            }
        };
        assert_laws::<F>(&fake);
        for endpoint in [ifindex::A1, ifindex::A2, ifindex::B1] {
            assert!(Env::<F>::usage(&fake, endpoint) <= 12, "over quota");
        }
        if let Ok(verdict) = outcome.decision {
            last = Some((outcome.headers(), verdict));
        }
    }
}

fn headers_are_tcp<F: Cast>(headers: &crate::wire::Headers<F>) -> bool {
    headers.l4 == crate::wire::L4::Tcp
}

proptest! {
    #[test]
    fn every_walk_keeps_the_laws_of_the_tables(steps in proptest::collection::vec(step(), 1..120), v6 in any::<bool>()) {
        if v6 { walk::<V6>(steps) } else { walk::<V4>(steps) }
    }
}
