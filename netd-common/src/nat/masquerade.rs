//! Chooses the port that a masqueraded flow shows to the outside.
//!
//! One internal address and port gets the same external port towards every destination where that is free (RFC 4787 §4.1 endpoint-independent
//! mapping), which needs no state: each internal address has a first port by a keyed hash, and its own ports follow from there in their order. So
//! ports of one client do not meet. Where two of them did, the second would now and then get a port whose last connection the server still has in
//! TIME-WAIT, with another's timestamps and sequence numbers, and its opening would wait for a second; the same client's own it takes at once
//! (RFC 6191). The ranges are disjoint from the host's own ports, so no host socket autobinds there.

use crate::{
    env::{Draft, Env},
    family::{Address, Ip},
    maps::{Config, PORT_RANGES, Tuple, port_set},
    net::Be16,
    verdict::DropReason,
    wire::l4,
};

/// Ports below belong to services, and servers may ask their clients for one: IKE (500), NTP (123), NFS exports that are `secure`.
pub const PRIVILEGED: u16 = 1024;
/// Ports tried one after the other from the hashed one on.
const NEIGHBOURS: u32 = 32;
/// Ports tried in all; it also bounds the verifier's walk. The rest are random.
const TRIES: u32 = 64;

/// The ports a flow may take, as positions in the configured ranges.
#[derive(Clone, Copy, Debug)]
pub struct Candidates {
    /// The first position to try.
    start: u32,
    /// Whether the protocol has ports at all.
    ported: bool,
    /// Whether the port is an ICMP echo id.
    echo: bool,
    /// Whether a free port is kept: a privileged one, and SCTP's, for a change of ports is a change of a checksum over all of the packet.
    keeps: bool,
}

impl Candidates {
    /// Returns the candidates for a flow by its original tuple.
    #[inline(always)]
    pub fn of<A: Address>(config: &Config, original: &Tuple<A>) -> Self {
        let hash = scramble(original.src.mix() ^ u32::from(original.proto) ^ config.secret);
        let echo = matches!(original.proto, 1 | 58);
        let ported = l4::has_ports(original.proto);
        let port = u16::from(original.sport);
        let keeps = original.proto == l4::SCTP || (!echo && port != 0 && port < PRIVILEGED);
        // An odd number of them: Linux gives its connections every second port, and twice around they fall between the first ones.
        let ring = config.port_count.wrapping_sub(1) | 1;
        Self { start: (scale(hash, ring) + u32::from(port)) % ring, ported, echo, keeps }
    }

    /// Returns the position of the given try.
    #[inline(always)]
    fn position(&self, config: &Config, attempt: u32, random: u32) -> u32 {
        if attempt < NEIGHBOURS {
            let next = self.start + attempt;
            if next >= config.port_count { next - config.port_count } else { next }
        } else {
            scale(random, config.port_count)
        }
    }
}

