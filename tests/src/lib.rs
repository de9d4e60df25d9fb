//! The lab: network namespaces, hosts with addresses and routes, peers that speak TCP, UDP and ICMP, and a daemon of its own for each test.
//!
//! [`Lab::new`] builds the topology (`R` and `R2` outside, `H` with netd on it) and starts `netd daemon` in `H`. Everything is removed when
//! the value is dropped, also after a failed assertion, and the drop itself fails the test when the daemon left something behind or a
//! packet with a sandbox's address was seen on an uplink.
#![allow(
    clippy::missing_panics_doc,
    reason = "a step of a test that fails has nothing better to do than to panic"
)]

mod capture;
mod checks;
mod cli;
mod client;
mod conserve;
pub mod crash;
mod daemon;
pub mod far;
mod files;
mod firewalld;
mod foreign;
mod fragments;
mod frames;
pub mod invariants;
mod lab;
mod leak;
mod netns;
mod offload;
mod ping;
mod ppp;
pub mod probe;
mod process;
pub mod promotion;
mod random;
pub mod rig;
mod sandbox;
mod sctp;
mod server;
mod snapshot;
pub mod soak;
mod topology;
mod traffic;
pub mod truth;
mod tunnel;
pub mod ways;

pub use capture::{Capture, Packet};
pub use checks::{Silence, denied, eventually};
pub use cli::Run;
pub use client::{Outcome, PATIENCE, Proto, SILENCE, Seen, Stream, at, connect};
pub use conserve::Ledger;
pub use daemon::{Daemon, Dirs, binary};
pub use files::{files, tree};
pub use firewalld::Firewalld;
pub use foreign::{Foreign, ForeignXdp, Place as ForeignPlace};
pub use fragments::{Part, Wire, cut, fix_header, shuffle};
pub use frames::Frame;
pub use lab::{Lab, Net, Options};
pub use leak::LeakWatch;
pub use netns::{Link, Ns, NsPath};
pub use ppp::Ppp;
pub use process::Child;
pub use random::Random;
pub use sandbox::Sandbox;
pub use server::Server;
pub use snapshot::Snapshot;
pub use topology::{Family, H, H1, Host, R, R2, Topology};
pub use traffic::Asking;
pub use tunnel::Tunnel;
