//! netd: container networking on Linux with eBPF, without iptables.
//!
//! `cli` → `api` → `controller` (one writer) → `model`, `ipam`, plan → `link`, `netns`, `dataplane`, `store`.

pub mod api;
pub mod audit;
pub mod cli;
pub mod config;
pub mod controller;
pub mod daemon;
pub mod dataplane;
pub mod etc_files;
pub mod failpoint;
pub mod ipam;
pub mod kernel_release;
pub mod link;
pub mod model;
pub mod moment;
pub mod netns;
pub mod pulse;
pub mod store;
pub mod sysctl;
pub mod template;
