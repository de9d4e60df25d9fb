//! Where the host's stack looks for the socket of a packet: its own input rules have let that in (ADR 0020).

use aya_ebpf::{
    bindings::{bpf_sk_lookup, sk_action},
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::sk_lookup,
    maps::LruHashMap,
    programs::SkLookupContext,
};
use netd_common::{
    conntrack::input,
    maps::{Hearing, TICK_SHIFT, Tuple},
    net::{Addr4, Addr6, Be16, UPLINK_ZONE},
};

use crate::maps;

/// `AF_INET`.
const IPV4: u32 = 2;
/// `AF_INET6`.
const IPV6: u32 = 10;

/// Reads a field of the context; volatile for the reason given in `skb.rs`.
macro_rules! field {
    ($lookup:expr, $($name:tt)+) => {
        // SAFETY: the context the kernel passed to this program.
        unsafe { (&raw const (*$lookup).$($name)+).read_volatile() }
    };
}

/// Takes note that the host's rules have let a packet through that they were asked about, and lets the stack find no socket for it.
#[sk_lookup]
pub fn host_input(ctx: SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    let asked = match field!(lookup, family) {
        IPV4 => {
            let (src, dst) = (field!(lookup, remote_ip4), field!(lookup, local_ip4));
            heard(&maps::INPUT4, &tuple(lookup, Addr4::from_raw(src), Addr4::from_raw(dst)))
        }
        IPV6 => {
            let src = [
                field!(lookup, remote_ip6[0]),
                field!(lookup, remote_ip6[1]),
                field!(lookup, remote_ip6[2]),
                field!(lookup, remote_ip6[3]),
            ];
            let dst = [
                field!(lookup, local_ip6[0]),
                field!(lookup, local_ip6[1]),
                field!(lookup, local_ip6[2]),
                field!(lookup, local_ip6[3]),
            ];
            heard(&maps::INPUT6, &tuple(lookup, Addr6::from_raw(src), Addr6::from_raw(dst)))
        }
        _ => false,
    };
    if asked { sk_action::SK_DROP } else { sk_action::SK_PASS }
}

/// Returns the packet's tuple as `from_uplink` knows it.
#[inline(always)]
fn tuple<A>(lookup: *mut bpf_sk_lookup, src: A, dst: A) -> Tuple<A> {
    let (sport, proto) = (field!(lookup, remote_port), field!(lookup, protocol) as u8);
    let dport = Be16::from(field!(lookup, local_port) as u16);
    Tuple {
        src,
        dst,
        sport: Be16::from_wire(sport.to_ne_bytes()),
        dport,
        zone: UPLINK_ZONE,
        proto,
        pad: [0; 3],
    }
}

#[inline(always)]
fn heard<A>(hearings: &'static LruHashMap<Tuple<A>, Hearing>, key: &Tuple<A>) -> bool {
    // SAFETY: takes nothing, returns a number.
    let now = (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32;
    // SAFETY: an entry of the map; its fields are words, and who writes last has seen the latest packet.
    hearings.get_ptr_mut(key).is_some_and(|known| input::heard(unsafe { &mut *known }, now))
}
