//! netd's vocabulary and packet decisions: the same source in the kernel, in the daemon and in tests on the host.
//!
//! Parse → decide → apply: [`wire`] turns bytes into [`wire::Headers`], [`hook`] composes [`policy`], [`conntrack`] and [`nat`] into a
//! [`verdict::Verdict`], [`nat::rewrite`] writes bytes. What decides is pure: it sees the world through [`env::Packet`] and [`env::Env`].
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod conntrack;
pub mod env;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod family;
pub mod guard;
pub mod hook;
pub mod maps;
pub mod monitor;
pub mod nat;
pub mod net;
pub mod policy;
pub mod verdict;
pub mod wire;
