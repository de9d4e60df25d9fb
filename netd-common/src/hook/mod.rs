//! The hooks, readable top to bottom.
//!
//! A packet that arrives takes up to six parts: *fast* moves what is established with one look-up; [`crate::conntrack::examine`] looks at a flow
//! that is not ordinary, and [`settle`] moves what belongs to it (or is an ICMP error about it); *decide* judges the rest and may leave an opening,
//! which [`crate::conntrack::admit`] finds room for and [`crate::conntrack::open`] carries out; `examine` and `settle` then move the packet. In the kernel each part is a function of its own: their stacks lie side by side, and the verifier walks each
//! once. What they share lies in a [`crate::env::Draft`].

mod from_endpoint;
mod from_loopback;
mod from_netkit;
mod from_uplink;
mod input;
mod stack;
mod to_endpoint;
mod to_uplink;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod malformed;
#[cfg(test)]
#[macro_use]
mod tests;
#[cfg(test)]
mod conntrack_tests;

pub use from_endpoint::{answers_ipv6, from_endpoint_decide, from_endpoint_fast, from_endpoint_frame};
pub use from_loopback::{dials_published, from_loopback_decide};
pub use from_netkit::{check_type, from_netkit};
pub use from_uplink::{concerns_us, from_uplink_decide, from_uplink_fast};
pub use input::{answers_asked, may_answer_asked};
pub use stack::{hand_over, may_answer_handed, may_be_own, own, recall_handed, take_back};
pub use to_endpoint::{to_endpoint, to_endpoint_decide, to_endpoint_frame};
pub use to_uplink::{to_uplink, to_uplink_fast};

use crate::{
    conntrack::{self, Moment, Opening},
    env::{Draft, Env, Packet},
    family::{Address, Ip},
    maps::{Network, Publish, PublishKey, port_set},
    nat::{
        icmp_error::{self, Quote},
        masquerade, siit,
    },
    net::{Be16, IfIndex, UPLINK_ZONE, Zone, is_of_a_sandbox},
    verdict::{DropReason, Judgement, Verdict},
    wire::{Headers, L4, reset, sane},
};

/// A hook's answer; the error is the reason of a drop.
pub type Decision<F> = Result<Verdict<<F as crate::family::Family>::Addr>, DropReason>;

/// Whether a packet to this port may belong to a flow or a published port. Protocols without ports always may.
#[inline(always)]
fn interests<F: Ip, E: Env<F>>(env: &E, proto: u8, port: Be16) -> bool {
    const KEPT: u32 = port_set::KEPT - port_set::INTEREST;
    let port = u16::from(port);
    match port_set::index(port_set::INTEREST, proto) {
        Some(set) => {
            env.in_port_set(set, port) || (port < masquerade::PRIVILEGED && env.in_port_set(set + KEPT, port))
        }
        None => true,
    }
}

/// Returns where a published port of this host address leads, the exact address before every address (reliability: S5). In IPv6 that may be the
/// mapped address of a sandbox that has IPv4 alone.
#[inline(always)]
fn published<F: Ip, E: Env<F>>(env: &E, headers: &Headers<F>) -> Option<Publish<F::Addr>> {
    if !matches!(headers.l4, L4::Tcp | L4::Udp | L4::Sctp) {
        return None;
    }
    let mut key = PublishKey { addr: headers.dst, port: headers.dport, proto: headers.proto, pad: 0 };
    let found = match env.publish(&key) {
        Some(exact) => exact,
        None => {
            key.addr = F::Addr::UNSPECIFIED;
            env.publish(&key)?
        }
    };
    (found.backend != F::Addr::UNSPECIFIED).then_some(found) // else only reserved so far
}

/// Returns the gateway's address as the sandbox behind a published port knows it: IPv4's for one that has IPv4 alone.
#[inline(always)]
fn gateway_of<F: Ip>(publish: &Publish<F::Addr>, network: &Network) -> F::Addr {
    if publish.backend.is_mapped() { F::Addr::of_v4(network.gateway4) } else { F::network_gateway(network) }
}

/// What a part answers: a verdict, or None when the next part is to go on.
pub type Partial<F> = Result<Option<Verdict<<F as crate::family::Family>::Addr>>, DropReason>;

/// What the deciding part answers: a verdict, or None when the opening says which flow to open.
pub type Decided = Result<Option<Judgement>, DropReason>;

