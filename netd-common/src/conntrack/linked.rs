//! Sandboxes of one network that may not talk to each other, but for what a link or a policy opens.

use crate::{
    env::Env,
    family::{Address, Ip},
    maps::LinkKey,
    net::Be16,
};

/// Whether a link or a policy opens this: to this sandbox or to all of the network, this port or everything. What has no ports is asked for by
/// protocol numbers that no link has, and so meets those for everything alone.
#[inline(always)]
pub fn is_linked<F: Ip, E: Env<F>>(env: &E, mut key: LinkKey<F::Addr>) -> bool {
    let from = key.src;
    if env.linked(&key) {
        return true;
    }
    key.src = F::Addr::UNSPECIFIED;
    if env.linked(&key) {
        return true;
    }
    (key.port, key.proto) = (Be16::ZERO, 0);
    if env.linked(&key) {
        return true;
    }
    key.src = from;
    env.linked(&key)
}
