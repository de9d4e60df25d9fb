//! `to_uplink`: what leaves by an uplink. Translates what took the stack, and lets no address of a masqueraded network out.

use super::Decision;
use crate::{
    conntrack,
    env::{Env, Packet},
    family::{Address, Ip},
    maps::{Flow, endpoint_flags, flow_flags},
    nat::{icmp_error, rewrite},
    net::Zone,
    policy::has,
    verdict::{DropReason, Verdict},
    wire::{Headers, L4, ethernet},
};

/// Passes the host's own packets and translated ones at the price of one bit test. None: [`to_uplink`] decides.
#[inline(always)]
pub fn to_uplink_fast<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &mut P) -> Option<Decision<F>> {
    let (Some(config), Some(src)) = (env.config(), source::<F, P>(packet)) else {
        return Some(Ok(Verdict::Pass));
    };
    if F::may_be_ours(config, &src) { None } else { Some(Ok(Verdict::Pass)) }
}

/// Translates a packet of a masqueraded network, or drops it.
///
/// # Errors
/// `LeakGuard` for an address that no flow translates, `Internal` for one of an internal network.
#[inline(always)]
pub fn to_uplink<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &mut P, headers: &Headers<F>) -> Decision<F> {
    let network = env.subnet(&headers.src).and_then(|slot| env.network(slot));
    let Some(network) = network else { return Ok(Verdict::Pass) };
    if env.is_local(&headers.src) {
        return Ok(Verdict::Pass); // a gateway's address is the host's own: dialled from outside, it answers (truth table T5)
    }
    if has(network.flags, endpoint_flags::INTERNAL) {
        return Err(DropReason::Internal);
    }
    if !has(network.flags, F::MASQUERADE) {
        return Ok(Verdict::Pass);
    }
    let owner = env.owner(&headers.src).ok_or(DropReason::LeakGuard)?;
    let now = env.now();
    if headers.l4 == L4::Icmp {
        return error_of_answer(env, packet, headers, owner.ifindex);
    }
    let mut headers = *headers;
    if !conntrack::fragment::recall(env, &mut headers, owner.ifindex) {
        return Err(DropReason::FragNoFirst);
    }
    let mut flow = env.flow(&headers.tuple(owner.ifindex)).ok_or(DropReason::LeakGuard)?;
    // A flow into a sandbox does not lead here: its translation keeps the sender's address.
    if flow.epoch == 0 || flow.flags & flow_flags::TO_SANDBOX != 0 {
        return Err(DropReason::LeakGuard);
    }
    if flow.flags & flow_flags::TRANSLATE == 0 {
        return if answers_direct(&flow) { Ok(Verdict::Pass) } else { Err(DropReason::LeakGuard) };
    }
    conntrack::touch(packet, &mut flow, &headers, now);
    rewrite::apply(packet, &headers, &flow, false).map(|()| Verdict::Pass)
}

/// Whether packets of this direction answer somebody outside who was allowed to address the sandbox directly (truth table T12, T18).
#[inline(always)]
fn answers_direct<A: Address>(flow: &Flow<A>) -> bool {
    flow.flags & (flow_flags::TRANSLATE | flow_flags::ORIGINAL) == 0
}

/// Lets out a sandbox's error about a packet of somebody who addressed it directly.
#[inline(always)]
fn error_of_answer<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &P,
    headers: &Headers<F>,
    zone: Zone,
) -> Decision<F> {
    let quote = icmp_error::quote(packet, headers, zone).ok_or(DropReason::LeakGuard)?;
    let flow = env.flow(&quote.against).ok_or(DropReason::LeakGuard)?;
    if answers_direct(&flow) { Ok(Verdict::Pass) } else { Err(DropReason::LeakGuard) }
}

/// Reads just the source address.
#[inline(always)]
fn source<F: Ip, P: Packet>(packet: &P) -> Option<F::Addr> {
    F::load_address(packet, ethernet::HEADER + F::SOURCE)
}
