//! The guard of an uplink: whose frames are dropped before the host spends anything on them.
//!
//! It knows what the operator has listed, and nothing else: sources that are denied, and how many connections a second one source may open. All it
//! reads are headers as they arrive, so what it cannot read it lets through, for the programs behind it to judge.

use crate::{
    family::{Family as _, V4, V6},
    maps::Allowance,
    net::{Addr4, Addr6, Be16},
    verdict::DropReason,
    wire::{
        ethernet, ipv4, ipv6,
        l4::{ACK, SYN, TCP},
    },
};

/// VLAN tags: of a customer (IEEE 802.1Q), and of a provider around it (802.1ad).
const TAGS: [Be16; 2] = [Be16::from_wire([0x81, 0x00]), Be16::from_wire([0x88, 0xa8])];
/// Most tags that a frame is looked at behind.
const MOST_TAGS: usize = 2;
/// Length of a tag, which stands before the ethertype proper.
const TAG: u32 = 4;
/// TCP's flags, from the header's start.
const FLAGS: u32 = 13;
/// Most tokens of a bucket: what a source that was silent may open at once is what it may open in a second. A bucket gains its rate in each tick, of
/// which a second has not quite fifteen, and an opening costs so many.
const OPENING: u32 = 15;

/// A frame, and what the operator has said.
pub trait Watch {
    /// Reads `N` bytes at an offset from the start of the frame; None: it ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// Whether a source is listed.
    fn denies4(&self, source: Addr4) -> bool;
    /// Whether a source is listed.
    fn denies6(&self, source: Addr6) -> bool;
    /// Connections a second that one source may open; 0: any number.
    fn rate(&self) -> u32;
    /// Takes a token from a source's bucket; false: it is empty.
    fn spend4(&self, source: Addr4) -> bool;
    /// The same for an IPv6 link (see [`link_of`]).
    fn spend6(&self, source: Addr6) -> bool;
}

/// Returns why a frame is dropped; None: it is not.
#[inline(always)]
pub fn judge<W: Watch>(watch: &W) -> Option<DropReason> {
    let mut at = ethernet::ETHERTYPE;
    let mut ethertype = Be16::from_wire(watch.load(at)?);
    for _ in 0..MOST_TAGS {
        if TAGS.contains(&ethertype) {
            at += TAG;
            ethertype = Be16::from_wire(watch.load(at)?);
        }
    }
    at += 2;
    if ethertype == V4::ETHERTYPE {
        of_ipv4(watch, at)
    } else if ethertype == V6::ETHERTYPE {
        of_ipv6(watch, at)
    } else {
        None
    }
}

#[inline(always)]
fn of_ipv4<W: Watch>(watch: &W, at: u32) -> Option<DropReason> {
    let header: [u8; ipv4::HEADER as usize] = watch.load(at)?;
    let source = Addr4::from_wire([header[12], header[13], header[14], header[15]]); // ipv4::SOURCE
    if watch.denies4(source) {
        return Some(DropReason::DeniedSource);
    }
    if watch.rate() == 0 {
        return None;
    }
    let is_first = u16::from_be_bytes([header[6], header[7]]) & ipv4::OFFSET_MASK == 0;
    let length = u32::from(header[0] & 0xf) * 4;
    let opens = header[ipv4::PROTOCOL as usize] == TCP && is_first && is_opening(watch, at + length);
    (opens && !watch.spend4(source)).then_some(DropReason::TooFast)
}

