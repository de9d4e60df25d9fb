//! Plays many sequences in one world at a time, one event of each per round, and says what each event delivered.

use std::{collections::BTreeMap, net::IpAddr};

use netd_tests::Family;

use crate::{
    canon::{Delivery, Names, is_made_by_host},
    error::Error,
    layout::Layout,
    packet::{self, ETHERNET, Packet, Segment, TTL, icmp, icmp_number, number},
    plan::{Edge, HostAddress, UNPUBLISHED},
    reassembly::{Frames, reassemble},
    sequence::{Flow, Proto, Sequence, Target, Twist, What, chunk, chunk_of, flag},
    world::{World, edge_role, gateway_role},
};

/// What each event of a sequence delivered.
pub type Outcome = Vec<Vec<Delivery>>;

/// Events that a sequence may have, so that each packet of a batch has a tag of its own.
pub const EVENTS: usize = 24;
/// Sequences of a batch.
pub const BATCH: usize = 256;
/// Source ports of one sequence.
const SLOTS: u16 = 4;
const FIRST_PORT: u16 = 10_000;
/// A bit of the responder's sequence numbers; below it is the sequence's own number, so that a reset can be told whose it is.
const RESPONDER: u32 = 1 << 31;
/// Runs after which source ports repeat.
const RUNS: u16 = 12_000;

/// What is new with each batch, so that one does not meet the state of another.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Makes the first sequence's addresses and ports.
    pub run: u16,
    /// The first packet's tag. Two datagrams between the same addresses with one tag would be put together from each other's fragments.
    pub tag: u16,
}

impl Numbers {
    /// Those of the first batch.
    pub const FIRST: Self = Self { run: 0, tag: 1 };

    /// Returns what the batch after one of so many sequences begins with, and whether the worlds have to forget their connections before.
    pub fn after(self, count: usize) -> (Self, bool) {
        let step = |number: u16, each: usize| usize::from(number) + count * each;
        let tag = step(self.tag, EVENTS);
        let tag = if tag + BATCH * EVENTS > usize::from(u16::MAX) { 1 } else { tag };
        let run = step(self.run, 1);
        let again = run + BATCH > usize::from(RUNS);
        let number = |number: usize| u16::try_from(number).unwrap_or_default();
        (Self { run: if again { 0 } else { number(run) }, tag: number(tag) }, again)
    }

    /// Returns the tag of a sequence's event.
    fn tag_of(self, index: u16, round: usize) -> u16 {
        self.tag
            + index * u16::try_from(EVENTS).unwrap_or_default()
            + u16::try_from(round).unwrap_or_default()
    }

    /// Returns the sequence of the batch that a tag belongs to.
    fn index_of(self, tag: u32) -> Option<u16> {
        let tag = u16::try_from(tag).ok()?.checked_sub(self.tag)?;
        Some(tag / u16::try_from(EVENTS).ok()?)
    }
}

/// Plays sequences, at most a batch.
pub fn play(world: &World, numbers: Numbers, sequences: &[Sequence]) -> Vec<Outcome> {
    let mut runs: Vec<Run<'_>> = sequences
        .iter()
        .zip(0..)
        .map(|(sequence, index)| Run::new(world, sequence, numbers, index))
        .collect();
    let rounds = sequences.iter().map(|sequence| sequence.events.len()).max().unwrap_or(0);
    for round in 0..rounds {
        for run in &mut runs {
            run.send(round);
        }
        let mut by_run: BTreeMap<u16, Frames> = BTreeMap::new();
        for (edge, frame) in world.settle() {
            let layout = Layout::of_frame(&frame).expect("chatter was filtered out");
            let owner = owner(numbers, &layout, &frame);
            let owner = owner
                .unwrap_or_else(|| panic!("{}: whose is this? {edge} {layout:?} {frame:02x?}", world.name));
            by_run.entry(owner).or_default().push((edge, frame));
        }
        for state in &mut runs {
            let frames = by_run.remove(&state.index).unwrap_or_default();
            state.receive(round, frames);
        }
        assert!(by_run.is_empty(), "{}: frames of no sequence: {by_run:?}", world.name);
    }
    runs.into_iter().map(|run| run.outcome).collect()
}

