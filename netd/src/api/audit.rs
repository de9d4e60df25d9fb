//! Who called: the peer's credentials, and a log line for every call that changes something (reliability.md S22, 8.3).

use std::fmt;

use axum::http::{Method, StatusCode};
use tokio::net::UnixStream;

/// The process at the other end of a connection, as the kernel vouches for it (`SO_PEERCRED`).
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    uid: Option<u32>,
    gid: Option<u32>,
    pid: Option<i32>,
    program: String,
}

impl Caller {
    pub(super) fn of(stream: &UnixStream) -> Self {
        let Ok(peer) = stream.peer_cred() else { return Self::default() };
        let program = peer.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        Self {
            uid: Some(peer.uid()),
            gid: Some(peer.gid()),
            pid: peer.pid(),
            program: program.map(|name| name.trim_end().to_owned()).unwrap_or_default(),
        }
    }

    /// Logs a call by its number.
    pub(super) fn log(&self, number: &str, method: &Method, path: &str, status: StatusCode) {
        tracing::info!(
            target: "netd::audit",
            op = number,
            uid = self.uid,
            gid = self.gid,
            pid = self.pid,
            program = %self.program,
            %method,
            path,
            status = status.as_u16(),
            "call answered"
        );
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.uid, self.pid) {
            (Some(uid), Some(pid)) => write!(f, "{} (pid {pid}, uid {uid})", self.program),
            _ => f.write_str("unknown"),
        }
    }
}
