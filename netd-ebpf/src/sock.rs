//! Socket programs at the cgroup root: host processes reach published ports without packet NAT, and cannot take them.
//!
//! `connect` and `sendmsg` exchange the dialled address for the sandbox's; `recvmsg` and `getpeername` show the dialled one again. `bind` refuses
//! a published port. Only sockets of the namespace netd works in are touched, so instances live side by side.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::generated::{
        bpf_bind, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_getsockopt, bpf_set_retval,
    },
    macros::cgroup_sock_addr,
    maps::HashMap,
    programs::SockAddrContext,
};
use netd_common::{
    family::Address,
    maps::{Dialled, DialledKey, Publish, PublishKey, port_set},
    net::{Addr4, Addr6, Be16},
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
struct Call(*mut bpf_sock_addr);

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
    fn port(self) -> Be16 {
        Be16::from_wire((field!(self, user_port) as u16).to_ne_bytes())
    }

    /// Returns the socket's protocol.
    #[inline(always)]
    fn proto(self) -> u8 {
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

    /// Returns the key under which the dialled address of this backend is kept.
    #[inline(always)]
    fn dialled_key(self, addr: Addr6, port: Be16) -> DialledKey {
        // SAFETY: takes the context.
        let cookie = unsafe { bpf_get_socket_cookie(self.0.cast()) };
        DialledKey {
            cookie: [cookie as u32, (cookie >> 32) as u32],
            addr,
            port,
            proto: u16::from(self.proto()),
        }
    }

    /// Keeps what was dialled for `recvmsg` and `getpeername`.
    #[inline(always)]
    fn remember(self, backend: Addr6, backend_port: Be16, dialled: Addr6, port: Be16) {
        let key = self.dialled_key(backend, backend_port);
        let _ = maps::DIALLED.insert(&key, &Dialled { addr: dialled, port, pad: 0 }, 0); // LRU: finds room
    }

    /// Returns what was dialled to reach the peer that the context names.
    #[inline(always)]
    fn recall(self, addr: Addr6) -> Option<Dialled> {
        let key = self.dialled_key(addr, self.port());
        // SAFETY: the value is copied out at once.
        unsafe { maps::DIALLED.get(&key) }.copied()
    }

    /// Whether the port is published on an address of the family.
    #[inline(always)]
    fn is_published(self, purpose: u32) -> bool {
        port_set::index(purpose, self.proto()).is_some_and(|set| in_port_set(set, self.port().into()))
    }
}

/// Reads a field of the socket of a call; 0 when it is not to be had.
macro_rules! socket_field {
    ($call:expr, $name:ident) => {{
        // SAFETY: the context the kernel passed to this program; the socket lives as long as the call.
        let socket = unsafe { (&raw const (*$call.0).__bindgen_anon_1.sk).read_volatile() };
        // SAFETY: as above.
        if socket.is_null() {
            Default::default()
        } else {
            unsafe { (&raw const (*socket).$name).read_volatile() }
        }
    }};
}

impl Call {
    /// Whether the socket cannot send to a sandbox: it is bound to a device. What it dials stays as it is, and goes by `lo`.
    #[inline(always)]
    fn is_bound_to_a_device(self) -> bool {
        let device: u32 = socket_field!(self, bound_dev_if);
        device != 0
    }

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

    /// Whether an IPv4 socket cannot send to a sandbox: it is bound to a loopback address (the kernel answers EINVAL) or a device.
    #[inline(always)]
    fn stays4(self) -> bool {
        let source: u32 = socket_field!(self, src_ip4);
        Addr4::from_raw(source).is_loopback() || self.is_bound_to_a_device()
    }

    /// As [`Self::stays4`] for IPv6, with IPv4 in it.
    #[inline(always)]
    fn stays6(self) -> bool {
        let word = |index: usize| -> u32 {
            // SAFETY: as in `socket_field`.
            let socket = unsafe { (&raw const (*self.0).__bindgen_anon_1.sk).read_volatile() };
            // SAFETY: one word of the four.
            if socket.is_null() {
                0
            } else {
                unsafe { (&raw const (*socket).src_ip6[index]).read_volatile() }
            }
        };
        let source = Addr6::from_raw([word(0), word(1), word(2), word(3)]);
        let mapped = source.as_mapped().is_some_and(|v4| v4.is_loopback());
        source.is_loopback() || mapped || self.is_bound_to_a_device()
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

/// Makes the dialled host address the source, unless the socket has one: the server sees the host's address (truth table T44).
#[inline(always)]
fn bind_source4(call: Call, dialled: Addr4) {
    if dialled.is_loopback() || dialled == Addr4::UNSPECIFIED {
        return; // routing picks the bridge's address: a loopback source would be a martian in the sandbox
    }
    let mut source = SockAddr4 { family: 2, addr: dialled, ..SockAddr4::default() };
    // SAFETY: the structure is initialised and of the given size. A socket that is bound already keeps its source.
    unsafe { bpf_bind(call.0.cast(), (&raw mut source).cast(), size_of::<SockAddr4>() as i32) };
}

/// As [`bind_source4`] for IPv6.
#[inline(always)]
fn bind_source6(call: Call, dialled: Addr6) {
    let mapped_loopback = dialled.as_mapped().is_some_and(|v4| v4.is_loopback() || v4 == Addr4::UNSPECIFIED);
    if dialled.is_loopback() || dialled == Addr6::UNSPECIFIED || dialled.is_link_local() || mapped_loopback {
        return;
    }
    let mut source = SockAddr6 { family: 10, addr: dialled, ..SockAddr6::default() };
    // SAFETY: as in `bind_source4`.
    unsafe { bpf_bind(call.0.cast(), (&raw mut source).cast(), size_of::<SockAddr6>() as i32) };
}

/// IPv4 connect.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let call = Call(ctx.sock_addr);
    if call.is_of_the_host() {
        let (dialled, port) = (call.addr4(), call.port());
        if let Some(publish) = published4(call, dialled).filter(|_| !call.stays4()) {
            call.remember(Addr6::mapped(publish.backend), publish.port, Addr6::mapped(dialled), port);
            call.set_addr4(publish.backend);
            call.set_port(publish.port);
            bind_source4(call, dialled);
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
        let found = match dialled.as_mapped() {
            Some(v4) => published4(call, v4).map(|publish| (Addr6::mapped(publish.backend), publish.port)),
            None => published6(call, dialled).map(|publish| (publish.backend, publish.port)),
        };
        if let Some((backend, backend_port)) = found.filter(|_| !call.stays6()) {
            call.remember(backend, backend_port, dialled, port);
            call.set_addr6(backend);
            call.set_port(backend_port);
            if backend.is_mapped() == dialled.is_mapped() {
                bind_source6(call, dialled);
            }
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
        let stays = source.is_loopback() || call.is_bound_to_a_device();
        if let Some(publish) = published4(call, dialled).filter(|_| !stays) {
            call.remember(Addr6::mapped(publish.backend), publish.port, Addr6::mapped(dialled), port);
            call.set_addr4(publish.backend);
            call.set_port(publish.port);
            if !dialled.is_loopback() && field!(call, msg_src_ip4) == 0 {
                // SAFETY: a field the kernel lets this program write.
                unsafe { (*call.0).msg_src_ip4 = dialled.raw() };
            }
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
        let stays = source.is_loopback() || call.is_bound_to_a_device();
        if let Some(publish) =
            published6(call, dialled).filter(|publish| !stays && !publish.backend.is_mapped())
        {
            call.remember(publish.backend, publish.port, dialled, port);
            call.set_addr6(publish.backend);
            call.set_port(publish.port);
            let unfit = dialled.is_loopback() || dialled == Addr6::UNSPECIFIED || dialled.is_link_local();
            if !unfit && source == Addr6::UNSPECIFIED {
                call.set_message_source6(dialled);
            }
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