#[inline(always)]
fn of_ipv6<W: Watch>(watch: &W, at: u32) -> Option<DropReason> {
    let header: [u8; 24] = watch.load(at)?;
    let mut source = [0; 16];
    source.copy_from_slice(&header[8..]);
    let source = Addr6::from_wire(source);
    if watch.denies6(source) {
        return Some(DropReason::DeniedSource);
    }
    if watch.rate() == 0 {
        return None;
    }
    let (mut next, mut at) = (header[ipv6::NEXT_HEADER as usize], at + ipv6::HEADER);
    for _ in 0..ipv6::MAX_EXTENSIONS {
        if !ipv6::is_extension(next) {
            break;
        }
        let [after, units, high, low]: [u8; 4] = watch.load(at)?;
        at += match next {
            ipv6::FRAGMENT if u16::from_be_bytes([high, low]) & 0xfff8 != 0 => return None,
            ipv6::FRAGMENT => 8,
            ipv6::AUTH => (u32::from(units) + 2) * 4,
            _ => (u32::from(units) + 1) * 8,
        };
        next = after;
    }
    (next == TCP && is_opening(watch, at) && !watch.spend6(link_of(source))).then_some(DropReason::TooFast)
}

/// Returns the first 64 bits of an address: who has one of a link's addresses has them all.
#[inline(always)]
pub const fn link_of(source: Addr6) -> Addr6 {
    let [a, b, ..] = source.raw();
    Addr6::from_raw([a, b, 0, 0])
}

/// Whether a TCP header asks for a connection.
#[inline(always)]
fn is_opening<W: Watch>(watch: &W, header: u32) -> bool {
    watch.load::<1>(header + FLAGS).is_some_and(|[flags]| flags & (SYN | ACK) == SYN)
}

/// Takes the tokens of one opening from a bucket, which has been filling up at this rate; false: it has too few.
#[inline(always)]
pub fn spend(bucket: &mut Allowance, rate: u32, now: u32) -> bool {
    let full = rate.saturating_mul(OPENING);
    let gained = rate.saturating_mul(now.wrapping_sub(bucket.tick));
    let tokens = bucket.tokens.saturating_add(gained);
    let tokens = if tokens > full { full } else { tokens };
    bucket.tick = now;
    bucket.tokens = if tokens < OPENING { tokens } else { tokens - OPENING };
    tokens >= OPENING
}

