//! `from_loopback`: what the host sends to itself. Only packets to a published port matter, of clients whose sockets could not be led to the sandbox:
//! bound to a loopback address or a device, or raw. It drops nothing that belongs to no flow.

use super::{Decided, from_endpoint::may_open, gateway_of, published};
use crate::{
    conntrack::{Opening, Source, Target},
    env::{Env, Packet},
    family::{Address, Ip},
    maps::port_set,
    net::LOOPBACK_ZONE,
    verdict::Verdict,
    wire::{Fragment, Headers},
};

/// Whether a packet is to a published port, at the price of one bit test.
#[inline(always)]
pub fn dials_published<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &P) -> bool {
    let Some(headers) = Headers::<F>::read_plain(packet) else { return false };
    let purpose = if F::V6 { port_set::PUBLISHED6 } else { port_set::PUBLISHED4 };
    match port_set::index(purpose, headers.proto) {
        Some(set) => env.in_port_set(set, headers.dport.into()),
        None => false,
    }
}

/// A packet of the host to itself that belongs to no flow. None: the opening says which flow to open.
///
/// # Errors
/// None; the type is that of the other hooks.
#[inline(always)]
pub fn from_loopback_decide<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
    opening: &mut Opening<F::Addr>,
) -> Decided {
    let own = headers.dst.is_loopback() || env.is_local(&headers.dst);
    if !own || !may_open(headers) || headers.fragment == Fragment::Later {
        return Ok(Some(Verdict::Pass));
    }
    let Some(publish) = published(env, headers) else { return Ok(Some(Verdict::Pass)) };
    let Some(target) = env.network(publish.network) else { return Ok(Some(Verdict::Pass)) };
    let gateway = gateway_of::<F>(&publish, target);
    // In the sandbox a loopback address would be its own, and a link-local one another host's (Docker semantics 5.4). What a sandbox sends to its
    // gateway is looked up only if its port may be a flow's.
    let unfit = headers.src.is_loopback()
        || headers.src.is_link_local()
        || headers.src == gateway
        || publish.backend.is_mapped();
    opening.source = if unfit { Source::Masquerade(gateway) } else { Source::KeepOr(gateway) };
    opening.arrived = packet.ifindex();
    opening.by = 0;
    opening.original = headers.tuple(LOOPBACK_ZONE);
    (opening.dst, opening.dport) = (publish.backend, publish.port);
    opening.target = Target::Sandbox(publish.ifindex);
    opening.routed = false;
    Ok(None)
}
