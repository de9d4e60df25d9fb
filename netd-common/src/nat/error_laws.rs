//! Rung: property tests. ICMP errors about random flows, of every type, quoting eight bytes or more: what is quoted becomes what the flow's other side
//! knows, every checksum is right or as wrong as it was, nothing else changes, the reverse gives the error back, and what is forged belongs to no flow.
//!
//! The model translates the whole quoted packet with full checksums, and cuts it as the error did.

use std::{vec, vec::Vec};

use super::{
    icmp_error::{quote, translate},
    laws::{Random, count, full_sum},
    rewrite,
};
use crate::{
    fake::{Cast, FakePacket},
    family::{V4, V6},
    maps::{Flow, Tuple, flow_flags},
    net::{Be16, UPLINK_ZONE, Zone},
    wire::{Headers, headers::L3, l4},
};

const L3_: usize = L3 as usize;
/// Types of errors, with those that have no meaning yet, as of protocols to come.
const ERRORS4: [u8; 4] = [3, 4, 11, 12];
const ERRORS6: [u8; 7] = [1, 2, 3, 4, 100, 101, 127];
/// What is quoted: TCP, UDP, UDP-Lite, DCCP, SCTP, GRE, and echoes (0).
const PROTOCOLS: [u8; 7] = [l4::TCP, l4::UDP, l4::UDP_LITE, l4::DCCP, l4::SCTP, 47, 0];

/// A packet as an error quotes it, before it is cut.
#[derive(Clone, Debug)]
struct Quoted {
    v6: bool,
    proto: u8,
    /// Bytes of the IP header with options and extensions.
    header: usize,
    bytes: Vec<u8>,
}

