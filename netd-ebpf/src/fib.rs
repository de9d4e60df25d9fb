//! The host's routing table and rules, as `bpf_fib_lookup` tells them.
//!
//! Question and answer lie in working memory of their own, so that the look-up is a function which the verifier walks once. The answer stays there for
//! the rest of the packet's parts: what opens a flow asks whether there is a way at all, and its first packet takes it.
//!
//! The helper does not know that an IPv6 rule suppresses routes (`maps::Rule6`). While there is such a rule, the ways it finds are asked for again, rule
//! by rule.

use core::ptr;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::bpf_fib_lookup,
    maps::{PerCpuArray, lpm_trie::Key},
};
use netd_common::{
    conntrack::way,
    env::{Packet, Route, Routes},
    family::Address,
    maps::{RouteKey, Tuple, UNKNOWN_RULES, capacity, rule_flags},
    net::{Addr4, Addr6, IfIndex},
    wire::headers::L3,
};

use crate::{maps, skb::Careful};

/// Address families as `bpf_fib_lookup` counts them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The kernel's answers that name a way out.
const FIB_SUCCESS: i64 = 0;
const FIB_NO_ROUTE: i32 = 4;
const FIB_NO_NEIGHBOUR: i64 = 7;
const FIB_NO_SOURCE: i64 = 9;
/// `BPF_FIB_LOOKUP_DIRECT`: one table, and no rules.
const DIRECT: u32 = 1 << 0;
/// `BPF_FIB_LOOKUP_TBID` (kernel 6.5, and 6.1 with its fixes): which table; before that, nothing is found.
const TABLE: u32 = 1 << 3;
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
/// What a rule says: that it leads nowhere and the next one counts; that there is no way, whatever those behind it say; that its table knows.
const NEXT: i32 = 0;
const STOP: i32 = 1;
const ASK: i32 = 2;

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
    /// The table that a rule means, and the device of the only route in it that counts; 0: any.
    table: u32,
    longer: IfIndex,
    /// The packet's type of service; here and not on the stack.
    class: u32,
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
struct Table<A: 'static> {
    skb: *mut __sk_buff,
    /// Where question and answer lie. Functions that this one calls change it, so that it is no reference.
    memory: *mut Asked<A>,
    /// What is wished for beyond the way: 0 or `SOURCE`.
    wish: u32,
}

/// Declares the routing table of a family and the function that answers a question.
macro_rules! table {
    ($addr:ty, $family:expr, $memory:ident, $ask:ident, $look_up:ident, $by_rules:expr) => {
        impl Routes<$addr> for Table<$addr> {
            #[inline(always)]
            fn from(&mut self, device: IfIndex, _: &Tuple<$addr>) -> IfIndex {
                $look_up(self.skb, device, 0, self.wish);
                let by_rules: fn(&mut Self, IfIndex) = $by_rules;
                by_rules(self, device);
                self.out()
            }

            #[inline(always)]
            fn by(&mut self, device: IfIndex, _: &Tuple<$addr>) -> IfIndex {
                $look_up(self.skb, device, OUTPUT, self.wish);
                self.out()
            }

            #[inline(always)]
            fn answer(&mut self, device: IfIndex, asks: &Tuple<$addr>) {
                // SAFETY: as in `ask`.
                unsafe {
                    (*self.memory).route =
                        Route { out: device, nexthop: asks.dst, mtu: 0, source: <$addr>::UNSPECIFIED };
                }
            }
        }

        /// Answers the question in working memory. Returns 1, or 0 when there is none.
        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $ask(skb: *mut __sk_buff, from: u32, by: u32, sourced: u32) -> i32 {
            let Some(memory) = maps::$memory.get_ptr_mut(0) else { return 0 };
            // SAFETY: as in `ask`, which has written the question. What is asked stays as it is while the table looks for an answer.
            let asks = unsafe {
                let asked = &mut *memory;
                let wanted = if sourced == 0 { ANSWERED } else { SOURCED };
                if asked.known >= wanted && (asked.from, asked.by) == (from, by) && asked.asked == asked.asks
                {
                    return 1;
                }
                (asked.from, asked.by, asked.known) = (from, by, wanted);
                asked.asked = asked.asks;
                &(*memory).asks
            };
            let wish = if sourced == 0 { 0 } else { SOURCE };
            way::find(&mut Table { skb, memory, wish }, from, asks, by);
            1
        }

        /// Asks the kernel the question in working memory. Returns its answer.
        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $look_up(skb: *mut __sk_buff, device: u32, how: u32, wish: u32) -> i32 {
            let Some(memory) = maps::$memory.get_ptr_mut(0) else { return EINVAL as i32 };
            // SAFETY: as in `ask`; who calls holds no reference that is used again.
            look_up(skb, unsafe { &mut *memory }, $family, device, (how, wish))
        }
    };
}
// Of IPv4's rules the helper knows all that there is to know.
table!(Addr4, AF_INET, ROUTING4, ask4, look_up4, |_, _| ());
table!(Addr6, AF_INET6, ROUTING6, ask6, look_up6, Table::ask_rules);

