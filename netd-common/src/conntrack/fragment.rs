//! Fragments follow their datagram's first one, which alone has ports, in whatever order they come.
//!
//! A first fragment leaves its ports to the others. One that comes before it is held (`Verdict::Hold`) until the first comes, and then arrives again:
//! so no fragment is translated by a guess, and none meets another policy than its first. The table is LRU, the one place where that is right: a
//! lost entry costs one datagram.

use crate::{
    conntrack::elapsed,
    env::Env,
    family::{Address, Ip},
    maps::{DATAGRAM_IDLE, Datagram, FragmentKey, Held, datagram_flags, held},
    net::{Addr6, IfIndex, UPLINK_ZONE, Zone},
    verdict::DropReason,
    wire::{Fragment, Headers, ipv6, l4},
};

/// Returns the key of a fragment's datagram.
#[inline(always)]
pub fn key<F: Ip>(headers: &Headers<F>, zone: Zone) -> FragmentKey<F::Addr> {
    let proto = if F::V6 { 0 } else { headers.proto };
    FragmentKey { src: headers.src, dst: headers.dst, id: headers.fragment_id, zone, proto, pad: [0; 3] }
}

/// Returns the key under which a fragment of either family waits.
#[inline(always)]
pub fn held_key<F: Ip>(headers: &Headers<F>, zone: Zone) -> FragmentKey<Addr6> {
    let FragmentKey { src, dst, id, zone, proto, pad } = key(headers, zone);
    FragmentKey { src: src.widened(), dst: dst.widened(), id, zone, proto, pad }
}

/// Returns the shelf where a fragment waits: one of the sandboxes' by its zone, one of the outside's by its sender.
#[inline(always)]
pub fn shelf<F: Ip>(headers: &Headers<F>, zone: Zone) -> u32 {
    const HALF: u32 = held::SHELVES / 2;
    if zone == UPLINK_ZONE {
        let mixed = headers.src.mix().wrapping_mul(0x9e37_79b1); // Fibonacci hashing: neighbours part
        mixed >> 16 & (HALF - 1)
    } else {
        HALF + (zone & (HALF - 1))
    }
}

/// Whether a waiting fragment, or a datagram, last seen then is forgotten now.
#[inline(always)]
pub const fn is_forgotten(last: u32, now: u32) -> bool {
    elapsed(last, now) > DATAGRAM_IDLE
}

/// Whether a fragment that waits belongs to the datagram, on this device.
#[inline(always)]
pub fn waits_for(held: &Held, key: &FragmentKey<Addr6>, device: IfIndex) -> bool {
    held.device == device && held.key == *key
}

/// Whether a packet tells its ports, or needs none.
#[inline(always)]
fn is_complete<F: Ip>(headers: &Headers<F>) -> bool {
    let needs_first = l4::has_ports(headers.proto) || (F::V6 && ipv6::is_extension(headers.proto));
    headers.fragment == Fragment::Whole || (headers.fragment != Fragment::Tiny && !needs_first)
}

/// Gives a later fragment the ports of its first, and a first one's to the later. True: the packet may have a flow; false: it has none, or its
/// first has not come.
///
/// # Errors
/// `FragTiny` and `FragOverlap` from sandboxes, and for flows of netd.
#[inline(always)]
pub fn follow<F: Ip, E: Env<F>>(env: &E, headers: &mut Headers<F>, zone: Zone) -> Result<bool, DropReason> {
    if is_complete(headers) {
        if headers.fragment == Fragment::Later {
            headers.fragment = Fragment::Joined;
        }
        return Ok(true);
    }
    let (key, now) = (key(headers, zone), env.now());
    match headers.fragment {
        Fragment::First => first(env, headers, &key, now),
        Fragment::Later => later(env, headers, &key, now),
        _ if zone != UPLINK_ZONE => Err(DropReason::FragTiny),
        _ => {
            if headers.span.start == 0 {
                env.keep(
                    &key,
                    &Datagram { flags: datagram_flags::STRAY, last_seen: now, ..Datagram::default() },
                );
            }
            headers.fragment = Fragment::Stray;
            Ok(false)
        }
    }
}

/// Leaves the ports of a first fragment.
#[inline(always)]
fn first<F: Ip, E: Env<F>>(
    env: &E,
    headers: &mut Headers<F>,
    key: &FragmentKey<F::Addr>,
    now: u32,
) -> Result<bool, DropReason> {
    let repeats =
        env.datagram(key).is_some_and(|mut known| is_open(&known, now) && !known.covered.add(headers.span));
    if repeats {
        return overlapping(env, headers, key.zone);
    }
    let mut datagram = Datagram {
        sport: headers.sport,
        dport: headers.dport,
        proto: headers.proto,
        last_seen: now,
        ..Datagram::default()
    };
    datagram.covered.add(headers.span);
    env.keep(key, &datagram);
    Ok(true)
}

