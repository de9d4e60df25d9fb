//! Socket programs at the cgroup root: host processes reach published ports without packet NAT, and cannot take them.
//!
//! `connect` and `sendmsg` exchange the dialled address for the sandbox's; `recvmsg` and `getpeername` show the dialled one again. `bind` refuses
//! a published port. Only sockets of the namespace netd works in are touched, so instances live side by side.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_bind, bpf_get_netns_cookie, bpf_getsockopt, bpf_set_retval},
    macros::cgroup_sock_addr,
    maps::HashMap,
    programs::SockAddrContext,
};
use netd_common::{
    family::{Address, Ip, V4, V6},
    maps::{Publish, PublishKey, port_set},
    net::{Addr4, Addr6, Be16},
    wire::l4,
};

use crate::{env::in_port_set, maps};

/// The program's answer: the call goes on.
const ALLOW: i32 = 1;
/// The call fails.
const REFUSE: i32 = 0;
const EADDRINUSE: i32 = 98;
const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;
/// Mark of the daemon's own probe sockets ("netd"), which the guard lets through.
const PROBE_MARK: u32 = 0x6e65_7464;

/// A call on a socket, with the fields of its context.
#[derive(Clone, Copy)]
pub struct Call(pub *mut bpf_sock_addr);

/// Reads a field of the context.
macro_rules! field {
    ($call:expr, $name:ident) => {
        // SAFETY: the context the kernel passed to this program; it lives until the program returns.
        unsafe { (&raw const (*$call.0).$name).read_volatile() }
    };
}

impl Call {
    /// Whether the socket is one of the namespace netd works in.
    #[inline(always)]
    fn is_of_the_host(self) -> bool {
        let Some(config) = maps::CONFIG.get(0) else { return false };
        // SAFETY: takes the context.
        let cookie = unsafe { bpf_get_netns_cookie(self.0.cast()) };
        [cookie as u32, (cookie >> 32) as u32] == config.netns_cookie
    }

    /// Returns the address's port.
    #[inline(always)]
    pub fn port(self) -> Be16 {
        Be16::from_wire((field!(self, user_port) as u16).to_ne_bytes())
    }

    /// Returns the socket's protocol.
    #[inline(always)]
    pub fn proto(self) -> u8 {
        field!(self, protocol) as u8
    }

    #[inline(always)]
    fn set_port(self, port: Be16) {
        // SAFETY: a field the kernel lets these programs write.
        unsafe { (*self.0).user_port = u32::from(port.raw()) };
    }

    #[inline(always)]
    fn addr4(self) -> Addr4 {
        Addr4::from_raw(field!(self, user_ip4))
    }

    #[inline(always)]
    fn set_addr4(self, addr: Addr4) {
        // SAFETY: as in `set_port`.
        unsafe { (*self.0).user_ip4 = addr.raw() };
    }

    #[inline(always)]
    fn addr6(self) -> Addr6 {
        // Word by word: the kernel allows no other access.
        // SAFETY: four words of the context.
        unsafe {
            let ip = (&raw const (*self.0).user_ip6).cast::<u32>();
            Addr6::from_raw([
                ip.read_volatile(),
                ip.add(1).read_volatile(),
                ip.add(2).read_volatile(),
                ip.add(3).read_volatile(),
            ])
        }
    }

    #[inline(always)]
    fn set_addr6(self, addr: Addr6) {
        let [a, b, c, d] = addr.raw();
        // SAFETY: four words of the context that the kernel lets these programs write.
        unsafe {
            let ip = (&raw mut (*self.0).user_ip6).cast::<u32>();
            ip.write_volatile(a);
            ip.add(1).write_volatile(b);
            ip.add(2).write_volatile(c);
            ip.add(3).write_volatile(d);
        }
    }

    /// Whether the port is published on an address of the family.
    #[inline(always)]
    fn is_published(self, purpose: u32) -> bool {
        port_set::index(purpose, self.proto()).is_some_and(|set| in_port_set(set, self.port().into()))
    }
}