/// Mixes 32 bits (the finaliser of MurmurHash3).
const fn scramble(mut word: u32) -> u32 {
    word ^= word >> 16;
    word = word.wrapping_mul(0x85eb_ca6b);
    word ^= word >> 13;
    word = word.wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

/// Maps a random word to `0..count` without a division.
const fn scale(word: u32, count: u32) -> u32 {
    ((word as u64 * count as u64) >> 32) as u32
}

/// Returns the port at a position in the configured ranges.
#[inline(always)]
pub fn port_at(config: &Config, mut position: u32) -> u16 {
    let mut port = config.ports[0].first;
    let mut found = false;
    for range in &config.ports[..PORT_RANGES] {
        let count = u32::from(range.count);
        if !found && position < count {
            port = range.first + position as u16;
            found = true;
        }
        position = position.wrapping_sub(count);
    }
    port
}

/// Reserves the draft's reply tuple with a free port, and leaves that port in it.
///
/// # Errors
/// `NatExhausted` when no try finds a free port, `NatConflict` for a protocol without ports that another sandbox uses towards the same
/// remote, `TableFull` when there is no room.
#[inline(always)]
pub fn reserve<F: Ip, E: Env<F>>(
    env: &E,
    config: &Config,
    draft: &mut Draft<F>,
    candidates: Candidates,
) -> Result<(), DropReason> {
    if !candidates.ported {
        return env.reserve(draft, false);
    }
    if candidates.keeps {
        match keep(env, draft) {
            Err(DropReason::NatConflict) => {}
            done => {
                count(env, done, 1);
                return done;
            }
        }
    }
    for attempt in 0..TRIES {
        let port = env.port_at(candidates.position(config, attempt, env.random()));
        draft.reply.dport = Be16::from(port);
        match env.reserve(draft, !candidates.echo) {
            Err(DropReason::NatConflict) => {}
            done => {
                count(env, done, attempt + 1 + u32::from(candidates.keeps));
                return done;
            }
        }
    }
    Err(DropReason::NatExhausted)
}

/// Counts how many ports were tried, if the last one was free.
#[inline(always)]
fn count<F: Ip, E: Env<F>>(env: &E, done: Result<(), DropReason>, tries: u32) {
    if done.is_ok() {
        env.count_tries(tries);
    }
}

/// Whether masqueraded flows may have a port: it is neither published nor excluded.
#[inline(always)]
pub fn is_free<F: Ip, E: Env<F>>(env: &E, proto: u8, port: Be16) -> bool {
    let published = if F::V6 { port_set::PUBLISHED6 } else { port_set::PUBLISHED4 };
    let is_in =
        |purpose| port_set::index(purpose, proto).is_some_and(|set| env.in_port_set(set, port.into()));
    !is_in(published) && !is_in(port_set::EXCLUDED)
}

/// Reserves the draft's reply tuple with the opener's own port, which it has already.
///
/// # Errors
/// `NatConflict` when that is not free; `TableFull`.
#[inline(always)]
fn keep<F: Ip, E: Env<F>>(env: &E, draft: &Draft<F>) -> Result<(), DropReason> {
    env.reserve(draft, true)?;
    let port = u16::from(draft.reply.dport);
    if port < PRIVILEGED {
        env.keep_port(draft.reply.proto, port);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        maps::PortRange,
        net::{Addr4, Addr6},
    };

    fn config(ranges: &[(u16, u16)]) -> Config {
        let mut config = Config::default();
        for (slot, (first, last)) in config.ports.iter_mut().zip(ranges) {
            *slot = PortRange { first: *first, count: last - first + 1 };
        }
        config.port_count = config.ports.iter().map(|range| u32::from(range.count)).sum();
        config
    }

    #[test]
    fn positions_walk_every_range_and_nothing_else() {
        let config = config(&[(10_000, 10_003), (61_000, 61_001)]);
        let ports: std::vec::Vec<u16> =
            (0..config.port_count).map(|position| port_at(&config, position)).collect();
        assert_eq!(ports, [10_000, 10_001, 10_002, 10_003, 61_000, 61_001]);
    }

    #[test]
    fn ports_of_one_client_do_not_meet() {
        fn starts<A: Address>(config: &Config, src: A, ports: impl Iterator<Item = u16>) -> BTreeSet<u32> {
            let of = |port| Tuple { src, sport: Be16::from(port), proto: l4::TCP, ..Tuple::default() };
            ports.map(|port| Candidates::of(config, &of(port)).start).collect()
        }
        for secret in 0..64 {
            let config = Config { secret, ..config(&[(10_000, 32_767), (61_000, 65_535)]) };
            // As many in a row as there are ports; and every second one of Linux's ephemeral ports, as connect(2) takes them.
            let (row, even) = (|| 32_768..32_768 + 27_303, || (32_768..=60_999).step_by(2));
            let (v4, v6) =
                (Addr4::from(Ipv4Addr::new(172, 20, 0, 2)), Addr6::from(Ipv6Addr::from([0xfd; 16])));
            assert_eq!(
                (starts(&config, v4, row()).len(), starts(&config, v4, even()).len()),
                (27_303, 14_116)
            );
            assert_eq!(
                (starts(&config, v6, row()).len(), starts(&config, v6, even()).len()),
                (27_303, 14_116)
            );
        }
    }

    #[test]
    fn clients_begin_in_different_places() {
        let config = config(&[(10_000, 32_767), (61_000, 65_535)]);
        let start = |host: u8| {
            let original = Tuple {
                src: Addr4::from(Ipv4Addr::new(172, 20, 0, host)),
                proto: l4::TCP,
                ..Tuple::default()
            };
            Candidates::of(&config, &original).start
        };
        let places: BTreeSet<u32> = (0..=255).map(start).collect();
        assert!(places.len() > 240, "{} places for 256 clients", places.len());
    }

    #[test]
    fn the_last_position_wraps_to_the_first() {
        let config = config(&[(100, 103)]);
        let candidates = Candidates { start: 3, ported: true, echo: false, keeps: false };
        assert_eq!(candidates.position(&config, 0, 0), 3);
        assert_eq!(candidates.position(&config, 1, 0), 0);
    }
}