/// Gives a later fragment the ports of its first, if that has come.
#[inline(always)]
fn later<F: Ip, E: Env<F>>(
    env: &E,
    headers: &mut Headers<F>,
    key: &FragmentKey<F::Addr>,
    now: u32,
) -> Result<bool, DropReason> {
    let fresh = {
        let Some(mut known) = env.datagram(key).filter(|known| is_open(known, now)) else { return Ok(false) };
        known.last_seen = now;
        if known.flags & datagram_flags::STRAY != 0 {
            headers.fragment = Fragment::Stray;
            return Ok(false);
        }
        (headers.sport, headers.dport, headers.proto) = (known.sport, known.dport, known.proto);
        let fresh = known.covered.add(headers.span);
        if fresh && headers.last {
            known.units = headers.span.end;
        }
        if known.covered.is_all(known.units) {
            known.flags |= datagram_flags::COMPLETE;
        }
        fresh
    };
    if !fresh {
        return overlapping(env, headers, key.zone);
    }
    headers.fragment = Fragment::Joined;
    Ok(true)
}

/// Whether the first fragment of a datagram has come, and fragments that follow it belong to it.
#[inline(always)]
pub fn has_come<F: Ip, E: Env<F>>(env: &E, key: &FragmentKey<F::Addr>) -> bool {
    env.datagram(key).is_some_and(|known| is_open(&known, env.now()))
}

/// Whether more fragments of a datagram are awaited.
#[inline(always)]
fn is_open(known: &Datagram, now: u32) -> bool {
    known.flags & datagram_flags::COMPLETE == 0 && !is_forgotten(known.last_seen, now)
}

/// Judges a fragment that repeats or rewrites what has been seen. The host's own stack knows what to do with its own.
#[inline(always)]
fn overlapping<F: Ip, E: Env<F>>(env: &E, headers: &mut Headers<F>, zone: Zone) -> Result<bool, DropReason> {
    if zone != UPLINK_ZONE || env.flow(&headers.tuple(zone)).is_some() {
        return Err(DropReason::FragOverlap);
    }
    headers.fragment = Fragment::Stray;
    Ok(false)
}

