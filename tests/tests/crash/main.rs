//! Rung: crash points (reliability 7.5, F1, F5). The daemon is killed at system calls of every operation, or they fail; afterwards all is as before, or
//! all is done, and the same command succeeds.
//!
//! `cargo xtask crash --all` tries every call.

mod failpoints;
mod planted;
mod sample;
