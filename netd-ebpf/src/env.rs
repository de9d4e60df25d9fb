//! The host behind `netd_common::env::Env`: maps, clock, routes, sockets. The only place that touches map memory.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::generated::{
        bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
    },
    maps::{Array, HashMap, PerCpuArray, lpm_trie::Key},
};
use netd_common::{
    conntrack::may_answer,
    env::{ClaimError, Draft, Env, Route},
    family::{Family, V4, V6},
    maps::{
        AllowKey, Config, Datagram, Endpoint, Flow, FragmentKey, Handed, Hearing, LinkKey, Network, Open,
        Owner, Pending, Place, Publish, PublishKey, TICK_SHIFT, TrustKey, Tuple, Uplink, ViaKey, port_set,
    },
    net::{Addr4, Addr6, IfIndex},
    verdict::DropReason,
    wire::l4,
};

use crate::{
    fib::{self, ask4, ask6},
    maps,
    parts::{port_at, v4, v6},
    report,
};

/// The answer of a family's `reserve` when the table is full.
pub const FULL: i32 = DropReason::TableFull as i32;

/// `BPF_F_CURRENT_NETNS`: the namespace of the packet's device.
const CURRENT_NETNS: u64 = u64::MAX;
/// The kernel's answers to an insertion.
const E2BIG: i64 = -7;
const ENOMEM: i64 = -12;

/// The kernel, for the program that runs on this packet.
pub struct Kernel(pub *mut __sk_buff);

