//! Flows: found, opened, reopened, routed again.
//!
//! A flow is two entries, one for each direction, each keyed by what a packet of that direction looks like where it is seen. Inserting the
//! reply's entry is the reservation of its ports: two CPUs cannot take one.

mod admission;
pub mod fragment;
mod half;
pub mod input;
mod linked;
pub mod own;
mod reset;
mod rule;
mod tcp;
pub mod way;

pub use admission::{admit, may_answer, payer};
pub use half::{Half, elapsed};
pub use linked::is_linked;
pub use reset::judge as judge_reset;
pub use tcp::{State, seen};

use crate::{
    env::{ClaimError, Draft, Env, Packet},
    family::{Address, Ip},
    maps::{Config, Flow, LinkKey, PublishKey, Tuple, endpoint_flags, flow_flags},
    nat::{
        icmp_error::{self, Quote},
        masquerade::{self, Candidates},
        rewrite,
    },
    net::{Be16, IfIndex, LOOPBACK_ZONE, UPLINK_ZONE, is_of_a_sandbox},
    verdict::{DropReason, Verdict},
    wire::{
        Headers, L4,
        l4::{ACK, FIN, RST, SYN, TCP, TCP_ACKNOWLEDGEMENT, UDP, has_ports},
    },
};

/// What an established packet needs besides its flow, read once per packet.
#[derive(Clone, Copy)]
pub struct Moment {
    /// The configuration's epoch.
    pub epoch: u32,
    /// The time in ticks.
    pub now: u32,
}

/// Moves a packet of an established flow, with one look-up. None: the flow is missing or wants a decision.
#[inline(always)]
pub fn forward<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
    key: &Tuple<F::Addr>,
    moment: Moment,
) -> Option<Result<Verdict<F::Addr>, DropReason>> {
    let mut flow = env.flow(key)?;
    let dies = flow.flags & flow_flags::ROUTED != 0 && headers.ttl <= 1;
    if flow.epoch != moment.epoch || dies || exceeds(packet, headers, &flow) {
        return None;
    }
    touch(packet, &mut flow, headers, moment.now);
    let mut done = rewrite::apply(packet, headers, &flow, true);
    if F::V6 && done.is_ok() && flow.flags & flow_flags::AS_IPV4 != 0 {
        done = packet.stand_for_ipv4();
    }
    Some(done.map(|()| way_out(&flow)))
}

/// Moves an ICMP error along the flow of the packet it quotes, which [`refresh`] has brought up to date.
///
/// # Errors
/// `CtInvalid` when the flow has just gone; the reason of the drop.
#[inline(always)]
pub fn forward_error<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
    quote: &Quote<F::Addr>,
) -> Result<Verdict<F::Addr>, DropReason> {
    let flow = env.flow(&quote.against).ok_or(DropReason::CtInvalid)?;
    icmp_error::translate(packet, headers, quote, &flow)?;
    rewrite::route(packet, headers, &flow)?;
    Ok(way_out(&flow))
}

/// Returns the verdict that a flow's entry stands for.
#[inline(always)]
pub fn way_out<A: Address>(flow: &Flow<A>) -> Verdict<A> {
    if flow.flags & flow_flags::TO_SANDBOX != 0 {
        Verdict::ToSandbox(flow.out)
    } else {
        Verdict::ToNeighbour(flow.out, flow.nexthop)
    }
}

/// Records that a packet passed. Writes only what differs: the line stays shared between CPUs.
#[inline(always)]
pub fn touch<F: Ip, P: Packet>(packet: &P, flow: &mut Flow<F::Addr>, headers: &Headers<F>, now: u32) {
    let first_in_tick = flow.last_seen != now;
    if first_in_tick {
        flow.last_seen = now;
    }
    if headers.l4 != L4::Tcp {
        return;
    }
    let after = seen(flow.seen, headers.tcp_flags);
    if after != flow.seen {
        flow.seen = after;
    } else if !first_in_tick {
        return;
    }
    if headers.tcp_flags & (ACK | RST) == ACK
        && let Ok(upper) = packet.load::<2>(headers.l4_offset + TCP_ACKNOWLEDGEMENT)
    {
        flow.acked = Be16::from_wire(upper).into();
    }
}

