//! Packet programs of TC hooks: what enters and leaves sandboxes and uplinks.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR},
    helpers::generated::bpf_l4_csum_replace,
    macros::classifier,
    programs::TcContext,
};
use netd_common::{
    env::{Draft, Env, Packet},
    family::{Family, V4, V6},
    hook,
    monitor::program,
    nat::siit,
    net::UPLINK_ZONE,
    wire::l4,
};

use crate::{
    env::{self, Kernel},
    maps,
    parts::{v4, v6},
    report::{FOUND, PASS, UNDECIDED, conclude, drop_packet, hold, is_final, leave},
    skb::{Careful, ethertype, ifindex},
};

/// Exchanges what answers an IPv6 client for the IPv6 packet that it stands for. The answer is `FOUND` when that is done, else an action or `UNDECIDED`.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn as_ipv6(skb: *mut __sk_buff) -> i32 {
    let Some(Draft { headers, .. }) = env::draft(&maps::DRAFT4) else { return PASS };
    if !hook::answers_ipv6(&Kernel(skb), headers, ifindex(skb)) {
        return UNDECIDED;
    }
    match siit::to_v6(&mut Careful::new(skb)) {
        Ok(()) => FOUND,
        Err(reason) => drop_packet(reason),
    }
}

/// What a sandbox sends by IPv4 and belongs to no flow of that family.
extern "C" fn endpoint_decide4_or_6(skb: *mut __sk_buff) -> i32 {
    match as_ipv6(skb) {
        UNDECIDED => v4::endpoint_decide(skb),
        action => action,
    }
}

/// What a sandbox sends; ingress of its veth's host side.
#[classifier]
pub fn from_endpoint(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let action = match ethertype(skb) {
        V4::ETHERTYPE => match v4::endpoint_fast(skb) {
            action if is_final(action) => return leave(action),
            UNDECIDED => match v4::slow(skb, ifindex(skb), endpoint_decide4_or_6) {
                FOUND => v6::slow(skb, ifindex(skb), v6::endpoint_decide),
                action => action,
            },
            action => action,
        },
        V6::ETHERTYPE => match v6::endpoint_fast(skb) {
            action if is_final(action) => return leave(action),
            UNDECIDED => v6::slow(skb, ifindex(skb), v6::endpoint_decide),
            action => action,
        },
        other => {
            let packet = Careful::new(skb);
            let endpoint = Env::<V4>::endpoint(&Kernel(skb), ifindex(skb)).copied();
            match hook::from_endpoint_frame(&packet, endpoint.as_ref(), other) {
                Ok(()) => PASS,
                Err(reason) => drop_packet(reason),
            }
        }
    };
    conclude(skb, program::FROM_ENDPOINT, action)
}

/// What the bridge or the stack delivers to a sandbox; egress of its veth's host side.
#[classifier]
pub fn to_endpoint(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let action = match ethertype(skb) {
        V4::ETHERTYPE => {
            v4::take_back(skb);
            v4::gate(skb)
        }
        V6::ETHERTYPE => {
            v6::take_back(skb);
            v6::gate(skb)
        }
        other => {
            let packet = Careful::new(skb);
            let sender = Env::<V4>::endpoint(&Kernel(skb), packet.ingress_ifindex()).copied();
            match hook::to_endpoint_frame(&packet, sender.as_ref(), other) {
                Ok(()) => PASS,
                Err(reason) => drop_packet(reason),
            }
        }
    };
    conclude(skb, program::TO_ENDPOINT, action)
}

/// What arrives from outside; ingress of an uplink.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let action = match ethertype(skb) {
        V4::ETHERTYPE => match v4::uplink_fast(skb) {
            action if is_final(action) => return leave(action),
            UNDECIDED => v4::slow(skb, UPLINK_ZONE, v4::uplink_decide),
            action => action,
        },
        V6::ETHERTYPE => match v6::uplink_fast(skb) {
            action if is_final(action) => return leave(action),
            UNDECIDED => v6::slow(skb, UPLINK_ZONE, v6::uplink_decide),
            action => action,
        },
        _ => PASS,
    };
    conclude(skb, program::FROM_UPLINK, action)
}

/// What leaves by an uplink; its egress.
#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
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
    conclude(skb, program::TO_UPLINK, action)
}

/// Tells the daemon by BPF_PROG_TEST_RUN whether `bpf_l4_csum_replace` knows `BPF_F_IPV6`: 0 yes, 1 no.
#[classifier]
pub fn probe_csum_ipv6(ctx: TcContext) -> i32 {
    const IPV6: u64 = 1 << 7;
    let at = netd_common::wire::headers::L3 + V6::HEADER + l4::TCP_CHECKSUM;
    // SAFETY: plain numbers; the kernel checks the offset.
    let failed =
        unsafe { bpf_l4_csum_replace(ctx.skb.skb.cast(), at, 0, 1, u64::from(BPF_F_PSEUDO_HDR) | IPV6) };
    i32::from(failed != 0)
}