/// As [`follow`], for packets that take the host's stack, which may have cut one into fragments or into more of them: nothing is judged again.
/// False: a later fragment whose first is not known.
#[inline(always)]
pub fn recall<F: Ip, E: Env<F>>(env: &E, headers: &mut Headers<F>, zone: Zone) -> bool {
    if is_complete(headers) {
        return true;
    }
    let (key, now) = (key(headers, zone), env.now());
    if headers.fragment == Fragment::First {
        let (sport, dport, proto) = (headers.sport, headers.dport, headers.proto);
        let is_known = env.datagram(&key).is_some_and(|known| {
            !is_forgotten(known.last_seen, now) && (known.sport, known.dport) == (sport, dport)
        });
        if !is_known {
            // Complete to `follow`: another datagram of this identification starts anew.
            let flags = datagram_flags::COMPLETE;
            env.keep(&key, &Datagram { sport, dport, proto, flags, last_seen: now, ..Datagram::default() });
        }
        return true;
    }
    let Some(known) = env.datagram(&key).filter(|known| !is_forgotten(known.last_seen, now)) else {
        return false;
    };
    (headers.sport, headers.dport, headers.proto) = (known.sport, known.dport, known.proto);
    headers.fragment = Fragment::Joined;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fake::{Cast, Fake, Party, ifindex},
        family::{V4, V6},
        net::Be16,
        wire::{L4, Span, headers::L3},
    };

    const ZONE: Zone = ifindex::A1;

    /// A fragment of a UDP datagram from a1 to the remote, in units of eight bytes.
    fn part<F: Cast>(start: u16, end: u16, last: bool) -> Headers<F> {
        let first = start == 0;
        let (sport, dport) = if first { (5000, 53) } else { (0, 0) };
        Headers {
            src: F::of(Party::A1),
            dst: F::of(Party::Remote),
            sport: Be16::from(sport),
            dport: Be16::from(dport),
            proto: l4::UDP,
            ttl: 64,
            l4_offset: L3 + F::HEADER,
            fragment_id: 7,
            l4: if first { L4::Udp } else { L4::Other },
            fragment: if first { Fragment::First } else { Fragment::Later },
            last,
            span: Span { start, end },
            tcp_flags: 0,
            tcp_header: 0,
            icmp_type: 0,
        }
    }

    fn follows<F: Cast>(
        fake: &Fake,
        mut headers: Headers<F>,
        zone: Zone,
    ) -> (Result<bool, DropReason>, Headers<F>)
    where
        Fake: Env<F>,
    {
        (follow(fake, &mut headers, zone), headers)
    }

    fn both(case: impl Fn(bool)) {
        case(false);
        case(true);
    }

    #[test]
    fn later_fragments_have_the_ports_of_their_first_and_wait_for_it() {
        fn case<F: Cast>()
        where
            Fake: Env<F>,
        {
            let fake = Fake::new(20_000, 1);
            let (waits, later) = follows::<F>(&fake, part(185, 200, true), ZONE);
            assert_eq!((waits, later.fragment), (Ok(false), Fragment::Later));
            assert_eq!(follows::<F>(&fake, part(0, 185, false), ZONE).0, Ok(true));
            assert!(has_come(&fake, &key(&part::<F>(185, 200, true), ZONE)));
            let (goes, later) = follows::<F>(&fake, part(185, 200, true), ZONE);
            assert_eq!((goes, later.fragment), (Ok(true), Fragment::Joined));
            assert_eq!((later.sport, later.dport), (5000.into(), 53.into()));
            // Nothing is missing now: a fragment of the same identification belongs to another datagram, which has no ports yet.
            let again = part::<F>(185, 200, true);
            assert!(!has_come(&fake, &key(&again, ZONE)), "and its first has not come: it is to wait");
            assert_eq!(follows::<F>(&fake, again, ZONE).0, Ok(false));
            // What the stack delivers of this datagram finds them still.
            assert!(recall::<F, _>(&fake, &mut part(185, 200, true), ZONE));
            assert_eq!(
                follows::<F>(&fake, part(0, 185, false), ZONE).0,
                Ok(true),
                "the next datagram begins"
            );
        }
        both(|v6| if v6 { case::<V6>() } else { case::<V4>() });
    }

    #[test]
    fn a_datagram_that_nothing_is_added_to_is_forgotten() {
        let fake = Fake::new(20_000, 1);
        assert_eq!(follows::<V4>(&fake, part(0, 185, false), ZONE).0, Ok(true));
        fake.now.set(fake.now.get() + DATAGRAM_IDLE);
        assert_eq!(follows::<V4>(&fake, part(185, 190, false), ZONE).0, Ok(true), "just in time");
        fake.now.set(fake.now.get() + DATAGRAM_IDLE + 1);
        assert_eq!(follows::<V4>(&fake, part(190, 200, true), ZONE).0, Ok(false), "too late");
        assert_eq!(follows::<V4>(&fake, part(0, 185, false), ZONE).0, Ok(true), "a new one, no overlap");
    }

    #[test]
    fn overlaps_are_dropped_and_the_datagram_goes_on_without_them() {
        fn case<F: Cast>()
        where
            Fake: Env<F>,
        {
            let fake = Fake::new(20_000, 1);
            let verdict = |headers| follows::<F>(&fake, headers, ZONE).0;
            assert_eq!(verdict(part(0, 185, false)), Ok(true));
            for (start, end) in [(0, 185), (184, 370), (1, 2)] {
                assert_eq!(verdict(part(start, end, false)), Err(DropReason::FragOverlap), "{start}..{end}");
            }
            assert_eq!(verdict(part(370, 400, false)), Ok(true));
            assert_eq!(verdict(part(390, 420, true)), Err(DropReason::FragOverlap), "of two later ones");
            assert_eq!(verdict(part(185, 370, false)), Ok(true));
            assert_eq!(verdict(part(400, 420, true)), Ok(true));
        }
        both(|v6| if v6 { case::<V6>() } else { case::<V4>() });
    }

    #[test]
    fn from_outside_the_hosts_own_are_left_to_the_host() {
        let fake = Fake::new(20_000, 1);
        let tiny = || Headers { fragment: Fragment::Tiny, ..part::<V4>(0, 1, false) };
        assert_eq!(follows(&fake, tiny(), ZONE).0, Err(DropReason::FragTiny));
        assert_eq!(follows(&fake, tiny(), UPLINK_ZONE).1.fragment, Fragment::Stray);
        let (flow, later) = follows(&fake, part::<V4>(1, 20, true), UPLINK_ZONE);
        assert_eq!((flow, later.fragment), (Ok(false), Fragment::Stray), "nor is the rest of it held");
        let other = |start, end| Headers { fragment_id: 8, ..part::<V4>(start, end, false) };
        assert_eq!(follows(&fake, other(0, 20), UPLINK_ZONE).0, Ok(true));
        let (flow, again) = follows(&fake, other(0, 20), UPLINK_ZONE);
        assert_eq!((flow, again.fragment), (Ok(false), Fragment::Stray), "no flow of netd has it");
    }

    #[test]
    fn fragments_of_portless_protocols_need_no_first() {
        let fake = Fake::new(20_000, 1);
        let (goes, later) = follows(&fake, Headers { proto: 47, ..part::<V4>(185, 200, true) }, ZONE);
        assert_eq!((goes, later.fragment), (Ok(true), Fragment::Joined));
    }

    #[test]
    fn sandboxes_and_the_outside_share_no_shelf() {
        let shelves: std::vec::Vec<u32> = (1..100).map(|zone| shelf(&part::<V6>(1, 2, true), zone)).collect();
        assert!(shelves.iter().all(|shelf| (held::SHELVES / 2..held::SHELVES).contains(shelf)));
        assert!(shelf(&part::<V6>(1, 2, true), UPLINK_ZONE) < held::SHELVES / 2);
    }
}