/// How far past the last acknowledgement on record a sequence number is believed, in units of 64 KiB: 128 MiB. The record is up to a tick old,
/// in which 16 Gbit/s carry that much.
const NEAR: u16 = 1 << 11;

/// Whether a sequence number is near an acknowledgement, of both the upper half. One unit before it is, too: segments change places.
const fn seq_near(acked: u16, sequence: u16) -> bool {
    sequence.wrapping_sub(acked).wrapping_add(1) <= NEAR
}

/// Whether the packet, or each segment of it, is larger than its way out takes.
#[inline(always)]
pub fn exceeds<F: Ip, P: Packet>(packet: &P, headers: &Headers<F>, flow: &Flow<F::Addr>) -> bool {
    let segment = packet.segment_payload();
    let size = if segment == 0 {
        packet.length() - crate::wire::headers::L3
    } else {
        segment + headers.header_length() - jumbo_header::<F, P>(packet)
    };
    flow.mtu != 0 && size > u32::from(flow.mtu)
}

/// Returns the bytes of the jumbo option (RFC 2675) in an IPv6 packet whose length field cannot hold its length: segmentation takes it off.
#[inline(always)]
fn jumbo_header<F: Ip, P: Packet>(packet: &P) -> u32 {
    const LARGEST: u32 = crate::wire::headers::L3 + 40 + 65_535;
    if F::V6 && packet.length() > LARGEST { 8 } else { 0 }
}

/// Where a new flow goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Out by an uplink, by whatever route its first packet finds.
    #[default]
    World,
    /// To the sandbox behind this veth.
    Sandbox(IfIndex),
}

/// The source a new flow shows to its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source<A> {
    /// The opener's own.
    #[default]
    Keep,
    /// The opener's own; where that would be ambiguous, this address, if the protocol has ports to tell its flows apart.
    KeepOr(A),
    /// This address, with a port that netd chooses.
    Masquerade(A),
}

/// A flow to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening<A> {
    /// Its first packet.
    pub original: Tuple<A>,
    /// Destination after translation.
    pub dst: A,
    /// Destination port after translation.
    pub dport: Be16,
    /// Where it goes.
    pub target: Target,
    /// The source it shows.
    pub source: Source<A>,
    /// The uplink by which it came, of a flow from outside; 0: it came through the stack.
    pub arrived: IfIndex,
    /// Whether it crosses a router.
    pub routed: bool,
    /// What let it in, if that can be withdrawn by itself: `OPENED` or `LINKED` of `flow_flags`.
    pub by: u16,
}

impl<A: Address> Opening<A> {
    /// Whether what it came by can be withdrawn: of a flow to the outside [`examine`] has nothing to ask.
    #[inline(always)]
    pub const fn can_be_lost(&self) -> bool {
        matches!(self.target, Target::Sandbox(_))
    }

    /// Makes it a flow to the sandbox that its first packet addresses, behind this veth, across a router.
    #[inline(always)]
    pub fn addressed(&mut self, original: Tuple<A>, ifindex: IfIndex) {
        (self.dst, self.dport) = (original.dst, original.dport);
        self.original = original;
        self.target = Target::Sandbox(ifindex);
        self.routed = true;
        self.arrived = UPLINK_ZONE;
        self.by = 0;
    }
}

