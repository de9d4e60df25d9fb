//! Every kind of packet that a program tells apart, with the flows that must exist for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{Icmpv4Type, Icmpv6Type, icmpv4, icmpv6};
use netd::{
    dataplane::{Dataplane as _, Kernel, PublishEntry, Ran},
    model::{Protocol, Sources},
};
use netd_common::{
    fake::{
        Cast, Kind,
        Party::{self, A1, A2, B1, GatewayA, Host, Remote, Remote2},
        Wire, ifindex, mac,
    },
    wire::{
        headers::L3,
        l4::{ACK, RST, SYN},
    },
};
use netd_tests::{Part, cut};

use super::world::{v4, v6};

/// The actions of a packet program.
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// A program with the device that a packet meets it on, and the device by which it entered the host.
type At = (&'static str, u32, u32);
const FROM_A1: At = ("from_endpoint", ifindex::A1, ifindex::A1);
const FROM_A2: At = ("from_endpoint", ifindex::A2, ifindex::A2);
const FROM_B1: At = ("from_endpoint", ifindex::B1, ifindex::B1);
const UP: At = ("from_uplink", ifindex::UP0, ifindex::UP0);
const OUT: At = ("to_uplink", ifindex::UP0, ifindex::UP0);
const fn gate(ingress: u32) -> At {
    ("to_endpoint", ifindex::A1, ingress)
}

type Frames = dyn Fn(u32) -> Vec<(At, Vec<u8>)>;

/// One kind of packet at one program.
pub struct Case {
    /// The program.
    pub program: &'static str,
    /// Family and kind of packet.
    pub kind: String,
    action: i32,
    /// The packet of a number, behind those that must have been sent before it, each with where it is met.
    frames: Box<Frames>,
}

impl Case {
    /// A frame that no program looks at: what a run costs besides the program.
    pub fn nothing() -> Self {
        const LOCAL_EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&LOCAL_EXPERIMENTAL);
        let frames = Box::new(move |_| vec![(UP, frame.clone())]);
        Self { program: UP.0, kind: "nothing".to_owned(), action: NEXT, frames }
    }

    /// Runs the program on the packet of this number.
    pub fn run(&self, kernel: &mut Kernel, number: u32) -> Ran {
        let mut ran = None;
        for (at, frame) in (self.frames)(number) {
            ran = Some(run(kernel, at, &frame));
        }
        let ran = ran.expect("a case has a packet");
        assert_eq!(ran.action, self.action, "{} {}", self.program, self.kind);
        ran
    }
}

fn run(kernel: &mut Kernel, (program, device, ingress): At, frame: &[u8]) -> Ran {
    kernel.test_run(program, frame, device, ingress).expect("the program runs")
}

/// Collects cases of one family.
struct Cases<'a> {
    family: &'static str,
    kernel: &'a mut Kernel,
    found: Vec<Case>,
}

impl Cases<'_> {
    /// The same packet over and over.
    fn add(&mut self, at: At, kind: &str, action: i32, frame: Vec<u8>) {
        self.add_each(at, kind, action, move |_| frame.clone());
    }

    /// Another packet each time.
    fn add_each(&mut self, at: At, kind: &str, action: i32, frame: impl Fn(u32) -> Vec<u8> + 'static) {
        self.add_last_of(at, kind, action, move |number| vec![frame(number)]);
    }

    /// The last of some packets, others each time.
    fn add_last_of(
        &mut self,
        at: At,
        kind: &str,
        action: i32,
        frames: impl Fn(u32) -> Vec<Vec<u8>> + 'static,
    ) {
        let frames = move |number| frames(number).into_iter().map(|frame| (at, frame)).collect();
        self.add_behind(at, kind, action, frames);
    }

    /// The last of some packets that different programs meet, others each time.
    fn add_behind(
        &mut self,
        (program, ..): At,
        kind: &str,
        action: i32,
        frames: impl Fn(u32) -> Vec<(At, Vec<u8>)> + 'static,
    ) {
        let kind = format!("{} {kind}", self.family);
        self.found.push(Case { program, kind, action, frames: Box::new(frames) });
    }

    /// Sends a packet that a case needs to have been sent before, and returns it as it left.
    fn sent(&mut self, at: At, frame: &[u8]) -> Vec<u8> {
        let ran = run(self.kernel, at, frame);
        assert_eq!(ran.action, REDIRECT, "{at:?}: {frame:02x?}");
        ran.bytes
    }
}

