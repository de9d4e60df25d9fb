//! `to_uplink`: what leaves by an uplink. Translates what took the stack, and lets no address of a masqueraded network out.

use super::Decision;
use crate::{
    conntrack,
    env::{Env, Packet},
    family::Ip,
    maps::{endpoint_flags, flow_flags},
    nat::rewrite,
    policy::has,
    verdict::{DropReason, Verdict},
    wire::{Headers, ethernet},
};

/// Passes the host's own packets and translated ones at the price of one bit test.
///
/// # Errors
/// `LeakGuard` for a masqueraded network's address that no flow translates.
#[inline(always)]
pub fn to_uplink<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &mut P) -> Decision<F> {
    let Some(config) = env.config() else { return Ok(Verdict::Pass) };
    let Some(src) = source::<F, P>(packet) else { return Ok(Verdict::Pass) };
    if !F::may_be_ours(config, &src) {
        return Ok(Verdict::Pass);
    }
    let Some(network) = env.subnet(&src).and_then(|slot| env.network(slot)) else { return Ok(Verdict::Pass) };
    if has(network.flags, endpoint_flags::INTERNAL) {
        return Err(DropReason::Internal);
    }
    if !has(network.flags, endpoint_flags::MASQUERADE) {
        return Ok(Verdict::Pass);
    }
    let headers = Headers::<F>::read(packet)?;
    let owner = env.owner(&headers.src).ok_or(DropReason::LeakGuard)?;
    let now = env.now();
    env.with_flow(&headers.tuple(owner.ifindex), |flow| {
        if flow.epoch == 0 || flow.flags & flow_flags::TRANSLATE == 0 {
            return Err(DropReason::LeakGuard);
        }
        conntrack::touch(flow, &headers, now);
        rewrite::apply(packet, &headers, flow, false).map(|()| Verdict::Pass)
    })
    .unwrap_or(Err(DropReason::LeakGuard))
}

/// Reads just the source address.
#[inline(always)]
fn source<F: Ip, P: Packet>(packet: &P) -> Option<F::Addr> {
    F::load_address(packet, ethernet::HEADER + F::SOURCE)
}
