//! `from_endpoint`: what a sandbox sends. Runs where the host side of its veth receives.

use super::{Decided, Decision, interests, published};
use crate::{
    conntrack::{self, Moment, Opening, Source, Target, way},
    env::{Env, Packet},
    family::{Address, Ip, V4},
    maps::{Config, Endpoint, Publish, endpoint_flags, flow_flags},
    net::{Be16, IfIndex, UPLINK_ZONE},
    policy::{self, Access, CameBy, Neighbour, has},
    verdict::{DropReason, Verdict},
    wire::{Fragment, Headers, L4, ethernet, l4, reset},
};

/// Frames that are not IP: ARP is checked, the rest passes where sandboxes may talk to each other.
///
/// # Errors
/// The reason of the drop.
#[inline(always)]
pub fn from_endpoint_frame<P: Packet>(
    packet: &P,
    endpoint: Option<&Endpoint>,
    ethertype: Be16,
) -> Result<(), DropReason> {
    if packet.has_vlan_tag() {
        return Err(DropReason::UnknownL3); // one tag of two: what is inside nobody has looked at
    }
    let endpoint = active(endpoint)?;
    policy::check_mac(packet, endpoint)?;
    if ethertype == ethernet::ARP {
        policy::check_arp(packet, endpoint)
    } else {
        policy::check_other_frame(packet, endpoint)
    }
}

/// Whether an IPv4 packet without a flow answers an IPv6 client: the IPv6 packet that [`crate::nat::siit`] makes of it has one.
#[inline(always)]
pub fn answers_ipv6<E: Env<V4>>(env: &E, headers: &Headers<V4>, ifindex: IfIndex) -> bool {
    let to_gateway = env.endpoint(ifindex).is_some_and(|endpoint| headers.dst == endpoint.gateway4);
    to_gateway && env.in_other_family(&headers.tuple(ifindex))
}

fn active(endpoint: Option<&Endpoint>) -> Result<&Endpoint, DropReason> {
    endpoint.filter(|e| has(e.flags, endpoint_flags::ACTIVE)).ok_or(DropReason::EndpointDown)
}

/// The ordinary packet: to a neighbour, to the host, or of an established flow. None: the next part goes on.
#[inline(always)]
pub fn from_endpoint_fast<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &mut P) -> Option<Decision<F>> {
    if packet.has_vlan_tag() {
        return Some(Err(DropReason::UnknownL3)); // it would leave by a trunk with the sandbox's choice of VLAN
    }
    let headers = Headers::<F>::read_plain(packet)?;
    let ifindex = packet.ifindex();
    let endpoint = active(env.endpoint(ifindex)).ok()?;
    let config = env.config()?;
    if policy::same_network::<F>(endpoint, &headers.dst) {
        let (source_ok, icc) = (headers.src == F::addr(endpoint), has(endpoint.flags, endpoint_flags::ICC));
        if !source_ok || policy::check_mac(packet, endpoint).is_err() || policy::serves_dhcp(&headers) {
            return None;
        }
        // Gateway traffic first: DNS and host services meet no table.
        if headers.dst == F::gateway(endpoint) {
            let closed = has(endpoint.flags, endpoint_flags::HOST_CLOSED);
            if !closed && !interests(env, headers.proto, headers.dport) {
                return Some(Ok(Verdict::Pass));
            }
        } else if icc {
            // An answer may be of a flow to a published port, which the neighbour dialled by the host's address.
            let is_direct = !policy::may_be_published(endpoint, headers.sport.into())
                || env.flow(&headers.tuple(ifindex)).is_none();
            if is_direct {
                let owner = env.owner(&headers.dst)?;
                return (owner.network == endpoint.network).then_some(Ok(Verdict::ToSandbox(owner.ifindex)));
            }
        }
    }
    if headers.is_turning() {
        return None;
    }
    let moment = Moment { epoch: config.epoch, now: env.now() };
    conntrack::forward(env, packet, &headers, &headers.tuple(ifindex), moment)
}