fn wire<F: Cast>(from: Party, sport: u16, to: Party, dport: u16, kind: Kind) -> Vec<u8> {
    Wire { from: mac(from), src: F::of(from), dst: F::of(to), sport, dport, kind, ttl: 64 }.build::<F>()
}

const fn tcp(flags: u8) -> Kind {
    Kind::Tcp(flags)
}
const REQUEST: Kind = Kind::Echo { reply: false };
const ANSWER: Kind = Kind::Echo { reply: true };

/// A source port, or a part of it, for the packet of a number: none comes twice in a round.
fn fresh(number: u32) -> u16 {
    u16::try_from(1024 + number % 60_000).unwrap_or_default()
}

/// Returns every case of a family, its flows open.
pub fn of<F: Cast>(kernel: &mut Kernel, family: &'static str) -> Vec<Case> {
    publish::<F>(kernel, Protocol::Tcp, 8080, 80);
    publish::<F>(kernel, Protocol::Udp, 5353, 53);
    let mut cases = Cases { family, kernel, found: Vec::new() };
    neighbours::<F>(&mut cases);
    outside::<F>(&mut cases);
    published::<F>(&mut cases);
    fragments::<F>(&mut cases);
    errors::<F>(&mut cases);
    gates::<F>(&mut cases);
    cases.found
}

fn publish<F: Cast>(kernel: &mut Kernel, protocol: Protocol, host_port: u16, backend_port: u16) {
    let (host_ip, backend): (IpAddr, IpAddr) = if F::V6 {
        (Ipv6Addr::UNSPECIFIED.into(), v6(A1).into())
    } else {
        (Ipv4Addr::UNSPECIFIED.into(), v4(A1).into())
    };
    let (ifindex, allow) = (ifindex::A1, Sources::default());
    let entry = PublishEntry { host_ip, host_port, protocol, backend, backend_port, ifindex, allow };
    kernel.guard_ports(std::slice::from_ref(&entry)).expect("guard");
    kernel.put_publishes(&[entry]).expect("publish");
}

/// Packets that need no flow.
fn neighbours<F: Cast>(cases: &mut Cases<'_>) {
    cases.add(FROM_A2, "TCP to a neighbour", REDIRECT, wire::<F>(A2, 4000, A1, 4001, tcp(ACK)));
    cases.add(FROM_A2, "UDP to a neighbour", REDIRECT, wire::<F>(A2, 4000, A1, 4001, Kind::Udp));
    cases.add(FROM_A2, "echo to a neighbour", REDIRECT, wire::<F>(A2, 7, A1, 0, REQUEST));
    cases.add(FROM_A1, "UDP to the gateway", NEXT, wire::<F>(A1, 4000, GatewayA, 53, Kind::Udp));
    let spoofed = Wire {
        from: mac(A1),
        src: F::of(A2),
        dst: F::of(Remote),
        sport: 4000,
        dport: 80,
        kind: Kind::Udp,
        ttl: 64,
    };
    cases.add(FROM_A1, "dropped: spoofed source", SHOT, spoofed.build::<F>());
    cases.add(FROM_A1, "dropped: other network", SHOT, wire::<F>(A1, 4000, B1, 81, tcp(SYN)));
    cases.add(FROM_A1, "dropped: TCP without a flow", SHOT, wire::<F>(A1, 4999, Remote, 80, tcp(RST)));
    cases.add(UP, "TCP to the host itself", NEXT, wire::<F>(Remote, 4000, Host, 22, tcp(ACK)));
    cases.add(UP, "TCP without a flow", NEXT, wire::<F>(Remote, 4999, Host, 20_500, tcp(ACK)));
    cases.add(UP, "dropped: direct access", SHOT, wire::<F>(Remote, 4000, A1, 80, tcp(SYN)));
}

