//! Rung: property tests. Laws of the hooks over random traffic: verdicts do not depend on payload, both families decide alike, no two live flows
//! share the tuple of their answers, and each answer goes back to who asked.

use std::{collections::BTreeMap, format, string::String, vec::Vec};

use proptest::prelude::*;

use super::{Decision, malformed::run};
use crate::{
    env::Env,
    fake::{Cast, Fake, FakePacket, Kind, Party, Wire, ifindex, mac, malformed::Hook},
    family::{Address, V4, V6},
    maps::endpoint_flags,
    verdict::Verdict,
    wire::{
        Headers,
        l4::{ACK, FIN, RST, SYN},
    },
};

const PARTIES: [Party; 8] = [
    Party::A1,
    Party::A2,
    Party::B1,
    Party::GatewayA,
    Party::GatewayB,
    Party::Host,
    Party::Remote,
    Party::Remote2,
];

/// A packet of either family, and where it is met.
#[derive(Clone, Copy, Debug)]
struct Event {
    hook: Hook,
    from: Party,
    to: Party,
    sport: u16,
    dport: u16,
    kind: Kind,
    ttl: u8,
}

impl Event {
    fn wire<F: Cast>(&self) -> Wire<F::Addr> {
        let Self { from, to, sport, dport, kind, ttl, .. } = *self;
        Wire { from: mac(from), src: F::of(from), dst: F::of(to), sport, dport, kind, ttl }
    }
}

/// How the networks of a world differ from the usual.
#[derive(Clone, Copy, Debug)]
struct Policy {
    icc: bool,
    internal: bool,
    masquerade: bool,
}

fn policy() -> impl Strategy<Value = Policy> {
    (prop::bool::weighted(0.8), prop::bool::weighted(0.2), prop::bool::weighted(0.8))
        .prop_map(|(icc, internal, masquerade)| Policy { icc, internal, masquerade })
}

