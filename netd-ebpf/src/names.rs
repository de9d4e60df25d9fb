//! What host processes dialled: the names under which their sockets know a sandbox.
//!
//! A sandbox's answer says which port of it answers, not by which name it was asked. One name is enough for a connection; an unconnected socket may use
//! several for one port of a sandbox (127.0.0.1:8080, HOST:8080, the sandbox's own address). From the second one on all its datagrams to that port stay
//! as dialled and go by `lo`, where flows tell their answers apart.

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use netd_common::{
    maps::{Dialled, DialledKey, names},
    net::{Addr6, Be16},
};

use crate::{maps, sock::Call};

impl Call {
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

    /// Keeps what a socket connects to, for `recvmsg` and `getpeername`.
    #[inline(always)]
    pub fn remember(self, backend: Addr6, backend_port: Be16, dialled: Addr6, port: Be16) {
        keep(&self.dialled_key(backend, backend_port), Dialled { addr: dialled, port, names: names::ONE });
    }

    /// Keeps what was dialled, and returns whether the socket knows the backend by this name alone.
    #[inline(always)]
    pub fn has_one_name(self, backend: Addr6, backend_port: Be16, dialled: Addr6, port: Be16) -> bool {
        let key = self.dialled_key(backend, backend_port);
        let Some(known) = look_up(&key) else {
            keep(&key, Dialled { addr: dialled, port, names: names::ONE });
            return true;
        };
        if known.names != names::ONE {
            return false;
        }
        let same = known.addr == dialled && known.port == port;
        if !same {
            // The first one stays, for answers that are under way.
            keep(&key, Dialled { names: names::SEVERAL, ..known });
        }
        same
    }

    /// Notes that an unconnected socket asks a sandbox by its own address: that is what its answers are to show.
    #[inline(always)]
    pub fn asks_itself(self, addr: Addr6, port: Be16) {
        let key = self.dialled_key(addr, port);
        if look_up(&key).is_none_or(|known| known.names != names::ITS_OWN) {
            keep(&key, Dialled { addr, port, names: names::ITS_OWN });
        }
    }

    /// Notes that a socket connects to a sandbox's own address, if it has known it by a name.
    #[inline(always)]
    pub fn means_itself(self, addr: Addr6, port: Be16) {
        let key = self.dialled_key(addr, port);
        if look_up(&key).is_some_and(|known| known.names != names::ITS_OWN) {
            keep(&key, Dialled { addr, port, names: names::ITS_OWN });
        }
    }

    /// Returns what was dialled to reach the peer that the context names.
    #[inline(always)]
    pub fn recall(self, addr: Addr6) -> Option<Dialled> {
        look_up(&self.dialled_key(addr, self.port()))
    }
}

#[inline(always)]
fn look_up(key: &DialledKey) -> Option<Dialled> {
    // SAFETY: the value is copied out at once.
    unsafe { maps::DIALLED.get(key) }.copied()
}

#[inline(always)]
fn keep(key: &DialledKey, dialled: Dialled) {
    let _ = maps::DIALLED.insert(key, &dialled, 0); // LRU: finds room
}