/// Opens the flow that the draft's opening describes: reserves the reply's tuple, then inserts the original's entry.
///
/// The way to a sandbox is known at once. Another direction's entry has epoch 0, so that its first packet asks for the route.
///
/// # Errors
/// `NatExhausted` or `NatConflict` when no reply tuple is free, `NoRoute` when it is to show an address that there is not, `TableFull` when there is no room.
#[inline(always)]
pub fn open<F: Ip, E: Env<F>>(env: &E, draft: &mut Draft<F>) -> Result<(), DropReason> {
    let opening = &draft.opening;
    let config = env.config().ok_or(DropReason::EndpointDown)?;
    let original = &opening.original;
    let (now, generation) = (env.now(), draft.generation);
    let routed = if opening.routed { flow_flags::ROUTED } else { 0 };
    let reply_zone = match opening.target {
        Target::Sandbox(ifindex) => ifindex,
        Target::World => UPLINK_ZONE,
    };
    draft.reply = Tuple {
        src: opening.dst,
        dst: original.src,
        sport: opening.dport,
        dport: original.sport,
        zone: reply_zone,
        proto: original.proto,
        pad: [0; 3],
    };
    draft.flow = Flow {
        flags: flow_flags::TRANSLATE | routed | to_sandbox(original.zone),
        src: original.dst,
        dst: original.src,
        sport: original.dport,
        dport: original.sport,
        out: if original.zone == UPLINK_ZONE { opening.arrived } else { original.zone },
        generation,
        created: now,
        ..Flow::default()
    };
    let (masquerade_as, may_keep) = match opening.source {
        Source::Keep => (F::Addr::UNSPECIFIED, true),
        Source::KeepOr(fallback) if has_ports(original.proto) => (fallback, true),
        // One alone could show as that address, and would keep it from all others.
        Source::KeepOr(_) => (F::Addr::UNSPECIFIED, true),
        Source::Masquerade(addr) => (addr, false),
    };
    let candidates = Candidates::of(config, original);
    let kept = if may_keep {
        env.reserve(draft, false)
    } else if masquerade_as == F::Addr::UNSPECIFIED {
        return Err(DropReason::NoRoute); // nobody has an address to lend, as on a network without a gateway
    } else {
        Err(DropReason::NatConflict)
    };
    let mut masqueraded = 0;
    match kept {
        Err(DropReason::NatConflict) if masquerade_as != F::Addr::UNSPECIFIED => {
            draft.reply.dst = masquerade_as;
            masquerade::reserve(env, config, draft, candidates)?;
            masqueraded = flow_flags::MASQUERADED;
        }
        done => done?,
    }
    let (opening, flow) = (&draft.opening, &mut draft.flow);
    let exchanged = if opening.dst.is_mapped() { flow_flags::AS_IPV4 } else { 0 };
    flow.flags = flow_flags::ORIGINAL
        | flow_flags::TRANSLATE
        | masqueraded
        | routed
        | exchanged
        | opening.by
        | to_sandbox(reply_zone);
    (flow.src, flow.sport) = (draft.reply.dst, draft.reply.dport);
    (flow.dst, flow.dport) = (opening.dst, opening.dport);
    flow.out = reply_zone;
    match env.claim(&opening.original, flow) {
        Ok(()) => {
            env.charge(payer(&opening.original, flow), 1);
            if is_of_a_sandbox(opening.original.zone)
                && let Some(mut reply) = env.flow(&draft.reply)
            {
                // Where it cannot be, the first answer says so.
                let _ = lead_inwards(env, config, &draft.reply, &mut reply);
            }
            Ok(())
        }
        // Another CPU opened this very flow: its entry stands, ours goes.
        Err(ClaimError::Taken) => {
            env.remove(&draft.reply);
            Ok(())
        }
        Err(ClaimError::Full) => {
            env.remove(&draft.reply);
            Err(DropReason::TableFull)
        }
    }
}

const fn to_sandbox(zone: IfIndex) -> u16 {
    if is_of_a_sandbox(zone) { flow_flags::TO_SANDBOX } else { 0 }
}

