//! The program of a netkit's sandbox side: runs where the sandbox sends, before the host's receive queue.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use netd_common::{
    family::{Family, V4, V6},
    hook,
    monitor::program,
};

use crate::{
    env::Kernel,
    report::{PASS, UNDECIDED, conclude, drop_packet, is_final, leave, optional},
    skb::{Direct, ethertype},
};

/// Declares the part of one family.
macro_rules! part {
    ($family:ty, $sends:ident) => {
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $sends(skb: *mut __sk_buff) -> i32 {
            optional(skb, hook::from_netkit::<$family, _, _>(&Kernel(skb), &mut Direct::new(skb)))
        }
    };
}
part!(V4, netkit_sends4);
part!(V6, netkit_sends6);

/// What a sandbox sends by a netkit; `PASS` is the way to the host side's ingress, where `from_endpoint` is.
#[classifier]
pub fn from_netkit(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let claimed = ethertype(skb);
    if let Err(reason) = hook::check_type(&Direct::new(skb), claimed) {
        return conclude(skb, program::FROM_NETKIT, drop_packet(reason));
    }
    let action = match claimed {
        V4::ETHERTYPE => netkit_sends4(skb),
        V6::ETHERTYPE => netkit_sends6(skb),
        _ => PASS,
    };
    if is_final(action) {
        return leave(action);
    }
    conclude(skb, program::FROM_NETKIT, if action == UNDECIDED { PASS } else { action })
}