/// Finds the sequence of the batch that a frame belongs to: by the stranger in it, its tag, the numbers of its segments, or its ports.
fn owner(numbers: Numbers, layout: &Layout, bytes: &[u8]) -> Option<u16> {
    let stranger = [layout.src, layout.dst].into_iter().find_map(Edge::run_of);
    if let Some(run) = stranger {
        return run.checked_sub(numbers.run);
    }
    if !is_made_by_host(layout) {
        return numbers.index_of(layout.tag);
    }
    if let Some(quoted) = layout.quoted(bytes) {
        return owner(numbers, &quoted, bytes);
    }
    if let Some((sequence, acknowledged)) = layout.tcp_numbers(bytes) {
        let number = if sequence == 0 { acknowledged } else { sequence };
        return u16::try_from((number & !RESPONDER) >> 16).ok()?.checked_sub(numbers.run);
    }
    let (sport, dport) = layout.ports(bytes);
    let of_port = |port: u16| (port.checked_sub(FIRST_PORT)? / SLOTS).checked_sub(numbers.run);
    of_port(dport).or_else(|| of_port(sport))
}

/// A sequence that is being played.
#[derive(Clone)]
struct Run<'a> {
    world: &'a World,
    sequence: &'a Sequence,
    numbers: Numbers,
    /// Its number in the batch.
    index: u16,
    /// Its number among all that share the worlds' state.
    number: u16,
    flows: Vec<State>,
    names: Names,
    outcome: Outcome,
}

/// What the two sides of a flow know.
#[derive(Clone, Debug, Default)]
struct State {
    /// The last packet that opener and responder received, from the IP header on.
    received: [Option<Vec<u8>>; 2],
    /// The next sequence numbers of opener and responder.
    next: [u32; 2],
}

/// A side's view of a conversation.
#[derive(Clone, Copy, Debug)]
struct Ends {
    src: IpAddr,
    dst: IpAddr,
    sport: u16,
    dport: u16,
}

impl<'a> Run<'a> {
    fn new(world: &'a World, sequence: &'a Sequence, numbers: Numbers, index: u16) -> Self {
        assert!(sequence.events.len() <= EVENTS);
        let number = u32::from(numbers.run + index) << 16;
        let state = State { next: [number | 0x400, RESPONDER | number | 0x800], ..State::default() };
        let flows = vec![state; sequence.flows.len()];
        Self {
            world,
            sequence,
            numbers,
            index,
            number: numbers.run + index,
            flows,
            names: Names::default(),
            outcome: Vec::new(),
        }
    }

    fn family(&self) -> Family {
        self.sequence.family
    }

    /// Sends what an event says, if its sender exists.
    fn send(&mut self, round: usize) {
        let Some(event) = self.sequence.events.get(round).copied() else { return };
        let index = self.sequence.flow_of(&event);
        let flow = self.sequence.flows[index];
        let sender =
            if event.back { flow.responder().filter(|_| has_responder(flow)) } else { Some(flow.from) };
        let Some(edge) = sender else { return };
        let ends = if event.back { self.answering(index, flow, edge) } else { Some(self.opening(flow)) };
        let Some(ends) = ends else { return };
        let tag = self.numbers.tag_of(self.index, round);
        let packet = match event.what {
            What::Error { kind, quote, by_router } => {
                self.error(index, flow, event.back, edge, ends, Error { kind, quote, by_router })
            }
            What::Packet { flags, length } => {
                self.packet(index, flow, event.back, ends, flags, usize::from(length))
            }
            What::Fragments { .. } => self.packet(index, flow, event.back, ends, flag::PSH | flag::ACK, 100),
        };
        let packet = twisted(self.addressed(Packet { tag, ..packet }, edge), edge, event.twist, self.number);
        match event.what {
            What::Fragments { order, lost } => {
                let pieces = packet.fragments();
                for piece in order.into_iter().filter(|piece| Some(*piece) != lost) {
                    self.world.send(edge, &pieces[usize::from(piece)]);
                }
            }
            _ => self.world.send(edge, &packet.frame()),
        }
    }

    /// What the opener addresses: always what it dialled.
    fn opening(&self, flow: Flow) -> Ends {
        let family = self.family();
        let src = if flow.from.is_remote() {
            flow.from.stranger(family, self.number)
        } else {
            flow.from.ip(family)
        };
        let dst = match flow.to {
            Target::Remote(edge) => edge.stranger(family, self.number),
            Target::Host(address, _) => address.ip(family),
            Target::Direct(edge, _) => edge.ip(family),
        };
        let sport = FIRST_PORT + self.number * SLOTS + u16::from(flow.slot) % SLOTS;
        Ends { src, dst, sport, dport: flow.port() }
    }

