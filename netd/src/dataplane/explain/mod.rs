//! Says what would become of a packet, and why: the loaded programs decide it, and nothing is sent, written or counted (ADR 0022).

mod frame;
mod hints;
mod understudy;
mod walk;
mod words;
mod written;

use std::{
    net::{IpAddr, UdpSocket},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{Error, UplinkEntry, raw};
use crate::model::Probe;
pub use hints::{Page, page};
pub(super) use understudy::Understudy;
use walk::Walk;

/// Who sends the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The sandbox with this address.
    Sandbox(IpAddr),
    /// A machine with this address, by this uplink; None: by the one that leads back to it.
    Outside(IpAddr, Option<String>),
    /// A process of the host.
    Host,
}

/// A packet to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who sends it.
    pub origin: Origin,
    /// The source that it claims, if that is not its sender's.
    pub claims: Option<IpAddr>,
    /// Its kind.
    pub probe: Probe,
    /// Source port, or echo id.
    pub source_port: u16,
    /// Destination.
    pub to: IpAddr,
    /// Destination port; nothing for an echo.
    pub port: u16,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Explanation {
    /// Its source address and port, or echo id.
    pub source: String,
    /// Its destination address, and port if it has one.
    pub destination: String,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// Whether netd lets it through.
    pub passes: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The reason's number.
    pub number: Option<u8>,
    /// What the reason means.
    pub meaning: Option<String>,
    /// What may help.
    pub hint: Option<String>,
    /// The programs that it meets, in this order.
    pub steps: Vec<Step>,
}

/// What one program does with a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Step {
    /// The interface; empty for a program on sockets.
    pub interface: String,
    /// `xdp`, `ingress` or `egress` of the interface, or `socket`.
    pub hook: String,
    /// The program.
    pub program: String,
    /// What it found, in words.
    pub matched: Vec<String>,
    /// `pass`, `redirect`, `drop` or `reset`.
    pub verdict: String,
    /// Where that leads, in words.
    pub then: String,
    /// The source, and port, that the packet has from here on.
    pub source: String,
    /// The destination, and port, that the packet has from here on.
    pub destination: String,
}

/// Explains packets of one instance; cheap to clone, and free of the controller.
#[derive(Clone, Default)]
pub struct Explainer {
    /// Where the maps are pinned.
    pins: PathBuf,
    /// The uplinks as they were when this was made.
    uplinks: Vec<UplinkEntry>,
    /// Who plays: loaded by the first question, and kept for the next. One plays at a time.
    understudy: Player,
}

/// The understudy, once it is loaded.
pub(super) type Player = Arc<Mutex<Option<Understudy>>>;

/// Says how the sandbox with an address, and its network, are called.
pub type Names<'a> = &'a dyn Fn(IpAddr) -> Option<(String, String)>;

/// What keeps a packet from being explained.
#[derive(Debug, thiserror::Error)]
pub enum Unexplained {
    /// The question makes no sense: what is wrong, and what may help.
    #[error("{0}")]
    Question(String, Option<String>),
    /// The kernel refused.
    #[error(transparent)]
    Dataplane(#[from] Error),
}

impl Explainer {
    /// Makes one for the maps in this directory.
    pub(super) fn new(pins: PathBuf, uplinks: Vec<UplinkEntry>, understudy: Player) -> Self {
        Self { pins, uplinks, understudy }
    }

    /// Explains a packet; blocks while the kernel verifies the programs it meets.
    ///
    /// # Errors
    /// What is wrong with the question, or what the kernel refused.
    pub fn explain(&self, question: &Question, names: Names<'_>) -> Result<Explanation, Unexplained> {
        let mut player = self.understudy.lock().unwrap_or_else(PoisonError::into_inner);
        let mut understudy = match player.take() {
            Some(understudy) => understudy,
            None => Understudy::load(&self.pins)?,
        };
        let explained = Walk::begin(&mut understudy, &self.pins, question, names)?.go(self)?;
        *player = Some(understudy); // but not after an error: the next begins anew
        raw::return_freed_memory();
        Ok(explained)
    }

    /// Gives back what is kept for the next question.
    pub fn rest(&self) {
        *self.understudy.lock().unwrap_or_else(PoisonError::into_inner) = None;
        raw::return_freed_memory();
    }

    /// Returns the host's address on the uplink by which a packet comes.
    ///
    /// # Errors
    /// When no uplink is meant.
    pub fn address(&self, via: Option<&str>, remote: IpAddr) -> Result<Option<IpAddr>, Unexplained> {
        let uplink = self.uplink(via, remote)?;
        Ok(if remote.is_ipv4() { uplink.ipv4.map(IpAddr::V4) } else { uplink.ipv6.map(IpAddr::V6) })
    }

    /// Returns the uplink of this name, or the one that leads to an address.
    fn uplink(&self, via: Option<&str>, remote: IpAddr) -> Result<&UplinkEntry, Unexplained> {
        let list =
            || self.uplinks.iter().map(|up| words::interface(up.ifindex)).collect::<Vec<_>>().join(", ");
        let refuse = |why: String, hint: String| Unexplained::Question(why, Some(hint));
        if let Some(via) = via {
            let known = self.uplinks.iter().find(|uplink| words::interface(uplink.ifindex) == via);
            return known
                .ok_or_else(|| refuse(format!("{via} is no uplink"), format!("uplinks: {}", list())));
        }
        if let [only] = &*self.uplinks {
            return Ok(only);
        }
        let source = source_towards(remote);
        let mut fitting = self.uplinks.iter().filter(|uplink| {
            source.is_some_and(|ip| {
                uplink.ipv4.map(IpAddr::V4) == Some(ip) || uplink.ipv6.map(IpAddr::V6) == Some(ip)
            })
        });
        match (fitting.next(), fitting.next()) {
            (Some(uplink), None) => Ok(uplink),
            _ => Err(refuse(
                format!("the way to {remote} does not name an uplink"),
                format!("say by which it comes: --via {}", list().replace(", ", "|")),
            )),
        }
    }
}

/// Returns the source that the host's routing table chooses for a destination.
fn source_towards(remote: IpAddr) -> Option<IpAddr> {
    const DISCARD: u16 = 9;
    let any = if remote.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((remote, DISCARD)).ok()?; // sends nothing
    Some(socket.local_addr().ok()?.ip())
}
