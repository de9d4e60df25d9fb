//! What programs on these hooks can reach at best, for `cargo xtask bench`: packets of two sandboxes go where the daemon would send them, by what is known
//! beforehand. Nothing is looked up, checked or translated. Not part of netd.
#![no_std]
#![no_main]

use core::ptr;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type},
    macros::classifier,
    programs::TcContext,
};

/// The next program, then the stack.
const PASS: i32 = -1;
/// `PACKET_HOST`: addressed to this host.
const PACKET_HOST: u32 = 0;
/// Ethertypes, as they lie in memory.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Where the last word of the destination address lies in a frame.
const DESTINATION4: usize = 14 + 16;
const DESTINATION6: usize = 14 + 36;
/// Address families, as the kernel counts them.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// The kernel's `struct bpf_redir_neigh`.
#[repr(C)]
struct NextHop {
    family: u32,
    addr: [u32; 4],
}

/// Declares what the loader tells: words of the object's read-only data, which the verifier knows.
macro_rules! told {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $nothing:expr;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: $kind = $nothing;
    )*};
}
told! {
    /// Interface that leads outside.
    UPLINK: u32 = 0;
    /// Host sides of the sandboxes' veths.
    VETHS: [u32; 2] = [0; 2];
    /// Last words of the sandboxes' addresses, as they lie in memory.
    ENDS4: [u32; 2] = [0; 2];
    /// The same for IPv6.
    ENDS6: [u32; 2] = [0; 2];
    /// Next hop outside.
    BEYOND4: u32 = 0;
    /// The same for IPv6.
    BEYOND6: [u32; 4] = [0; 4];
}

/// Reads what the loader told; volatile, or the compiler would know better.
#[inline(always)]
fn tell<T: Copy>(told: &'static T) -> T {
    // SAFETY: a constant of the object.
    unsafe { ptr::from_ref(told).read_volatile() }
}

/// Reads a field of the context.
macro_rules! field {
    ($skb:expr, $name:ident) => {
        // SAFETY: the context the kernel passed to this program.
        unsafe { (&raw const (*$skb).$name).read_volatile() }
    };
}

/// Returns the last word of the destination address; 0: the packet is too short.
#[inline(always)]
fn destination(ctx: &TcContext, at: usize) -> u32 {
    let start = ctx.data() + at;
    if start + 4 > ctx.data_end() {
        return 0;
    }
    // SAFETY: the bounds are checked; the packet's memory may be read at any address.
    unsafe { (start as *const u32).read_unaligned() }
}

/// Gives a packet to the sandbox that has the address, if one of the two does.
#[inline(always)]
fn to_sandbox(skb: *mut __sk_buff, address: u32, ends: [u32; 2]) -> Option<i32> {
    let [first, second] = tell(&VETHS);
    let veth = if address == ends[0] {
        first
    } else if address == ends[1] {
        second
    } else {
        return None;
    };
    // SAFETY: the context is valid, the rest are numbers.
    unsafe {
        bpf_skb_change_type(skb.cast(), PACKET_HOST); // its link address is the router's
        Some(bpf_redirect_peer(veth, 0) as i32)
    }
}

/// Sends a packet out by the uplink.
#[inline(always)]
fn outside(family: u32, addr: [u32; 4]) -> i32 {
    let mut next = NextHop { family, addr };
    // SAFETY: the structure has the kernel's layout and size; the kernel copies it.
    unsafe {
        bpf_redirect_neigh(tell(&UPLINK), ptr::from_mut(&mut next).cast(), size_of::<NextHop>() as i32, 0)
            as i32
    }
}

/// What a sandbox sends.
#[classifier]
pub fn from_endpoint(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    match field!(skb, protocol) {
        IPV4 => to_sandbox(skb, destination(&ctx, DESTINATION4), tell(&ENDS4))
            .unwrap_or_else(|| outside(AF_INET, [tell(&BEYOND4), 0, 0, 0])),
        IPV6 => to_sandbox(skb, destination(&ctx, DESTINATION6), tell(&ENDS6))
            .unwrap_or_else(|| outside(AF_INET6, tell(&BEYOND6))),
        _ => PASS,
    }
}

/// What arrives from outside.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let taken = match field!(skb, protocol) {
        IPV4 => to_sandbox(skb, destination(&ctx, DESTINATION4), tell(&ENDS4)),
        IPV6 => to_sandbox(skb, destination(&ctx, DESTINATION6), tell(&ENDS6)),
        _ => None,
    };
    taken.unwrap_or(PASS)
}

/// The verifier rejects a program in which this can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// `bpf_redirect_neigh` and others are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
