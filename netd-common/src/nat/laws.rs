//! Rung: property tests. A million random rewrites: every checksum equals a full one, nothing else changes, and the reverse gives the packet back.
//! `NETD_LAWS` sets how many; a failure names its seed, which alone makes the same packet again.

use std::{vec, vec::Vec};

use super::rewrite;
use crate::{
    env::Packet as _,
    fake::{Cast, FakePacket},
    family::{V4, V6},
    maps::{Flow, Tuple, flow_flags},
    wire::{Headers, headers::L3},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_LITE: u8 = 136;

/// SplitMix64 (Steele, Lea, Flood 2014): one word a call, any seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    pub(super) fn below(&mut self, limit: u64) -> usize {
        (self.next() % limit) as usize
    }
}

/// The sum of RFC 1071, the slow way: big-endian words, folded at the end. Shares nothing with `wire::csum`.
pub(super) fn full_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Where things lie in the frames of a run: a family and a protocol.
#[derive(Clone, Copy, Debug)]
struct Shape {
    v6: bool,
    proto: u8,
    /// A UDP datagram over IPv4 without a checksum.
    unchecked: bool,
}

impl Shape {
    fn l4(self) -> usize {
        L3 as usize + if self.v6 { 40 } else { 20 }
    }

    fn icmp(self) -> u8 {
        if self.v6 { 58 } else { 1 }
    }

    fn checksum(self) -> usize {
        self.l4()
            + match self.proto {
                TCP => 16,
                UDP | UDP_LITE => 6,
                _ => 2,
            }
    }

    /// The sum that a transport checksum completes: a valid one makes it all ones.
    fn transport_sum(self, frame: &[u8]) -> u16 {
        let (addresses, segment) =
            (&frame[self.l4() - if self.v6 { 32 } else { 8 }..self.l4()], &frame[self.l4()..]);
        let length = u32::try_from(segment.len()).expect("short").to_be_bytes();
        if self.proto == 1 {
            return full_sum(&[segment]);
        }
        full_sum(&[addresses, &length, &[0, self.proto], segment])
    }

    fn is_valid(self, frame: &[u8]) -> bool {
        let header = self.v6 || full_sum(&[&frame[14..34]]) == 0xffff;
        let stored = [frame[self.checksum()], frame[self.checksum() + 1]];
        let transport = if self.unchecked { stored == [0, 0] } else { self.transport_sum(frame) == 0xffff };
        header && transport && (self.unchecked || self.proto != UDP || stored != [0, 0])
    }

