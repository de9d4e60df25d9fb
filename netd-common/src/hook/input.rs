//! What the stack answers to packets that it was given for the sake of its rules alone ([`crate::conntrack::input`]): nobody is to see it.

use crate::{
    conntrack::input,
    env::{Draft, Env, Packet},
    family::{Family, Ip},
    wire::{
        L4,
        headers::L3,
        l4::{RST, TCP},
    },
};

/// Offset of the flags in a TCP header (RFC 9293 §3.1).
const TCP_FLAGS: u32 = 13;

/// Whether a packet that leaves may be such an answer: a reset, or "port unreachable". The stack makes both without options.
#[inline(always)]
pub fn may_answer_asked<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &P) -> bool {
    if packet.ingress_ifindex() != 0 || !env.config().is_some_and(input::is_asked) {
        return false;
    }
    let at = L3 + F::HEADER;
    match packet.load::<1>(L3 + F::PROTOCOL) {
        Ok([TCP]) => packet.load::<1>(at + TCP_FLAGS).is_ok_and(|[flags]| flags & RST != 0),
        Ok([proto]) if proto == F::ICMP => packet.load::<2>(at).is_ok_and(|what| what == unreachable::<F>()),
        _ => false,
    }
}

/// Returns type and code of "port unreachable" (RFC 792, RFC 4443 §3.1).
#[inline(always)]
const fn unreachable<F: Family>() -> [u8; 2] {
    if F::V6 { [1, 4] } else { [3, 3] }
}

/// Whether the draft's packet, of which [`may_answer_asked`] is true and whose quote, if it is an error, has been read, is such an answer. What REJECT
/// rules say is none: the packet they answer has not been let through.
#[inline(always)]
pub fn answers_asked<F: Ip, E: Env<F>>(env: &E, draft: &Draft<F>) -> bool {
    let error = draft.headers.l4 == L4::Icmp;
    let answer = if error { draft.quote.against } else { draft.headers.tuple(0) };
    input::is_accepted(env, &input::answered(&answer))
}
