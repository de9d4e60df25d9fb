//! The packet behind `netd_common::env::Packet`: the only place that touches packet memory.
//!
//! [`Direct`] reads and writes linear memory at constant offsets, as compiled loads and stores. [`Careful`] calls the kernel for each access, which
//! takes any offset and non-linear packets. Both are values around one context; no pointer into the packet outlives a call.

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_skb_change_head, bpf_skb_change_proto, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use netd_common::{
    env::{ChecksumChange, Packet},
    maps::features,
    net::{Be16, IfIndex},
    verdict::DropReason,
    wire::{crc32c, ethernet},
};

use crate::parts::as_ipv4;

/// `BPF_F_IPV6` of `bpf_l4_csum_replace` (kernel ead7f9b8de65): the address lies in a header without a checksum of its own.
const BPF_F_IPV6: u64 = 1 << 7;

/// The packet by direct access. Offsets have to be constants.
///
/// A `BARE` packet is one of a device without link addresses (tun, WireGuard, PPP): it begins with IP. Offsets count from the start of an Ethernet
/// frame all the same, so that one source serves both; what lies in the header that is not there cannot be read or written.
pub struct Direct<const BARE: bool>(*mut __sk_buff);

/// The packet by helper calls; `BARE` as there.
pub struct Careful<const BARE: bool>(*mut __sk_buff);

impl Direct<false> {
    /// Wraps the context the kernel passed to the program.
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }
}

impl Careful<false> {
    /// Wraps the context the kernel passed to the program.
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }
}

impl Direct<true> {
    /// Wraps the context of a packet without an Ethernet header.
    pub fn bare(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }
}

impl Careful<true> {
    /// Wraps the context of a packet without an Ethernet header.
    pub fn bare(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }
}

/// Returns the length of the link header that the packets of a device have.
const fn link_header(bare: bool) -> u32 {
    if bare { 0 } else { ethernet::HEADER }
}

/// Returns where an offset into an Ethernet frame lies in the packet; beyond its end for what a bare one does not have.
#[inline(always)]
const fn place(offset: u32, bare: bool) -> u32 {
    if bare { offset.wrapping_sub(ethernet::HEADER) } else { offset }
}

/// Reads a field of the context. Volatile: LLVM merges a plain load with one of a map's value into a load from either address, and the verifier
/// refuses computed addresses into the context ("dereference of modified ctx ptr").
macro_rules! field {
    ($skb:expr, $name:ident) => {
        // SAFETY: the pointer is the context the kernel passed to this program; it lives until the program returns.
        unsafe { (&raw const (*$skb).$name).read_volatile() }
    };
}

/// What both ways of access share: the packet's metadata, and what only the kernel can change.
macro_rules! metadata {
    () => {
        #[inline(always)]
        fn update_checksum(
            &mut self,
            offset: u32,
            delta: u32,
            change: ChecksumChange,
        ) -> Result<(), DropReason> {
            update_checksum(self.0, place(offset, BARE), delta, change)
        }

        #[inline(always)]
        fn crc32c_change(word: u32, bytes: u32) -> u32 {
            crc32c_change(word, bytes)
        }

        #[inline(always)]
        fn truncate(&mut self, length: u32) -> Result<(), DropReason> {
            truncate(self.0, place(length, BARE))
        }

        #[inline(always)]
        fn renew<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason> {
            store(self.0, place(offset, BARE), bytes, u64::from(BPF_F_RECOMPUTE_CSUM))
        }

        #[inline(always)]
        fn exchange_header(&mut self, ethertype: Be16) -> Result<(), DropReason> {
            exchange_header(self.0, ethertype)
        }

        #[inline(always)]
        fn stand_for_ipv4(&mut self) -> Result<(), DropReason> {
            if as_ipv4(self.0) == 0 { Ok(()) } else { Err(DropReason::UnknownL4) }
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
            field!(self.0, len) + (ethernet::HEADER - link_header(BARE))
        }

        #[inline(always)]
        fn segment_payload(&self) -> u32 {
            field!(self.0, gso_size)
        }

        #[inline(always)]
        fn mark(&self) -> u32 {
            field!(self.0, mark)
        }

        #[inline(always)]
        fn has_vlan_tag(&self) -> bool {
            field!(self.0, vlan_present) != 0
        }

        #[inline(always)]
        fn tag(&self) -> u32 {
            field!(self.0, tc_index)
        }
    };
}

