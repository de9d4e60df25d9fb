//! The host's routing table and rules, as `bpf_fib_lookup` tells them.
//!
//! Question and answer lie in working memory of their own, so that the look-up is a function which the verifier walks once. The answer stays there for
//! the rest of the packet's parts: what opens a flow asks whether there is a way at all, and its first packet takes it.

use core::ptr;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_fib_lookup, maps::PerCpuArray};
use netd_common::{
    conntrack::way,
    env::{Packet, Route, Routes},
    family::Address,
    maps::Tuple,
    net::{Addr4, Addr6, IfIndex},
    wire::headers::L3,
};

use crate::{maps, skb::Careful};

/// Address families as `bpf_fib_lookup` counts them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The kernel's answers that name a way out.
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGHBOUR: i64 = 7;
const FIB_NO_SOURCE: i64 = 9;
/// `BPF_FIB_LOOKUP_OUTPUT`: the device is the one to leave by.
const OUTPUT: u32 = 1 << 1;
/// `BPF_FIB_LOOKUP_SKIP_NEIGH` (kernel 6.3): the route alone, with its MTU; older kernels answer EINVAL.
const SKIP_NEIGHBOUR: u32 = 1 << 2;
/// `BPF_FIB_LOOKUP_SRC` (kernel 6.7): with the source that the route prefers.
const SOURCE: u32 = 1 << 4;
/// `BPF_FIB_LOOKUP_MARK` (kernel 6.10): the packet's mark counts.
const MARK: u32 = 1 << 5;
/// The answer is there; with the source that the route prefers.
const ANSWERED: u32 = 1;
const SOURCED: u32 = 2;
/// What is asked for, and what is left out where the kernel does not know it or has no source.
const WISHES: [u32; 3] = [SKIP_NEIGHBOUR | SOURCE, SKIP_NEIGHBOUR, 0];
const EINVAL: i64 = -22;

/// A question and its answer.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Asked<A> {
    /// What the packet will say when it leaves.
    asks: Tuple<A>,
    /// What was asked last, the device it comes from, and the uplink by which it should go back.
    asked: Tuple<A>,
    from: IfIndex,
    by: IfIndex,
    /// Whether `route` answers that for the packet at hand: 0, `ANSWERED` or `SOURCED`.
    known: u32,
    /// Its way.
    route: Route<A>,
    query: FibQuery,
}

/// The kernel's `struct bpf_fib_lookup` (include/uapi/linux/bpf.h), with its unions as netd uses them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FibQuery {
    family: u8,
    l4_protocol: u8,
    sport: u16,
    dport: u16,
    /// In: the packet's length; 1 makes the kernel report the route's MTU without judging the packet. Out: that MTU.
    length: u16,
    /// In: where the packet came from. Out: where it goes.
    ifindex: u32,
    /// The type of service, or IPv6's class and flow label.
    tos: u32,
    /// In: the source. Out: the one that the route prefers.
    src: [u32; 4],
    /// In: the destination. Out: the next hop.
    dst: [u32; 4],
    table: u32,
    mark: u32,
    macs: [u32; 2],
}
const _: () = assert!(size_of::<FibQuery>() == 64);

/// Asks by a function that reads and writes the working memory.
#[inline(always)]
pub fn ask<A: Address>(
    memory: &'static PerCpuArray<Asked<A>>,
    asks: &Tuple<A>,
    answer: impl FnOnce() -> i32,
) -> Route<A> {
    let Some(memory) = memory.get_ptr_mut(0) else { return Route::default() };
    // SAFETY: this CPU's own element; no packet program interrupts another on its CPU, and nothing else refers to it now.
    unsafe { (*memory).asks = *asks };
    if answer() == 0 {
        return Route::default();
    }
    // SAFETY: as above; the function has ended.
    unsafe { (*memory).route }
}

/// Forgets the answer: here begins another packet.
#[inline(always)]
pub fn begin<A>(memory: &'static PerCpuArray<Asked<A>>) {
    if let Some(memory) = memory.get_ptr_mut(0) {
        // SAFETY: as in `ask`.
        unsafe { (*memory).known = 0 };
    }
}

/// The kernel's routing table and rules, for the program that runs on a packet.
struct Table<'a, A> {
    skb: *mut __sk_buff,
    query: &'a mut FibQuery,
    route: &'a mut Route<A>,
    /// What is wished for beyond the way: 0 or `SOURCE`.
    wish: u32,
}