    /// What the dialled side answers to: the packet it received; before it received one, what it would have received without translation, or an
    /// idle port of the host, which means the same in both worlds.
    fn answering(&self, index: usize, flow: Flow, edge: Edge) -> Option<Ends> {
        let family = self.family();
        if let Some(packet) = &self.flows[index].received[1]
            && let Some(layout) = Layout::at(packet, 0)
        {
            let (sport, dport) = layout.ports(packet);
            return Some(Ends { src: layout.dst, dst: layout.src, sport: dport, dport: sport });
        }
        let opening = self.opening(flow);
        let (src, sport) = match flow.to {
            Target::Host(_, port) => (edge.ip(family), backend_port(port)),
            _ => (opening.dst, opening.dport),
        };
        let uplink = if edge == Edge::R { HostAddress::Uplink } else { HostAddress::Uplink2 };
        match flow.proto {
            _ if !edge.is_remote() || flow.from.is_remote() => {
                Some(Ends { src, dst: opening.src, sport, dport: opening.sport })
            }
            Proto::Other(_) => None, // would be a flow of the host's own, which only the kernel tracks
            _ => Some(Ends { src, dst: uplink.ip(family), sport, dport: UNPUBLISHED }),
        }
    }

    fn packet(
        &mut self,
        index: usize,
        flow: Flow,
        back: bool,
        ends: Ends,
        flags: u8,
        length: usize,
    ) -> Packet {
        let Ends { src, dst, sport, dport } = ends;
        let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect();
        let (proto, payload) = match flow.proto {
            Proto::Tcp => {
                let (me, other) = (usize::from(back), usize::from(!back));
                let next = &mut self.flows[index].next;
                let segment =
                    Segment { ports: (sport, dport), sequence: next[me], acknowledged: next[other], flags };
                let counted = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
                next[me] = next[me].wrapping_add(counted + u32::try_from(length).unwrap_or_default());
                (number::TCP, packet::tcp(src, dst, segment, &payload))
            }
            Proto::Udp => (number::UDP, packet::udp(src, dst, (sport, dport), &payload)),
            Proto::Lite => {
                let coverage = if length.is_multiple_of(3) {
                    0
                } else {
                    u16::try_from(8 + length / 2).unwrap_or_default()
                };
                (number::LITE, packet::lite(src, dst, (sport, dport), coverage, &payload))
            }
            Proto::Sctp => (number::SCTP, self.association(back, (sport, dport), flags, &payload)),
            Proto::Echo => {
                let id = if back { dport } else { sport };
                let kind = match (src, back) {
                    (IpAddr::V4(_), false) => 8,
                    (IpAddr::V4(_), true) => 0,
                    (IpAddr::V6(_), false) => 128,
                    (IpAddr::V6(_), true) => 129,
                };
                let [high, low] = id.to_be_bytes();
                (icmp_number(src), icmp(src, dst, (kind, 0), [high, low, 0, 1], &payload))
            }
            Proto::Other(proto) => (proto, [vec![0; 8], payload].concat()),
        };
        Packet::new(src, dst, proto, payload)
    }