impl<const BARE: bool> Direct<BARE> {
    /// Returns the address of `size` bytes at a constant offset, if they are in linear memory.
    ///
    /// Reads both bounds anew each time: any helper that may move the packet invalidates older ones.
    #[inline(always)]
    fn at(&self, offset: u32, size: usize) -> Option<*mut u8> {
        // SAFETY: as in `field`. Plain loads: nothing is merged with these two, and the compiler may share them between accesses.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let start = data + place(offset, BARE) as usize;
        (start + size <= end).then_some(start as *mut u8)
    }
}

/// One load from packet memory, which the machine takes at any address. A Rust read would have to claim an alignment that Ethernet's 14 bytes
/// break, or be compiled to four byte loads; the target feature for it (`allows-misaligned-mem-access`) would misalign the stack too, which
/// the verifier refuses.
///
/// # Safety
/// The bytes lie in the packet.
#[inline(always)]
unsafe fn load32(at: *const u8) -> u32 {
    let word: u32;
    // SAFETY: the caller's promise; nothing is written.
    unsafe { asm!("{0} = *(u32 *)({1} + 0)", out(wreg) word, in(reg) at, options(pure, readonly, nostack)) };
    word
}

/// As [`load32`], for 16 bits.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn load16(at: *const u8) -> u16 {
    let half: u32;
    // SAFETY: the caller's promise; nothing is written.
    unsafe { asm!("{0} = *(u16 *)({1} + 0)", out(wreg) half, in(reg) at, options(pure, readonly, nostack)) };
    half as u16
}

/// As [`load32`], the other way.
///
/// # Safety
/// The bytes lie in the packet, and nothing else refers to them.
#[inline(always)]
unsafe fn store32(at: *mut u8, word: u32) {
    // SAFETY: the caller's promise.
    unsafe { asm!("*(u32 *)({0} + 0) = {1}", in(reg) at, in(wreg) word, options(nostack)) };
}

/// As [`store32`], for 16 bits.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn store16(at: *mut u8, half: u16) {
    // SAFETY: the caller's promise.
    unsafe { asm!("*(u16 *)({0} + 0) = {1}", in(reg) at, in(wreg) u32::from(half), options(nostack)) };
}

impl<const BARE: bool> Packet for Direct<BARE> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], DropReason> {
        let start = self.at(offset, N).ok_or(DropReason::Malformed)?;
        let mut bytes = [0_u8; N];
        let mut at = 0;
        while at + 4 <= N {
            // SAFETY: `at` compared these N bytes with the end of linear memory; the verifier checks the same.
            let word = unsafe { load32(start.wrapping_add(at)) }.to_ne_bytes();
            (bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]) = (word[0], word[1], word[2], word[3]);
            at += 4;
        }
        if at + 2 <= N {
            // SAFETY: as above.
            let half = unsafe { load16(start.wrapping_add(at)) }.to_ne_bytes();
            (bytes[at], bytes[at + 1]) = (half[0], half[1]);
            at += 2;
        }
        if at < N {
            // SAFETY: as above; a byte has no alignment.
            bytes[at] = unsafe { start.wrapping_add(at).read() };
        }
        Ok(bytes)
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason> {
        let start = self.at(offset, N).ok_or(DropReason::Malformed)?;
        let mut at = 0;
        while at + 4 <= N {
            let word = u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            // SAFETY: as in `load`; the kernel unclones the packet before a program that writes to it runs.
            unsafe { store32(start.wrapping_add(at), word) };
            at += 4;
        }
        if at + 2 <= N {
            // SAFETY: as above.
            unsafe { store16(start.wrapping_add(at), u16::from_ne_bytes([bytes[at], bytes[at + 1]])) };
            at += 2;
        }
        if at < N {
            // SAFETY: as above.
            unsafe { start.wrapping_add(at).write(bytes[at]) };
        }
        Ok(())
    }

    metadata!();
}

/// Bytes on the stack. The packet's memory may be read at any address, but the verifier wants stack accesses aligned ("misaligned stack
/// access"): whole words are read, volatile so that LLVM does not narrow them to the field it wants. They are read whether the load failed or
/// not: of a value that exists on one path only, LLVM copies the register on both, and the verifier refuses it ("R3 !read_ok").
#[repr(C, align(8))]
struct Words<const N: usize>([u64; N]);

