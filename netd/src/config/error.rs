//! What is wrong with the configuration.

use std::{io, path::PathBuf};

/// A configuration that cannot be used, naming the file, the line and the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {} ({source})", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A key or value of the file is wrong.
    #[error("{}:{line}: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, naming the key.
        why: String,
    },
    /// Values that are fine one by one contradict each other, or a flag is wrong.
    #[error("{0}")]
    Value(String),
    /// No cgroup2 file system is mounted.
    #[error("no cgroup2 hierarchy is mounted: mount one at /sys/fs/cgroup, or name its root with --cgroup")]
    NoCgroup,
}