/// Inserts the draft's reply entry; takes over one whose flow is dead.
///
/// # Errors
/// `NatConflict` when a live flow, of either family, has the tuple, or the host waits for answers of it; where the host's own ports are heeded, also when
/// a socket of the host has it, or its port is not for masqueraded flows; `TableFull` when there is no room.
#[inline(always)]
pub fn reserve<F: Ip, E: Env<F>>(env: &E, draft: &Draft<F>, heed_host: bool) -> Result<(), DropReason> {
    let (reply, flow) = (&draft.reply, &draft.flow);
    if own::waits_for(env, reply) {
        return Err(DropReason::NatConflict);
    }
    // In a sandbox's zone the two families can meet: see `siit`.
    let taken = || env.host_socket(reply) || (reply.zone != UPLINK_ZONE && env.in_other_family(reply));
    if heed_host && (!masquerade::is_free::<F, E>(env, reply.proto, reply.dport) || taken()) {
        return Err(DropReason::NatConflict);
    }
    match env.claim(reply, flow) {
        Ok(()) => Ok(()),
        Err(ClaimError::Full) => Err(DropReason::TableFull),
        Err(ClaimError::Taken) => {
            let Some((other, mine)) =
                env.flow(reply).map(|old| (reply.counterpart(&old), Half::of(reply, &old)))
            else {
                return env.claim(reply, flow).map_err(|_| DropReason::NatConflict); // it has just gone
            };
            let (theirs, known) = mine.partner_or_silence(env.flow(&other).map(|old| Half::of(&other, &old)));
            let config = env.config().ok_or(DropReason::EndpointDown)?;
            if !mine.is_dead_with(theirs, reply.proto, &config.timeouts, env.now()) {
                return Err(DropReason::NatConflict);
            }
            // Removed and claimed, not replaced: of two CPUs that take over one entry, one loses.
            forget(env, reply, known.then_some(&other));
            env.claim(reply, flow).map_err(|_| DropReason::NatConflict)
        }
    }
}

/// Removes both entries of a flow, and gives its place back to the endpoint that paid for it.
#[inline(always)]
fn forget<F: Ip, E: Env<F>>(env: &E, key: &Tuple<F::Addr>, other: Option<&Tuple<F::Addr>>) {
    let found = env.flow(key).map(|flow| (payer(key, &flow), flow.flags & flow_flags::ORIGINAL != 0));
    let Some((payer, original)) = found else { return };
    let (mine, theirs) = (env.remove(key), other.is_some_and(|other| env.remove(other)));
    // Of several CPUs that forget one flow, the one that removes its opener's entry pays back.
    if if original { mine } else { theirs } {
        env.charge(payer, -1);
    }
}

/// Whether a packet's flow is there and sound. One that is not is forgotten, and the packet decided anew: its other half is another flow's, its
/// sandbox has gone, or the port that let it in is closed now or leads elsewhere.
#[inline(always)]
pub fn examine<F: Ip, E: Env<F>>(env: &E, key: &Tuple<F::Addr>) -> bool {
    let found =
        env.flow(key).map(|flow| (key.counterpart(&flow), Half::of(key, &flow), (flow.flags, flow.epoch)));
    let Some((other, half, state)) = found else { return false };
    let (_, known) = half.partner_or_silence(env.flow(&other).map(|flow| Half::of(&other, &flow)));
    if known && !is_lost(env, key, &other, state) {
        return true;
    }
    forget(env, key, known.then_some(&other));
    false
}

/// Whether a packet whose flow is sound belongs to it; else it is decided anew. Only a SYN may not.
///
/// The opener's SYN reopens a flow that is over. One of who was dialled is passed on to or from the outside, where its receiver answers by a challenge
/// (RFC 5961 §4) or a reset. Between sandboxes, where one may open and the other may not (truth
/// table T66), it belongs to the flow only where two open at once (RFC 9293 §3.5); else it is decided anew, and the flow stays what it is.
#[inline(always)]
pub fn belongs<F: Ip, E: Env<F>>(env: &E, headers: &Headers<F>, key: &Tuple<F::Addr>) -> bool {
    if !headers.is_opening() {
        return true;
    }
    let Some(config) = env.config() else { return false };
    let Some((other, half)) = env.flow(key).map(|flow| (key.counterpart(&flow), Half::of(key, &flow))) else {
        return false;
    };
    let (reply, _) = half.partner_or_silence(env.flow(&other).map(|flow| Half::of(&other, &flow)));
    let now = env.now();
    if half.original {
        let state = State::of_tcp(half.seen, reply.seen);
        let closed = matches!(state, State::Closed | State::Reset);
        // An expired one that nobody has collected is over as well.
        if closed || half.idle_with(reply, now) > state.timeout(TCP, &config.timeouts) {
            if input::concerns(env, config, key) && !input::is_accepted(env, key) {
                return false; // the host's rules are to judge it first
            }
            reopen(env, key, &other, now);
        }
        return true;
    }
    if !is_of_a_sandbox(key.zone) || !is_of_a_sandbox(other.zone) {
        return true;
    }
    // Its SYN may be lost behind netd, or the other's answer to it, and is sent again: for as long as it has acknowledged nothing.
    let opening = match State::of_tcp(reply.seen, half.seen) {
        State::SynSent => true,
        State::SynReceived | State::Established => half.seen & ACK == 0,
        _ => false,
    };
    opening && elapsed(reply.last, now) <= config.timeouts.tcp_syn_sent
}