/// Asks the kernel, first for all that is wished; for the rules' choice, or that of one table. Returns its answer.
#[inline(always)]
fn look_up<A: Address>(
    skb: *mut __sk_buff,
    Asked { asks, route, query, table, class, .. }: &mut Asked<A>,
    family: u8,
    device: IfIndex,
    (how, wished): (u32, u32),
) -> i32 {
    // A table that is asked by itself knows no marks.
    let how = if mark_of(skb) == 0 || how & DIRECT != 0 { how } else { how | MARK };
    *class = class_of(skb, family);
    route.out = 0;
    let mut answer = EINVAL;
    for wish in WISHES {
        if wish & SOURCE > wished {
            continue;
        }
        // Field by field: a whole one would be put together on the stack.
        (query.family, query.l4_protocol) = (family, asks.proto);
        (query.sport, query.dport, query.length) = (asks.sport.raw(), asks.dport.raw(), 1);
        (query.ifindex, query.tos) = (device, *class);
        query.table = if how & DIRECT == 0 { 0 } else { *table };
        (query.mark, query.macs) = (mark_of(skb), [0; 2]);
        write(&mut query.src, &asks.src);
        write(&mut query.dst, &asks.dst);
        // SAFETY: the structure has the kernel's layout and size.
        answer = unsafe {
            let size = size_of::<FibQuery>() as i32;
            bpf_fib_lookup(skb.cast(), ptr::from_mut(query).cast(), size, how | wish)
        };
        if (answer == EINVAL || answer == FIB_NO_SOURCE) && wish != 0 {
            continue;
        }
        // An IPv6 next hop for IPv4 changes the family: the stack knows how.
        if matches!(answer, FIB_SUCCESS | FIB_NO_NEIGHBOUR) && query.family == family {
            route.nexthop = read(&query.dst);
            // Without a neighbour, the kernel has not come to the MTU.
            route.mtu = if answer == FIB_NO_NEIGHBOUR { 0 } else { query.length };
            route.source = if wish & SOURCE == 0 { A::UNSPECIFIED } else { read(&query.src) };
            route.out = query.ifindex;
        }
        break;
    }
    answer as i32
}

impl<A: Address> Table<A> {
    /// Returns the device that was found; 0: none.
    #[inline(always)]
    fn out(&self) -> IfIndex {
        // SAFETY: as in `ask`.
        unsafe { (*self.memory).route.out }
    }
}

