//! The `netd` command: daemon and CLI in one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    netd::cli::main()
}