impl Quoted {
    fn random<F: Cast>(random: &mut Random) -> Self {
        let v6 = F::V6;
        let proto = match PROTOCOLS[random.below(7)] {
            0 => F::ICMP,
            proto => proto,
        };
        let fixed = F::HEADER as usize;
        // IPv4: up to 40 bytes of options; IPv6: up to two headers of options.
        let more = if random.below(3) > 0 {
            0
        } else if v6 {
            8 * (1 + random.below(2))
        } else {
            4 * (1 + random.below(10))
        };
        let mut bytes = vec![0; fixed + more + 20 + random.below(60)];
        random.fill(&mut bytes);
        let length = bytes.len();
        if v6 {
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&u16::try_from(length - 40).expect("short").to_be_bytes());
            let mut next = 6;
            for at in (40..40 + more).step_by(8) {
                bytes[next] = 60;
                bytes[at..at + 8].copy_from_slice(&[0, 0, 1, 4, 0, 0, 0, 0]);
                next = at;
            }
            bytes[next] = proto;
        } else {
            bytes[0] = 0x40 | u8::try_from((20 + more) / 4).expect("short");
            bytes[2..4].copy_from_slice(&u16::try_from(length).expect("short").to_be_bytes());
            bytes[6] &= 0xe0;
            bytes[7] = 0; // a first fragment, perhaps
            bytes[9] = proto;
        }
        let mut quoted = Self { v6, proto, header: fixed + more, bytes };
        if proto == F::ICMP {
            quoted.bytes[quoted.header] = if random.below(2) == 0 { F::ECHO_REQUEST } else { F::ECHO_REPLY };
        }
        if random.below(4) > 0 {
            quoted.complete(); // else what is quoted has wrong checksums, which stay as wrong
        } else if proto == l4::UDP && random.below(2) == 0 {
            quoted.set(quoted.header + 6, [0, 0]);
        }
        quoted
    }

    fn set(&mut self, at: usize, bytes: [u8; 2]) {
        self.bytes[at..at + 2].copy_from_slice(&bytes);
    }

    /// Where the addresses are.
    fn addresses(&self) -> std::ops::Range<usize> {
        if self.v6 { 8..40 } else { 12..20 }
    }

    fn is_echo(&self) -> bool {
        self.proto == if self.v6 { 58 } else { 1 }
    }

    /// Where the transport checksum is. None: it covers nothing that is translated.
    fn checksum(&self) -> Option<usize> {
        match self.proto {
            l4::TCP => Some(self.header + 16),
            l4::UDP | l4::UDP_LITE | l4::DCCP => Some(self.header + 6),
            _ if self.is_echo() => Some(self.header + 2),
            _ => None,
        }
    }

    /// What the checksum lacks to be right, as a sum; zero or all ones: it is right.
    fn missing(&self) -> u16 {
        let covered = if self.is_echo() && !self.v6 { &[][..] } else { &self.bytes[self.addresses()] };
        !full_sum(&[covered, &self.bytes[self.header..]])
    }

    /// Makes the checksums right, but for the part of the pseudo header that no translation changes.
    fn complete(&mut self) {
        if !self.v6 {
            self.set(10, [0, 0]);
            let sum = !full_sum(&[&self.bytes[..self.header]]);
            self.set(10, sum.to_be_bytes());
        }
        if let Some(at) = self.checksum() {
            self.set(at, [0, 0]);
            let sum = self.missing();
            self.set(at, if sum == 0 { [0xff, 0xff] } else { sum.to_be_bytes() });
        }
    }

    /// The two ports as an error about the packet sees them, source first; an echo's identifier in the place of the asker's.
    fn ports(&self) -> (Be16, Be16) {
        let at = |at: usize| Be16::from_wire([self.bytes[at], self.bytes[at + 1]]);
        if self.is_echo() {
            let id = at(self.header + 4);
            let request = matches!(self.bytes[self.header], 8 | 128);
            if request { (id, Be16::ZERO) } else { (Be16::ZERO, id) }
        } else if l4::has_ports(self.proto) {
            (at(self.header), at(self.header + 2))
        } else {
            (Be16::ZERO, Be16::ZERO)
        }
    }

    fn tuple<F: Cast>(&self, zone: Zone) -> Tuple<F::Addr> {
        let packet = FakePacket::new(self.bytes.clone(), 0);
        let address = |n: u32| F::load_address(&packet, F::SOURCE + n * F::ADDRESS).expect("an address");
        let (sport, dport) = self.ports();
        Tuple { src: address(0), dst: address(1), sport, dport, zone, proto: self.proto, pad: [0; 3] }
    }

    /// Translates source and destination, and brings the checksums along by sums over all of the packet.
    fn translated<F: Cast>(&self, src: &F::Addr, sport: Be16, dst: &F::Addr, dport: Be16) -> Self {
        let mut after = self.clone();
        let mut packet = FakePacket::new(after.bytes, 0);
        F::store_addresses_at(&mut packet, 0, src, dst).expect("addresses");
        after.bytes = packet.bytes;
        if after.is_echo() {
            let id = if sport == Be16::ZERO { dport } else { sport };
            after.set(after.header + 4, id.to_wire());
        } else if l4::has_ports(after.proto) {
            after.set(after.header, sport.to_wire());
            after.set(after.header + 2, dport.to_wire());
        }
        if !self.v6 {
            let wrong = full_sum(&[&self.bytes[..self.header]]);
            let now = full_sum(&[&after.bytes[..self.header]]);
            after.add(10, subtract(wrong, now));
        }
        let none = self.proto == l4::UDP && self.bytes[self.header + 6..self.header + 8] == [0, 0];
        if let Some(at) = self.checksum().filter(|_| !none) {
            after.add(at, subtract(!self.missing(), !after.missing()));
        }
        after
    }

    /// Adds to a word, as one's complement.
    fn add(&mut self, at: usize, word: u16) {
        let sum = full_sum(&[&self.bytes[at..at + 2], &word.to_be_bytes()]);
        self.set(at, sum.to_be_bytes());
    }
}

/// What has to be added to `from` to get `to`, as one's complement.
fn subtract(to: u16, from: u16) -> u16 {
    full_sum(&[&to.to_be_bytes(), &(!from).to_be_bytes()])
}

/// An error's frame.
#[derive(Clone, Debug)]
struct Message {
    quoted: Quoted,
    /// Bytes of the quoted packet that it has.
    cut: usize,
    /// Bytes behind the packet's end, as some switches add.
    trailer: usize,
    frame: Vec<u8>,
}