/// Brings a flow's entry up to date for a packet that [`forward`] left alone: asks for its route as a packet of `bridge`. Returns false when the flow
/// has gone, or its source belongs to another way, and the packet is to be decided anew.
///
/// # Errors
/// `EndpointDown` or `NoRoute` when its way out is gone.
#[inline(always)]
pub fn refresh<F: Ip, E: Env<F>>(env: &E, key: &Tuple<F::Addr>, bridge: IfIndex) -> Result<bool, DropReason> {
    let config = env.config().ok_or(DropReason::EndpointDown)?;
    let Some(mut flow) = env.flow(key) else { return Ok(false) };
    if flow.flags & flow_flags::TO_SANDBOX == 0 && flow.out != LOOPBACK_ZONE {
        let asks = Tuple { dst: flow.dst, dport: flow.dport, ..*key };
        let before = Way { flags: flow.flags, out: flow.out, shown: flow.src };
        drop(flow);
        return leave(env, config, key, bridge, asks, before);
    }
    lead_inwards(env, config, key, &mut flow).map(|()| true)
}

/// Brings the entry of a direction that leads to a sandbox, or to the host itself, up to date.
///
/// # Errors
/// `EndpointDown`.
#[inline(always)]
fn lead_inwards<F: Ip, E: Env<F>>(
    env: &E,
    config: &Config,
    key: &Tuple<F::Addr>,
    flow: &mut Flow<F::Addr>,
) -> Result<(), DropReason> {
    if flow.flags & flow_flags::TO_SANDBOX != 0 {
        let endpoint = env.endpoint(flow.out).ok_or(DropReason::EndpointDown)?;
        let network = env.network(endpoint.network).ok_or(DropReason::EndpointDown)?;
        (flow.dmac, flow.smac) = (endpoint.mac, network.mac);
    }
    rewrite::prepare(key, flow);
    flow.epoch = config.epoch;
    Ok(())
}

/// What a flow's entry says of its way out, before the way is found anew.
struct Way<A> {
    flags: u16,
    out: IfIndex,
    /// The source it shows.
    shown: A,
}

/// Finds the way out of a flow that leaves by an uplink. False: it is to be forgotten, since its source belongs to another way.
#[inline(always)]
fn leave<F: Ip, E: Env<F>>(
    env: &E,
    config: &Config,
    key: &Tuple<F::Addr>,
    bridge: IfIndex,
    mut asks: Tuple<F::Addr>,
    Way { flags, out: before, shown }: Way<F::Addr>,
) -> Result<bool, DropReason> {
    let original = flags & flow_flags::ORIGINAL != 0;
    if !original {
        // The host's own address answers, and rules choose by it, as for a server on the host itself.
        asks.src = shown;
    }
    let by = if original { UPLINK_ZONE } else { before };
    // As nf_nat (nf_nat_oif_changed): answers to the old source would come by the old uplink, if at all.
    let bound = flags & flow_flags::MASQUERADED != 0 && original && before != UPLINK_ZONE;
    let sourced = bound && !way::has_sole_source::<F>(config, &asks.dst);
    let route = env.route(bridge, &asks, by, sourced);
    let uplink = env.uplink(route.out).ok_or(DropReason::NoRoute)?; // 0 is none
    if bound && before != route.out {
        let network = env.endpoint(key.zone).and_then(|endpoint| env.network(endpoint.network));
        let network = network.ok_or(DropReason::EndpointDown)?;
        if way::masquerade_source(env, network, uplink, route.source) != shown {
            let Some(flow) = env.flow(key) else { return Ok(false) };
            let other = key.counterpart(&flow);
            drop(flow);
            forget(env, key, Some(&other));
            return Ok(false);
        }
    }
    let mtu = if route.mtu == 0 { uplink.mtu as u16 } else { route.mtu };
    if let Some(mut flow) = env.flow(key) {
        (flow.out, flow.nexthop, flow.mtu) = (route.out, route.nexthop, mtu);
        rewrite::prepare(key, &mut flow);
        flow.epoch = config.epoch;
    }
    Ok(true)
}

