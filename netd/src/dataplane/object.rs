//! The eBPF object, as `build.rs` put it there.

/// The bytes of the ELF file.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netd.bpf.o"));

/// Its SHA-256, for `netd version`.
pub const OBJECT_SHA256: &str = env!("NETD_BPF_SHA256");