impl Call {
    /// Returns the source that an IPv6 datagram is to have.
    #[inline(always)]
    fn message_source6(self) -> Addr6 {
        // SAFETY: four words of the context, as in `addr6`.
        unsafe {
            let ip = (&raw const (*self.0).msg_src_ip6).cast::<u32>();
            Addr6::from_raw([
                ip.read_volatile(),
                ip.add(1).read_volatile(),
                ip.add(2).read_volatile(),
                ip.add(3).read_volatile(),
            ])
        }
    }

    #[inline(always)]
    fn set_message_source6(self, addr: Addr6) {
        let [a, b, c, d] = addr.raw();
        // SAFETY: four words of the context that the kernel lets this program write.
        unsafe {
            let ip = (&raw mut (*self.0).msg_src_ip6).cast::<u32>();
            ip.write_volatile(a);
            ip.add(1).write_volatile(b);
            ip.add(2).write_volatile(c);
            ip.add(3).write_volatile(d);
        }
    }
}

/// Returns where a published port leads: the exact address, else every local one.
#[inline(always)]
fn published<A: Address>(
    map: &'static HashMap<PublishKey<A>, Publish<A>>,
    addr: A,
    is_local: bool,
    call: Call,
) -> Option<Publish<A>> {
    let mut key = PublishKey { addr, port: call.port(), proto: call.proto(), pad: 0 };
    // SAFETY: the value is copied out at once.
    let exact = unsafe { map.get(&key) };
    let found = match exact {
        Some(exact) => *exact,
        None if is_local => {
            key.addr = A::UNSPECIFIED;
            // SAFETY: as above.
            *unsafe { map.get(&key) }?
        }
        None => return None,
    };
    (found.backend != A::UNSPECIFIED).then_some(found)
}

#[inline(always)]
fn published4(call: Call, addr: Addr4) -> Option<Publish<Addr4>> {
    if !call.is_published(port_set::PUBLISHED4) {
        return None;
    }
    // SAFETY: only presence is asked.
    let local =
        addr.is_loopback() || addr == Addr4::UNSPECIFIED || unsafe { maps::LOCAL4.get(&addr) }.is_some();
    published(&maps::PUBLISH4, addr, local, call)
}

#[inline(always)]
fn published6(call: Call, addr: Addr6) -> Option<Publish<Addr6>> {
    if !call.is_published(port_set::PUBLISHED6) {
        return None;
    }
    // SAFETY: only presence is asked.
    let local =
        addr.is_loopback() || addr == Addr6::UNSPECIFIED || unsafe { maps::LOCAL6.get(&addr) }.is_some();
    published(&maps::PUBLISH6, addr, local, call)
}

/// Whether an address may be a sandbox's own: false is certain.
#[inline(always)]
fn may_be_ours<F: Ip>(addr: &F::Addr) -> bool {
    maps::CONFIG.get(0).is_some_and(|config| F::may_be_ours(config, addr))
}

/// The kernel's `struct sockaddr_in`.
#[repr(C)]
#[derive(Default)]
struct SockAddr4 {
    family: u16,
    port: Be16,
    addr: Addr4,
    zero: [u32; 2],
}

/// The kernel's `struct sockaddr_in6`.
#[repr(C)]
#[derive(Default)]
struct SockAddr6 {
    family: u16,
    port: Be16,
    flow_info: u32,
    addr: Addr6,
    scope: u32,
}

/// Makes the dialled host address the source, unless the socket has one: the server sees the host's address (truth table T44). False: the socket has
/// a port of its own and no address, so that it can be given none any more.
#[inline(always)]
fn bind_source4(call: Call, dialled: Addr4) -> bool {
    if dialled.is_loopback() || dialled == Addr4::UNSPECIFIED {
        return true; // routing picks the bridge's address: a loopback source would be a martian in the sandbox
    }
    let mut source = SockAddr4 { family: 2, addr: dialled, ..SockAddr4::default() };
    // SAFETY: the structure is initialised and of the given size. A socket that is bound already keeps its source.
    let refused = unsafe { bpf_bind(call.0.cast(), (&raw mut source).cast(), size_of::<SockAddr4>() as i32) };
    refused == 0 || call.bound4() != Addr4::UNSPECIFIED
}

