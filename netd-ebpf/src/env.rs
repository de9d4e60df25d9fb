//! The host behind `netd_common::env::Env`: maps, clock, routes, sockets. The only place that touches map memory.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::generated::{
        bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_sk_lookup_udp, bpf_sk_release,
        bpf_skc_lookup_tcp,
    },
    maps::{Array, HashMap, PerCpuArray, lpm_trie::Key},
};
use netd_common::{
    env::{ClaimError, Draft, Env, Route},
    family::{Family, V4, V6},
    maps::{
        AllowKey, Config, Datagram, Endpoint, Flow, FragmentKey, LinkKey, Network, Open, Owner, Publish,
        PublishKey, TICK_SHIFT, TrustKey, Tuple, Uplink,
    },
    net::{Addr4, Addr6, IfIndex},
    verdict::DropReason,
    wire::l4,
};

use crate::{
    maps,
    tc::{port_at, reserve4, reserve6},
};

/// The answer of `reserve4` and `reserve6` when the table is full.
pub const FULL: i32 = DropReason::TableFull as i32;

/// Address families as `bpf_fib_lookup` counts them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The kernel's answers that name a way out.
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGHBOUR: i64 = 7;
/// `BPF_F_CURRENT_NETNS`: the namespace of the packet's device.
const CURRENT_NETNS: u64 = u64::MAX;
/// `BPF_FIB_LOOKUP_SKIP_NEIGH` (kernel 6.3): the route alone, with its MTU; older kernels answer EINVAL.
const SKIP_NEIGHBOUR: u32 = 1 << 4;
const EINVAL: i64 = -22;
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

/// Masks a number to 16 bits with an instruction that LLVM cannot drop. It sees into a global function and leaves out the mask of its result;
/// the verifier, which does not, then loses the bound ("R0 max value is outside of the allowed memory range").
#[inline(always)]
fn low16(mut number: u32) -> u16 {
    // SAFETY: touches one register.
    unsafe { asm!("{0} &= 0xffff", inout(wreg) number, options(pure, nomem, nostack)) };
    number as u16
}

/// Whether a port is in a set.
#[inline(always)]
pub fn in_port_set(set: u32, port: u16) -> bool {
    element(&maps::PORTS, set).is_some_and(|ports| ports[usize::from(port >> 5)] >> (port & 31) & 1 == 1)
}

/// The kernel's `struct bpf_fib_lookup` (include/uapi/linux/bpf.h), with its unions as netd uses them.
#[repr(C)]
#[derive(Default)]
struct FibQuery {
    family: u8,
    l4_protocol: u8,
    sport: u16,
    dport: u16,
    /// In: the packet's length; 1 makes the kernel report the route's MTU without judging the packet. Out: that MTU.
    length: u16,
    /// In: where the packet came from. Out: where it goes.
    ifindex: u32,
    tos: u32,
    src: [u32; 4],
    /// In: the destination. Out: the next hop.
    dst: [u32; 4],
    table: u32,
    smac: [u16; 3],
    dmac: [u16; 3],
}
const _: () = assert!(size_of::<FibQuery>() == 64);

impl FibQuery {
    /// Asks the routing table; false: only the stack can answer.
    #[inline(always)]
    fn ask(&mut self, skb: *mut __sk_buff) -> bool {
        let family = self.family;
        let mut lookup = |flags| {
            // SAFETY: the structure has the kernel's layout and size.
            unsafe { bpf_fib_lookup(skb.cast(), ptr::from_mut(self).cast(), size_of::<Self>() as i32, flags) }
        };
        let mut answer = lookup(SKIP_NEIGHBOUR);
        if answer == EINVAL {
            answer = lookup(0);
        }
        if answer == FIB_NO_NEIGHBOUR {
            self.length = 0; // the kernel has not come to the MTU
        }
        // An IPv6 next hop for IPv4 changes the family: the stack knows how.
        matches!(answer, FIB_SUCCESS | FIB_NO_NEIGHBOUR) && self.family == family
    }
}

/// Writes an address into the kernel's 16-byte field.
#[inline(always)]
fn write<A: Copy>(field: &mut [u32; 4], addr: &A) {
    const { assert!(size_of::<A>() <= 16 && align_of::<A>() == 4) };
    // SAFETY: A is an address newtype of one or four words, which the field holds.
    unsafe { field.as_mut_ptr().cast::<A>().write(*addr) };
}

/// Reads an address from the kernel's 16-byte field.
#[inline(always)]
fn read<A: Copy>(field: &[u32; 4]) -> A {
    const { assert!(size_of::<A>() <= 16 && align_of::<A>() == 4) };
    // SAFETY: A is an address newtype of one or four words, for which every bit pattern is a value.
    unsafe { field.as_ptr().cast::<A>().read() }
}

macro_rules! env_for {
    ($family:ty, $addr:ty, $flow:ident, $datagram:ident, $reserve:ident, $address:ident, $subnet:ident, $local:ident, $publish:ident, $open:ident, $allow:ident, $asked:ident, $link:ident, $bits:literal, $af:expr, $other:ident, $in_other:expr) => {
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
            fn route(&self, from: IfIndex, src: &$addr, dst: &$addr) -> Route<$addr> {
                let mut query = FibQuery { family: $af, length: 1, ifindex: from, ..FibQuery::default() };
                write(&mut query.src, src);
                write(&mut query.dst, dst);
                if !query.ask(self.0) {
                    return Route::Stack;
                }
                Route::Forward { out: query.ifindex, nexthop: read(&query.dst), mtu: query.length }
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
            fn reserve(&self, _: &Draft<$family>, heed_sockets: bool) -> Result<(), DropReason> {
                match $reserve(self.0, u32::from(heed_sockets)) {
                    0 => Ok(()),
                    FULL => Err(DropReason::TableFull),
                    _ => Err(DropReason::NatConflict),
                }
            }

            #[inline(always)]
            fn remove(&self, key: &Tuple<$addr>) {
                let _ = maps::$flow.remove(key); // gone already is fine
            }
        }
    };
}
env_for!(
    V4,
    Addr4,
    FLOW4,
    DATAGRAM4,
    reserve4,
    ADDRESS4,
    SUBNET4,
    LOCAL4,
    PUBLISH4,
    OPEN4,
    ALLOW4,
    ASKED4,
    LINK4,
    32,
    AF_INET,
    FLOW6,
    |key| Some(key.mapped())
);
env_for!(
    V6,
    Addr6,
    FLOW6,
    DATAGRAM6,
    reserve6,
    ADDRESS6,
    SUBNET6,
    LOCAL6,
    PUBLISH6,
    OPEN6,
    ALLOW6,
    ASKED6,
    LINK6,
    128,
    AF_INET6,
    FLOW4,
    |key| key.as_mapped()
);
