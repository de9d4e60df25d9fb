//! Turns a verdict into the kernel's action, and counts drops: the single exit of every packet program.

use core::{convert::Infallible, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type},
};
use netd_common::{
    maps::features,
    net::{Addr4, Addr6, LOOPBACK_ZONE},
    verdict::{DropReason, Verdict, tally, tries},
};

use crate::{env, maps, monitor};

/// The next program, then the stack: `TCX_NEXT`, and `TC_ACT_UNSPEC` under clsact.
pub const PASS: i32 = -1;
/// The stack, and no program behind this one: `TCX_PASS`, and `TC_ACT_OK` under clsact.
pub const PASS_AT_ONCE: i32 = 0;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// No action yet: the packet is to be dropped, and its sender may get a reset. The reason's number is added.
const REFUSED: i32 = 0x7ffd_0000;
/// No action yet: the packet is to be dropped. The reason's number is added; the entry point counts it, and tells it (`conclude`).
const DROPPED: i32 = 0x7ffe_0000;
/// No action yet: the fast part left the packet to the slow part.
pub const UNDECIDED: i32 = 0x7fff_0000;
/// No action yet: the flow of a quoted packet was found.
pub const FOUND: i32 = 0x7fff_0001;
/// No action yet: the packet waits for the first fragment of its datagram.
pub const HOLD: i32 = 0x7fff_0002;
/// No action yet: the packet has no flow, and its ports are not known.
pub const FLOWLESS: i32 = 0x7fff_0003;
/// No action yet: the packet is for the host's stack, see `Verdict::HandOver`.
pub const HANDED: i32 = 0x7fff_0004;
/// `PACKET_HOST`: addressed to this host.
const PACKET_HOST: u32 = 0;

/// The kernel's `struct bpf_redir_neigh`.
#[repr(C)]
#[derive(Default)]
struct NextHop {
    family: u32,
    addr: [u32; 4],
}

/// An address as next hop.
pub trait AsNextHop {
    /// Address family as the kernel counts them.
    const FAMILY: u32;
    /// Returns the address in the first words.
    fn words(&self) -> [u32; 4];
}

/// Of a verdict that never goes to a neighbour.
impl AsNextHop for Infallible {
    const FAMILY: u32 = 0;
    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        match *self {}
    }
}

impl AsNextHop for Addr4 {
    const FAMILY: u32 = 2;
    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        [self.raw(), 0, 0, 0]
    }
}

impl AsNextHop for Addr6 {
    const FAMILY: u32 = 10;
    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        self.raw()
    }
}

/// Carries out a decision.
#[inline(always)]
pub fn finish<A: AsNextHop>(skb: *mut __sk_buff, decision: Result<Verdict<A>, DropReason>) -> i32 {
    match decision {
        Ok(Verdict::Pass) => PASS,
        Ok(Verdict::ToSandbox(ifindex)) => {
            if !env::has_feature(features::PEER_SCRUBS) {
                // SAFETY: the context is valid; without this the frame keeps PACKET_OTHERHOST and the sandbox's stack ignores it.
                unsafe { bpf_skb_change_type(skb.cast(), PACKET_HOST) };
            }
            // SAFETY: takes numbers.
            unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
        }
        // SAFETY: takes numbers.
        Ok(Verdict::ToBridge(ifindex)) => unsafe { bpf_redirect(ifindex, BPF_F_INGRESS as u64) as i32 },
        // SAFETY: the context is valid, the rest are numbers: without the type the frame keeps PACKET_OTHERHOST, since it was for the bridge and
        // not for this veth; a null pointer asks the kernel for the route, and with it for the way into its own stack.
        Ok(Verdict::ToNeighbour(LOOPBACK_ZONE, _)) => unsafe {
            bpf_skb_change_type(skb.cast(), PACKET_HOST);
            bpf_redirect_neigh(LOOPBACK_ZONE, ptr::null_mut(), 0, 0) as i32
        },
        Ok(Verdict::ToNeighbour(ifindex, nexthop)) => {
            let mut params = NextHop { family: A::FAMILY, addr: nexthop.words() };
            // SAFETY: the structure has the kernel's layout and size; the kernel copies it.
            unsafe {
                bpf_redirect_neigh(ifindex, ptr::from_mut(&mut params).cast(), size_of::<NextHop>() as i32, 0)
                    as i32
            }
        }
        Ok(Verdict::Hold) => HOLD,
        Ok(Verdict::HandOver) => HANDED,
        Ok(Verdict::Refuse(reason)) => REFUSED + reason as i32,
        Ok(Verdict::Drop(reason)) | Err(reason) => drop_packet(reason),
    }
}