/// Where the transport's header begins.
fn l4<F: Cast>() -> usize {
    (L3 + F::HEADER) as usize
}

fn source_port<F: Cast>(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[l4::<F>()], frame[l4::<F>() + 1]])
}

fn echo_id<F: Cast>(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[l4::<F>() + 4], frame[l4::<F>() + 5]])
}

/// Flows that a sandbox opens.
fn outside<F: Cast>(cases: &mut Cases<'_>) {
    for (name, open, answer, goes_on, sport, dport) in [
        ("TCP", tcp(SYN), tcp(SYN | ACK), tcp(ACK), 4000, 80),
        ("UDP", Kind::Udp, Kind::Udp, Kind::Udp, 5000, 5300),
        ("echo", REQUEST, ANSWER, REQUEST, 7, 0),
    ] {
        let left = cases.sent(FROM_A1, &wire::<F>(A1, sport, Remote, dport, open));
        let chosen = if open == REQUEST { echo_id::<F>(&left) } else { source_port::<F>(&left) };
        cases.sent(UP, &wire::<F>(Remote, dport, Host, chosen, answer));
        let (there, back) =
            (wire::<F>(A1, sport, Remote, dport, goes_on), if name == "TCP" { goes_on } else { answer });
        cases.add(FROM_A1, &format!("{name} to the outside, established"), REDIRECT, there);
        let back = wire::<F>(Remote, dport, Host, chosen, back);
        cases.add(UP, &format!("{name} from the outside, established"), REDIRECT, back);
        cases.add_each(FROM_A1, &format!("{name} to the outside, new"), REDIRECT, move |number| {
            wire::<F>(A1, fresh(number), Remote2, dport, open)
        });
    }
}

/// Flows to a published port.
fn published<F: Cast>(cases: &mut Cases<'_>) {
    for (name, open, answer, goes_on, port, backend) in [
        ("TCP", tcp(SYN), tcp(SYN | ACK), tcp(ACK), 8080, 80),
        ("UDP", Kind::Udp, Kind::Udp, Kind::Udp, 5353, 53),
    ] {
        cases.sent(UP, &wire::<F>(Remote, 6000, Host, port, open));
        cases.sent(FROM_A1, &wire::<F>(A1, backend, Remote, 6000, answer));
        let there = wire::<F>(Remote, 6000, Host, port, goes_on);
        let back = wire::<F>(A1, backend, Remote, 6000, goes_on);
        cases.add(UP, &format!("{name} to a published port, established"), REDIRECT, there);
        cases.add(FROM_A1, &format!("{name} from a published port, established"), REDIRECT, back);
        cases.add_each(UP, &format!("{name} to a published port, new"), REDIRECT, move |number| {
            wire::<F>(Remote2, fresh(number), Host, port, open)
        });
        let kind = format!("{name} from a published port, the first answer");
        cases.add_behind(FROM_A1, &kind, REDIRECT, move |number| {
            let asks = wire::<F>(Remote2, fresh(number), Host, port, open);
            vec![(UP, asks), (FROM_A1, wire::<F>(A1, backend, Remote2, fresh(number), answer))]
        });
        // Another network's client is seen as the gateway.
        for (party, seen, at, whose) in
            [(B1, GatewayA, FROM_B1, "another network's"), (A2, A2, FROM_A2, "its network's")]
        {
            let left = cases.sent(at, &wire::<F>(party, 6001, Host, port, open));
            let chosen = source_port::<F>(&left);
            cases.sent(FROM_A1, &wire::<F>(A1, backend, seen, chosen, answer));
            let there = wire::<F>(party, 6001, Host, port, goes_on);
            let back = wire::<F>(A1, backend, seen, chosen, goes_on);
            cases.add(
                at,
                &format!("{name} to a published port by {whose} client, established"),
                REDIRECT,
                there,
            );
            let kind = format!("{name} from a published port to {whose} client, established");
            cases.add(FROM_A1, &kind, REDIRECT, back);
        }
        cases.sent(FROM_A1, &wire::<F>(A1, 6002, Host, port, open));
        let own = wire::<F>(A1, 6002, Host, port, goes_on);
        cases.add(FROM_A1, &format!("{name} to its own published port, established"), REDIRECT, own);
    }
}