/// Whether a flow's sandbox has gone, or what let it in: the published port leads to another target now, the open port or the link is closed.
///
/// TCP is asked for the port once, on its first packet: it may have been withdrawn between the decision and the insertion, where the daemon, which
/// ends flows after it has withdrawn a port, did not see this one. Later a connection goes on without its port, as under Docker; datagrams
/// do not, since a client that keeps sending would hold the old way open for ever.
#[inline(always)]
fn is_lost<F: Ip, E: Env<F>>(
    env: &E,
    key: &Tuple<F::Addr>,
    other: &Tuple<F::Addr>,
    (flags, epoch): (u16, u32),
) -> bool {
    if flags & flow_flags::TO_SANDBOX == 0 {
        return false;
    }
    let (out, dst, port) = (other.zone, other.src, other.sport);
    if env.endpoint(out).is_none_or(|endpoint| endpoint.flags & endpoint_flags::ACTIVE == 0) {
        return true;
    }
    if flags & flow_flags::ORIGINAL == 0 || (key.proto != UDP && epoch != 0) {
        return false;
    }
    if flags & flow_flags::LINKED != 0 {
        let link = LinkKey { src: key.src, dst: key.dst, port: key.dport, proto: key.proto, pad: 0 };
        return !is_linked(env, link);
    }
    if key.dst == dst {
        let open = PublishKey { addr: key.dst, port: key.dport, proto: key.proto, pad: 0 };
        return flags & flow_flags::OPENED != 0 && env.opened(&open).is_none();
    }
    let mut dialled = PublishKey { addr: key.dst, port: key.dport, proto: key.proto, pad: 0 };
    let mut found = env.publish(&dialled);
    if found.is_none() {
        dialled.addr = F::Addr::UNSPECIFIED;
        found = env.publish(&dialled);
    }
    found.is_none_or(|publish| (publish.backend, publish.port) != (dst, port))
}

/// Starts a closed flow again under the same translation.
#[inline(always)]
fn reopen<F: Ip, E: Env<F>>(env: &E, key: &Tuple<F::Addr>, other: &Tuple<F::Addr>, now: u32) {
    if let Some(mut flow) = env.flow(key) {
        flow.seen = SYN;
        flow.created = now;
    }
    if let Some(mut flow) = env.flow(other) {
        flow.seen &= !(SYN | ACK | FIN | RST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jumbo_header_of_a_large_packet_counts_for_no_segment() {
        use crate::{fake::FakePacket, family::V6, net::Addr6, wire::Headers};
        let exceeds = |length: usize, segment| {
            let draft = Draft::<V6>::default();
            // A hop-by-hop header of eight bytes, then TCP with timestamps.
            let headers =
                Headers { l4: L4::Tcp, proto: TCP, l4_offset: 14 + 48, tcp_header: 32, ..draft.headers };
            let packet = FakePacket { segment, ..FakePacket::new(std::vec![0; length], 1) };
            let flow = Flow::<Addr6> { mtu: 1500, ..Flow::default() };
            super::exceeds::<V6, _>(&packet, &headers, &flow)
        };
        assert!(!exceeds(70_000, 1428), "segments of 1500 bytes");
        assert!(exceeds(70_000, 1429));
        assert!(exceeds(60_000, 1428), "another option stays in every segment");
    }
}