impl Message {
    /// Makes an error from a source to who sent what it quotes.
    fn random<F: Cast>(random: &mut Random, by_router: bool) -> Self {
        let quoted = Quoted::random::<F>(random);
        let rest = quoted.bytes.len() - quoted.header - 8;
        let cut = quoted.header + 8 + if random.below(2) == 0 { 0 } else { random.below(rest as u64 + 1) };
        let fixed = F::HEADER as usize;
        let at = L3_ + fixed;
        let mut frame = vec![0; at + 8];
        random.fill(&mut frame);
        let errors: &[u8] = if F::V6 { &ERRORS6 } else { &ERRORS4 };
        frame[at] = errors[random.below(errors.len() as u64)];
        frame.extend(&quoted.bytes[..cut]);
        frame[12..14].copy_from_slice(&F::ETHERTYPE.to_wire());
        let length = frame.len() - L3_;
        let (addresses, width) = (L3_ + F::SOURCE as usize, F::ADDRESS as usize);
        let inner = quoted.addresses();
        let (theirs, ours) = (inner.start + width, inner.start);
        if !by_router {
            frame[addresses..addresses + width].copy_from_slice(&quoted.bytes[theirs..theirs + width]);
        }
        frame[addresses + width..addresses + 2 * width].copy_from_slice(&quoted.bytes[ours..ours + width]);
        if F::V6 {
            frame[L3_] = 0x60;
            frame[L3_ + 4..L3_ + 6]
                .copy_from_slice(&u16::try_from(length - 40).expect("short").to_be_bytes());
            frame[L3_ + 6] = 58;
        } else {
            frame[L3_] = 0x45;
            frame[L3_ + 2..L3_ + 4].copy_from_slice(&u16::try_from(length).expect("short").to_be_bytes());
            frame[L3_ + 6..L3_ + 8].fill(0);
            frame[L3_ + 9] = 1;
            frame[L3_ + 10..L3_ + 12].fill(0);
            let sum = !full_sum(&[&frame[L3_..at]]);
            frame[L3_ + 10..L3_ + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let mut message = Self { quoted, cut, trailer: 0, frame };
        if random.below(4) > 0 {
            let sum = message.missing::<F>();
            message.frame[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
        if random.below(4) == 0 {
            message.trailer = 1 + random.below(30);
            let mut trailer = vec![0; message.trailer];
            random.fill(&mut trailer);
            message.frame.extend(trailer);
        }
        message
    }

    fn end(&self) -> usize {
        self.frame.len() - self.trailer
    }

    /// The sum over all that the ICMP checksum covers and a translation changes, without the checksum itself.
    fn missing<F: Cast>(&self) -> u16 {
        let at = L3_ + F::HEADER as usize;
        let addresses = L3_ + F::SOURCE as usize;
        let pseudo =
            if F::V6 { &self.frame[addresses..addresses + 2 * F::ADDRESS as usize] } else { &[][..] };
        !full_sum(&[pseudo, &self.frame[at..at + 2], &[0, 0], &self.frame[at + 4..self.end()]])
    }

    /// By how much the ICMP checksum is wrong: zero or all ones, it is right.
    fn fault<F: Cast>(&self) -> u16 {
        let at = L3_ + F::HEADER as usize;
        let stored = u16::from_be_bytes([self.frame[at + 2], self.frame[at + 3]]);
        subtract(stored, self.missing::<F>())
    }

    fn headers<F: Cast>(&self) -> Headers<F> {
        Headers::read(&FakePacket::new(self.frame.clone(), 0)).expect("a readable error")
    }
}

/// Whether two sums are the same number: it has two zeros.
fn same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

fn flow<F: Cast>(key: &Tuple<F::Addr>, to: &Tuple<F::Addr>) -> Flow<F::Addr> {
    let (src, dst, sport, dport) = (to.src, to.dst, to.sport, to.dport);
    let mut flow = Flow { flags: flow_flags::TRANSLATE, src, dst, sport, dport, ..Flow::default() };
    rewrite::prepare(key, &mut flow);
    flow
}

/// Another conversation of the same protocol: what the flow makes of the first.
fn other<F: Cast>(random: &mut Random, like: &Quoted, zone: Zone) -> Tuple<F::Addr> {
    let mut other = like.clone();
    let addresses = other.addresses();
    random.fill(&mut other.bytes[addresses]);
    if l4::has_ports(other.proto) {
        let at = other.header + if other.is_echo() { 4 } else { 0 };
        let length = if other.is_echo() { 2 } else { 4 };
        random.fill(&mut other.bytes[at..at + length]);
    }
    let Tuple { src, dst, sport, dport, proto, pad, .. } = other.tuple::<F>(zone);
    Tuple { src: dst, dst: src, sport: dport, dport: sport, zone, proto, pad }
}

/// Compares quotes, which may write a checksum's zero in two ways.
fn alike(quoted: &Quoted, cut: usize, found: &[u8], expected: &[u8]) -> bool {
    let words = [quoted.checksum(), (!quoted.v6).then_some(10)];
    let mut blank = [found.to_vec(), expected.to_vec()];
    for at in words.into_iter().flatten().filter(|at| at + 2 <= cut) {
        let word = |bytes: &[u8]| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        if !same(word(found), word(expected)) {
            return false;
        }
        for side in &mut blank {
            side[at..at + 2].fill(0);
        }
    }
    blank[0] == blank[1]
}

fn translate_once<F: Cast>(seed: u64) -> Result<(), &'static str> {
    let mut random = Random(seed ^ 0x5eed << 32);
    let (by_router, outside) = (random.below(2) == 0, random.below(2) == 0);
    let zone = if outside { UPLINK_ZONE } else { 7 };
    let before = Message::random::<F>(&mut random, by_router);
    let headers = before.headers::<F>();
    let mut packet = FakePacket::new(before.frame.clone(), 0);
    let found = quote(&packet, &headers, zone).ok_or("no quote is read")?;
    let says = before.quoted.tuple::<F>(zone);
    let turned = Tuple { src: says.dst, dst: says.src, sport: says.dport, dport: says.sport, ..says };
    if found.against != turned {
        return Err("the quote says something else");
    }
    let to = other::<F>(&mut random, &before.quoted, zone);
    translate(&mut packet, &headers, &found, &flow::<F>(&turned, &to)).map_err(|_| "a translation failed")?;
    let after = Message { frame: packet.bytes.clone(), ..before.clone() };
    let now = after.headers::<F>();
    let source = if outside && headers.src != turned.src { headers.src } else { to.src };
    if (now.src, now.dst) != (source, to.dst) {
        return Err("the error's own addresses");
    }
    if !F::V6 && full_sum(&[&after.frame[L3_..L3_ + 20]]) != 0xffff {
        return Err("the IPv4 header's checksum");
    }
    let mut expected = before.quoted.translated::<F>(&to.dst, to.dport, &to.src, to.sport);
    if let Some(sum) = before.quoted.checksum().filter(|sum| before.cut < sum + 2) {
        expected.set(sum, [before.quoted.bytes[sum], before.quoted.bytes[sum + 1]]); // half a checksum is none
    }
    let at = L3_ + F::HEADER as usize + 8;
    if !alike(&before.quoted, before.cut, &after.frame[at..after.end()], &expected.bytes[..before.cut]) {
        return Err("what is quoted");
    }
    if !same(before.fault::<F>(), after.fault::<F>()) {
        return Err("the ICMP checksum");
    }
    let rest = |message: &Message| {
        let mut frame = message.frame.clone();
        let addresses = L3_ + F::SOURCE as usize;
        frame[addresses..addresses + 2 * F::ADDRESS as usize].fill(0);
        frame[at - 6..at - 4].fill(0); // the ICMP checksum
        frame[at..message.end()].fill(0);
        if !F::V6 {
            frame[L3_ + 10..L3_ + 12].fill(0);
        }
        frame
    };
    if rest(&before) != rest(&after) {
        return Err("something else changed");
    }
    if source != to.src {
        return Ok(()); // a router's own address is not part of the flow
    }
    let mut packet = FakePacket::new(after.frame.clone(), 0);
    let again = quote(&packet, &now, zone).ok_or("the translated error quotes nothing")?;
    if again.against != to {
        return Err("the translated error quotes another flow");
    }
    let mut back = turned;
    if !by_router {
        back.src = headers.src;
    }
    translate(&mut packet, &now, &again, &flow::<F>(&to, &back)).map_err(|_| "the reverse failed")?;
    let back = Message { frame: packet.bytes, ..before.clone() };
    let end = before.end();
    let whole = alike(&before.quoted, before.cut, &back.frame[at..end], &before.frame[at..end])
        && same(back.fault::<F>(), before.fault::<F>())
        && rest(&back) == rest(&before);
    // A router behind a sandbox is not shown, and so not restored.
    let sources = back.headers::<F>().src == headers.src || by_router;
    if whole && sources { Ok(()) } else { Err("the reverse is not the identity") }
}

fn half<F: Cast>() {
    for seed in 0..count() / 20 {
        if let Err(law) = translate_once::<F>(seed) {
            panic!("seed {seed}: {law}");
        }
    }
}

#[test]
fn translated_errors_quote_what_their_receiver_knows_and_the_reverse_is_the_identity_v4() {
    half::<V4>();
}

#[test]
fn translated_errors_quote_what_their_receiver_knows_and_the_reverse_is_the_identity_v6() {
    half::<V6>();
}

/// What belongs to no flow: each of these spoils an error that is read without it.
fn forged_once<F: Cast>(seed: u64) {
    let mut random = Random(seed ^ 0xf0e1 << 32);
    let good = Message::random::<F>(&mut random, true);
    let read = |message: &Message| {
        let packet = FakePacket::new(message.frame.clone(), 0);
        Headers::<F>::read(&packet).ok().and_then(|headers| quote(&packet, &headers, UPLINK_ZONE))
    };
    assert!(read(&good).is_some(), "seed {seed}: the positive control");
    let at = L3_ + F::HEADER as usize;
    let addresses = L3_ + F::SOURCE as usize;
    let refused = |what: &str, spoil: &dyn Fn(&mut Message)| {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(read(&bad).is_none(), "seed {seed}: {what}");
    };
    refused("for somebody else than it quotes", &|m| m.frame[addresses + F::ADDRESS as usize] ^= 1);
    refused("about somebody else's packet", &|m| m.frame[at + 8 + F::SOURCE as usize] ^= 1);
    for kind in if F::V6 { vec![128, 129, 133, 137, 255] } else { vec![0, 5, 8, 9, 10, 13, 14, 17, 30] } {
        refused("no error", &|m| m.frame[at] = kind);
    }
    for short in [1, 4, 7] {
        refused("less than eight bytes", &|m| {
            m.frame.truncate(at + 8 + m.quoted.header + 8 - short);
            m.trailer = 0;
        });
    }
    if !F::V6 {
        refused("about a later fragment", &|m| m.frame[at + 8 + 7] = 1);
        refused("a header of sixteen bytes", &|m| m.frame[at + 8] = 0x44);
        refused("the other family", &|m| m.frame[at + 8] = 0x60 | m.frame[at + 8] & 0x0f);
    }
    if good.quoted.is_echo() {
        refused("about an error", &|m| {
            let kind = at + 8 + m.quoted.header;
            m.frame[kind] = if F::V6 { 1 } else { 3 };
        });
    }
}

#[test]
fn forged_errors_belong_to_no_flow() {
    for seed in 0..count() / 200 {
        forged_once::<V4>(seed);
        forged_once::<V6>(seed);
    }
}

/// A quoted UDP checksum that a translation brings to zero, which would say that there is none, becomes its other form.
fn zero_is_written_as_ones<F: Cast>() {
    let mut seen = 0;
    for seed in 0..500 {
        let mut random = Random(seed ^ 0xab << 40);
        let before = Message::random::<F>(&mut random, false);
        let sum = before.quoted.header + 6;
        if before.quoted.proto != l4::UDP || before.quoted.bytes[sum..sum + 2] == [0, 0] {
            continue;
        }
        let says = before.quoted.tuple::<F>(UPLINK_ZONE);
        let turned = Tuple { src: says.dst, dst: says.src, sport: says.dport, dport: says.sport, ..says };
        let mut to = other::<F>(&mut random, &before.quoted, UPLINK_ZONE);
        let after = before.quoted.translated::<F>(&to.dst, to.dport, &to.src, to.sport);
        // What the checksum would be, added to a port: then it is zero.
        let word = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
        let port = full_sum(&[&to.sport.to_wire(), &after.bytes[sum..sum + 2]]);
        to.sport = Be16::from(port);
        let headers = before.headers::<F>();
        let mut packet = FakePacket::new(before.frame.clone(), 0);
        let found = quote(&packet, &headers, UPLINK_ZONE).expect("a quote");
        translate(&mut packet, &headers, &found, &flow::<F>(&turned, &to)).expect("a translation");
        let at = L3_ + F::HEADER as usize + 8 + sum;
        assert_eq!(word(&packet.bytes[at..]), 0xffff, "seed {seed}");
        seen += 1;
    }
    assert!(seen > 10, "{seen} datagrams");
}

#[test]
fn a_quoted_udp_checksum_never_becomes_none() {
    zero_is_written_as_ones::<V4>();
    zero_is_written_as_ones::<V6>();
}
