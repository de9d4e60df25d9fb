//! What the host itself says by protocols whose sockets a program cannot look up: echoes, SCTP, UDP-Lite, DCCP, tunnels and ciphers.
//!
//! A masqueraded flow must not take the tuple of answers that the host waits for ([`Env::host_socket`] knows TCP and UDP alone): one GRE packet of a
//! hostile sandbox would lead the host's own tunnel to it (CVE-2021-3773). So what leaves is kept in mind by the tuple of its answers, which no
//! sandbox gets while that is fresh; and who has it already loses it, since the host cannot choose another.
//!
//! What only arrives for the host says nothing: anybody outside could keep sandboxes from talking to anybody in whose name they send.

use super::{Half, State, elapsed, forget};
use crate::{
    env::{Draft, Env},
    family::{Address, Ip},
    maps::Tuple,
    net::{Be16, UPLINK_ZONE},
    wire::{
        Headers, L4,
        l4::{TCP, UDP, is_portless},
    },
};

/// Whether sockets of a protocol can be looked up.
#[inline(always)]
pub const fn is_seen(proto: u8) -> bool {
    matches!(proto, TCP | UDP)
}

/// Whether a packet of the host's may be answered by one that a masqueraded flow could take for its own. Later fragments tell no ports.
#[inline(always)]
fn is_answered<F: Ip>(headers: &Headers<F>) -> bool {
    let asks = match headers.l4 {
        L4::Sctp | L4::Lite => true,
        L4::Echo => headers.dport == Be16::ZERO, // a request
        L4::Other => is_portless(headers.proto),
        L4::Tcp | L4::Udp | L4::Icmp => false,
    };
    asks && !headers.dst.is_multicast()
}

/// Keeps in mind what the host sends to the outside, which the draft's headers say, and takes the tuple of its answers from a sandbox.
#[inline(always)]
pub fn remember<F: Ip, E: Env<F>>(env: &E, draft: &mut Draft<F>) {
    let headers = &draft.headers;
    if !is_answered(headers) || !env.is_local(&headers.src) {
        return;
    }
    draft.reply = Tuple {
        src: headers.dst,
        dst: headers.src,
        sport: headers.dport,
        dport: headers.sport,
        zone: UPLINK_ZONE,
        proto: headers.proto,
        pad: [0; 3],
    };
    let answer = &draft.reply;
    if env.asked(answer) == Some(env.now()) {
        return; // this tick's first packet has seen to it
    }
    env.keep_asked(answer);
    take_back(env, answer);
}

/// Ends the masqueraded flow whose answers have this tuple.
#[inline(always)]
fn take_back<F: Ip, E: Env<F>>(env: &E, answer: &Tuple<F::Addr>) {
    let Some((other, half)) =
        env.flow(answer).map(|flow| (answer.counterpart(&flow), Half::of(answer, &flow)))
    else {
        return;
    };
    if half.original {
        return; // one that was opened from outside, by a published port
    }
    let (_, known) = half.partner_or_silence(env.flow(&other).map(|flow| Half::of(&other, &flow)));
    forget(env, answer, known.then_some(&other));
}

/// Whether the host waits for answers of this tuple. Of protocols whose sockets can be looked up nothing is known here.
#[inline(always)]
pub fn waits_for<F: Ip, E: Env<F>>(env: &E, answer: &Tuple<F::Addr>) -> bool {
    if answer.zone != UPLINK_ZONE || is_seen(answer.proto) {
        return false;
    }
    let Some(config) = env.config() else { return false };
    let timeout = State::Replied.timeout(answer.proto, &config.timeouts);
    env.asked(answer).is_some_and(|last| elapsed(last, env.now()) <= timeout)
}
