//! `netd debug programs`: what the running kernel's verifier says of every program. `cargo xtask verify` compares it with the committed budget.

use aya::{EbpfLoader, VerifierLogLevel};

use super::{
    Error, guard,
    object::OBJECT,
    programs::{
        INPUT_PROGRAM, PACKET_PROGRAMS, SOCKET_PROGRAMS, guard_program, input_program, packet_program,
        socket_program,
    },
};

/// What the verifier says of a program.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProgramReport {
    /// Its name.
    pub name: String,
    /// `packet`, `socket`, `namespace` or `device`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// Instructions after translation by the kernel.
    pub instructions: u32,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
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
    loader.btf(None).verifier_log_level(VerifierLogLevel::STATS);
    for (name, entries) in [("FLOW4", 1024), ("FLOW6", 1024)] {
        loader.map_max_entries(name, entries);
    }
    let mut ebpf =
        loader.load(OBJECT).map_err(|source| Error::kernel("load the eBPF object".to_owned(), source))?;
    let names = PACKET_PROGRAMS.map(|name| (name, "packet")).into_iter();
    let names = names.chain(SOCKET_PROGRAMS.map(|name| (name, "socket")));
    for (name, kind) in names.chain([(INPUT_PROGRAM, "namespace"), (guard::PROGRAM, "device")]) {
        let start = std::time::Instant::now();
        let refused = |source| Error::kernel(format!("load program {name}"), source);
        let info = match kind {
            "packet" => {
                let program = packet_program(&mut ebpf, name)?;
                program.load().map_err(refused)?;
                program.info()
            }
            "socket" => {
                let program = socket_program(&mut ebpf, name)?;
                program.load().map_err(refused)?;
                program.info()
            }
            "device" => {
                let program = guard_program(&mut ebpf)?;
                program.load().map_err(refused)?;
                program.info()
            }
            _ => {
                let program = input_program(&mut ebpf)?;
                program.load().map_err(refused)?;
                program.info()
            }
        };
        let info = info.map_err(|source| Error::kernel(format!("inspect program {name}"), source))?;
        reports.push(ProgramReport {
            name: name.to_owned(),
            kind,
            instructions: info.size_translated().unwrap_or(0) / 8,
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            load_micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        });
    }
    Ok(reports)
}
