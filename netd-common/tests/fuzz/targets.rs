//! What is fuzzed: each target takes any bytes, fails by panicking, and returns what it did, so that inputs that do something new can be kept.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use netd_common::{
    env::Env,
    fake::{Cast, Fake, FakePacket, Party, Wire, ifindex, mac, malformed::Hook, script},
    family::{V4, V6},
    hook::{self, Decision},
    maps::port_set,
    nat::icmp_error,
    net::UPLINK_ZONE,
    verdict::Verdict,
    wire::{Headers, L4},
};

/// A target by name.
pub type Target = (&'static str, fn(&[u8]) -> u64);

/// All of them.
pub const ALL: [Target; 6] = [
    ("headers4", headers::<V4>),
    ("headers6", headers::<V6>),
    ("quote4", quote::<V4>),
    ("quote6", quote::<V6>),
    ("hooks4", hooks::<V4>),
    ("hooks6", hooks::<V6>),
];

/// Inputs to begin with: ordinary packets, and short scripts of them.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    fn packets<F: Cast>() -> Vec<Vec<u8>> {
        let of_kind = |byte| {
            let (src, dst) = (F::of(Party::A1), F::of(Party::Remote));
            Wire {
                from: mac(Party::A1),
                src,
                dst,
                sport: 4000,
                dport: 53,
                kind: script::kind_of(byte),
                ttl: 64,
            }
            .build::<F>()
        };
        (0..8).map(|byte| of_kind(byte)[14..].to_vec()).collect()
    }
    match target {
        "headers4" => packets::<V4>(),
        "headers6" => packets::<V6>(),
        "quote4" => [3, 4, 5, 11, 12].map(|kind| vec![kind, 0, 0, 1]).to_vec(),
        "quote6" => [1, 2, 3, 4, 128].map(|kind| vec![kind, 0, 0, 1]).to_vec(),
        _ => {
            (0..8).map(|kind| [[0, 0x10, 0x54, kind, 64, 0], [1, 0x21, 0x12, kind, 64, 0]].concat()).collect()
        }
    }
}

