//! Keeps the processors from sleeping between two packets.
//!
//! In requests and connections each side waits for the other, thousands of times a second. A processor that sleeps meanwhile has to be woken, which
//! takes a virtual machine's host several times as long as all that is to be compared, and another time each time. What a person would set with
//! `tuned-adm profile network-latency` is asked of the kernel while a benchmark runs, for all contenders alike (`Documentation/power/pm_qos_interface.rst`).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
};

const DEVICE: &str = "/dev/cpu_dma_latency";

/// Idle processors poll for as long as this lives.
#[derive(Debug)]
pub struct Awake {
    _request: File,
}

impl Awake {
    /// Asks for it.
    ///
    /// # Errors
    /// Where the kernel or its host does not offer it.
    pub fn please() -> io::Result<Self> {
        let mut request = OpenOptions::new().write(true).open(DEVICE)?;
        // Microseconds that may pass until a processor is awake, as a binary number.
        request.write_all(&0_i32.to_ne_bytes())?;
        Ok(Self { _request: request })
    }
}
