//! Tells listeners what is dropped: as much as the token buckets allow, so that a flood costs a few comparisons a packet.

use core::arch::asm;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_skb_load_bytes},
};
use netd_common::{
    maps::TICK_SHIFT,
    monitor::{CAPTURED, Sighting, bucket},
};

use crate::maps;

/// Reads a field of the context; volatile for the reason given in `skb.rs`.
macro_rules! field {
    ($skb:expr, $name:ident) => {
        // SAFETY: the context the kernel passed to this program.
        unsafe { (&raw const (*$skb).$name).read_volatile() }
    };
}

/// Returns how many bytes of a packet are told, bounded for the verifier as in `hold.rs`. None: it is empty.
#[inline(always)]
fn told(length: u32) -> Option<u32> {
    let length = if length < CAPTURED as u32 { length } else { CAPTURED as u32 };
    let mut bounded = u64::from(length.wrapping_sub(1));
    // SAFETY: touches one register.
    unsafe { asm!("{0} += 0", inout(reg) bounded, options(nomem, nostack)) };
    if bounded >= CAPTURED as u64 {
        return None;
    }
    // SAFETY: touches one register.
    unsafe { asm!("{0} += 1", inout(reg) bounded, options(nomem, nostack)) };
    Some(bounded as u32)
}

/// Tells a drop, if there is a token and room for it.
#[inline(always)]
pub fn tell(skb: *mut __sk_buff, reason: u32, program: u32) {
    // SAFETY: takes nothing, returns a number.
    let tick = (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32;
    let ifindex = field!(skb, ifindex);
    let Some(bucket) = maps::BUCKETS.get_ptr_mut(bucket(reason, ifindex)) else { return };
    // SAFETY: this CPU's own element; no packet program interrupts another on its CPU.
    let bucket = unsafe { &mut *bucket };
    let Some(unseen) = bucket.take(tick) else { return };
    let Some(mut record) = maps::EVENTS.reserve::<Sighting>(0) else {
        bucket.told(false);
        return;
    };
    let sighting = record.as_mut_ptr();
    let (length, ingress, mark) = (field!(skb, len), field!(skb, ingress_ifindex), field!(skb, mark));
    // SAFETY: the record is the program's own until it is submitted, and as large as the type; fields are written without being read.
    unsafe {
        (&raw mut (*sighting).at).write(bpf_ktime_get_ns());
        (&raw mut (*sighting).ifindex).write(ifindex);
        (&raw mut (*sighting).ingress).write(ingress);
        (&raw mut (*sighting).length).write(length);
        (&raw mut (*sighting).unseen).write(unseen);
        (&raw mut (*sighting).mark).write(mark);
        (&raw mut (*sighting).reason).write(reason as u8);
        (&raw mut (*sighting).program).write(program as u8);
    }
    let mut captured = 0;
    if let Some(length) = told(length) {
        // SAFETY: the helper writes `length` bytes, at most as many as the field has.
        let failed =
            unsafe { bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*sighting).bytes).cast(), length) };
        captured = if failed == 0 { length as u16 } else { 0 };
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*sighting).captured).write(captured) };
    record.submit(0);
    bucket.told(true);
}
