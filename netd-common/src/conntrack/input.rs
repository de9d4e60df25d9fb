//! What the host's own input rules say of packets to published ports, where they are asked (ADR 0020).
//!
//! A packet that would open a flow goes to the host's stack as it is. Behind PREROUTING and INPUT, and only there, the stack looks for a socket: a
//! program takes note ([`heard`]) and lets it find none. A copy that arrived behind the packet then opens the flow, or is dropped.

use super::elapsed;
use crate::{
    env::{Env, Packet},
    family::{Address, Ip},
    maps::{Config, Hearing, Tuple, features, hearing::ACCEPTED, hearing::ASKED},
    net::UPLINK_ZONE,
    verdict::{DropReason, Judgement},
    wire::{Fragment, Headers, L4},
};

/// How long what the rules say of a tuple counts: 8 s, in ticks. A SYN is sent again after 1, 3 and 7 s (`TCP_TIMEOUT_INIT`), should its copy be lost or
/// come before the rules have spoken (NFQUEUE), and what the stack answers may wait as long for a link address.
const COUNTS: u32 = 120;
/// Packets of one tuple that the rules are given in one tick: should something between take the tag away, its copies end here.
const MOST: u32 = 16;

/// Whether the host's rules are asked at all.
#[inline(always)]
pub const fn is_asked(config: &Config) -> bool {
    config.features & features::ASKS_HOST != 0
}

/// Returns the tag of copies: nobody else's, and another in every instance, so that a host inside a sandbox takes none for its own.
#[inline(always)]
const fn tag_of(config: &Config) -> u32 {
    config.secret & 0xffff | 1
}

/// Asks the rules about a packet that would open a flow. None: they let it in.
///
/// # Errors
/// `HostFirewall` for a copy whose packet they have not let through, and for protocols whose sockets no program sees.
#[inline(always)]
pub fn ask<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &P,
    headers: &Headers<F>,
    config: &Config,
) -> Result<Option<Judgement>, DropReason> {
    if !matches!(headers.l4, L4::Tcp | L4::Udp) {
        return Err(DropReason::HostFirewall);
    }
    let (key, now) = (headers.tuple(UPLINK_ZONE), env.now());
    let mut asked = 1;
    if let Some(known) = env.hearing(&key) {
        if known.state == ACCEPTED && elapsed(known.since, now) <= COUNTS {
            return Ok(None);
        }
        if known.since == now {
            asked = known.asked + 1;
        }
    }
    if packet.tag() == tag_of(config) || asked > MOST {
        return Err(DropReason::HostFirewall);
    }
    env.set_hearing(&key, &Hearing { state: ASKED, since: now, asked });
    // The stack needs all fragments to judge: a datagram in fragments is lost, and let in when it is sent again.
    Ok(Some(if headers.fragment == Fragment::Whole { Judgement::HandOver } else { Judgement::Pass }))
}

/// Returns the tag that a copy is given before it arrives.
#[inline(always)]
pub fn tag<F: Ip, E: Env<F>>(env: &E) -> u32 {
    env.config().map_or(0, tag_of)
}

/// Whether the rules have let a packet of this tuple through lately.
#[inline(always)]
pub fn is_accepted<F: Ip, E: Env<F>>(env: &E, key: &Tuple<F::Addr>) -> bool {
    env.hearing(key).is_some_and(|known| counts(&known, env.now()) && known.state == ACCEPTED)
}

/// Whether the connection that begins anew under a flow's tuple is for the rules to judge: one from outside, by a published port.
#[inline(always)]
pub fn concerns<F: Ip, E: Env<F>>(env: &E, config: &Config, key: &Tuple<F::Addr>) -> bool {
    let translated = || env.flow(key).is_some_and(|flow| flow.dst != key.dst);
    is_asked(config) && key.zone == UPLINK_ZONE && translated()
}

/// Takes note that the stack looks for the socket of a packet, which the rules have thus let through. False: none was asked about.
#[inline(always)]
pub fn heard(known: &mut Hearing, now: u32) -> bool {
    let asked = counts(known, now);
    if asked {
        known.state = ACCEPTED;
    }
    asked
}

#[inline(always)]
const fn counts(known: &Hearing, now: u32) -> bool {
    elapsed(known.since, now) <= COUNTS
}

/// Returns the tuple of the packet that one with this tuple answers.
#[inline(always)]
pub fn answered<A: Address>(answer: &Tuple<A>) -> Tuple<A> {
    Tuple {
        src: answer.dst,
        dst: answer.src,
        sport: answer.dport,
        dport: answer.sport,
        zone: UPLINK_ZONE,
        proto: answer.proto,
        pad: [0; 3],
    }
}