/// Everything else a sandbox sends that belongs to no flow. None: the opening says which flow to open.
///
/// # Errors
/// The reason of the drop.
#[inline(always)]
pub fn from_endpoint_decide<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
    opening: &mut Opening<F::Addr>,
) -> Decided {
    let ifindex = packet.ifindex();
    let endpoint = active(env.endpoint(ifindex))?;
    let config = env.config().ok_or(DropReason::EndpointDown)?;
    policy::check_mac(packet, endpoint)?;
    policy::check_source(env, endpoint, headers)?;
    policy::check_control(env, packet, endpoint, headers)?;
    if policy::is_neighbour_discovery(headers) {
        let known = policy::discovered(env, packet, endpoint, headers);
        return Ok(Some(known.map_or(Verdict::Pass, Verdict::ToSandbox)));
    }
    if headers.dst.is_multicast() {
        // The bridge's business; one that would give it to every port is spared what no port wants.
        if has(endpoint.flags, endpoint_flags::OWN_BRIDGE)
            && policy::is_report_of_the_link(packet, headers)
            && let Some(network) = env.network(endpoint.network)
        {
            return Ok(Some(Verdict::ToBridge(network.bridge)));
        }
        return Ok(Some(Verdict::Pass));
    }
    if headers.dst.is_link_local() && !env.is_local(&headers.dst) {
        // The bridge's business too, but the host may be who has the address.
        return policy::check_host(env, endpoint, headers, ifindex).map(|()| Some(Verdict::Pass));
    }
    if headers.fragment == Fragment::Later {
        return Ok(Some(Verdict::Hold));
    }
    if env.is_local(&headers.dst) {
        return match published(env, headers) {
            Some(publish) if may_open(headers) => {
                to_published(env, endpoint, headers, ifindex, &publish, opening).map(|()| None)
            }
            _ => policy::check_host(env, endpoint, headers, ifindex).map(|()| Some(Verdict::Pass)),
        };
    }
    if policy::same_network::<F>(endpoint, &headers.dst) {
        return to_neighbour(env, endpoint, headers, ifindex, opening);
    }
    if headers.src.is_link_local() {
        return Err(DropReason::SpoofIp); // an address of the link alone: no router forwards it (RFC 4291 §2.5.6)
    }
    if has(endpoint.flags, endpoint_flags::INTERNAL) {
        return Err(DropReason::Internal);
    }
    if F::may_be_ours(config, &headers.dst) && env.subnet(&headers.dst).is_some() {
        return to_other_network(env, packet, endpoint, headers, opening);
    }
    if policy::is_foreign::<F>(endpoint, &headers.src) {
        return Ok(Some(Verdict::Pass));
    }
    if !may_open(headers) {
        return stray(packet, headers);
    }
    if to_world(env, config, endpoint, headers, ifindex, opening)? {
        Ok(None)
    } else {
        Ok(Some(Verdict::Pass))
    }
}

/// What belongs to no flow and may open none.
#[inline(always)]
fn stray<F: Ip, P: Packet>(packet: &P, headers: &Headers<F>) -> Decided {
    if reset::can_answer(packet, headers) {
        return Ok(Some(Verdict::Refuse(DropReason::CtInvalid)));
    }
    Err(DropReason::CtInvalid)
}

/// The world beyond an uplink. False: only the stack can say what becomes of the packet (no route, prohibited, ...).
#[inline(always)]
fn to_world<F: Ip, E: Env<F>>(
    env: &E,
    config: &Config,
    endpoint: &Endpoint,
    headers: &Headers<F>,
    ifindex: u32,
    opening: &mut Opening<F::Addr>,
) -> Result<bool, DropReason> {
    let network = env.network(endpoint.network).ok_or(DropReason::EndpointDown)?;
    opening.by = 0;
    opening.original = headers.tuple(ifindex);
    let masquerades = has(endpoint.flags, F::MASQUERADE);
    let sourced = masquerades && way::has_choice::<F>(config, network, &headers.dst);
    let route = env.route(network.bridge, &opening.original, UPLINK_ZONE, sourced);
    if route.is_for_the_stack() {
        return Ok(false);
    }
    let uplink = env.uplink(route.out).ok_or(DropReason::NoRoute)?;
    opening.source = Source::Keep;
    if masquerades {
        if !l4::has_ports(headers.proto) && !l4::is_portless(headers.proto) {
            return Err(DropReason::UnknownL4);
        }
        let mut addr = way::masquerade_source(env, network, uplink, route.source);
        // The uplink's own may have gone, while the daemon has not heard of it or is not there.
        if !sourced && addr == F::uplink_addr(uplink) && !env.still_has(network.bridge, &addr) {
            let route = env.route(network.bridge, &opening.original, UPLINK_ZONE, true);
            addr = way::masquerade_source(env, network, uplink, route.source);
        }
        if addr == F::Addr::UNSPECIFIED {
            return Err(DropReason::NoRoute);
        }
        opening.source = Source::Masquerade(addr);
    }
    (opening.dst, opening.dport) = (headers.dst, headers.dport);
    opening.target = Target::World;
    opening.routed = true;
    Ok(true)
}

/// Whether a packet may open a flow: TCP by a lone SYN, SCTP by INIT, ICMP by an echo request, other protocols by any packet.
pub(super) fn may_open<F: Ip>(headers: &Headers<F>) -> bool {
    match headers.l4 {
        L4::Sctp => headers.icmp_type == l4::INIT,
        L4::Tcp => headers.is_opening(),
        L4::Icmp => false,
        L4::Echo => headers.dport == Be16::ZERO,
        L4::Udp | L4::Lite => true,
        // A later fragment whose first opened nothing opens nothing either.
        L4::Other => !l4::has_ports(headers.proto) && headers.fragment != Fragment::Stray,
    }
}

