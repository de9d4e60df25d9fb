//! `to_endpoint`: the gate in front of a sandbox for what the bridge or the stack delivers. Packets that netd moves itself do not pass here.

use super::{Decided, Decision, from_endpoint::may_open};
use crate::{
    conntrack::{self, Opening, Source},
    env::{Draft, Env, Packet},
    family::{Address, Ip},
    maps::{Endpoint, Tuple, endpoint_flags},
    net::{Be16, UPLINK_ZONE},
    policy::{self, Access, CameBy, has},
    verdict::{DropReason, Verdict},
    wire::{Headers, ethernet},
};

/// The gate in one go: how a test on the host walks it.
///
/// # Errors
/// The reason of the drop.
pub fn to_endpoint<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
) -> Decision<F> {
    let mut draft = Draft::<F> { headers: *headers, ..Draft::default() };
    conntrack::fragment::recall(env, &mut draft.headers, packet.ifindex());
    match to_endpoint_decide(env, packet, &draft.headers, &mut draft.opening)? {
        Some(verdict) => Ok(verdict.widened()),
        None => {
            conntrack::admit(env, &mut draft)?;
            conntrack::open(env, &mut draft)?;
            if !conntrack::examine(env, &draft.headers.tuple(UPLINK_ZONE)) {
                return Err(DropReason::CtInvalid); // what it came by has just gone
            }
            Ok(Verdict::Pass)
        }
    }
}

/// Lets in what the host sends, what a neighbour may send, what belongs to a flow, and what may address the sandbox directly; nothing else.
/// None: the opening says which flow to open, and the packet passes.
///
/// # Errors
/// The reason of the drop.
#[inline(always)]
pub fn to_endpoint_decide<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
    opening: &mut Opening<F::Addr>,
) -> Decided {
    let from = packet.ingress_ifindex();
    let ifindex = packet.ifindex();
    let endpoint = env.endpoint(ifindex);
    if from == 0 {
        policy::remember(env, endpoint.map_or(0, |endpoint| endpoint.flags), headers, ifindex);
        return Ok(Some(Verdict::Pass)); // the host may reach every port of its sandboxes (truth table T42)
    }
    let endpoint = endpoint.ok_or(DropReason::EndpointDown)?;
    if let Some(neighbour) = neighbour(env.endpoint(from)) {
        // Its own program has seen to that, unless somebody took it away.
        policy::check_mac(packet, neighbour)?;
        policy::check_source(env, neighbour, headers)?;
        policy::check_control(env, packet, neighbour, headers)?;
        return if neighbour.network != endpoint.network {
            Err(DropReason::Isolation)
        } else if has(endpoint.flags, endpoint_flags::ICC) || policy::is_neighbour_discovery(headers) {
            Ok(Some(Verdict::Pass))
        } else {
            Err(DropReason::Icc)
        };
    }
    if headers.dst.is_multicast() || headers.src.is_link_local() {
        return Ok(Some(Verdict::Pass)); // on the bridge itself; nothing routes these to it
    }
    let reply = Tuple {
        src: headers.dst,
        dst: headers.src,
        sport: headers.dport,
        dport: headers.sport,
        zone: ifindex,
        proto: headers.proto,
        pad: [0; 3],
    };
    if env.flow(&reply).is_some() {
        return Ok(Some(Verdict::Pass));
    }
    let access = admit(env, packet, headers, endpoint, from)?;
    opening.addressed(headers.tuple(UPLINK_ZONE), ifindex);
    opening.by = access.by();
    opening.source = Source::Keep;
    Ok(None)
}

fn neighbour(endpoint: Option<&Endpoint>) -> Option<&Endpoint> {
    endpoint.filter(|endpoint| has(endpoint.flags, endpoint_flags::ACTIVE))
}

/// Frames that are not IP: of ARP, what a neighbour claims is looked at once more, in case somebody took its own program away.
///
/// # Errors
/// The reason of the drop.
#[inline(always)]
pub fn to_endpoint_frame<P: Packet>(
    packet: &P,
    sender: Option<&Endpoint>,
    ethertype: Be16,
) -> Result<(), DropReason> {
    match neighbour(sender).filter(|_| ethertype == ethernet::ARP) {
        Some(neighbour) => {
            policy::check_mac(packet, neighbour)?;
            policy::check_arp(packet, neighbour)
        }
        None => Ok(()),
    }
}

/// Lets in a packet that the host's stack routed here, if it may address the sandbox directly (truth table T18, T22).
#[inline(always)]
fn admit<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &P,
    headers: &Headers<F>,
    endpoint: &Endpoint,
    from: u32,
) -> Result<Access, DropReason> {
    let from = CameBy { device: from, outside: true }; // sandboxes of other networks are refused below
    let access = policy::direct(env, packet, headers, (endpoint.flags, endpoint.network), from);
    if access != Err(DropReason::Internal) && env.subnet(&headers.src).is_some() {
        return Err(DropReason::Isolation); // another network's sandbox: `from_endpoint` carries what it may send
    }
    match access? {
        Access::IfMarked => Err(DropReason::Unpublished),
        _ if headers.dst != F::addr(endpoint) => Err(DropReason::DirectAccess),
        _ if !may_open(headers) => Err(DropReason::CtInvalid),
        access => Ok(access),
    }
}
