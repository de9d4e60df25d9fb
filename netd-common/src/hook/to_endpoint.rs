//! `to_endpoint`: the gate in front of a sandbox for what the bridge or the stack delivers. Packets that netd moves itself do not pass here.

use super::Decision;
use crate::{
    conntrack,
    env::{Env, Packet},
    family::{Address, Ip},
    maps::{Tuple, endpoint_flags},
    policy::{self, has},
    verdict::{DropReason, Verdict},
    wire::Headers,
};

/// Lets in what the host sends, what a neighbour may send, and what belongs to a flow; nothing else.
///
/// # Errors
/// The reason of the drop.
#[inline(always)]
pub fn to_endpoint<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
) -> Decision<F> {
    let from = packet.ingress_ifindex();
    if from == 0 {
        return Ok(Verdict::Pass); // the host may reach every port of its sandboxes (truth table T42)
    }
    let ifindex = packet.ifindex();
    let endpoint = env.endpoint(ifindex).ok_or(DropReason::EndpointDown)?;
    if let Some(neighbour) = env.endpoint(from).filter(|n| has(n.flags, endpoint_flags::ACTIVE)) {
        return if neighbour.network != endpoint.network {
            Err(DropReason::Isolation)
        } else if has(endpoint.flags, endpoint_flags::ICC) || policy::is_neighbour_discovery(headers) {
            Ok(Verdict::Pass)
        } else {
            Err(DropReason::Icc)
        };
    }
    if headers.dst.is_multicast() || headers.src.is_link_local() {
        return Ok(Verdict::Pass); // on the bridge itself; nothing routes these to it
    }
    let mut headers = *headers;
    conntrack::fragment::recall(env, &mut headers, ifindex);
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
        return Ok(Verdict::Pass);
    }
    if has(endpoint.flags, endpoint_flags::INTERNAL) {
        return Err(DropReason::Internal);
    }
    Err(if env.subnet(&headers.src).is_some() { DropReason::Isolation } else { DropReason::DirectAccess })
}