/// A sandbox of the same network.
#[inline(always)]
fn to_neighbour<F: Ip, E: Env<F>>(
    env: &E,
    endpoint: &Endpoint,
    headers: &Headers<F>,
    ifindex: u32,
    opening: &mut Opening<F::Addr>,
) -> Decided {
    match policy::neighbour(env, endpoint, headers)? {
        Neighbour::Direct(0) => Ok(Some(Verdict::Pass)),
        Neighbour::Direct(target) => Ok(Some(Verdict::ToSandbox(target))),
        Neighbour::Linked(target) if may_open(headers) => {
            opening.addressed(headers.tuple(ifindex), target);
            (opening.source, opening.routed, opening.by) = (Source::Keep, false, flow_flags::LINKED);
            Ok(None)
        }
        Neighbour::Linked(_) => Err(DropReason::Icc),
    }
}

/// A sandbox of another network, by its own address (truth table T32 to T36).
#[inline(always)]
fn to_other_network<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &P,
    endpoint: &Endpoint,
    headers: &Headers<F>,
    opening: &mut Opening<F::Addr>,
) -> Decided {
    let owner = env.owner(&headers.dst).ok_or(DropReason::Isolation)?;
    let home = env.network(endpoint.network).ok_or(DropReason::EndpointDown)?;
    let from = CameBy { device: home.bridge, outside: false };
    let by = match policy::direct(env, packet, headers, (owner.flags, owner.network), from) {
        Ok(access @ (Access::Granted | Access::Opened)) => access.by(),
        Ok(Access::IfMarked) => return Err(DropReason::Unpublished), // redirected, not routed: nobody could mark it
        Err(DropReason::DirectAccess) => return Err(DropReason::Isolation),
        Err(reason) => return Err(reason),
    };
    if !may_open(headers) {
        return stray(packet, headers);
    }
    let target = env.network(owner.network).ok_or(DropReason::EndpointDown)?;
    opening.addressed(headers.tuple(packet.ifindex()), owner.ifindex);
    opening.by = by;
    opening.source = Source::Keep;
    if has(endpoint.flags, F::MASQUERADE) {
        // As a router would that masquerades what leaves by the other bridge (T33).
        let fixed = F::fixed_source(home);
        let addr = if fixed == F::Addr::UNSPECIFIED { F::network_gateway(target) } else { fixed };
        if addr == F::Addr::UNSPECIFIED {
            return Err(DropReason::NoRoute);
        }
        opening.source = Source::Masquerade(addr);
    }
    Ok(None)
}

/// A published port, dialled by a sandbox through an address of the host (truth table T37 to T40).
#[inline(always)]
fn to_published<F: Ip, E: Env<F>>(
    env: &E,
    endpoint: &Endpoint,
    headers: &Headers<F>,
    ifindex: u32,
    publish: &Publish<F::Addr>,
    opening: &mut Opening<F::Addr>,
) -> Result<(), DropReason> {
    policy::check_allowed(env, publish.allow, &headers.src)?;
    let same_network = publish.network == endpoint.network;
    if has(endpoint.flags, endpoint_flags::INTERNAL) && !same_network {
        return Err(DropReason::Internal);
    }
    let target = env.network(publish.network).ok_or(DropReason::EndpointDown)?;
    let gateway = super::gateway_of::<F>(publish, target);
    // Itself: its own address as source would be a martian. Another network: as Docker has it, whose rule masquerades what leaves by another
    // bridge, if anything. IPv4 cannot show an IPv6 address. A link-local client means another sandbox on another link (T41). And an internal
    // network knows no way to a client on another one.
    let foreign = !same_network && has(target.flags, endpoint_flags::INTERNAL);
    let unfit = publish.backend.is_mapped() || headers.src.is_link_local() || foreign;
    let leaves = !same_network
        && has(endpoint.flags, F::MASQUERADE)
        && !has(target.flags, endpoint_flags::SEEN_AS_CLIENT);
    let hidden = leaves || has(target.flags, endpoint_flags::SEEN_AS_GATEWAY);
    opening.source = if publish.ifindex == ifindex || hidden || unfit {
        Source::Masquerade(gateway)
    } else {
        Source::KeepOr(gateway)
    };
    opening.by = 0;
    opening.original = headers.tuple(ifindex);
    (opening.dst, opening.dport) = (publish.backend, publish.port);
    opening.target = Target::Sandbox(publish.ifindex);
    opening.routed = !same_network && !publish.backend.is_mapped(); // as in `from_uplink`
    Ok(())
}