/// As [`bind_source4`] for IPv6.
#[inline(always)]
fn bind_source6(call: Call, dialled: Addr6) -> bool {
    let mapped_loopback = dialled.as_mapped().is_some_and(|v4| v4.is_loopback() || v4 == Addr4::UNSPECIFIED);
    if dialled.is_loopback() || dialled == Addr6::UNSPECIFIED || dialled.is_link_local() || mapped_loopback {
        return true;
    }
    let mut source = SockAddr6 { family: 10, addr: dialled, ..SockAddr6::default() };
    // SAFETY: as in `bind_source4`.
    let refused = unsafe { bpf_bind(call.0.cast(), (&raw mut source).cast(), size_of::<SockAddr6>() as i32) };
    refused == 0 || call.bound6() != Addr6::UNSPECIFIED
}

/// IPv4 connect.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let call = Call(ctx.sock_addr);
    if call.is_of_the_host() {
        let (dialled, port) = (call.addr4(), call.port());
        match published4(call, dialled) {
            Some(publish) if !call.stays4() && bind_source4(call, dialled) => {
                call.remember(Addr6::mapped(publish.backend), publish.port, Addr6::mapped(dialled), port);
                call.set_addr4(publish.backend);
                call.set_port(publish.port);
            }
            None if may_be_ours::<V4>(&dialled) => call.means_itself(Addr6::mapped(dialled), port),
            _ => {}
        }
    }
    ALLOW
}

/// IPv6 connect, IPv4-mapped destinations and IPv4-only sandboxes included.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let call = Call(ctx.sock_addr);
    if call.is_of_the_host() {
        let (dialled, port) = (call.addr6(), call.port());
        let (found, ours) = match dialled.as_mapped() {
            Some(v4) => (
                published4(call, v4).map(|publish| (Addr6::mapped(publish.backend), publish.port)),
                may_be_ours::<V4>(&v4),
            ),
            None => (
                published6(call, dialled).map(|publish| (publish.backend, publish.port)),
                may_be_ours::<V6>(&dialled),
            ),
        };
        let fits = |backend: Addr6| {
            if backend.is_mapped() == dialled.is_mapped() {
                return bind_source6(call, dialled);
            }
            // A datagram socket may send to the dialled address later, which one of the other family could not.
            call.proto() == l4::TCP
        };
        match found {
            Some((backend, backend_port)) if !call.stays6() && fits(backend) => {
                call.remember(backend, backend_port, dialled, port);
                call.set_addr6(backend);
                call.set_port(backend_port);
            }
            None if ours => call.means_itself(dialled, port),
            _ => {}
        }
    }
    ALLOW
}

/// An unconnected IPv4 UDP datagram.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let call = Call(ctx.sock_addr);
    if call.is_of_the_host() {
        let (dialled, port) = (call.addr4(), call.port());
        let source = Addr4::from_raw(field!(call, msg_src_ip4));
        let name = Addr6::mapped(dialled);
        match published4(call, dialled) {
            Some(publish)
                if source.is_loopback()
                    || call.is_bound_to_a_device()
                    || !call.hears4(publish.backend, publish.port) => {}
            Some(publish) if call.has_one_name(Addr6::mapped(publish.backend), publish.port, name, port) => {
                call.set_addr4(publish.backend);
                call.set_port(publish.port);
                if !dialled.is_loopback() && field!(call, msg_src_ip4) == 0 {
                    // SAFETY: a field the kernel lets this program write.
                    unsafe { (*call.0).msg_src_ip4 = dialled.raw() };
                }
            }
            None if may_be_ours::<V4>(&dialled) && !call.is_connected() => call.asks_itself(name, port),
            _ => {}
        }
    }
    ALLOW
}