    /// Makes a packet with random addresses, ports, flags and payload, and valid checksums.
    fn frame(self, random: &mut Random) -> Vec<u8> {
        let header = match self.proto {
            TCP => 20,
            _ => 8,
        };
        let payload = random.below(40);
        let mut frame = vec![0; self.l4() + header + payload];
        random.fill(&mut frame);
        let length = u16::try_from(header + payload).expect("short");
        if self.v6 {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[14] = 0x60;
            frame[18..20].copy_from_slice(&length.to_be_bytes());
            frame[20] = self.proto;
        } else {
            frame[12..15].copy_from_slice(&[8, 0, 0x45]);
            frame[16..18].copy_from_slice(&(length + 20).to_be_bytes());
            frame[20..22].copy_from_slice(&[0x40, 0]);
            frame[23] = self.proto;
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum = !full_sum(&[&frame[14..34]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let l4 = self.l4();
        match self.proto {
            TCP => frame[l4 + 12] = 0x50,
            UDP => frame[l4 + 4..l4 + 6].copy_from_slice(&length.to_be_bytes()),
            UDP_LITE => frame[l4 + 4..l4 + 6].copy_from_slice(&[0, 0]),
            _ => frame[l4] = if self.v6 { 128 } else { 8 },
        }
        let at = self.checksum();
        frame[at..at + 2].copy_from_slice(&[0, 0]);
        if !self.unchecked {
            let sum = !self.transport_sum(&frame);
            let sum = if sum == 0 && self.proto == UDP { 0xffff } else { sum };
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        frame
    }

    /// The bytes that a translation may change: addresses, ports or identifier, both checksums, and TTL.
    fn blank(self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let (addresses, l4) = (if self.v6 { 22..54 } else { 26..34 }, self.l4());
        frame[addresses].fill(0);
        if !self.v6 {
            frame[24..26].fill(0);
        }
        frame[L3 as usize + if self.v6 { 7 } else { 8 }] = 0;
        let ports = if self.proto == self.icmp() { l4 + 4..l4 + 6 } else { l4..l4 + 4 };
        frame[ports].fill(0);
        frame[self.checksum()..self.checksum() + 2].fill(0);
        frame
    }
}

fn headers<F: Cast>(frame: &[u8]) -> Headers<F> {
    Headers::read(&FakePacket::new(frame.to_vec(), 0)).expect("a readable packet")
}

/// One rewrite and its reverse. The error says which law broke.
fn rewrite_once<F: Cast>(seed: u64) -> Result<(), &'static str> {
    let mut random = Random(seed);
    let icmp = if F::V6 { 58 } else { 1 };
    let proto = [TCP, UDP, UDP_LITE, icmp][random.below(4)];
    let unchecked = proto == UDP && !F::V6 && random.below(4) == 0;
    let shape = Shape { v6: F::V6, proto, unchecked };
    let (before, other) = (shape.frame(&mut random), shape.frame(&mut random));
    let (was, becomes) = (headers::<F>(&before), headers::<F>(&other));
    if !shape.is_valid(&before) {
        return Err("the test's own packet is wrong");
    }
    let routed = random.below(2) == 0 && was.ttl > 0;
    let key = was.tuple(0);
    let flow = flow::<F>(&key, &becomes.tuple(0), routed);
    let mut packet = FakePacket::new(before.clone(), 0);
    rewrite::apply(&mut packet, &was, &flow, routed).map_err(|_| "a rewrite failed")?;
    let now = headers::<F>(&packet.bytes);
    if (now.src, now.dst, now.sport, now.dport) != (becomes.src, becomes.dst, becomes.sport, becomes.dport) {
        return Err("addresses or ports are not the flow's");
    }
    if now.ttl != was.ttl - u8::from(routed) {
        return Err("TTL");
    }
    if !shape.is_valid(&packet.bytes) {
        return Err("a checksum differs from a full one");
    }
    if shape.blank(&packet.bytes) != shape.blank(&before) {
        return Err("something else changed");
    }
    reversed(shape, &before, &mut packet, &now, &key)
}

/// Translates back, without a router's work, and compares with the packet as it was.
fn reversed<F: Cast>(
    shape: Shape,
    before: &[u8],
    packet: &mut FakePacket,
    now: &Headers<F>,
    key: &Tuple<F::Addr>,
) -> Result<(), &'static str> {
    let back = flow::<F>(&now.tuple(0), key, false);
    rewrite::apply(packet, now, &back, false).map_err(|_| "a rewrite failed")?;
    if !shape.is_valid(&packet.bytes) {
        return Err("a checksum is wrong on the way back");
    }
    let ttl = L3 + if shape.v6 { 7 } else { 8 };
    let was = FakePacket::new(before.to_vec(), 0).load::<1>(ttl).map_err(|_| "a short packet")?;
    packet.store(ttl, was).map_err(|_| "a short packet")?;
    // Checksums are valid, and may be the other form of zero (RFC 1624 §3).
    let plain = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        frame[shape.checksum()..shape.checksum() + 2].fill(0);
        if !shape.v6 {
            frame[24..26].fill(0);
        }
        frame
    };
    if plain(&packet.bytes) == plain(before) { Ok(()) } else { Err("the reverse is not the identity") }
}

fn flow<F: Cast>(key: &Tuple<F::Addr>, to: &Tuple<F::Addr>, routed: bool) -> Flow<F::Addr> {
    let mut flow = Flow {
        flags: flow_flags::TRANSLATE | if routed { flow_flags::ROUTED } else { 0 },
        src: to.src,
        dst: to.dst,
        sport: to.sport,
        dport: to.dport,
        ..Flow::default()
    };
    rewrite::prepare(key, &mut flow);
    flow
}

pub(super) fn count() -> u64 {
    std::env::var("NETD_LAWS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000)
}

/// Half of all rewrites: the other half is of the other family.
fn half<F: Cast>() {
    for seed in 0..count() / 2 {
        if let Err(law) = rewrite_once::<F>(seed) {
            panic!("seed {seed}: {law}");
        }
    }
}

#[test]
fn rewritten_checksums_equal_full_ones_and_the_reverse_is_the_identity_v4() {
    half::<V4>();
}

#[test]
fn rewritten_checksums_equal_full_ones_and_the_reverse_is_the_identity_v6() {
    half::<V6>();
}
