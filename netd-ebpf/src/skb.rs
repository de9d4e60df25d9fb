//! The packet behind `netd_common::env::Packet`: the only place that touches packet memory.
//!
//! [`Direct`] reads and writes linear memory at constant offsets, as compiled loads and stores. [`Careful`] calls the kernel for each access, which
//! takes any offset and non-linear packets. Both are values around one context; no pointer into the packet outlives a call.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use netd_common::{
    env::{ChecksumChange, Packet},
    maps::features,
    net::IfIndex,
    verdict::DropReason,
};

/// `BPF_F_IPV6` of `bpf_l4_csum_replace` (kernel ead7f9b8de65): the address lies in a header without a checksum of its own.
const BPF_F_IPV6: u64 = 1 << 7;

/// The packet by direct access. Offsets have to be constants.
pub struct Direct(*mut __sk_buff);

/// The packet by helper calls.
pub struct Careful(*mut __sk_buff);

impl Direct {
    /// Wraps the context the kernel passed to the program.
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }
}

impl Careful {
    /// Wraps the context the kernel passed to the program.
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }
}

/// Reads a field of the context.
macro_rules! field {
    ($skb:expr, $name:ident) => {
        // SAFETY: the pointer is the context the kernel passed to this program; it lives until the program returns.
        unsafe { (*$skb).$name }
    };
}

impl Direct {
    /// Returns the address of `size` bytes at a constant offset, if they are in linear memory.
    ///
    /// Reads both bounds anew each time: any helper that may move the packet invalidates older ones.
    #[inline(always)]
    fn at(&self, offset: u32, size: usize) -> Option<*mut u8> {
        let (data, end) = (field!(self.0, data) as usize, field!(self.0, data_end) as usize);
        let start = data + offset as usize;
        (start + size <= end).then_some(start as *mut u8)
    }
}

impl Packet for Direct {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], DropReason> {
        let start = self.at(offset, N).ok_or(DropReason::Malformed)?;
        // SAFETY: `at` compared these N bytes with the end of linear memory; the verifier has checked the same.
        Ok(unsafe { start.cast::<[u8; N]>().read_unaligned() })
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason> {
        let start = self.at(offset, N).ok_or(DropReason::Malformed)?;
        // SAFETY: as in `load`; the kernel unclones the packet before a program that writes to it runs.
        unsafe { start.cast::<[u8; N]>().write_unaligned(bytes) };
        Ok(())
    }

    #[inline(always)]
    fn update_checksum(&mut self, offset: u32, delta: u32, change: ChecksumChange) -> Result<(), DropReason> {
        update_checksum(self.0, offset, delta, change)
    }

    #[inline(always)]
    fn ifindex(&self) -> IfIndex {
        field!(self.0, ifindex)
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> IfIndex {
        field!(self.0, ingress_ifindex)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        field!(self.0, len)
    }

    #[inline(always)]
    fn segment_payload(&self) -> u32 {
        field!(self.0, gso_size)
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        field!(self.0, vlan_present) != 0
    }
}

impl Packet for Careful {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], DropReason> {
        let mut bytes = [0_u8; N];
        // SAFETY: the helper writes N bytes to the buffer, or fails.
        let failed = unsafe { bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        if failed == 0 { Ok(bytes) } else { Err(DropReason::Malformed) }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason> {
        // SAFETY: the helper reads N bytes from the buffer.
        let failed = unsafe { bpf_skb_store_bytes(self.0.cast(), offset, bytes.as_ptr().cast(), N as u32, 0) };
        if failed == 0 { Ok(()) } else { Err(DropReason::KernelRefused) }
    }

    #[inline(always)]
    fn update_checksum(&mut self, offset: u32, delta: u32, change: ChecksumChange) -> Result<(), DropReason> {
        update_checksum(self.0, offset, delta, change)
    }

    #[inline(always)]
    fn ifindex(&self) -> IfIndex {
        field!(self.0, ifindex)
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> IfIndex {
        field!(self.0, ingress_ifindex)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        field!(self.0, len)
    }

    #[inline(always)]
    fn segment_payload(&self) -> u32 {
        field!(self.0, gso_size)
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        field!(self.0, vlan_present) != 0
    }
}

/// Changes a transport checksum. Only the kernel knows whether the field holds a checksum or a device's starting value.
#[inline(always)]
fn update_checksum(
    skb: *mut __sk_buff,
    offset: u32,
    delta: u32,
    change: ChecksumChange,
) -> Result<(), DropReason> {
    let mut flags = 0;
    if change.pseudo_header {
        flags |= u64::from(BPF_F_PSEUDO_HDR);
        if change.ipv6 && crate::env::has_feature(features::CSUM_IPV6) {
            flags |= BPF_F_IPV6;
        }
    }
    if change.zero_is_none {
        flags |= u64::from(BPF_F_MARK_MANGLED_0);
    }
    // SAFETY: plain numbers; size 0 makes `to` a difference.
    let failed = unsafe { bpf_l4_csum_replace(skb.cast(), offset, 0, u64::from(delta), flags) };
    if failed == 0 { Ok(()) } else { Err(DropReason::KernelRefused) }
}
