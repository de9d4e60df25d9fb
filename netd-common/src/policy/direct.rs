//! Sandboxes addressed directly, by their own address and from beyond their network: what Docker's gateway modes, trusted interfaces and
//! accepted marks allow (Docker semantics B6 to B10, A12, A13).

use super::{check_allowed, check_way, has};
use crate::{
    env::{Env, Packet},
    family::{Address, Ip},
    maps::{PublishKey, endpoint_flags, features, flow_flags},
    net::IfIndex,
    verdict::DropReason,
    wire::{Headers, L4},
};

/// How a packet gets to the sandbox it addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By a flow without translation.
    Granted,
    /// The same, for as long as this port is open.
    Opened,
    /// Only if the host's own rules mark it: the stack has to see it first.
    IfMarked,
}

impl Access {
    /// Returns what a flow of this access depends on, as one of `flow_flags`.
    pub const fn by(self) -> u16 {
        if matches!(self, Self::Opened) { flow_flags::OPENED } else { 0 }
    }
}

/// Where a packet for a sandbox's own address comes from: the device by which it came to the host.
#[derive(Clone, Copy, Debug)]
pub struct CameBy {
    /// The device; the bridge for a sandbox of another network.
    pub device: IfIndex,
    /// Whether that is a way from outside, to which lists of interfaces apply.
    pub outside: bool,
}

/// Decides about a packet for a sandbox's own address that belongs to no flow. `flags` and `network` are the sandbox's.
///
/// # Errors
/// `Internal`, `DirectAccess` where nothing may be addressed directly, `Unpublished` where only this port may not.
#[inline(always)]
pub fn direct<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &P,
    headers: &Headers<F>,
    (flags, network): (u32, u16),
    from: CameBy,
) -> Result<Access, DropReason> {
    if has(flags, endpoint_flags::INTERNAL) {
        return Err(DropReason::Internal);
    }
    if headers.src == F::Addr::UNSPECIFIED || headers.src.is_link_local() || headers.src.is_loopback() {
        return Err(DropReason::DirectAccess); // nothing that an answer could reach
    }
    if has(flags, F::UNPROTECTED) {
        return Ok(Access::Granted);
    }
    let config = env.config().ok_or(DropReason::DirectAccess)?;
    let routed = has(flags, F::ROUTED);
    let trusted = || has(flags, endpoint_flags::TRUSTS) && env.trusts(network, from.device);
    if !routed && !has(config.features, features::DIRECT_ROUTING) && !trusted() {
        return Err(DropReason::DirectAccess);
    }
    if routed && headers.l4 == L4::Echo {
        return Ok(Access::Granted);
    }
    let key = PublishKey { addr: headers.dst, port: headers.dport, proto: headers.proto, pad: 0 };
    if matches!(headers.l4, L4::Tcp | L4::Udp | L4::Sctp)
        && let Some(open) = env.opened(&key)
    {
        if from.outside {
            check_way(env, open.via, from.device)?;
        }
        return check_allowed(env, open.allow, &headers.src).map(|()| Access::Opened);
    }
    match config.accept_mask {
        0 => Err(DropReason::Unpublished),
        mask if packet.mark() & mask == config.accept_mark => Ok(Access::Granted),
        _ => Ok(Access::IfMarked),
    }
}
