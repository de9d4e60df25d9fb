//! The API's socket from the service manager (`sd_listen_fds(3)`): it outlives the daemon, so that whoever connects while none runs waits for the next.

use std::{
    io,
    os::{fd::FromRawFd as _, unix::net::UnixListener},
    path::Path,
};

use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname};

/// Takes the socket that listens at this path, if the service manager has passed one that is still there.
///
/// # Errors
/// What was passed is no socket.
pub(super) fn listener(path: &Path) -> io::Result<Option<UnixListener>> {
    for fd in sd_notify::listen_fds()? {
        let address: SockaddrStorage = getsockname(fd)?;
        if address.family() != Some(AddressFamily::Unix) {
            tracing::warn!(fd, "a socket that the service manager passed is not used");
            continue;
        }
        // SAFETY: the service manager opened this descriptor for this process (LISTEN_PID), and nothing else takes it: this runs once.
        let listener = unsafe { UnixListener::from_raw_fd(fd) };
        let bound = listener.local_addr()?;
        if bound.as_pathname() == Some(path) && path.exists() {
            return Ok(Some(listener));
        }
        tracing::warn!(
            ?bound,
            "a socket that the service manager passed is not the API's, or its file is gone"
        );
    }
    Ok(None)
}