/// Moves a packet by its flow, which [`conntrack::examine`] has found sound: routes it first where that is due. None: it has gone after all.
///
/// # Errors
/// The reason of the drop.
#[inline(always)]
pub fn settle<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
    zone: Zone,
) -> Partial<F> {
    let Some(config) = env.config() else { return Ok(None) };
    let key = headers.tuple(zone);
    let bridge = if is_of_a_sandbox(zone) { bridge_of(env, zone)? } else { packet.ifindex() };
    if !conntrack::refresh(env, &key, bridge)? {
        return Ok(None);
    }
    if headers.is_reset() {
        conntrack::judge_reset(env, packet, headers, &key);
    }
    let moment = Moment { epoch: config.epoch, now: env.now() };
    match conntrack::forward(env, packet, headers, &key, moment) {
        Some(done) => done.map(Some),
        None => Ok(Some(Verdict::HandOver)), // TTL at its end, or too large
    }
}

/// Brings the flow of the packet that an ICMP error quotes up to date, which [`conntrack::examine`] has found sound.
///
/// # Errors
/// The reason of the drop.
#[inline(always)]
pub fn refresh_quoted<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &P,
    quote: &Quote<F::Addr>,
) -> Result<bool, DropReason> {
    let zone = quote.against.zone;
    let bridge = if is_of_a_sandbox(zone) { bridge_of(env, zone)? } else { packet.ifindex() };
    conntrack::refresh(env, &quote.against, bridge)
}

/// Moves an ICMP error along the flow of the packet it quotes. None: it quotes none that is known. In the kernel its steps are functions.
///
/// # Errors
/// The reason of the drop.
fn settle_error<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
    zone: Zone,
) -> Partial<F> {
    let Some(quote) = icmp_error::quote(packet, headers, zone) else { return Ok(None) };
    if !conntrack::examine(env, &quote.against) {
        return Ok(None);
    }
    sane::check(packet, headers)?;
    if !refresh_quoted(env, packet, &quote)? {
        return Ok(None);
    }
    let verdict = conntrack::forward_error(env, packet, headers, &quote)?;
    if F::V6 {
        siit::error_to_v4(packet)?;
    }
    Ok(Some(verdict))
}

/// Whether a packet belongs to a flow that is sound. In the kernel its two steps are functions.
fn is_of_its_flow<F: Ip, E: Env<F>>(env: &E, headers: &Headers<F>, zone: Zone) -> bool {
    let key = headers.tuple(zone);
    conntrack::examine(env, &key) && conntrack::belongs(env, headers, &key)
}

/// Returns the bridge of an endpoint's network, as which its packets ask for their route.
#[inline(always)]
fn bridge_of<F: Ip, E: Env<F>>(env: &E, ifindex: IfIndex) -> Result<IfIndex, DropReason> {
    let endpoint = env.endpoint(ifindex).ok_or(DropReason::EndpointDown)?;
    env.network(endpoint.network).map(|network| network.bridge).ok_or(DropReason::EndpointDown)
}

/// The parts after the fast one, in one go: how a test on the host walks them.
///
/// # Errors
/// The reason of the drop.
pub fn slow<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    zone: Zone,
    decide: impl Fn(&E, &mut P, &Headers<F>, &mut Opening<F::Addr>) -> Decided,
) -> Decision<F> {
    let mut draft = Draft::<F>::default();
    match Headers::read(packet) {
        Ok(headers) => draft.headers = headers,
        Err(_) if zone == UPLINK_ZONE => return Ok(Verdict::Pass), // garbage for the host is the host's to judge
        Err(reason) => return Err(reason),
    }
    let may_have_flow = conntrack::fragment::follow(env, &mut draft.headers, zone)?;
    let settled = match draft.headers.l4 {
        _ if !may_have_flow => None,
        L4::Icmp => settle_error(env, packet, &draft.headers, zone)?,
        _ if is_of_its_flow(env, &draft.headers, zone) => {
            sane::check(packet, &draft.headers)?;
            settle(env, packet, &draft.headers, zone)?
        }
        _ => None,
    };
    match settled {
        Some(Verdict::HandOver) => {
            return hand_over(env, packet, &mut draft, zone).map(|()| Verdict::Pass);
        }
        Some(verdict) => return Ok(verdict),
        None => {}
    }
    match decide(env, packet, &draft.headers, &mut draft.opening)? {
        Some(Verdict::Refuse(reason)) => {
            if !env.may_reset(zone) {
                return Err(reason);
            }
            reset::answer(packet, &draft.headers)?;
            return Ok(Verdict::ToSandbox(zone));
        }
        Some(verdict) => return Ok(verdict.widened()),
        None => {}
    }
    sane::check(packet, &draft.headers)?;
    conntrack::admit(env, &mut draft)?;
    conntrack::open(env, &mut draft)?;
    if draft.opening.can_be_lost() && !conntrack::examine(env, &draft.headers.tuple(zone)) {
        return Err(DropReason::CtInvalid); // what it came by has just gone
    }
    match settle(env, packet, &draft.headers, zone)?.ok_or(DropReason::CtInvalid)? {
        Verdict::HandOver => hand_over(env, packet, &mut draft, zone).map(|()| Verdict::Pass),
        verdict => Ok(verdict),
    }
}
