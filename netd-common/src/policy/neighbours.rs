//! Sandboxes of one network: inter-container control, and the links and policies that open something where it is off.

use super::has;
use crate::{
    conntrack,
    env::{Env, Packet},
    family::{Address, Ip},
    maps::{Endpoint, LinkKey, endpoint_flags},
    net::IfIndex,
    verdict::DropReason,
    wire::{
        Headers, ethernet,
        l4::{self, ND_TARGET},
    },
};

/// Whether the destination lies in the endpoint's own subnet.
#[inline(always)]
pub fn same_network<F: Ip>(endpoint: &Endpoint, dst: &F::Addr) -> bool {
    F::addr(endpoint).matches(dst, &F::mask(endpoint))
}

/// Whether a reply from this port may belong to a published one.
#[inline(always)]
pub const fn may_be_published(endpoint: &Endpoint, sport: u16) -> bool {
    endpoint.published[(sport >> 5 & 1) as usize] >> (sport & 31) & 1 == 1
}

/// Refuses frames that are neither IP nor ARP where only unicast to the gateway is wanted, and everywhere those to the bridge itself: spanning
/// tree, LACP, LLDP (IEEE 802.1Q table 8-1).
///
/// # Errors
/// `UnknownL3`.
#[inline(always)]
pub fn check_other_frame<P: Packet>(packet: &P, endpoint: &Endpoint) -> Result<(), DropReason> {
    let [a, b, c, d, e, f] = packet.load::<6>(ethernet::DESTINATION)?;
    let to_bridge = [a, b, c, d, e, f & 0xf0] == [0x01, 0x80, 0xc2, 0, 0, 0];
    let closed = to_bridge || !has(endpoint.flags, endpoint_flags::ICC);
    if closed { Err(DropReason::UnknownL3) } else { Ok(()) }
}

/// What happens to a packet for the endpoint's own network that belongs to no flow. Each variant has a number: LLVM would copy whatever lies in the
/// register of one without, pointers too, which the verifier refuses ("32-bit pointer arithmetic prohibited").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Straight to this veth; without state. 0: nobody's address, or the subnet's broadcast address, and the bridge knows.
    Direct(IfIndex),
    /// To this veth by a flow: only its answers may come back.
    Linked(IfIndex),
}

/// Returns the sandbox of the same network that a neighbour solicitation or advertisement is for, if netd knows its address. On the bridge the host's
/// firewall would judge it where `br_netfilter` is loaded (dataplane case 107); and everybody else would be asked, too.
#[inline(always)]
pub fn discovered<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &P,
    endpoint: &Endpoint,
    headers: &Headers<F>,
) -> Option<IfIndex> {
    let target = if headers.icmp_type == l4::NEIGHBOUR_SOLICITATION {
        F::load_address(packet, headers.l4_offset + ND_TARGET)?
    } else {
        headers.dst
    };
    let owner = env.owner(&target).filter(|owner| owner.network == endpoint.network)?;
    (owner.ifindex != packet.ifindex()).then_some(owner.ifindex)
}

/// Decides about a packet to the endpoint's own network (truth table T31, T61, T65 to T68).
///
/// # Errors
/// `Icc` where neighbours may not talk, and neither a link nor a policy opens it.
#[inline(always)]
pub fn neighbour<F: Ip, E: Env<F>>(
    env: &E,
    endpoint: &Endpoint,
    headers: &Headers<F>,
) -> Result<Neighbour, DropReason> {
    let owner = env.owner(&headers.dst).filter(|owner| owner.network == endpoint.network);
    if has(endpoint.flags, endpoint_flags::ICC) {
        return Ok(Neighbour::Direct(owner.map_or(0, |owner| owner.ifindex)));
    }
    let owner = owner.ok_or(DropReason::Icc)?;
    let key =
        LinkKey { src: headers.src, dst: headers.dst, port: headers.dport, proto: headers.proto, pad: 0 };
    if has(endpoint.flags, endpoint_flags::LINKS) && conntrack::is_linked(env, key) {
        Ok(Neighbour::Linked(owner.ifindex))
    } else {
        Err(DropReason::Icc)
    }
}
