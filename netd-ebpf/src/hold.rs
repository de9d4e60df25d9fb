//! Fragments that wait for their first one, and how they arrive again: their bytes lie in a map until then, for no program can keep a packet.
//!
//! A place is `FREE`, `BUSY` or `READY`, and changes by atomic exchange alone: of two CPUs one has it, and neither waits for the other.

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{
        bpf_clone_redirect, bpf_ktime_get_coarse_ns, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
};
use netd_common::{
    conntrack::fragment,
    family::Ip,
    maps::{
        FragmentKey, Held, TICK_SHIFT,
        held::{BUSY, BYTES, FREE, PLACES, READY},
    },
    net::{Addr6, Zone},
    verdict::DropReason,
    wire::{Headers, headers::L3},
};

use crate::{
    atomic::Word,
    maps,
    report::{discard, drop_packet, hold},
};

/// Reads a field of the context; volatile for the reason given in `skb.rs`.
macro_rules! field {
    ($skb:expr, $name:ident) => {
        // SAFETY: the context the kernel passed to this program.
        unsafe { (&raw const (*$skb).$name).read_volatile() }
    };
}

fn now() -> u32 {
    // SAFETY: takes nothing, returns a number.
    (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
}

/// Returns a place's record.
#[inline(always)]
fn record(place: u32) -> Option<&'static mut Held> {
    // SAFETY: an element of an array map, which lives as long as the program. Only who has made it `BUSY` writes to more than its state; others
    // read what may be torn, and compare it again once they have it.
    maps::HELD.get_ptr_mut(place).map(|held| unsafe { &mut *held })
}

/// Returns a place's state.
#[inline(always)]
fn state(held: &mut Held) -> Word {
    // SAFETY: an element of an array map; programs touch its state through this function alone.
    unsafe { Word::new(&raw mut held.state) }
}

/// Takes a waiting fragment's place; false: nothing waits there, or somebody else has it.
#[inline(always)]
fn take(held: &mut Held) -> bool {
    let state = state(held);
    match state.swap(BUSY) {
        READY => true,
        FREE => {
            state.swap(FREE);
            false
        }
        _ => false,
    }
}

/// Returns the number of fragments that a shelf has taken.
#[inline(always)]
fn turns(shelf: u32) -> Option<Word> {
    // SAFETY: an element of an array map that programs touch through this function alone.
    maps::HELD_NEXT.get_ptr_mut(shelf).map(|next| unsafe { Word::new(next) })
}

/// Returns the datagram of the fragment at hand.
#[inline(always)]
fn wanted() -> Option<&'static mut FragmentKey<Addr6>> {
    // SAFETY: this CPU's own element; no packet program interrupts another on its CPU.
    maps::HELD_KEY.get_ptr_mut(0).map(|key| unsafe { &mut *key })
}

/// Says which datagram the functions below are about, and returns the shelf of its fragments.
#[inline(always)]
pub fn at<F: Ip>(headers: &Headers<F>, zone: Zone) -> u32 {
    if let Some(key) = wanted() {
        *key = fragment::held_key(headers, zone);
    }
    fragment::shelf(headers, zone)
}

/// Bounds a length for the verifier, by instructions that LLVM cannot move away from the use.
///
/// One comparison, and one added behind it: that a number is not zero the verifier of Linux 6.1 does not learn from a comparison with zero.
#[inline(always)]
fn bounded(length: u32) -> Option<u32> {
    let mut bounded = u64::from(length.wrapping_sub(1));
    // SAFETY: touches one register.
    unsafe { asm!("{0} += 0", inout(reg) bounded, options(nomem, nostack)) };
    if bounded >= BYTES as u64 {
        return None;
    }
    // SAFETY: touches one register.
    unsafe { asm!("{0} += 1", inout(reg) bounded, options(nomem, nostack)) };
    Some(bounded as u32)
}

