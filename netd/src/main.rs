//! The `netd` command: daemon and CLI in one binary.

fn main() {}
