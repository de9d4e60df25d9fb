//! `netd debug programs`: what the running kernel's verifier says of every program. `cargo xtask verify` compares it with the committed budget.

use std::{collections::HashMap, os::fd::AsFd};

use aya::{EbpfLoader, VerifierLogLevel};

use super::{
    Error,
    load::{PACKET_PROGRAMS, SOCKET_PROGRAMS, packet_program, program_fd, socket_program},
    object::OBJECT,
    raw,
};

/// What the verifier says of a program.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProgramReport {
    /// Its name.
    pub name: String,
    /// `packet` or `socket`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// Instructions after translation by the kernel.
    pub instructions: u32,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
    /// Deepest stack in bytes over all chains of calls, of the kernel's 512.
    pub stack_bytes: u32,
    /// Time from the call to the loaded program, in microseconds.
    pub load_micros: u64,
}

/// Loads every program into the running kernel, unpinned and unattached, and reports what the verifier says.
///
/// # Errors
/// The first program the kernel refuses.
pub fn verify() -> Result<Vec<ProgramReport>, Error> {
    let mut reports = Vec::new();
    let mut loader = EbpfLoader::new();
    loader.btf(None).verifier_log_level(VerifierLogLevel::DISABLE);
    for (name, entries) in [("FLOW4", 1024), ("FLOW6", 1024)] {
        loader.map_max_entries(name, entries);
    }
    let mut ebpf =
        loader.load(OBJECT).map_err(|source| Error::kernel("load the eBPF object".to_owned(), source))?;
    let names = PACKET_PROGRAMS.map(|name| (name, "packet")).into_iter();
    for (name, kind) in names.chain(SOCKET_PROGRAMS.map(|name| (name, "socket"))) {
        let start = std::time::Instant::now();
        let refused = |source| Error::kernel(format!("load program {name}"), source);
        let info = if kind == "packet" {
            let program = packet_program(&mut ebpf, name)?;
            program.load().map_err(refused)?;
            program.info()
        } else {
            let program = socket_program(&mut ebpf, name)?;
            program.load().map_err(refused)?;
            program.info()
        };
        let info = info.map_err(|source| Error::kernel(format!("inspect program {name}"), source))?;
        let fd = program_fd(&ebpf, name)?;
        let instructions = raw::instructions(fd.as_fd())
            .map_err(|source| Error::kernel(format!("read the instructions of program {name}"), source))?;
        reports.push(ProgramReport {
            name: name.to_owned(),
            kind,
            instructions: info.size_translated().unwrap_or(0) / 8,
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            stack_bytes: deepest_stack(&instructions, 0, &mut HashMap::new()),
            load_micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        });
    }
    Ok(reports)
}

/// Returns the deepest stack from a function on, its callees included. Functions are known by their first instruction.
fn deepest_stack(instructions: &[[u8; 8]], start: usize, known: &mut HashMap<usize, u32>) -> u32 {
    const FRAME_POINTER: u8 = 10;
    const MOVE: u8 = 0xbf;
    const ADD: u8 = 0x07;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const CALL_FUNCTION: u8 = 1;
    if let Some(depth) = known.get(&start) {
        return *depth;
    }
    known.insert(start, 0); // eBPF has no recursion; this only guards the walk
    let (mut own, mut below) = (0, 0);
    let mut alias = None;
    for (at, [code, registers, low, high, imm @ ..]) in instructions.iter().enumerate().skip(start) {
        let (to, from) = (registers & 0x0f, registers >> 4);
        let offset = i16::from_le_bytes([*low, *high]);
        let class = code & 0x07;
        // Loads name the frame in their source, stores in their destination.
        if (class == 1 && from == FRAME_POINTER) || (matches!(class, 2 | 3) && to == FRAME_POINTER) {
            own = own.max(u32::from(offset.unsigned_abs()));
        }
        match *code {
            MOVE if from == FRAME_POINTER => alias = Some(to),
            ADD if alias == Some(to) => {
                own = own.max(i32::from_le_bytes(*imm).unsigned_abs());
                alias = None;
            }
            CALL if from == CALL_FUNCTION => {
                let target = at.saturating_add_signed(isize::from(offset)) + 1;
                below = below.max(deepest_stack(instructions, target, known));
            }
            EXIT if starts_function(instructions, at + 1) => break,
            _ => {}
        }
    }
    known.insert(start, own + below);
    own + below
}

/// Whether some call leads to this instruction.
fn starts_function(instructions: &[[u8; 8]], at: usize) -> bool {
    instructions.iter().enumerate().any(|(call, [code, registers, low, high, ..])| {
        let offset = isize::from(i16::from_le_bytes([*low, *high]));
        *code == 0x85 && registers >> 4 == 1 && call.saturating_add_signed(offset) + 1 == at
    })
}