/// Puts the packet on a shelf. The answer is its place, or -1: it is too long, or another CPU is at that place.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn shelve(skb: *mut __sk_buff, shelf: u32) -> i32 {
    let Some(length) = bounded(field!(skb, len).wrapping_sub(L3)) else { return -1 };
    let (Some(key), Some(turns)) = (wanted(), turns(shelf)) else { return -1 };
    let place = shelf * PLACES + (turns.add(1) & (PLACES - 1));
    let (Some(held), Some(bytes)) = (record(place), maps::HELD_BYTES.get_ptr_mut(place)) else { return -1 };
    match state(held).swap(BUSY) {
        BUSY => return -1,
        READY => {
            discard(DropReason::FragNoFirst); // the oldest of the shelf
        }
        _ => {}
    }
    // SAFETY: the helper writes `length` bytes, at most as many as the element has.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), L3, bytes.cast(), length) };
    if failed != 0 {
        state(held).swap(FREE);
        return -1;
    }
    (held.since, held.device, held.length, held.key) = (now(), field!(skb, ifindex), length, *key);
    state(held).swap(READY);
    place as i32
}

/// Takes a fragment from its place again. The answer is 1, or 0: its first has let it arrive already.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn withdraw(place: u32) -> i32 {
    let Some(held) = record(place) else { return 0 };
    if !take(held) {
        return 0;
    }
    state(held).swap(FREE);
    1
}

/// Finds a fragment on a shelf, from a place on, that waits for the packet at hand, and clears away what nobody comes for. The answer is its place, or
/// -1.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn find(skb: *mut __sk_buff, shelf: u32, from: u32) -> i32 {
    let (Some(key), Some(turns)) = (wanted(), turns(shelf)) else { return -1 };
    let (device, now) = (field!(skb, ifindex), now());
    turns.add(0); // the barrier: what this program wrote before, others see before it reads on
    for offset in 0..PLACES {
        let place = shelf * PLACES + offset;
        let Some(held) = record(place) else { return -1 };
        if place < from || state(held).get() != READY {
            continue;
        }
        if fragment::is_forgotten(held.since, now) {
            if take(held) {
                discard(DropReason::FragNoFirst);
                state(held).swap(FREE);
            }
        } else if fragment::waits_for(held, key, device) {
            return place as i32;
        }
    }
    -1
}

/// Lets the packet, a first fragment, arrive anew, and behind it what waits for it. The answer is an action.
#[inline(always)]
pub fn arrive_again(skb: *mut __sk_buff, shelf: u32, first: i32) -> i32 {
    if !copy_arrives(skb) {
        return drop_packet(DropReason::KernelRefused);
    }
    let mut place = first;
    for _ in 0..PLACES {
        if place < 0 {
            break;
        }
        release(skb, place as u32);
        place = find(skb, shelf, place as u32 + 1);
    }
    hold()
}

/// Lets the packet arrive anew. The answer is an action.
#[inline(always)]
pub fn arrive_anew(skb: *mut __sk_buff) -> i32 {
    let device = field!(skb, ifindex);
    // SAFETY: takes numbers.
    unsafe { bpf_redirect(device, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Lets a copy of the packet arrive on its device.
#[inline(always)]
pub fn copy_arrives(skb: *mut __sk_buff) -> bool {
    let device = field!(skb, ifindex);
    // SAFETY: the context is valid; the copy shares the packet's memory, which the kernel copies before the next change.
    unsafe { bpf_clone_redirect(skb.cast(), device, u64::from(BPF_F_INGRESS)) == 0 }
}

/// Makes the packet a waiting fragment, and lets a copy of it arrive. The answer is 0.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn release(skb: *mut __sk_buff, place: u32) -> i32 {
    let (Some(key), Some(held), Some(bytes)) = (wanted(), record(place), maps::HELD_BYTES.get_ptr_mut(place))
    else {
        return 0;
    };
    if !take(held) {
        return 0;
    }
    if !fragment::waits_for(held, key, field!(skb, ifindex)) {
        state(held).swap(READY); // another datagram's by now
        return 0;
    }
    let arrives = bounded(held.length).is_some_and(|length| {
        // SAFETY: the helpers take numbers, and read `length` bytes, at most as many as the element has. Both fragments came from one sender: the
        // Ethernet header stays.
        let written = unsafe {
            bpf_skb_change_tail(skb.cast(), L3 + length, 0) == 0
                && bpf_skb_store_bytes(skb.cast(), L3, bytes.cast(), length, u64::from(BPF_F_RECOMPUTE_CSUM))
                    == 0
        };
        written && copy_arrives(skb)
    });
    if !arrives {
        discard(DropReason::KernelRefused);
    }
    state(held).swap(FREE);
    0
}