/// Datagrams in two parts, of flows that exist.
fn fragments<F: Cast>(cases: &mut Cases<'_>) {
    const PARTS: [Part; 2] =
        [Part { start: 0, length: 8, more: true }, Part { start: 8, length: 8, more: false }];
    let to_outside = wire::<F>(A1, 5000, Remote, 5300, Kind::Udp);
    let to_published = wire::<F>(Remote, 6000, Host, 5353, Kind::Udp);
    for (at, whole, whither) in
        [(FROM_A1, to_outside, "to the outside"), (UP, to_published, "to a published port")]
    {
        let first = whole.clone();
        cases.add_last_of(at, &format!("first fragment {whither}"), REDIRECT, move |_| {
            cut(&first, &PARTS[..1])
        });
        cases.add_last_of(at, &format!("later fragment {whither}"), REDIRECT, move |_| cut(&whole, &PARTS));
    }
}

/// ICMP errors about flows that exist, both ways.
fn errors<F: Cast>(cases: &mut Cases<'_>) {
    let left = run(cases.kernel, FROM_A1, &wire::<F>(A1, 5000, Remote, 5300, Kind::Udp)).bytes;
    cases.add(UP, "ICMP error about a sandbox's flow", REDIRECT, error::<F>(Remote, Host, &left));
    let came = run(cases.kernel, UP, &wire::<F>(Remote, 6000, Host, 5353, Kind::Udp)).bytes;
    cases.add(FROM_A1, "ICMP error about a published port's flow", REDIRECT, error::<F>(A1, Remote, &came));
}

/// Builds "port unreachable" about a frame.
fn error<F: Cast>(from: Party, to: Party, about: &[u8]) -> Vec<u8> {
    let step = F::frame(mac(from), mac(GatewayA), &F::of(from), &F::of(to), 64);
    let quote = &about[L3 as usize..];
    let mut frame = Vec::new();
    let written = if F::V6 {
        step.icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port))
            .write(&mut frame, quote)
    } else {
        step.icmpv4(Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port))
            .write(&mut frame, quote)
    };
    written.expect("an ICMP error can be built");
    frame
}

/// What the stack and the bridge deliver or send.
fn gates<F: Cast>(cases: &mut Cases<'_>) {
    let w = wire::<F>;
    cases.add(gate(0), "TCP from the host", NEXT, w(GatewayA, 1, A1, 81, tcp(ACK)));
    cases.add(gate(ifindex::UP0), "TCP of a flow, by the stack", NEXT, w(Remote, 6000, A1, 80, tcp(ACK)));
    cases.add(gate(ifindex::A2), "TCP from a neighbour, by the bridge", NEXT, w(A2, 1, A1, 81, tcp(ACK)));
    cases.add(gate(ifindex::UP0), "dropped: not published", SHOT, w(Remote, 1, A1, 81, tcp(SYN)));
    cases.add(OUT, "TCP of the host", NEXT, w(Host, 4000, Remote, 80, tcp(ACK)));
    cases.add(OUT, "UDP of a flow, by the stack", NEXT, w(A1, 5000, Remote, 5300, Kind::Udp));
    cases.add(OUT, "dropped: a sandbox's, without a flow", SHOT, w(A1, 5001, Remote, 5300, Kind::Udp));
}
