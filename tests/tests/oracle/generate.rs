//! Makes sequences out of a seed: mostly conversations as they happen, disturbed by what happens to them.

use netd_tests::Family;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    plan::{Edge, HostAddress, PUBLISHES, UNPUBLISHED},
    sequence::{ErrorKind, Event, Flow, Proto, Quote, Sequence, Target, Twist, What, flag},
};

/// A sequence that can be made smaller.
pub type Tree = Box<dyn ValueTree<Value = Sequence>>;

/// Returns the sequence with this number of this seed: the same one, whatever else was generated.
pub fn tree(seed: u64, number: u64) -> Tree {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    sequence().boxed().new_tree(&mut runner).expect("a strategy that rejects nothing")
}

fn sequence() -> impl Strategy<Value = Sequence> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let opening = prop_oneof![1 => Just(false), 3 => Just(true)];
    (family, opening, prop::collection::vec(flow(), 1..=3), prop::collection::vec(event(), 0..=12)).prop_map(
        |(family, opening, flows, rest)| {
            let mut events = if opening { handshake() } else { Vec::new() };
            events.extend(rest);
            Sequence { family, flows, events }
        },
    )
}

/// How the first flow begins when all goes well; for protocols other than TCP, just packets there and back.
fn handshake() -> Vec<Event> {
    let packet =
        |back, flags| Event { flow: 0, back, what: What::Packet { flags, length: 0 }, twist: Twist::None };
    vec![packet(false, flag::SYN), packet(true, flag::SYN | flag::ACK), packet(false, flag::ACK)]
}

fn flow() -> impl Strategy<Value = Flow> {
    (opener(), target(), proto(), 0..2_u8).prop_map(|(from, to, proto, slot)| {
        let to = match to {
            // Nobody dials itself by its own address, or the machine it is.
            Target::Remote(edge) if from.is_remote() && edge == from => {
                Target::Host(HostAddress::Uplink, 8080)
            }
            Target::Direct(edge, port) if edge == from => Target::Host(HostAddress::Uplink, port),
            to => to,
        };
        Flow { from: alone(from, to, proto), to, proto, slot }
    })
}

/// Who opens a flow, or who does for all: without ports the network dialled knows one masqueraded sandbox alone, by its gateway's address, and in each
/// world it would be the first of all sequences since the last flush (dataplane 7.6).
fn alone(from: Edge, to: Target, proto: Proto) -> Edge {
    let masquerades = from.place().is_some_and(|(network, _)| network.masquerade);
    match (to, proto) {
        (Target::Direct(to, _), Proto::Other(_)) if masquerades && !to.is_neighbour_of(from) => Edge::A1,
        _ => from,
    }
}

fn opener() -> impl Strategy<Value = Edge> {
    prop_oneof![
        5 => Just(Edge::R),
        1 => Just(Edge::R2),
        5 => Just(Edge::A1),
        5 => Just(Edge::A2),
        2 => Just(Edge::B1),
        1 => Just(Edge::C1),
        1 => Just(Edge::C2),
        1 => Just(Edge::I1),
        2 => prop::sample::select(&[Edge::U1, Edge::T1, Edge::S1, Edge::M1, Edge::X1][..]),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    let address = prop_oneof![
        5 => Just(HostAddress::Uplink),
        1 => Just(HostAddress::Uplink2),
        1 => Just(HostAddress::GatewayA),
        1 => Just(HostAddress::GatewayB),
        1 => Just(HostAddress::GatewayU),
        1 => Just(HostAddress::Loopback),
    ];
    let port = prop_oneof![
        // Those of ordinary networks, which come first, above all.
        5 => prop::sample::select(PUBLISHES[..5].iter().map(|publish| publish.host_port).collect::<Vec<_>>()),
        1 => prop::sample::select(PUBLISHES[5..].iter().map(|publish| publish.host_port).collect::<Vec<_>>()),
        1 => Just(UNPUBLISHED),
    ];
    let sandbox = prop_oneof![
        4 => prop::sample::select(Edge::SANDBOXES[..6].to_vec()),
        5 => prop::sample::select(&[Edge::U1, Edge::T1, Edge::X1, Edge::M1][..]),
        1 => prop::sample::select(&[Edge::S1, Edge::S2][..]),
    ];
    prop_oneof![
        4 => prop_oneof![4 => Just(Edge::R), 1 => Just(Edge::R2)].prop_map(Target::Remote),
        5 => (address, port).prop_map(|(address, port)| Target::Host(address, port)),
        2 => (sandbox, prop_oneof![Just(80), Just(81)]).prop_map(|(edge, port)| Target::Direct(edge, port)),
    ]
}

fn proto() -> impl Strategy<Value = Proto> {
    prop_oneof![
        6 => Just(Proto::Tcp),
        4 => Just(Proto::Udp),
        2 => Just(Proto::Sctp),
        1 => Just(Proto::Lite),
        2 => Just(Proto::Echo),
        1 => prop::sample::select(vec![47, 50, 253]).prop_map(Proto::Other),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    (prop_oneof![3 => Just(0), 1 => 0..3_u8], any::<bool>(), what(), twist())
        .prop_map(|(flow, back, what, twist)| Event { flow, back, what, twist })
}

fn what() -> impl Strategy<Value = What> {
    let flags = prop_oneof![
        6 => Just(flag::ACK | flag::PSH),
        4 => Just(flag::ACK),
        3 => Just(flag::SYN),
        2 => Just(flag::SYN | flag::ACK),
        2 => Just(flag::FIN | flag::ACK),
        1 => Just(flag::RST),
        1 => Just(flag::RST | flag::ACK),
        1 => 0..0x40_u8,
    ];
    let kind = prop_oneof![
        Just(ErrorKind::Port),
        Just(ErrorKind::Host),
        Just(ErrorKind::TooBig),
        Just(ErrorKind::Expired),
        Just(ErrorKind::Parameter),
    ];
    let quote = prop_oneof![4 => Just(Quote::Short), 4 => Just(Quote::Full), 1 => Just(Quote::Cut)];
    let shuffled = vec![[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let order = prop_oneof![2 => Just([0, 1, 2]), 3 => prop::sample::select(shuffled)];
    let lost = prop_oneof![4 => Just(None), 1 => (0..3_u8).prop_map(Some)];
    prop_oneof![
        10 => (flags, 0..64_u8).prop_map(|(flags, length)| What::Packet { flags, length }),
        2 => (kind, quote, any::<bool>()).prop_map(|(kind, quote, by_router)| What::Error { kind, quote, by_router }),
        1 => (order, lost).prop_map(|(order, lost)| What::Fragments { order, lost }),
    ]
}

fn twist() -> impl Strategy<Value = Twist> {
    prop_oneof![
        24 => Just(Twist::None),
        1 => (1..3_u8).prop_map(Twist::Ttl),
        1 => Just(Twist::BadChecksum),
        1 => Just(Twist::NoChecksum),
        1 => Just(Twist::Options),
        1 => Just(Twist::Class(0x2e << 2 | 1)),
        1 => Just(Twist::SpoofedAddress),
        1 => Just(Twist::SpoofedMac),
    ]
}
