//! Instructions of the eBPF machine, as far as they are read here (RFC 9669).

/// Bytes of an instruction (RFC 9669 §3).
pub const INSTRUCTION: usize = 8;

/// An instruction's basic encoding (RFC 9669 §3.1); what follows a 64-bit immediate decodes to nothing of interest.
#[derive(Debug, Clone, Copy)]
pub struct Instruction {
    /// Class and operation.
    pub opcode: u8,
    /// Register that is written.
    pub dst: u8,
    /// Register that is read, or the kind of a call.
    pub src: u8,
    /// Of memory, or of a jump.
    pub offset: i16,
    /// A number.
    pub immediate: i32,
}

impl Instruction {
    /// The frame pointer.
    pub const R10: u8 = 10;

    /// Reads eight bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        Self {
            opcode: byte(0),
            dst: byte(1) & 0xf,
            src: byte(1) >> 4,
            offset: i16::from_le_bytes([byte(2), byte(3)]),
            immediate: i32::from_le_bytes([byte(4), byte(5), byte(6), byte(7)]),
        }
    }

    /// `call` with source 1: a function of the program, not a helper (RFC 9669 §4.3.2).
    pub fn calls_function(self) -> bool {
        const CALL: u8 = 0x85;
        self.opcode == CALL && self.src == 1
    }
}
