//! The guard of an uplink, by XDP: before the kernel makes a packet of what the device has received.

use core::ptr;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_xdp_load_bytes},
    macros::xdp,
    maps::{LpmTrie, LruHashMap, lpm_trie::Key},
    programs::XdpContext,
};
use netd_common::{
    guard::{self, Watch},
    maps::{Allowance, TICK_SHIFT},
    net::{Addr4, Addr6},
};

use crate::{maps, report};

/// Drops what the operator has listed, and lets everything else into the host.
#[xdp(frags)]
pub fn guard(ctx: XdpContext) -> u32 {
    match guard::judge(&Frame(&ctx)) {
        Some(reason) => {
            report::deny(reason);
            xdp_action::XDP_DROP
        }
        None => {
            report::admit();
            xdp_action::XDP_PASS
        }
    }
}

/// A frame as the device received it.
struct Frame<'a>(&'a XdpContext);

impl Watch for Frame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the context is valid, and the buffer has that many bytes.
        let failed =
            unsafe { bpf_xdp_load_bytes(self.0.ctx, offset, ptr::from_mut(&mut bytes).cast(), N as u32) };
        (failed == 0).then_some(bytes)
    }

    #[inline(always)]
    fn denies4(&self, source: Addr4) -> bool {
        denies(&maps::DENY4, source)
    }

    #[inline(always)]
    fn denies6(&self, source: Addr6) -> bool {
        denies(&maps::DENY6, source)
    }

    #[inline(always)]
    fn rate(&self) -> u32 {
        maps::CONFIG.get(0).map_or(0, |config| config.opening_rate)
    }

    #[inline(always)]
    fn spend4(&self, source: Addr4) -> bool {
        spend(&maps::OPENINGS4, source, self.rate())
    }

    #[inline(always)]
    fn spend6(&self, source: Addr6) -> bool {
        spend(&maps::OPENINGS6, source, self.rate())
    }
}

#[inline(always)]
fn denies<A>(listed: &'static LpmTrie<A, u32>, source: A) -> bool {
    listed.get(Key::new(size_of::<A>() as u32 * 8, source)).is_some()
}

#[inline(always)]
fn spend<A>(buckets: &'static LruHashMap<A, Allowance>, source: A, rate: u32) -> bool {
    // SAFETY: takes nothing, returns a number.
    let now = (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32;
    if let Some(bucket) = buckets.get_ptr_mut(&source) {
        // SAFETY: an entry of the map; its fields are words, and of two CPUs that write at once one's token is lost.
        return guard::spend(unsafe { &mut *bucket }, rate, now);
    }
    let _ = buckets.insert(&source, &guard::first(rate, now), 0);
    true
}