fn kind() -> impl Strategy<Value = Kind> {
    let flags = prop::sample::select(&[SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, SYN | FIN, 0][..]);
    prop_oneof![
        4 => flags.prop_map(Kind::Tcp),
        3 => Just(Kind::Udp),
        2 => any::<bool>().prop_map(|reply| Kind::Echo { reply }),
        1 => Just(Kind::Other(47)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let hook = prop_oneof![
        4 => prop::sample::select(&[ifindex::A1, ifindex::A2, ifindex::B1][..]).prop_map(Hook::FromEndpoint),
        3 => Just(Hook::FromUplink),
        1 => Just(Hook::ToUplink),
        1 => (prop::sample::select(&[ifindex::A1, ifindex::B1][..]), prop::sample::select(&[0, ifindex::UP0, ifindex::A2][..]))
            .prop_map(|(ifindex, ingress)| Hook::ToEndpoint { ifindex, ingress }),
    ];
    let party = || prop::sample::select(&PARTIES[..]);
    let port = || prop::sample::select(&[53_u16, 80, 8080, 5353, 40_000, 40_001, 10_000][..]);
    let ttl = prop_oneof![8 => Just(64_u8), 1 => Just(1)];
    (hook, party(), party(), port(), port(), kind(), ttl, prop::bool::weighted(0.7)).prop_map(
        |(hook, from, to, sport, dport, kind, ttl, honest)| {
            // A spoofed address says little.
            let from = match hook {
                Hook::FromEndpoint(ifindex::A1) if honest => Party::A1,
                Hook::FromEndpoint(ifindex::A2) if honest => Party::A2,
                Hook::FromEndpoint(ifindex::B1) if honest => Party::B1,
                _ => from,
            };
            Event { hook, from, to, sport, dport, kind, ttl }
        },
    )
}

/// A world with a TCP and a UDP port of a1 published, and these rules on network A.
fn world<F: Cast>(policy: Policy) -> Fake {
    let mut fake = Fake::new(10_000, 10_000);
    for (proto, port, to) in [(6, 8080, 80), (17, 5353, 53)] {
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, proto, port, Party::A1, ifindex::A1, to);
    }
    fake.flag(1, endpoint_flags::ICC, policy.icc);
    fake.flag(1, endpoint_flags::INTERNAL, policy.internal);
    fake.flag(1, endpoint_flags::MASQUERADE, policy.masquerade);
    fake
}

/// A decision in words that both families share.
fn told<F: Cast>(decision: &Decision<F>) -> String {
    let party = |addr: &F::Addr| PARTIES.into_iter().find(|&party| F::of(party) == *addr);
    match decision {
        Ok(Verdict::ToNeighbour(out, addr)) => format!("out by {out} to {:?}", party(addr)),
        other => format!("{other:?}"),
    }
}

/// Who a packet is from and to, and its ports where no port was chosen.
fn shown<F: Cast>(bytes: &[u8]) -> String {
    let party = |addr: F::Addr| PARTIES.into_iter().find(|&party| F::of(party) == addr);
    match Headers::<F>::read(&FakePacket::new(bytes.to_vec(), 0)) {
        Ok(headers) => format!("{:?} to {:?}", party(headers.src), party(headers.dst)),
        Err(reason) => format!("{reason:?}"),
    }
}

/// Plays events and tells each decision with the packet that came of it.
fn play<F: Cast>(policy: Policy, events: &[Event]) -> Vec<String>
where
    Fake: Env<F>,
{
    let fake = world::<F>(policy);
    let tell = |event: &Event| {
        let (decision, bytes) = run::<F>(&fake, event.hook, &event.wire::<F>().build::<F>());
        let packet = if decision.is_ok() { shown::<F>(&bytes) } else { String::new() };
        format!("{} {packet}", told::<F>(&decision))
    };
    events.iter().map(tell).collect()
}

/// Plays events twice, the second time with other payloads of the same length: decisions and headers have to be the same.
fn ignores_payload<F: Cast>(policy: Policy, events: &[Event], fill: u8)
where
    Fake: Env<F>,
{
    let (one, two) = (world::<F>(policy), world::<F>(policy));
    for event in events {
        let frame = event.wire::<F>().build::<F>();
        let mut other = frame.clone();
        let payload = frame.len() - 8..;
        other[payload.clone()].fill(fill);
        let (first, second) = (run::<F>(&one, event.hook, &frame), run::<F>(&two, event.hook, &other));
        assert_eq!(first.0, second.0, "{event:?}");
        if first.1.len() == frame.len() {
            let headers = |bytes: &[u8]| bytes[..frame.len() - 8].to_vec();
            assert_eq!(headers(&first.1), headers(&second.1), "{event:?}");
            assert_eq!(&second.1[payload], &[fill; 8], "{event:?}: the payload changed");
        }
    }
}

/// What the outside sees of a flow: protocol, remote party and port, the host's port.
type Outside = (u8, u8, u16, u16);

/// Opens flows to the outside, and expects that no two that live show the same, and that each answer comes back to its own.
fn answers_find_their_flow<F: Cast>(flows: &[(u8, u16, u8, u16, u8)])
where
    Fake: Env<F>,
{
    let fake = Fake::new(10_000, 60);
    let mut taken = BTreeMap::<Outside, (u32, u16)>::new();
    for &(who, sport, whom, dport, how) in flows {
        let (party, ifindex) =
            [(Party::A1, ifindex::A1), (Party::A2, ifindex::A2), (Party::B1, ifindex::B1)][usize::from(who)];
        let to = [Party::Remote, Party::Remote2][usize::from(whom)];
        let kind = [Kind::Udp, Kind::Tcp(SYN), Kind::Echo { reply: false }][usize::from(how)];
        let dport = if how == 2 { 0 } else { dport };
        let asked = Event { hook: Hook::FromEndpoint(ifindex), from: party, to, sport, dport, kind, ttl: 64 };
        let (decision, bytes) = run::<F>(&fake, asked.hook, &asked.wire::<F>().build::<F>());
        if decision.is_err() {
            continue; // no port is left
        }
        let sent = Headers::<F>::read(&FakePacket::new(bytes, 0)).expect("a readable packet");
        let seen = (sent.proto, whom, dport, u16::from(sent.sport));
        let owner = taken.entry(seen).or_insert((ifindex, sport));
        assert_eq!(*owner, (ifindex, sport), "two flows show {seen:?}");
    }
    for ((proto, whom, dport, port), (ifindex, sport)) in taken {
        let kind = match proto {
            17 => Kind::Udp,
            6 => Kind::Tcp(SYN | ACK),
            _ => Kind::Echo { reply: true },
        };
        let from = [Party::Remote, Party::Remote2][usize::from(whom)];
        let answer =
            Event { hook: Hook::FromUplink, from, to: Party::Host, sport: dport, dport: port, kind, ttl: 64 };
        let (decision, bytes) = run::<F>(&fake, answer.hook, &answer.wire::<F>().build::<F>());
        assert_eq!(decision, Ok(Verdict::ToSandbox(ifindex)), "{answer:?}");
        let got = Headers::<F>::read(&FakePacket::new(bytes, 0)).expect("a readable packet");
        assert_eq!((got.src, u16::from(got.dport)), (F::of(from), sport), "{answer:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn both_families_decide_alike(policy in policy(), events in prop::collection::vec(event(), 1..30)) {
        prop_assert_eq!(play::<V4>(policy, &events), play::<V6>(policy, &events));
    }

    #[test]
    fn verdicts_do_not_depend_on_payload(
        policy in policy(),
        events in prop::collection::vec(event(), 1..20),
        fill in any::<u8>(),
        v6 in any::<bool>(),
    ) {
        if v6 { ignores_payload::<V6>(policy, &events, fill) } else { ignores_payload::<V4>(policy, &events, fill) }
    }

    #[test]
    fn answers_of_live_flows_never_meet(
        flows in prop::collection::vec((0_u8..3, 1_u16..50, 0_u8..2, 1_u16..3, 0_u8..3), 1..120),
        v6 in any::<bool>(),
    ) {
        if v6 { answers_find_their_flow::<V6>(&flows) } else { answers_find_their_flow::<V4>(&flows) }
    }
}