fn digest(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// The two readers agree on what both can read.
fn headers<F: Cast>(data: &[u8]) -> u64 {
    let packet = FakePacket::new(script::framed::<F>(data), ifindex::UP0);
    let (plain, full) = (Headers::<F>::read_plain(&packet), Headers::<F>::read(&packet));
    if let (Some(plain), Ok(full)) = (&plain, &full) {
        let same =
            |h: &Headers<F>| (h.src, h.dst, h.sport, h.dport, h.proto, h.ttl, h.l4_offset, h.tcp_flags, h.l4);
        assert_eq!(same(plain), same(full), "the quick reader and the careful one read different packets");
    }
    if let Ok(full) = &full {
        assert!(
            full.l4_offset as usize >= 14 + F::HEADER as usize,
            "a transport header inside the IP header"
        );
    }
    let read = full.map(|h| (h.l4 as u8, h.fragment as u8, h.tcp_flags, h.l4_offset));
    digest((plain.is_some(), read.map_err(|reason| reason as u8)))
}

/// An error from outside about a flow. What is read of the quote lies in the packet, and translating it leaves the length alone.
fn quote<F: Cast>(data: &[u8]) -> u64
where
    Fake: Env<F>,
{
    let Some(asked) = script::asked::<F>(data) else { return 0 };
    let fake = world::<F>();
    let (_, sent) = run::<F>(&fake, Hook::FromEndpoint(ifindex::A1), asked);
    let Some(frame) = script::error::<F>(&sent, data) else { return 0 };
    let mut packet = FakePacket::new(frame, ifindex::UP0);
    let Ok(headers) = Headers::<F>::read(&packet) else { return 1 };
    let quoted = icmp_error::quote(&packet, &headers, UPLINK_ZONE).map(|quote| quote.against.proto);
    let length = packet.bytes.len();
    let settled = hook::slow::<F, _, _>(&fake, &mut packet, UPLINK_ZONE, hook::from_uplink_decide);
    assert_eq!(packet.bytes.len(), length, "{settled:?}");
    digest((quoted, headers.icmp_type, code::<F>(&settled)))
}

/// A world with masquerade from a few ports, and a published one.
fn world<F: Cast>() -> Fake {
    let mut fake = Fake::new(10_000, 8);
    for proto in [6, 17] {
        fake.publish_port::<F>(F::of(Party::Host), proto, 8080, Party::A1, ifindex::A1, 80);
        assert!(port_set::index(port_set::INTEREST, proto).is_some());
    }
    fake
}

const SANDBOXES: [Party; 3] = [Party::A1, Party::A2, Party::B1];

/// Runs a script of packets through the hooks.
fn hooks<F: Cast>(data: &[u8]) -> u64
where
    Fake: Env<F>,
{
    let fake = world::<F>();
    let mut done = Vec::new();
    for (at, frame) in script::packets::<F>(data) {
        done.push((at, step::<F>(&fake, at, frame)));
        fake.now.set(fake.now.get() + 1);
    }
    digest(done)
}

/// Runs one packet, and checks what must hold of every one.
fn step<F: Cast>(fake: &Fake, at: Hook, frame: Vec<u8>) -> u8
where
    Fake: Env<F>,
{
    let before = Headers::<F>::read(&FakePacket::new(frame.clone(), 0));
    let flows = F::tables(fake).flows.borrow().len();
    let length = frame.len();
    let (decision, bytes) = run::<F>(fake, at, frame);
    let opened = F::tables(fake).flows.borrow().len().saturating_sub(flows);
    assert!(opened <= 2, "one packet opened {opened} entries");
    if opened > 0
        && let Ok(headers) = &before
        && headers.l4 == L4::Tcp
    {
        assert!(headers.is_opening(), "flags {:#x} opened a flow", headers.tcp_flags);
    }
    let after = Headers::<F>::read(&FakePacket::new(bytes.clone(), 0));
    let is_sandbox = |addr| SANDBOXES.iter().any(|&party| F::of(party) == addr);
    match (&decision, &after) {
        (Ok(Verdict::ToNeighbour(..)), Ok(sent)) => {
            assert!(!is_sandbox(sent.src), "{at:?}: a sandbox's address leaves untranslated");
            assert_eq!(bytes.len(), length, "{at:?}: the length changed");
        }
        (Ok(Verdict::ToNeighbour(..)), Err(reason)) => {
            panic!("{at:?}: sent out what cannot be read: {reason:?}")
        }
        (Ok(Verdict::Pass), Ok(sent)) if at == Hook::ToUplink => {
            assert!(!is_sandbox(sent.src), "the guard let a sandbox's address out");
        }
        (Ok(Verdict::ToSandbox(to)), Ok(_)) => {
            // What another network's sandbox addressed directly goes nowhere.
            if let (Hook::FromEndpoint(from), Ok(headers)) = (at, &before) {
                let network = |index| Env::<F>::endpoint(fake, index).map(|endpoint| endpoint.network);
                let foreign = network(from) != network(*to);
                let direct = Env::<F>::owner(fake, &headers.dst).is_some_and(|owner| owner.ifindex == *to);
                assert!(!(foreign && direct && opened > 0), "{at:?}: a flow into another network");
            }
        }
        _ => {}
    }
    code::<F>(&decision)
}

fn run<F: Cast>(fake: &Fake, at: Hook, frame: Vec<u8>) -> (Decision<F>, Vec<u8>)
where
    Fake: Env<F>,
{
    let (device, ingress) = match at {
        Hook::FromEndpoint(index) => (index, index),
        Hook::FromUplink | Hook::ToUplink => (ifindex::UP0, ifindex::UP0),
        Hook::ToEndpoint { ifindex, ingress } => (ifindex, ingress),
    };
    let mut packet = FakePacket::new(frame, device);
    packet.ingress = ingress;
    let p = &mut packet;
    let decision = match at {
        Hook::FromEndpoint(zone) => hook::from_endpoint_fast::<F, _, _>(fake, p)
            .unwrap_or_else(|| hook::slow::<F, _, _>(fake, p, zone, hook::from_endpoint_decide)),
        Hook::FromUplink => hook::from_uplink_fast::<F, _, _>(fake, p)
            .unwrap_or_else(|| hook::slow::<F, _, _>(fake, p, UPLINK_ZONE, hook::from_uplink_decide)),
        Hook::ToEndpoint { .. } => {
            Headers::<F>::read(p).and_then(|headers| hook::to_endpoint::<F, _, _>(fake, p, &headers))
        }
        Hook::ToUplink => hook::to_uplink_fast::<F, _, _>(fake, p).unwrap_or_else(|| {
            Headers::<F>::read(p).and_then(|headers| hook::to_uplink::<F, _, _>(fake, p, &headers))
        }),
    };
    (decision, packet.bytes)
}

/// A decision as a number.
fn code<F: Cast>(decision: &Decision<F>) -> u8 {
    match decision {
        Ok(Verdict::Pass) => 100,
        Ok(Verdict::ToSandbox(_)) => 101,
        Ok(Verdict::ToNeighbour(..)) => 102,
        Ok(Verdict::Hold) => 103,
        Ok(Verdict::HandOver) => 104,
        Ok(Verdict::ToBridge(_)) => 105,
        Ok(Verdict::Drop(reason) | Verdict::Refuse(reason)) | Err(reason) => *reason as u8,
    }
}
