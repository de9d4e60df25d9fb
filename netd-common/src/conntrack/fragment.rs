//! Fragments: only the first has ports, so it leaves them for the others.
//!
//! The table is LRU, the one place where that is right: a lost entry costs one datagram.

use crate::{
    env::Env,
    family::Ip,
    maps::{FragmentKey, Ports},
    net::Zone,
    wire::{Fragment, Headers},
};

/// Leaves the ports of a first fragment, and gives them to a later one. False: a later fragment whose first has not come.
#[inline(always)]
pub fn follow<F: Ip, E: Env<F>>(env: &E, headers: &mut Headers<F>, zone: Zone) -> bool {
    if headers.fragment == Fragment::Whole {
        return true;
    }
    let (src, dst, id, proto) = (headers.src, headers.dst, headers.fragment_id, headers.proto);
    let key = FragmentKey { src, dst, id, zone, proto, pad: [0; 3] };
    if headers.fragment == Fragment::First {
        env.leave_ports(&key, Ports { sport: headers.sport, dport: headers.dport });
        return true;
    }
    let Some(ports) = env.left_ports(&key) else { return false };
    (headers.sport, headers.dport) = (ports.sport, ports.dport);
    true
}