/// Returns an array's element in place. The daemon may change it at any time: each field is read once.
#[inline(always)]
fn element<T>(array: &'static Array<T>, index: u32) -> Option<&'static T> {
    array.get(index)
}

/// Returns a hash map's value in place; the memory stays valid until the program returns (RCU), even if the entry is removed meanwhile.
#[inline(always)]
fn value<K, V>(map: &'static HashMap<K, V>, key: &K) -> Option<&'static V> {
    // SAFETY: values are plain data that other CPUs may replace; a torn read of one is a stale decision, not undefined memory.
    unsafe { map.get(key) }
}

/// Adds to a word in one step and returns what it was (`BPF_ATOMIC | BPF_FETCH`, kernel 5.12). The target has no `core::sync::atomic`.
///
/// # Safety
/// The word is aligned and lives in a map; other CPUs change it in one step too.
#[inline(always)]
unsafe fn fetch_add(word: *mut u32, mut number: u32) -> u32 {
    // SAFETY: by the caller.
    unsafe {
        asm!("{1} = atomic_fetch_add((u32 *)({0} + 0), {1})", in(reg) word, inout(wreg) number, options(nostack))
    };
    number
}

/// Sets bits of a word in one step.
///
/// # Safety
/// As for [`fetch_add`].
#[inline(always)]
unsafe fn set_bits(word: *mut u32, bits: u32) {
    // SAFETY: by the caller.
    unsafe { asm!("lock *(u32 *)({0} + 0) |= {1}", in(reg) word, in(wreg) bits, options(nostack)) };
}

/// Whether the daemon's probes found a kernel feature.
#[inline(always)]
pub fn has_feature(feature: u32) -> bool {
    element(&maps::CONFIG, 0).is_some_and(|config| config.features & feature != 0)
}

/// Lends this CPU's working memory; it is always there, but the verifier wants to be told.
#[inline(always)]
pub fn draft<F: Family>(drafts: &'static PerCpuArray<Draft<F>>) -> Option<&'static mut Draft<F>> {
    // SAFETY: this CPU's own element; no packet program interrupts another on its CPU, and each part holds one reference at a time.
    drafts.get_ptr_mut(0).map(|draft| unsafe { &mut *draft })
}

/// Maps an insertion's result.
#[inline(always)]
fn claimed(result: Result<(), i32>) -> Result<(), ClaimError> {
    result.map_err(|errno| match i64::from(errno) {
        E2BIG | ENOMEM => ClaimError::Full,
        _ => ClaimError::Taken,
    })
}

/// Masks a number to 16 bits with an instruction that LLVM cannot drop or move. It sees into a global function and leaves out the mask of its
/// result, and knows what swapping the bytes of 16 bits gives; the verifier (of Linux 6.12) does not, and without a bound of its own says
/// "max value is outside of the allowed memory range".
#[inline(always)]
fn low16(mut number: u32) -> u16 {
    // SAFETY: touches one register.
    unsafe { asm!("{0} &= 0xffff", inout(wreg) number, options(nomem, nostack)) };
    number as u16
}

/// Whether a port is in a set.
#[inline(always)]
pub fn in_port_set(set: u32, port: u16) -> bool {
    element(&maps::PORTS, set).is_some_and(|ports| {
        let port = low16(port.into());
        ports[usize::from(port >> 5)] >> (port & 31) & 1 == 1
    })
}

macro_rules! env_for {
    ($family:ty, $addr:ty, $flow:ident, $usage:ident, $pending:ident, $datagram:ident, $parts:ident, $address:ident, $subnet:ident, $local:ident, $publish:ident, $open:ident, $allow:ident, $asked:ident, $handed:ident, $input:ident, $link:ident, $bits:literal, $routing:ident, $ask:ident, $other:ident, $in_other:expr, $still_has:expr) => {
        impl Env<$family> for Kernel {
            #[inline(always)]
            fn config(&self) -> Option<&Config> {
                element(&maps::CONFIG, 0)
            }

            #[inline(always)]
            fn now(&self) -> u32 {
                // SAFETY: takes nothing, returns a number.
                (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
            }

            #[inline(always)]
            fn random(&self) -> u32 {
                // SAFETY: takes nothing, returns a number.
                unsafe { bpf_get_prandom_u32() }
            }

            #[inline(always)]
            fn endpoint(&self, ifindex: IfIndex) -> Option<&Endpoint> {
                element(&maps::ENDPOINT, ifindex)
            }

            #[inline(always)]
            fn network(&self, slot: u16) -> Option<&Network> {
                element(&maps::NETWORK, u32::from(slot))
            }

            #[inline(always)]
            fn owner(&self, addr: &$addr) -> Option<&Owner> {
                value(&maps::$address, addr)
            }

            #[inline(always)]
            fn subnet(&self, addr: &$addr) -> Option<u16> {
                maps::$subnet.get(&Key::new($bits, *addr)).map(|slot| *slot as u16)
            }

            #[inline(always)]
            fn is_local(&self, addr: &$addr) -> bool {
                value(&maps::$local, addr).is_some()
            }

            #[inline(always)]
            fn publish(&self, key: &PublishKey<$addr>) -> Option<Publish<$addr>> {
                value(&maps::$publish, key).copied()
            }

            #[inline(always)]
            fn opened(&self, key: &PublishKey<$addr>) -> Option<Open> {
                value(&maps::$open, key).copied()
            }

            #[inline(always)]
            fn allows(&self, list: u32, source: &$addr) -> bool {
                let key = AllowKey { list, addr: *source };
                maps::$allow.get(&Key::new(32 + $bits, key)).is_some()
            }

            #[inline(always)]
            fn names(&self, list: u32, ifindex: IfIndex) -> bool {
                value(&maps::VIA, &ViaKey { list, ifindex }).is_some()
            }

            #[inline(always)]
            fn keep_asked(&self, answer: &Tuple<$addr>) {
                let now = Env::<$family>::now(self);
                let _ = maps::$asked.insert(answer, &now, 0); // LRU: finds room
            }

            #[inline(always)]
            fn asked(&self, answer: &Tuple<$addr>) -> Option<u32> {
                // SAFETY: the value is copied out at once.
                unsafe { maps::$asked.get(answer) }.copied()
            }

            #[inline(always)]
            fn keep_handed(&self, answer: &Tuple<$addr>, handed: &Handed<$addr>) {
                let _ = maps::$handed.insert(answer, handed, 0); // LRU: finds room
            }

            #[inline(always)]
            fn handed(&self, answer: &Tuple<$addr>) -> Option<Handed<$addr>> {
                // SAFETY: the value is copied out at once.
                unsafe { maps::$handed.get(answer) }.copied()
            }

            #[inline(always)]
            fn set_hearing(&self, asks: &Tuple<$addr>, hearing: &Hearing) {
                let _ = maps::$input.insert(asks, hearing, 0); // LRU: finds room
            }

            #[inline(always)]
            fn hearing(&self, asks: &Tuple<$addr>) -> Option<Hearing> {
                // SAFETY: the value is copied out at once.
                unsafe { maps::$input.get(asks) }.copied()
            }

            #[inline(always)]
            fn linked(&self, key: &LinkKey<$addr>) -> bool {
                value(&maps::$link, key).is_some()
            }

            #[inline(always)]
            fn trusts(&self, network: u16, ifindex: IfIndex) -> bool {
                value(&maps::TRUST, &TrustKey { network: u32::from(network), ifindex }).is_some()
            }

            #[inline(always)]
            fn in_port_set(&self, set: u32, port: u16) -> bool {
                in_port_set(set, port)
            }

            #[inline(always)]
            fn uplink(&self, ifindex: IfIndex) -> Option<&Uplink> {
                value(&maps::UPLINK, &ifindex)
            }

            #[inline(always)]
            fn route(&self, from: IfIndex, asks: &Tuple<$addr>, by: IfIndex, sourced: bool) -> Route<$addr> {
                fib::ask(&maps::$routing, asks, || $ask(self.0, from, by, u32::from(sourced)))
            }

            #[inline(always)]
            fn still_has(&self, from: IfIndex, addr: &$addr) -> bool {
                let still_has: fn(*mut __sk_buff, IfIndex, &$addr) -> bool = $still_has;
                still_has(self.0, from, addr)
            }

            #[inline(always)]
            fn host_socket(&self, tuple: &Tuple<$addr>) -> bool {
                // The kernel's `bpf_sock_tuple` is the first part of ours: addresses, then ports.
                let size = (2 * size_of::<$addr>() + 4) as u32;
                // SAFETY: the tuple is initialised and longer than `size`; a socket found is released at once and not used.
                unsafe {
                    let (skb, tuple) = (self.0.cast(), ptr::from_ref(tuple).cast_mut());
                    let socket = if tuple.read().proto == l4::TCP {
                        bpf_skc_lookup_tcp(skb, tuple.cast(), size, CURRENT_NETNS, 0).cast()
                    } else if tuple.read().proto == l4::UDP {
                        bpf_sk_lookup_udp(skb, tuple.cast(), size, CURRENT_NETNS, 0)
                    } else {
                        return false; // the kernel looks up no others
                    };
                    if socket.is_null() {
                        return false;
                    }
                    bpf_sk_release(socket.cast());
                    true
                }
            }

            type DatagramRef<'a> = &'a mut Datagram;

            #[inline(always)]
            fn datagram(&self, key: &FragmentKey<$addr>) -> Option<&mut Datagram> {
                // SAFETY: as in `flow`; CPUs that add to one datagram at a time may miss an overlap.
                maps::$datagram.get_ptr_mut(key).map(|datagram| unsafe { &mut *datagram })
            }

            #[inline(always)]
            fn keep(&self, key: &FragmentKey<$addr>, datagram: &Datagram) {
                let _ = maps::$datagram.insert(key, datagram, 0); // LRU: finds room
            }

            #[inline(always)]
            fn forget(&self, key: &FragmentKey<$addr>) {
                let _ = maps::$datagram.remove(key); // gone already is fine
            }

            type FlowRef<'a> = &'a mut Flow<$addr>;

            #[inline(always)]
            fn flow(&self, key: &Tuple<$addr>) -> Option<&mut Flow<$addr>> {
                // SAFETY: the entry's memory stays valid until the program returns. Fields that change after creation are single words,
                // whose races cost at most a repeated decision.
                maps::$flow.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
            }

            #[inline(always)]
            fn in_other_family(&self, key: &Tuple<$addr>) -> bool {
                let in_other: fn(&Tuple<$addr>) -> Option<_> = $in_other;
                in_other(key).is_some_and(|key| value(&maps::$other, &key).is_some())
            }

            #[inline(always)]
            fn claim(&self, key: &Tuple<$addr>, flow: &Flow<$addr>) -> Result<(), ClaimError> {
                claimed(maps::$flow.insert(key, flow, u64::from(BPF_NOEXIST)))
            }

            #[inline(always)]
            fn replace(&self, key: &Tuple<$addr>, flow: &Flow<$addr>) -> Result<(), ClaimError> {
                claimed(maps::$flow.insert(key, flow, 0))
            }

            #[inline(always)]
            fn port_at(&self, position: u32) -> u16 {
                low16(port_at(position))
            }

            #[inline(always)]
            fn reserve(&self, _: &Draft<$family>, heed_host: bool) -> Result<(), DropReason> {
                match $parts::reserve(self.0, u32::from(heed_host)) {
                    0 => Ok(()),
                    FULL => Err(DropReason::TableFull),
                    _ => Err(DropReason::NatConflict),
                }
            }

            #[inline(always)]
            fn remove(&self, key: &Tuple<$addr>) -> bool {
                maps::$flow.remove(key).is_ok()
            }

            #[inline(always)]
            fn usage(&self, ifindex: IfIndex) -> u32 {
                // Two CPUs that take back what the daemon has just counted may leave less than nothing.
                element(&maps::$usage, ifindex).map_or(0, |flows| u32::try_from(*flows as i32).unwrap_or(0))
            }

            #[inline(always)]
            fn charge(&self, ifindex: IfIndex, flows: i32) {
                if let Some(usage) = maps::$usage.get_ptr_mut(ifindex) {
                    // SAFETY: a word of the map.
                    unsafe { fetch_add(usage, flows as u32) };
                }
            }

            #[inline(always)]
            fn next_place(&self, ifindex: IfIndex) -> u32 {
                let Some(pace) = maps::PACE.get_ptr_mut(ifindex) else { return 0 };
                // SAFETY: a word of the map.
                unsafe { fetch_add(&raw mut (*pace).place, 1) }
            }

            type PendingRef<'a> = &'a mut Pending<$addr>;

            #[inline(always)]
            fn pending(&self, place: &Place) -> Option<&mut Pending<$addr>> {
                // SAFETY: as in `flow`; a torn holder names a flow that has another generation.
                maps::$pending.get_ptr_mut(place).map(|holder| unsafe { &mut *holder })
            }

            #[inline(always)]
            fn set_pending(&self, place: &Place, pending: &Pending<$addr>) {
                let _ = maps::$pending.insert(place, pending, 0); // LRU: finds room
            }

            #[inline(always)]
            fn may_reset(&self, ifindex: IfIndex) -> bool {
                // SAFETY: plain words; CPUs that count at the same time let a few more through.
                maps::PACE
                    .get_ptr_mut(ifindex)
                    .is_some_and(|pace| may_answer(unsafe { &mut *pace }, Env::<$family>::now(self)))
            }

            #[inline(always)]
            fn keep_port(&self, proto: u8, port: u16) {
                let Some(ports) =
                    port_set::index(port_set::KEPT, proto).and_then(|set| maps::PORTS.get_ptr_mut(set))
                else {
                    return;
                };
                let port = low16(port.into());
                let word = usize::from(port >> 5);
                // SAFETY: a word inside the set; the programs alone write it, and only by this operation.
                unsafe { set_bits(ports.cast::<u32>().add(word), 1 << (port & 31)) };
            }

            #[inline(always)]
            fn count_tries(&self, tries: u32) {
                report::count_tries(tries);
            }
        }
    };
}
env_for!(
    V4,
    Addr4,
    FLOW4,
    USAGE4,
    PENDING4,
    DATAGRAM4,
    v4,
    ADDRESS4,
    SUBNET4,
    LOCAL4,
    PUBLISH4,
    OPEN4,
    ALLOW4,
    ASKED4,
    HANDED4,
    INPUT4,
    LINK4,
    32,
    ROUTING4,
    ask4,
    FLOW6,
    |key| Some(key.mapped()),
    |_, _, _| true // IPv4's sources are not dear
);
env_for!(
    V6,
    Addr6,
    FLOW6,
    USAGE6,
    PENDING6,
    DATAGRAM6,
    v6,
    ADDRESS6,
    SUBNET6,
    LOCAL6,
    PUBLISH6,
    OPEN6,
    ALLOW6,
    ASKED6,
    HANDED6,
    INPUT6,
    LINK6,
    128,
    ROUTING6,
    ask6,
    FLOW4,
    |key| key.as_mapped(),
    fib::still_has
);