/// Whether all verdicts are counted, and not drops alone. The loader sets it before the programs are verified: the verifier knows the value, and
/// takes the counting out of programs that are not to count.
#[unsafe(no_mangle)]
static COUNT_VERDICTS: u32 = 0;

/// Counts what became of a packet, where verdicts are counted.
#[inline(always)]
fn count(slot: u32) {
    // SAFETY: a constant of the object; volatile, or the compiler would know better than the loader.
    if unsafe { (&raw const COUNT_VERDICTS).read_volatile() } != 0 {
        bump(slot);
    }
}

/// Whether an action is the program's last word. The kernel's are all below the parts' own: one comparison, which an established packet pays anyway.
#[inline(always)]
pub fn is_final(action: i32) -> bool {
    action < REFUSED
}

/// A packet program's last step behind its slow parts: counts a drop, and tells it to who listens.
#[inline(always)]
pub fn conclude(skb: *mut __sk_buff, program: u8, action: i32) -> i32 {
    leave(settled(skb, program, action))
}

/// Returns what the kernel is to do. A drop is counted, and told to who listens.
#[inline(always)]
pub fn settled(skb: *mut __sk_buff, program: u8, action: i32) -> i32 {
    if is_final(action) { action } else { dropped(skb, (action - DROPPED) as u32, program.into()) }
}

/// Whether an action is a refusal: the reason's number, else 0.
#[inline(always)]
pub fn refused(action: i32) -> u32 {
    if action > REFUSED && action < DROPPED { (action - REFUSED) as u32 } else { 0 }
}

/// Counts a drop, and tells it to who listens. The answer is the action. A function of its own: the verifier walks it once, and a drop is what may take
/// a while.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn dropped(skb: *mut __sk_buff, reason: u32, program: u32) -> i32 {
    bump(reason);
    if maps::LISTENING.get(0).is_some_and(|listening| *listening != 0) {
        monitor::tell(skb, reason, program);
    }
    DROP
}

/// A packet program's last step: counts its action.
#[inline(always)]
pub fn leave(action: i32) -> i32 {
    count(match action {
        PASS => tally::PASSED,
        DROP => tally::STOPPED,
        _ => tally::FORWARDED,
    });
    action
}

/// Ends a packet that is counted as dropped already.
#[inline(always)]
pub fn stop() -> i32 {
    DROP
}

/// Ends a packet that is not dropped: its bytes are kept, or arrive again as a copy, or nobody is to see what the stack says to one.
#[inline(always)]
pub fn hold() -> i32 {
    count(tally::HELD);
    DROP
}

/// Counts a frame that the guard drops, before it is a packet that could be told of.
#[inline(always)]
pub fn deny(reason: DropReason) {
    bump(reason as u32);
    leave(DROP);
}

/// Counts a frame that the guard lets in.
#[inline(always)]
pub fn admit() {
    leave(PASS);
}

/// Counts a segment that is dropped and answered.
#[inline(always)]
pub fn answer() {
    count(tally::ANSWERED);
}

/// Counts the drop of a packet that was held.
#[inline(always)]
pub fn discard(reason: DropReason) {
    count(tally::DISCARDED);
    bump(reason as u32);
}

/// Returns the action of a part that drops the packet.
#[inline(always)]
pub fn drop_packet(reason: DropReason) -> i32 {
    drop_number(reason as i32)
}

/// The same by the number of the reason.
#[inline(always)]
pub fn drop_number(reason: i32) -> i32 {
    DROPPED + reason
}

/// Counts how many ports were tried for a flow that has one now. The answer is 0.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn count_tries(number: u32) -> i32 {
    bump(tries::slot(number));
    add(tries::SUM, number.into());
    0
}

#[inline(always)]
fn bump(slot: u32) {
    add(slot, 1);
}

#[inline(always)]
fn add(slot: u32, more: u64) {
    if let Some(count) = maps::DROPS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own counter; no packet program interrupts another on its CPU.
        unsafe { *count += more };
    }
}

/// Carries out a part's decision, if it made one.
#[inline(always)]
pub fn optional<A: AsNextHop>(skb: *mut __sk_buff, decision: Option<Result<Verdict<A>, DropReason>>) -> i32 {
    match decision {
        // Told apart first: LLVM would copy the payload of the others along with it, which the verifier refuses ("R3 !read_ok").
        Some(Ok(Verdict::Pass)) => PASS,
        Some(Ok(Verdict::HandOver)) => HANDED,
        Some(decision) => finish(skb, decision),
        None => UNDECIDED,
    }
}
