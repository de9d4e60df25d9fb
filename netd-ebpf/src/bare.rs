//! The programs of uplinks without link addresses: tun, WireGuard, PPP.
//!
//! What arrives there begins with IP. Most of it is for the host and passes untouched; what may be netd's gets an Ethernet header first and takes
//! the way of every other uplink from there on, so that Ethernet's fast path knows nothing of this. What leaves is translated as it is.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use netd_common::{
    env::Draft,
    family::{Family, V4, V6},
    hook,
    monitor::program,
    nat::icmp_error,
    net::{HANDED_ZONE, UPLINK_ZONE},
    verdict::DropReason,
    wire::{Headers, L4},
};

use crate::{
    env::{self, Kernel},
    fib, maps, parts,
    report::{PASS, UNDECIDED, conclude, drop_number, finish, hold, is_final, leave, optional},
    skb::{Careful, Direct, dress, ethertype},
};

/// Declares the parts of one family that read bare packets, as a module (see `parts.rs`).
macro_rules! parts {
    ($module:ident, $suffix:literal, $family:ty, $draft:ident, $routing:ident) => {
        mod $module {
            use super::*;

            /// Whether a packet from outside may be netd's. The answer is 1 or 0.
            #[inline(never)]
            #[unsafe(export_name = concat!("bare_concerns", $suffix))]
            pub extern "C" fn concerns(skb: *mut __sk_buff) -> u32 {
                u32::from(hook::concerns_us::<$family, _, _>(&Kernel(skb), &Direct::bare(skb)))
            }

            /// As the reading part of an Ethernet device.
            #[inline(never)]
            #[unsafe(export_name = concat!("bare_read", $suffix))]
            extern "C" fn read(skb: *mut __sk_buff) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return DropReason::KernelRefused as i32 };
                fib::begin(&maps::$routing);
                match Headers::<$family>::read(&Careful::bare(skb)) {
                    Ok(headers) => {
                        draft.headers = headers;
                        UNDECIDED
                    }
                    Err(reason) => reason as i32,
                }
            }

            /// As the reading part of an Ethernet device: the answer is 1, or 0 when the packet quotes nothing that could have a flow.
            #[inline(never)]
            #[unsafe(export_name = concat!("bare_quote", $suffix))]
            extern "C" fn quote(skb: *mut __sk_buff) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return 0 };
                let Some(quote) = icmp_error::quote(&Careful::bare(skb), &draft.headers, HANDED_ZONE) else {
                    return 0;
                };
                draft.quote = quote;
                1
            }

            /// As on an Ethernet device.
            #[inline(never)]
            #[unsafe(export_name = concat!("bare_restate", $suffix))]
            extern "C" fn restate(skb: *mut __sk_buff) -> i32 {
                if let Some(Draft { headers, quote, flow, .. }) = env::draft(&maps::$draft) {
                    let _ =
                        icmp_error::translate::<$family, _>(&mut Careful::bare(skb), headers, quote, flow);
                }
                0
            }

            /// As on an Ethernet device.
            #[inline(always)]
            pub fn own(skb: *mut __sk_buff) {
                if !hook::may_be_own::<$family, _, _>(&Kernel(skb), &Direct::bare(skb))
                    || read(skb) != UNDECIDED
                {
                    return;
                }
                if !env::draft(&maps::$draft).is_some_and(|draft| draft.headers.l4 == L4::Icmp) {
                    parts::$module::remember();
                    return;
                }
                let error = hook::may_answer_handed::<$family, _>(&Direct::bare(skb));
                if error && quote(skb) != 0 && parts::$module::recall_handed() != 0 {
                    restate(skb);
                }
            }

            /// As on an Ethernet device.
            #[inline(always)]
            pub fn hushed(skb: *mut __sk_buff) -> bool {
                if !hook::may_answer_asked::<$family, _, _>(&Kernel(skb), &Direct::bare(skb))
                    || read(skb) != UNDECIDED
                {
                    return false;
                }
                let error = env::draft(&maps::$draft).is_some_and(|draft| draft.headers.l4 == L4::Icmp);
                (!error || quote(skb) != 0) && parts::$module::answers_asked() != 0
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("bare_guard", $suffix))]
            pub extern "C" fn guard(skb: *mut __sk_buff) -> i32 {
                let action = optional(
                    skb,
                    hook::to_uplink_fast::<$family, _, _>(&Kernel(skb), &mut Direct::bare(skb)),
                );
                if action != UNDECIDED {
                    return action;
                }
                let unread = read(skb);
                if unread != UNDECIDED {
                    return drop_number(unread);
                }
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                finish(
                    skb,
                    hook::to_uplink::<$family, _, _>(&Kernel(skb), &mut Careful::bare(skb), &draft.headers),
                )
            }
        }
    };
}
parts!(v4, "4", V4, DRAFT4, ROUTING4);
parts!(v6, "6", V6, DRAFT6, ROUTING6);

/// What arrives from outside; ingress of an uplink without link addresses.
#[classifier]
pub fn from_bare_uplink(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let action = match ethertype(skb) {
        V4::ETHERTYPE => {
            if v4::concerns(skb) == 0 || !dress(skb, V4::ETHERTYPE) {
                return leave(PASS);
            }
            match parts::v4::uplink_fast(skb) {
                action if is_final(action) => return leave(action),
                UNDECIDED => parts::v4::slow(skb, UPLINK_ZONE, parts::v4::uplink_decide),
                action => action,
            }
        }
        V6::ETHERTYPE => {
            if v6::concerns(skb) == 0 || !dress(skb, V6::ETHERTYPE) {
                return leave(PASS);
            }
            match parts::v6::uplink_fast(skb) {
                action if is_final(action) => return leave(action),
                UNDECIDED => parts::v6::slow(skb, UPLINK_ZONE, parts::v6::uplink_decide),
                action => action,
            }
        }
        _ => PASS,
    };
    conclude(skb, program::FROM_UPLINK, action)
}

/// What leaves by an uplink without link addresses; its egress.
#[classifier]
pub fn to_bare_uplink(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let action = match ethertype(skb) {
        V4::ETHERTYPE => {
            if v4::hushed(skb) {
                return leave(hold());
            }
            v4::own(skb);
            v4::guard(skb)
        }
        V6::ETHERTYPE => {
            if v6::hushed(skb) {
                return leave(hold());
            }
            v6::own(skb);
            v6::guard(skb)
        }
        _ => PASS,
    };
    conclude(skb, program::TO_BARE_UPLINK, action)
}