/// Declares the routing table of a family and the function that answers a question.
macro_rules! table {
    ($addr:ty, $family:expr, $memory:ident, $ask:ident) => {
        impl Routes<$addr> for Table<'_, $addr> {
            #[inline(always)]
            fn from(&mut self, device: IfIndex, asks: &Tuple<$addr>) -> IfIndex {
                self.look_up($family, device, asks, 0)
            }

            #[inline(always)]
            fn by(&mut self, device: IfIndex, asks: &Tuple<$addr>) -> IfIndex {
                self.look_up($family, device, asks, OUTPUT)
            }

            #[inline(always)]
            fn answer(&mut self, device: IfIndex, asks: &Tuple<$addr>) {
                *self.route = Route { out: device, nexthop: asks.dst, mtu: 0, source: <$addr>::UNSPECIFIED };
            }
        }

        /// Answers the question in working memory. Returns 1, or 0 when there is none.
        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $ask(skb: *mut __sk_buff, from: u32, by: u32, sourced: u32) -> i32 {
            // SAFETY: as in `ask`, which has written the question.
            let Some(asked) = maps::$memory.get_ptr_mut(0).map(|asked| unsafe { &mut *asked }) else {
                return 0;
            };
            let wanted = if sourced == 0 { ANSWERED } else { SOURCED };
            if asked.known >= wanted && (asked.from, asked.by) == (from, by) && asked.asked == asked.asks {
                return 1;
            }
            (asked.from, asked.by, asked.known) = (from, by, wanted);
            asked.asked = asked.asks;
            let Asked { asks, route, query, .. } = asked;
            let wish = if sourced == 0 { 0 } else { SOURCE };
            way::find(&mut Table { skb, query, route, wish }, from, asks, by);
            1
        }
    };
}
table!(Addr4, AF_INET, ROUTING4, ask4);
table!(Addr6, AF_INET6, ROUTING6, ask6);

impl<A: Address> Table<'_, A> {
    /// Asks the kernel, first for all that is wished.
    #[inline(always)]
    fn look_up(&mut self, family: u8, device: IfIndex, asks: &Tuple<A>, how: u32) -> IfIndex {
        // SAFETY: the context the kernel passed to this program.
        let mark = unsafe { (&raw const (*self.skb).mark).read_volatile() };
        let how = if mark == 0 { how } else { how | MARK };
        let tos = class_of(self.skb, family);
        self.route.out = 0;
        for wish in WISHES {
            if wish & SOURCE > self.wish {
                continue;
            }
            // Field by field: a whole one would be put together on the stack.
            let query = &mut *self.query;
            (query.family, query.l4_protocol) = (family, asks.proto);
            (query.sport, query.dport, query.length) = (asks.sport.raw(), asks.dport.raw(), 1);
            (query.ifindex, query.tos, query.table) = (device, tos, 0);
            (query.mark, query.macs) = (mark, [0; 2]);
            write(&mut query.src, &asks.src);
            write(&mut query.dst, &asks.dst);
            // SAFETY: the structure has the kernel's layout and size.
            let answer = unsafe {
                let size = size_of::<FibQuery>() as i32;
                bpf_fib_lookup(self.skb.cast(), ptr::from_mut(self.query).cast(), size, how | wish)
            };
            if (answer == EINVAL || answer == FIB_NO_SOURCE) && wish != 0 {
                continue;
            }
            // An IPv6 next hop for IPv4 changes the family: the stack knows how.
            if matches!(answer, FIB_SUCCESS | FIB_NO_NEIGHBOUR) && self.query.family == family {
                self.route.nexthop = read(&self.query.dst);
                // Without a neighbour, the kernel has not come to the MTU.
                self.route.mtu = if answer == FIB_NO_NEIGHBOUR { 0 } else { self.query.length };
                self.route.source = if wish & SOURCE == 0 { A::UNSPECIFIED } else { read(&self.query.src) };
                self.route.out = self.query.ifindex;
            }
            break;
        }
        self.route.out
    }
}

/// Returns the packet's type of service as rules and routes know it. IPv6's flow label is left out: a connection may change it (RFC 6438), and
/// would then change its way.
#[inline(always)]
fn class_of(skb: *mut __sk_buff, family: u8) -> u32 {
    let Ok(word) = Careful::new(skb).load::<4>(L3) else { return 0 };
    if family == AF_INET {
        u32::from(word[1])
    } else {
        u32::from_ne_bytes([word[0] & 0x0f, word[1] & 0xf0, 0, 0])
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
