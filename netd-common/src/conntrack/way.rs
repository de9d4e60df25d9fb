//! The way out of the host: asked for when a flow opens, and again after routes or links have changed.

use crate::{
    env::{Env, Routes},
    family::{Address, Ip},
    maps::{Config, Network, Tuple, Uplink, features},
    net::{IfIndex, UPLINK_ZONE},
};

/// Finds the way of packets that say this when they leave. `bridge` is the device they come from as the routing table sees it.
///
/// `by` is the uplink by which the flow came, of an answer to the outside: it goes back there if there is a way at all, though another metric
/// be better, since another uplink's router may take the host's address for a forged one (RFC 2827). (IPv6 knows only the best metric's ways:
/// there, a rule by the host's address has to say so.) And a link-local address means a neighbour on that very link.
#[inline(always)]
pub fn find<A: Address>(table: &mut impl Routes<A>, bridge: IfIndex, asks: &Tuple<A>, by: IfIndex) {
    if by != UPLINK_ZONE && asks.dst.is_link_local() {
        table.answer(by, asks);
        return;
    }
    let best = table.from(bridge, asks);
    if by != UPLINK_ZONE && best != by && table.by(by, asks) != by {
        table.from(bridge, asks);
    }
}

/// Whether the host's routing table has to say which source masqueraded flows of a network to this destination show. It need not where the network
/// has a fixed one, nor where RFC 6724 leaves no choice (`SOLE_SOURCE6`): the question is dear, for the kernel compares the addresses of all devices.
#[inline(always)]
pub fn has_choice<F: Ip>(config: &Config, network: &Network, dst: &F::Addr) -> bool {
    !has_sole_source::<F>(config, dst) && F::fixed_source(network) == F::Addr::UNSPECIFIED
}

/// Whether the uplink's own address is the source of what goes to this destination, whichever uplink that is.
#[inline(always)]
pub fn has_sole_source<F: Ip>(config: &Config, dst: &F::Addr) -> bool {
    F::V6 && config.features & features::SOLE_SOURCE6 != 0 && dst.is_global()
}

/// Returns the source of masqueraded flows of a network that take this way: a fixed one, else the one the routing table prefers, else the uplink's.
/// Unspecified: there is none.
#[inline(always)]
pub fn masquerade_source<F: Ip, E: Env<F>>(
    env: &E,
    network: &Network,
    uplink: &Uplink,
    preferred: F::Addr,
) -> F::Addr {
    let fixed = F::fixed_source(network);
    if fixed != F::Addr::UNSPECIFIED {
        return fixed;
    }
    // Of an unnumbered link the kernel takes any address of the host, a bridge's of netd's too, which nobody outside could answer.
    if preferred == F::Addr::UNSPECIFIED || env.subnet(&preferred).is_some() {
        F::uplink_addr(uplink)
    } else {
        preferred
    }
}
