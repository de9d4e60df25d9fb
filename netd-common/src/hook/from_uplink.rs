//! `from_uplink`: what arrives from outside. Drops only what is addressed to netd's own subnets or flows (dataplane.md 7.4):
//! with every map empty, the host is as reachable as without netd.

use super::{Decided, Decision, from_endpoint::may_open, interests, published};
use crate::{
    conntrack::{self, Moment, Opening, Source, Target, input},
    env::{Env, Packet},
    family::{Address, Ip},
    maps::{Config, Owner, PublishKey, endpoint_flags},
    net::UPLINK_ZONE,
    policy::{self, Access, CameBy, has},
    verdict::{DropReason, Verdict},
    wire::{Fragment, Headers},
};

/// Neighbour discovery from farther away than the link has less, and is nobody's business (RFC 4861 §7.1).
const LINK_LOCAL_TTL: u8 = 255;

/// The ordinary packet: for the host alone, or of an established flow. None: the next part goes on.
#[inline(always)]
pub fn from_uplink_fast<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &mut P) -> Option<Decision<F>> {
    if packet.has_vlan_tag() {
        return Some(Ok(Verdict::Pass)); // for the VLAN device, which has its own programs
    }
    let headers = Headers::<F>::read_plain(packet)?;
    let config = env.config()?;
    if !interests(env, headers.proto, headers.dport) && !F::may_be_ours(config, &headers.dst) {
        return Some(Ok(Verdict::Pass));
    }
    if headers.is_turning() {
        return None;
    }
    let moment = Moment { epoch: config.epoch, now: env.now() };
    conntrack::forward(env, packet, &headers, &headers.tuple(UPLINK_ZONE), moment)
}

/// Whether a packet from outside may be netd's: of a flow, for a published port or for a subnet. What is not plain may be.
#[inline(always)]
pub fn concerns_us<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &P) -> bool {
    let Some(headers) = Headers::<F>::read_plain(packet) else { return true };
    let Some(config) = env.config() else { return false };
    interests(env, headers.proto, headers.dport) || F::may_be_ours(config, &headers.dst)
}

/// Everything else from outside that belongs to no flow. None: the opening says which flow to open.
///
/// # Errors
/// The reason of the drop.
#[inline(always)]
pub fn from_uplink_decide<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
    opening: &mut Opening<F::Addr>,
) -> Decided {
    let Some(config) = env.config() else { return Ok(Some(Verdict::Pass)) };
    if headers.fragment == Fragment::Later && may_be_for_a_flow(env, config, &headers.dst) {
        return Ok(Some(Verdict::Hold));
    }
    if F::may_be_ours(config, &headers.dst) && !env.is_local(&headers.dst) {
        if let Some(owner) = env.owner(&headers.dst) {
            return to_sandbox(env, packet, headers, owner, opening);
        }
        if env.subnet(&headers.dst).is_some() {
            return Err(DropReason::DirectAccess);
        }
    }
    if headers.dst.is_loopback() {
        let key = PublishKey { addr: headers.dst, port: headers.dport, proto: headers.proto, pad: 0 };
        return if env.publish(&key).is_some() {
            Err(DropReason::RemoteLoopback)
        } else {
            Ok(Some(Verdict::Pass))
        };
    }
    let on_the_link = headers.src.is_link_local() && !env.is_local(&headers.src);
    if !may_open(headers) || !(on_the_link || may_be_remote(env, config, &headers.src)) {
        return Ok(Some(Verdict::Pass)); // the kernel knows martians
    }
    let Some(publish) = published(env, headers).filter(|_| env.is_local(&headers.dst)) else {
        return Ok(Some(Verdict::Pass));
    };
    policy::check_way(env, publish.via, packet.ifindex())?;
    policy::check_allowed(env, publish.allow, &headers.src)?;
    if input::is_asked(config)
        && let Some(verdict) = input::ask(env, packet, headers, config)?
    {
        return Ok(Some(verdict));
    }
    let target = env.network(publish.network).ok_or(DropReason::EndpointDown)?;
    opening.by = 0;
    opening.original = headers.tuple(UPLINK_ZONE);
    (opening.dst, opening.dport) = (publish.backend, publish.port);
    opening.target = Target::Sandbox(publish.ifindex);
    let gateway = super::gateway_of::<F>(&publish, target);
    // IPv4 cannot show an IPv6 client's address (truth table T7), an internal network knows no way to a client outside, and a link-local address means
    // another host on the sandbox's link.
    let stranger = publish.backend.is_mapped() || has(target.flags, endpoint_flags::INTERNAL) || on_the_link;
    opening.source = if stranger { Source::Masquerade(gateway) } else { Source::KeepOr(gateway) };
    // Under Docker a process of the host answers these two kinds of clients, and the way ends at the host (docker-proxy).
    opening.routed = !publish.backend.is_mapped() && !on_the_link;
    opening.arrived = packet.ifindex();
    Ok(None)
}

/// A sandbox's own address (truth table T9 to T25).
#[inline(always)]
fn to_sandbox<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &P,
    headers: &Headers<F>,
    owner: &Owner,
    opening: &mut Opening<F::Addr>,
) -> Decided {
    let shows = has(owner.flags, F::ROUTED) || has(owner.flags, F::UNPROTECTED);
    if shows && policy::is_neighbour_discovery(headers) && headers.ttl == LINK_LOCAL_TTL {
        return Ok(Some(Verdict::Pass)); // asks whether the address is still here: the host may answer for it (walk 13)
    }
    let from = CameBy { device: packet.ifindex(), outside: true };
    let access = policy::direct(env, packet, headers, (owner.flags, owner.network), from)?;
    let config = env.config().ok_or(DropReason::EndpointDown)?;
    if !may_be_remote(env, config, &headers.src) {
        return Err(DropReason::DirectAccess);
    }
    if access == Access::IfMarked {
        return Ok(Some(Verdict::Pass)); // by way of the host's rules to `to_endpoint`, which looks at the mark
    }
    if !may_open(headers) {
        return Err(DropReason::CtInvalid);
    }
    let network = env.network(owner.network).ok_or(DropReason::EndpointDown)?;
    opening.addressed(headers.tuple(UPLINK_ZONE), owner.ifindex);
    opening.by = access.by();
    opening.arrived = packet.ifindex();
    // One client may come by a published port and directly, from one port of its own.
    opening.source = Source::KeepOr(F::network_gateway(network));
    Ok(None)
}

/// Whether an address can be that of a machine outside: not one of a sandbox, of the host or of its gateways, and one that answers can reach.
#[inline(always)]
fn may_be_remote<F: Ip, E: Env<F>>(env: &E, config: &Config, src: &F::Addr) -> bool {
    let unusable =
        *src == F::Addr::UNSPECIFIED || src.is_multicast() || src.is_loopback() || src.is_link_local();
    let ours = env.is_local(src) || (F::may_be_ours(config, src) && env.subnet(src).is_some());
    !(unusable || ours)
}

/// Whether a flow may have this destination: the host's own address, or a sandbox's where its network is not masqueraded. Transit traffic is not held.
#[inline(always)]
fn may_be_for_a_flow<F: Ip, E: Env<F>>(env: &E, config: &Config, dst: &F::Addr) -> bool {
    env.is_local(dst) || (F::may_be_ours(config, dst) && env.owner(dst).is_some())
}
