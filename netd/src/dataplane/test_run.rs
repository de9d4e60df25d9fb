//! Runs a packet program on a made-up packet against the live maps (`BPF_PROG_TEST_RUN`): what would happen, and to which bytes. Nothing is sent.

use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};

use super::{Error, Kernel};

/// `struct __sk_buff` up to `ifindex`, which is as much of it as a packet's way depends on; the rest stays zero.
const CONTEXT: usize = 192;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

/// What a program did with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The action: -1 next, 2 drop, 7 redirect.
    pub action: i32,
    /// The packet's bytes afterwards.
    pub bytes: Vec<u8>,
    /// How long the program took, the kernel's bookkeeping around it included (some tens of nanoseconds).
    pub duration: Duration,
}

impl Kernel {
    /// Runs a packet program on a frame as if it had arrived on `ifindex`, having entered the host by `ingress` (0: the host made it).
    ///
    /// # Errors
    /// When the kernel refuses the run: no such device, or a frame shorter than Ethernet's header.
    pub fn test_run(
        &mut self,
        program: &str,
        frame: &[u8],
        ifindex: u32,
        ingress: u32,
    ) -> Result<Ran, Error> {
        run_on(self.programs().packet(program)?, program, frame, ifindex, ingress)
    }
}

/// Runs a loaded program on a frame; as [`Kernel::test_run`].
pub(super) fn run_on(
    program: &SchedClassifier,
    name: &str,
    frame: &[u8],
    ifindex: u32,
    ingress: u32,
) -> Result<Ran, Error> {
    let mut context = [0_u8; CONTEXT];
    context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&ingress.to_ne_bytes());
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let mut bytes = vec![0; frame.len() + 256];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut bytes),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = program
        .test_run(options)
        .map_err(|source| Error::kernel(format!("run program {name} on a packet"), source))?;
    bytes.truncate(result.data_size_out as usize);
    Ok(Ran { action: result.return_value.cast_signed(), bytes, duration: result.duration })
}

/// Runs the loaded guard on a frame, and shows by its counter whether it drops it.
///
/// # Errors
/// When the kernel refuses the run.
pub(super) fn run_guard_on(guard: &Xdp, frame: &[u8]) -> Result<(), Error> {
    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
    let ran = guard
        .test_run(options)
        .map_err(|source| Error::kernel("run the guard on a frame".to_owned(), source));
    ran.map(drop)
}