    /// A packet of an SCTP association. Each side's tag is that of its sequence numbers in TCP.
    fn association(&self, back: bool, ports: (u16, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
        let opener = u32::from(self.number) << 16 | 0x400;
        let (mine, theirs) = if back { (opener | RESPONDER, opener) } else { (opener, opener | RESPONDER) };
        let kind = chunk_of(back, flags);
        match kind {
            chunk::INIT | chunk::INIT_ACK => {
                // Initiate tag, window, streams there and back, first number.
                let body =
                    [&mine.to_be_bytes()[..], &[0, 0, 0x40, 0, 0, 1, 0, 1], &mine.to_be_bytes()].concat();
                packet::sctp(ports, if kind == chunk::INIT { 0 } else { theirs }, (kind, 0), &body)
            }
            chunk::DATA => {
                let body = [&[0; 12][..], payload].concat();
                packet::sctp(ports, theirs, (kind, 3), &body)
            }
            _ => packet::sctp(ports, theirs, (kind, 0), payload),
        }
    }

    /// An ICMP error about the last packet that this side received, or else about one that it could have.
    fn error(&self, index: usize, flow: Flow, back: bool, edge: Edge, ends: Ends, error: Error) -> Packet {
        let received = self.flows[index].received[usize::from(back)].clone();
        let quoted = received.unwrap_or_else(|| {
            let forged = Ends { src: ends.dst, dst: ends.src, sport: ends.dport, dport: ends.sport };
            let mut packet = self.clone().packet(index, flow, !back, forged, flag::ACK, 8);
            packet.ttl = TTL - 1;
            packet.frame()[ETHERNET..].to_vec()
        });
        let router = if edge == Edge::R { Edge::R2 } else { Edge::R };
        let src = if error.by_router && edge.is_remote() {
            router.stranger(self.family(), self.number)
        } else {
            ends.src
        };
        Packet::new(src, ends.dst, icmp_number(src), error.message(src, ends.dst, &quoted))
    }

    /// Fills in the Ethernet addresses: the neighbour's, or the host's.
    fn addressed(&self, packet: Packet, edge: Edge) -> Packet {
        let family = self.family();
        let neighbour = Edge::SANDBOXES
            .into_iter()
            .find(|other| other.is_neighbour_of(edge) && other.ip(family) == packet.dst);
        let to = neighbour.map_or(gateway_role(edge), edge_role);
        Packet { macs: [self.world.mac(to), self.world.mac(edge_role(edge))], ..packet }
    }

    /// Takes what an event delivered.
    fn receive(&mut self, round: usize, frames: Frames) {
        if round >= self.sequence.events.len() {
            assert!(frames.is_empty(), "{}: late frames of {}: {frames:?}", self.world.name, self.sequence);
            return;
        }
        let event = self.sequence.events[round];
        let index = self.sequence.flow_of(&event);
        let flow = self.sequence.flows[index];
        let frames = reassemble(frames);
        for (edge, frame) in &frames {
            let Some(layout) = Layout::of_frame(frame).filter(|layout| !layout.is_error(frame)) else {
                continue;
            };
            let receiver = if event.back { Some(flow.from) } else { flow.responder() };
            // Nobody outside answers to a sandbox's own address, if that ever leaks.
            let leaked = edge.is_remote()
                && Edge::SANDBOXES.iter().any(|sandbox| {
                    let shows = sandbox.place().is_some_and(|(network, _)| !network.masquerade)
                        || matches!(flow.to, Target::Direct(..));
                    !shows && sandbox.ip(self.family()) == layout.src
                });
            if receiver == Some(*edge) && !is_made_by_host(&layout) && !leaked {
                self.flows[index].received[usize::from(!event.back)] =
                    Some(frame[ETHERNET..layout.end].to_vec());
            }
        }
        let world = self.world;
        let mut seen: Vec<Delivery> = frames
            .iter()
            .map(|(edge, frame)| self.names.canonical(*edge, frame, |mac| world.role(mac)))
            .collect();
        seen.sort();
        self.outcome.push(seen);
    }
}

/// Whether somebody else than the host answers on this flow.
fn has_responder(flow: Flow) -> bool {
    !matches!((flow.to, flow.proto), (Target::Host(..), Proto::Echo | Proto::Other(_)))
}

fn backend_port(host_port: u16) -> u16 {
    let found =
        crate::plan::PUBLISHES.iter().find(|publish| publish.is_on_host() && publish.host_port == host_port);
    found.map_or(host_port, |publish| publish.port)
}

/// Makes a packet odd.
fn twisted(mut packet: Packet, edge: Edge, twist: Twist, run: u16) -> Packet {
    let checksum = match packet.proto {
        number::TCP => Some(16),
        number::UDP | number::LITE => Some(6),
        number::ICMP | number::ICMP6 => Some(2),
        number::SCTP => Some(8),
        _ => None,
    };
    match twist {
        Twist::None => {}
        Twist::Ttl(ttl) => packet.ttl = ttl,
        Twist::BadChecksum => {
            if let Some(at) = checksum {
                // Added and not flipped: the fault is the same whatever the checksum was, and so in both worlds.
                let sum = u64::from(packet.payload[at]) << 8 | u64::from(packet.payload[at + 1]);
                packet.payload[at..at + 2].copy_from_slice(&packet::fold(sum + 0x1234).to_be_bytes());
            }
        }
        Twist::NoChecksum => {
            if packet.proto == number::UDP && packet.src.is_ipv4() {
                packet.payload[6..8].fill(0);
            }
        }
        Twist::Options => packet.options = true,
        Twist::Class(class) => packet.class = class,
        Twist::SpoofedAddress => {
            let family = if packet.src.is_ipv4() { Family::V4 } else { Family::V6 };
            packet.src =
                if edge == Edge::R2 { Edge::R.stranger(family, run) } else { Edge::R2.stranger(family, run) };
            // SCTP's does not cover the addresses.
            if let Some(at) = checksum.filter(|_| packet.proto != number::SCTP) {
                packet.payload[at..at + 2].fill(0);
                let sum = match packet.proto {
                    number::LITE => packet::lite_sum(&packet.payload, packet.src, packet.dst),
                    proto => packet::transport_sum(&packet.payload, packet.src, packet.dst, proto),
                };
                packet.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
        }
        Twist::SpoofedMac => packet.macs[1] = [2, 0xde, 0xad, 0, 0, 1],
    }
    packet
}