/// An unconnected IPv6 UDP datagram. The kernel takes no IPv4 backend here (`udpv6_sendmsg`): those stay as dialled.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let call = Call(ctx.sock_addr);
    if call.is_of_the_host() {
        let (dialled, port) = (call.addr6(), call.port());
        let source = call.message_source6();
        match published6(call, dialled) {
            Some(publish)
                if source.is_loopback()
                    || publish.backend.is_mapped()
                    || call.is_bound_to_a_device()
                    || !call.hears6(publish.backend, publish.port) => {}
            Some(publish) if call.has_one_name(publish.backend, publish.port, dialled, port) => {
                call.set_addr6(publish.backend);
                call.set_port(publish.port);
                let unfit = dialled.is_loopback() || dialled == Addr6::UNSPECIFIED || dialled.is_link_local();
                if !unfit && source == Addr6::UNSPECIFIED {
                    call.set_message_source6(dialled);
                }
            }
            None if may_be_ours::<V6>(&dialled) && !call.is_connected() => call.asks_itself(dialled, port),
            _ => {}
        }
    }
    ALLOW
}

/// Names the dialled address instead of the sandbox's, IPv4.
#[inline(always)]
fn name4(ctx: &SockAddrContext) -> i32 {
    let call = Call(ctx.sock_addr);
    if call.is_of_the_host() {
        if let Some(dialled) = call.recall(Addr6::mapped(call.addr4())) {
            call.set_addr4(Addr4::from_raw(dialled.addr.raw()[3]));
            call.set_port(dialled.port);
        }
    }
    ALLOW
}

/// Names the dialled address instead of the sandbox's, IPv6.
#[inline(always)]
fn name6(ctx: &SockAddrContext) -> i32 {
    let call = Call(ctx.sock_addr);
    if call.is_of_the_host() {
        if let Some(dialled) = call.recall(call.addr6()) {
            call.set_addr6(dialled.addr);
            call.set_port(dialled.port);
        }
    }
    ALLOW
}

/// The source of a received IPv4 datagram.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    name4(&ctx)
}

/// The source of a received IPv6 datagram.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    name6(&ctx)
}

/// The peer of a connected IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    name4(&ctx)
}

/// The peer of a connected IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    name6(&ctx)
}

/// Refuses a bind with EADDRINUSE, but not to the daemon's own probes.
#[inline(always)]
fn refuse(call: Call) -> i32 {
    let mut mark = 0_u32;
    // SAFETY: the buffer has the given size.
    let failed = unsafe { bpf_getsockopt(call.0.cast(), SOL_SOCKET, SO_MARK, (&raw mut mark).cast(), 4) };
    if failed == 0 && mark == PROBE_MARK {
        return ALLOW;
    }
    // SAFETY: takes a number.
    unsafe { bpf_set_retval(-EADDRINUSE) };
    REFUSE
}

/// Whether an entry exists, reserved ones included.
#[inline(always)]
fn is_reserved<A: Address>(map: &'static HashMap<PublishKey<A>, Publish<A>>, addr: A, call: Call) -> bool {
    let key = PublishKey { addr, port: call.port(), proto: call.proto(), pad: 0 };
    // SAFETY: only presence is asked.
    unsafe { map.get(&key) }.is_some()
}

#[inline(always)]
fn is_taken4(call: Call, addr: Addr4) -> bool {
    call.is_published(port_set::PUBLISHED4)
        && (addr == Addr4::UNSPECIFIED
            || is_reserved(&maps::PUBLISH4, addr, call)
            || is_reserved(&maps::PUBLISH4, Addr4::UNSPECIFIED, call))
}

/// Guards published ports against IPv4 sockets.
#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    let call = Call(ctx.sock_addr);
    if call.is_of_the_host() && is_taken4(call, call.addr4()) { refuse(call) } else { ALLOW }
}

/// Guards published ports against IPv6 sockets.
#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    let call = Call(ctx.sock_addr);
    if !call.is_of_the_host() {
        return ALLOW;
    }
    let addr = call.addr6();
    let taken = match addr.as_mapped() {
        Some(v4) => is_taken4(call, v4),
        // `::` takes IPv4 too; whether a socket is V6ONLY cannot be read here, so such a one is refused as well.
        None => {
            (addr == Addr6::UNSPECIFIED && is_taken4(call, Addr4::UNSPECIFIED))
                || call.is_published(port_set::PUBLISHED6)
                    && (addr == Addr6::UNSPECIFIED
                        || is_reserved(&maps::PUBLISH6, addr, call)
                        || is_reserved(&maps::PUBLISH6, Addr6::UNSPECIFIED, call))
        }
    };
    if taken { refuse(call) } else { ALLOW }
}