impl<const N: usize> Words<N> {
    /// Returns the first bytes.
    #[inline(always)]
    fn bytes<const M: usize>(&self) -> [u8; M] {
        let mut bytes = [0_u8; M];
        for (index, word) in self.0.iter().enumerate() {
            // SAFETY: a live reference.
            let word = unsafe { core::ptr::from_ref(word).read_volatile() }.to_ne_bytes();
            for (offset, byte) in word.into_iter().enumerate() {
                if index * 8 + offset < M {
                    bytes[index * 8 + offset] = byte;
                }
            }
        }
        bytes
    }
}

impl<const BARE: bool> Packet for Careful<BARE> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], DropReason> {
        const { assert!(N <= 40, "the longest header read at once is IPv6's") };
        let offset = place(offset, BARE);
        if N <= 8 {
            let mut buffer = Words([0_u64; 1]);
            // SAFETY: the helper writes N bytes, at most the buffer's eight, or fails.
            let failed =
                unsafe { bpf_skb_load_bytes(self.0.cast(), offset, (&raw mut buffer).cast(), N as u32) };
            let bytes = buffer.bytes();
            return if failed == 0 { Ok(bytes) } else { Err(DropReason::Malformed) };
        }
        let mut buffer = Words([0_u64; 5]);
        // SAFETY: the helper writes N bytes, at most the buffer's forty, or fails.
        let failed = unsafe { bpf_skb_load_bytes(self.0.cast(), offset, (&raw mut buffer).cast(), N as u32) };
        let bytes = buffer.bytes();
        if failed == 0 { Ok(bytes) } else { Err(DropReason::Malformed) }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason> {
        store(self.0, place(offset, BARE), bytes, 0)
    }

    metadata!();
}

/// Gives a bare packet the Ethernet header that a sandbox's link has, its addresses still zero. From here on the packet is an Ethernet frame, also to
/// the stack, which reads no further than the length of the header (kernel 5.13, 84316ca4e100). False: the kernel has no memory for it.
#[inline(always)]
pub fn dress(skb: *mut __sk_buff, ethertype: Be16) -> bool {
    let [high, low] = ethertype.to_wire();
    // SAFETY: plain numbers.
    let grown = unsafe { bpf_skb_change_head(skb.cast(), ethernet::HEADER, 0) } == 0;
    grown && Careful::new(skb).store(ethernet::ETHERTYPE, [high, low]).is_ok()
}

/// Writes bytes by the kernel's helper.
#[inline(always)]
fn store<const N: usize>(
    skb: *mut __sk_buff,
    offset: u32,
    bytes: [u8; N],
    flags: u64,
) -> Result<(), DropReason> {
    // SAFETY: the helper reads N bytes from the buffer.
    let failed = unsafe { bpf_skb_store_bytes(skb.cast(), offset, bytes.as_ptr().cast(), N as u32, flags) };
    if failed == 0 { Ok(()) } else { Err(DropReason::KernelRefused) }
}

/// Cuts the packet.
#[inline(always)]
fn truncate(skb: *mut __sk_buff, length: u32) -> Result<(), DropReason> {
    // SAFETY: plain numbers.
    let failed = unsafe { bpf_skb_change_tail(skb.cast(), length, 0) };
    if failed == 0 { Ok(()) } else { Err(DropReason::KernelRefused) }
}

/// Exchanges the space of the IP header. The kernel moves the link header along, and keeps the offload's offsets.
#[inline(always)]
fn exchange_header(skb: *mut __sk_buff, ethertype: Be16) -> Result<(), DropReason> {
    // SAFETY: plain numbers.
    let failed = unsafe { bpf_skb_change_proto(skb.cast(), ethertype.raw(), 0) };
    if failed == 0 { Ok(()) } else { Err(DropReason::KernelRefused) }
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

/// Works out how SCTP's checksum changes; a function of its own, for it is long and rare.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn crc32c_change(word: u32, bytes: u32) -> u32 {
    crc32c::change(word, bytes)
}

/// Returns the ethertype in front of the payload, behind any VLAN tag in the packet's metadata.
#[inline(always)]
pub fn ethertype(skb: *mut __sk_buff) -> Be16 {
    // SAFETY: the context the kernel passed to this program.
    let protocol = unsafe { (&raw const (*skb).protocol).read_volatile() } as u16;
    Be16::from_wire(protocol.to_ne_bytes())
}

/// Returns the device the packet arrived on.
#[inline(always)]
pub fn ifindex(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context the kernel passed to this program.
    unsafe { (&raw const (*skb).ifindex).read_volatile() }
}
