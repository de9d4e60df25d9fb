//! The program of `lo`: published ports for clients of the host whose sockets the socket programs leave alone.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use netd_common::{
    env::Draft,
    family::{Family, V4, V6},
    hook,
    monitor::program,
    net::LOOPBACK_ZONE,
};

use crate::{
    env::{self, Kernel},
    maps,
    parts::{v4, v6},
    report::{PASS, optional, settled},
    skb::{Careful, Direct, ethertype},
};

/// Declares the parts of one family.
macro_rules! parts {
    ($family:ty, $draft:ident, $dials:ident, $decide:ident) => {
        /// Whether a packet is to a published port. The answer is 1 or 0.
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $dials(skb: *mut __sk_buff) -> u32 {
            u32::from(hook::dials_published::<$family, _, _>(&Kernel(skb), &Direct::new(skb)))
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $decide(skb: *mut __sk_buff) -> i32 {
            let Some(Draft { headers, opening, .. }) = env::draft(&maps::$draft) else { return PASS };
            let mut packet = Careful::new(skb);
            let decided =
                hook::from_loopback_decide::<$family, _, _>(&Kernel(skb), &mut packet, headers, opening);
            optional(skb, decided.transpose())
        }
    };
}
parts!(V4, DRAFT4, loopback_dials4, loopback_decide4);
parts!(V6, DRAFT6, loopback_dials6, loopback_decide6);

/// What the host sends to itself; ingress of `lo`.
#[classifier]
pub fn from_loopback(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let action = match ethertype(skb) {
        V4::ETHERTYPE if loopback_dials4(skb) != 0 => v4::slow(skb, LOOPBACK_ZONE, loopback_decide4),
        V6::ETHERTYPE if loopback_dials6(skb) != 0 => v6::slow(skb, LOOPBACK_ZONE, loopback_decide6),
        _ => return PASS,
    };
    settled(skb, program::FROM_LOOPBACK, action)
}