impl Table<Addr6> {
    /// Asks rule by rule, where one of them suppresses routes: what was found may be such a route. That there is no way holds without them all the
    /// more.
    #[inline(always)]
    fn ask_rules(&mut self, device: IfIndex) {
        let count = maps::CONFIG.get(0).map_or(0, |config| config.rules6);
        if count == 0 || self.out() == 0 {
            return;
        }
        let mut found = false;
        for index in 0..capacity::RULE6 {
            if index >= count || count == UNKNOWN_RULES {
                break;
            }
            let says = rule6(self.skb, device, index);
            if says == NEXT {
                continue;
            }
            if says == STOP {
                break;
            }
            let answer = look_up6(self.skb, device, DIRECT | TABLE, self.wish);
            // SAFETY: as in `ask`.
            let longer = unsafe { (*self.memory).longer };
            // Another device: the longer route's link is down, and the table has fallen back on one that does not count.
            let out = self.out();
            if answer == FIB_NO_ROUTE || (longer != 0 && out != 0 && out != longer) {
                continue;
            }
            found = true;
            break;
        }
        if !found {
            // SAFETY: as in `ask`.
            unsafe { (*self.memory).route.out = 0 };
        }
    }
}

/// Asks one rule about the question in working memory. Returns `NEXT`, `STOP`, or `ASK`, and then leaves there which table it means.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn rule6(skb: *mut __sk_buff, device: u32, index: u32) -> i32 {
    let (Some(memory), Some(rule)) = (maps::ROUTING6.get_ptr_mut(0), maps::RULE6.get(index)) else {
        return STOP;
    };
    // SAFETY: as in `ask`; who calls holds no reference that is used again.
    let Asked { asks, table, longer, .. } = unsafe { &mut *memory };
    // The class as the rules know it, without ECN: its upper bits lie in the first byte, its lower ones in the second (RFC 8200 §3).
    let [high, low, ..] = class_of(skb, AF_INET6).to_ne_bytes();
    if !rule.is_for(asks, device, mark_of(skb), (high << 4 | low >> 4) & 0xfc) {
        return NEXT;
    }
    if rule.flags & rule_flags::FORBIDS != 0 {
        return STOP;
    }
    (*table, *longer) = (rule.table, 0);
    if rule.flags & rule_flags::SUPPRESSES != 0 {
        let key = RouteKey { rule: index, addr: asks.dst };
        match maps::LONGER6.get(&Key::new(32 + 128, key)) {
            Some(device) => *longer = *device,
            None => return NEXT,
        }
    }
    ASK
}

/// Asks whether an address is the host's own, as a packet from this device finds it.
#[inline(always)]
pub fn still_has(skb: *mut __sk_buff, device: IfIndex, addr: &Addr6) -> bool {
    let Some(memory) = maps::ROUTING6.get_ptr_mut(0) else { return false };
    // SAFETY: as in `ask`.
    unsafe { write(&mut (*memory).query.dst, addr) };
    is_own6(skb, device) != 0
}

/// Whether the destination in the query of the working memory is the host's own: 1, else 0. The answer to what was asked before stays.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn is_own6(skb: *mut __sk_buff, device: u32) -> i32 {
    let Some(memory) = maps::ROUTING6.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `ask`; who calls holds no reference that is used again.
    let Asked { query, asks, .. } = unsafe { &mut *memory };
    (query.family, query.l4_protocol) = (AF_INET6, asks.proto);
    (query.sport, query.dport, query.length) = (0, 0, 1);
    (query.ifindex, query.tos, query.table, query.mark) = (device, 0, 0, 0);
    query.macs = [0; 2];
    write(&mut query.src, &asks.src);
    // SAFETY: the structure has the kernel's layout and size.
    let answer =
        unsafe { bpf_fib_lookup(skb.cast(), ptr::from_mut(query).cast(), size_of::<FibQuery>() as i32, 0) };
    // What is local is not forwarded.
    i32::from(answer == i64::from(FIB_NO_ROUTE))
}

/// Returns the packet's mark.
#[inline(always)]
fn mark_of(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context the kernel passed to this program.
    unsafe { (&raw const (*skb).mark).read_volatile() }
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
