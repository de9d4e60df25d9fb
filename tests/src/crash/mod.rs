//! Crash points: the daemon is killed at a chosen system call of an operation, or the call fails, and what is left is compared with what must be.
//!
//! Calls are counted over all threads of the process, from the moment the trap is set, and only those that change something: so the numbers of an
//! operation's calls run from 1 to the last, and every one of them can be asked for.

mod calls;
mod operation;
mod point;
mod recovery;
mod subject;
mod tracer;
mod twice;

pub use calls::{Call, Kind};
pub use operation::{OPERATIONS, Operation};
pub use point::{Finding, Mode, Outcome, Points, sweep};
pub use subject::Subject;
pub use tracer::{Traced, Trap};
pub use twice::sweep_twice;
