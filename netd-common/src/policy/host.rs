//! Which services of the host a network reaches: all of them, as under Docker (truth table T50), or those that `netd.host_access` names.

use super::has;
use crate::{
    conntrack::elapsed,
    env::Env,
    family::Ip,
    maps::{Endpoint, PublishKey, Tuple, endpoint_flags},
    net::IfIndex,
    verdict::DropReason,
    wire::{Headers, L4},
};

/// Refuses a packet to one of the host's own addresses, behind which no published port is. What answers the host passes: segments that open
/// nothing, which its stack judges, and whatever [`remember`] has kept.
///
/// # Errors
/// `HostAccess`.
#[inline(always)]
pub fn check_host<F: Ip, E: Env<F>>(
    env: &E,
    endpoint: &Endpoint,
    headers: &Headers<F>,
    ifindex: IfIndex,
) -> Result<(), DropReason> {
    if !has(endpoint.flags, endpoint_flags::HOST_CLOSED) {
        return Ok(());
    }
    match headers.l4 {
        L4::Icmp => return Ok(()), // errors; the kernel believes them only about sockets of its own
        L4::Tcp if !headers.is_opening() => return Ok(()),
        _ => {}
    }
    let key = PublishKey { addr: F::gateway(endpoint), port: headers.dport, proto: headers.proto, pad: 0 };
    if matches!(headers.l4, L4::Tcp | L4::Udp | L4::Sctp) && env.opened(&key).is_some() {
        return Ok(());
    }
    let config = env.config().ok_or(DropReason::HostAccess)?;
    let fresh = |asked| elapsed(asked, env.now()) <= config.timeouts.udp_replied;
    if env.asked(&headers.tuple(ifindex)).is_some_and(fresh) { Ok(()) } else { Err(DropReason::HostAccess) }
}

/// Keeps in mind what the host sends to a sandbox of a network that reaches none of its services, so that the answer comes back. TCP needs no
/// memory: only openings are refused.
#[inline(always)]
pub fn remember<F: Ip, E: Env<F>>(env: &E, flags: u32, headers: &Headers<F>, ifindex: IfIndex) {
    if has(flags, endpoint_flags::HOST_CLOSED) && headers.l4 != L4::Tcp {
        let answer = Tuple {
            src: headers.dst,
            dst: headers.src,
            sport: headers.dport,
            dport: headers.sport,
            zone: ifindex,
            proto: headers.proto,
            pad: [0; 3],
        };
        env.keep_asked(&answer);
    }
}