/// Returns the bucket of a source that opens its first connection, which takes its tokens.
#[inline(always)]
pub const fn first(rate: u32, now: u32) -> Allowance {
    Allowance { tick: now, tokens: rate.saturating_mul(OPENING).saturating_sub(OPENING) }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use std::{collections::HashMap, net::IpAddr, vec::Vec};

    use etherparse::{PacketBuilder, PacketBuilderStep, VlanId};

    use super::*;

    /// A frame before a guard that denies .66 of each family, and lets a source open two connections.
    struct Guard {
        frame: Vec<u8>,
        rate: u32,
        opened: RefCell<HashMap<IpAddr, u32>>,
    }

    impl Guard {
        fn new(rate: u32) -> Self {
            Self { frame: Vec::new(), rate, opened: RefCell::default() }
        }

        fn judge(&mut self, frame: Vec<u8>) -> Option<DropReason> {
            self.frame = frame;
            judge(self)
        }

        fn spend(&self, source: IpAddr) -> bool {
            let mut opened = self.opened.borrow_mut();
            *opened.entry(source).or_default() += 1;
            opened[&source] <= 2
        }
    }

    impl Watch for Guard {
        fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
            let at = usize::try_from(offset).ok()?;
            self.frame.get(at..at + N)?.try_into().ok()
        }
        fn denies4(&self, source: Addr4) -> bool {
            source.to_wire()[3] == 66
        }
        fn denies6(&self, source: Addr6) -> bool {
            source.to_wire()[15] == 0x66
        }
        fn rate(&self) -> u32 {
            self.rate
        }
        fn spend4(&self, source: Addr4) -> bool {
            self.spend(IpAddr::V4(source.into()))
        }
        fn spend6(&self, source: Addr6) -> bool {
            self.spend(IpAddr::V6(source.into()))
        }
    }

    fn with(flags: u8, step: PacketBuilderStep<etherparse::IpHeaders>) -> Vec<u8> {
        let mut tcp = etherparse::TcpHeader::new(1000, 80, 1, 1000);
        (tcp.syn, tcp.ack) = (flags & SYN != 0, flags & ACK != 0);
        let mut frame = Vec::new();
        step.tcp_header(tcp).write(&mut frame, b"").expect("a frame");
        frame
    }

    fn tcp4(last: u8, flags: u8) -> Vec<u8> {
        with(flags, PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, last], [10, 0, 0, 2], 9))
    }

    fn tcp6(last: u8, flags: u8) -> Vec<u8> {
        let mut source = [0x20; 16];
        source[15] = last;
        with(flags, PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(source, [9; 16], 9))
    }

    #[test]
    fn a_listed_source_is_denied_whatever_it_says() {
        let mut guard = Guard::new(0);
        for (frame, reason) in [
            (tcp4(66, ACK), Some(DropReason::DeniedSource)),
            (tcp6(0x66, ACK), Some(DropReason::DeniedSource)),
            (tcp4(65, SYN), None),
            (tcp6(0x65, SYN), None),
        ] {
            assert_eq!(guard.judge(frame), reason);
        }
        let id = VlanId::try_new(7).expect("an id");
        let tagged = |last| {
            let step = PacketBuilder::ethernet2([2; 6], [4; 6]).double_vlan(id, id);
            let mut frame = Vec::new();
            step.ipv4([192, 0, 2, last], [10, 0, 0, 2], 9).udp(1, 2).write(&mut frame, b"").expect("a frame");
            frame
        };
        assert_eq!(guard.judge(tagged(66)), Some(DropReason::DeniedSource));
        assert_eq!(guard.judge(tagged(65)), None);
    }

    #[test]
    fn a_source_opens_so_many_connections_and_goes_on_with_them() {
        // Sources of one IPv6 link share a bucket.
        for (tcp, other) in [(tcp4 as fn(u8, u8) -> Vec<u8>, None), (tcp6, Some(DropReason::TooFast))] {
            let mut guard = Guard::new(2);
            let openings = [1, 1, 1, 2].map(|source| guard.judge(tcp(source, SYN)));
            assert_eq!(openings, [None, None, Some(DropReason::TooFast), other]);
            assert_eq!(guard.judge(tcp(1, ACK)), None, "an open one goes on");
            assert_eq!(guard.judge(tcp(1, SYN | ACK)), None, "so does an answer to the host's own");
        }
        let mut unlimited = Guard::new(0);
        assert!((0..10).all(|_| unlimited.judge(tcp4(1, SYN)).is_none()));
    }

    #[test]
    fn extension_headers_hide_no_opening_and_what_is_cut_short_is_left_to_others() {
        let mut frame = tcp6(1, SYN);
        // A hop-by-hop header of eight bytes, then destination options of sixteen.
        let options: Vec<u8> = [&[60, 0][..], &[0; 6], &[TCP, 1], &[0; 14]].concat();
        frame[14 + 6] = 0;
        frame.splice(54..54, options);
        let mut guard = Guard::new(2);
        let openings = [(); 3].map(|()| guard.judge(frame.clone()));
        assert_eq!(openings, [None, None, Some(DropReason::TooFast)]);
        for length in 0..frame.len() {
            let _ = Guard::new(2).judge(frame[..length].to_vec());
        }
    }

    #[test]
    fn a_bucket_gives_a_second_at_once_and_its_rate_from_then_on() {
        let mut bucket = first(10, 100);
        let mut spent = |now: u32, times: usize| (0..times).filter(|_| spend(&mut bucket, 10, now)).count();
        assert_eq!(spent(100, 50), 9, "ten in all");
        assert_eq!(spent(115, 50), 10, "a second later");
        assert_eq!(spent(1000, 50), 10, "a minute later");
        let steady: usize = (1001..1151).map(|now| spent(now, 5)).sum();
        assert_eq!(steady, 100, "ten seconds");
    }
}
