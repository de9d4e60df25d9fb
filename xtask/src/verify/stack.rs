//! The stack that each program needs, read from the object: the deepest chain of frames below it.
//!
//! The verifier knows the same, but tells it only in a log that a successful load does not keep.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

use super::instruction::{INSTRUCTION, Instruction};

/// The kernel rounds each frame up, an empty one too (`check_max_stack_depth` in kernel/bpf/verifier.c; newer kernels with a JIT to 16).
const FRAME: u64 = 32;
/// A function: where it is, what it uses, whom it calls.
#[derive(Debug, Default)]
struct Function {
    frame: u64,
    calls: BTreeSet<Place>,
}

/// Section and offset of a function's first instruction.
type Place = (usize, u64);

/// Returns the bytes of stack of every function by name, with the deepest of those that it calls.
pub fn depths(object: &[u8]) -> Result<BTreeMap<String, u64>> {
    let file = object::File::parse(object).context("parse the eBPF object")?;
    let mut functions = BTreeMap::new();
    let mut names = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let Some(section) = symbol.section_index() else { continue };
        let place = (section.0, symbol.address());
        let function = read(&file, section, symbol.address(), symbol.size())?;
        functions.insert(place, function);
        names.insert(symbol.name().context("read a symbol's name")?.to_owned(), place);
    }
    Ok(names.into_iter().map(|(name, place)| (name, depth(&functions, place))).collect())
}

/// The deepest chain of frames from a function on. The verifier forbids recursion.
fn depth(functions: &BTreeMap<Place, Function>, place: Place) -> u64 {
    let Some(function) = functions.get(&place) else { return 0 };
    let below = function.calls.iter().map(|&callee| depth(functions, callee)).max().unwrap_or_default();
    function.frame.max(1).next_multiple_of(FRAME) + below
}

/// Where a relocated call leads.
#[derive(Debug, Clone, Copy)]
struct Target {
    place: Place,
    /// Whether it names a section, so that the instruction says where in it.
    section: bool,
}

fn read(file: &object::File, index: SectionIndex, start: u64, size: u64) -> Result<Function> {
    let section = file.section_by_index(index).context("find a function's section")?;
    let code = section.data_range(start, size).context("read a function")?;
    let code = code.context("a function ends behind its section")?;
    let targets: BTreeMap<u64, Target> = section
        .relocations()
        .filter_map(|(offset, relocation)| {
            let RelocationTarget::Symbol(symbol) = relocation.target() else { return None };
            let symbol = file.symbol_by_index(symbol).ok()?;
            let place = (symbol.section_index()?.0, symbol.address());
            Some((offset, Target { place, section: symbol.kind() == SymbolKind::Section }))
        })
        .collect();
    let mut function = Function::default();
    let mut pointers = BTreeSet::new();
    for (at, bytes) in (start..).step_by(INSTRUCTION).zip(code.chunks_exact(INSTRUCTION)) {
        let instruction = Instruction::decode(bytes);
        function.frame = function.frame.max(reach(instruction, &mut pointers));
        if instruction.calls_function() {
            let relative = |from: u64| from.wrapping_add_signed((i64::from(instruction.immediate) + 1) * 8);
            function.calls.insert(match targets.get(&at) {
                Some(Target { place: (section, base), section: true }) => (*section, relative(*base)),
                Some(target) => target.place,
                None => (index.0, relative(at)),
            });
        }
    }
    Ok(function)
}

/// Bytes below the frame pointer that an instruction touches, or makes a pointer to. `pointers` are registers that hold r10.
fn reach(instruction: Instruction, pointers: &mut BTreeSet<u8>) -> u64 {
    const LDX: u8 = 1;
    const ST: u8 = 2;
    const STX: u8 = 3;
    const MOV64: u8 = 0xbf;
    const ADD64: u8 = 0x07;
    let below = |distance: i64| u64::try_from(-distance).unwrap_or_default();
    match (instruction.opcode, instruction.opcode & 7) {
        (MOV64, _) if instruction.src == Instruction::R10 && instruction.offset == 0 => {
            pointers.insert(instruction.dst);
            0
        }
        (ADD64, _) if pointers.remove(&instruction.dst) => below(instruction.immediate.into()),
        (_, LDX) if instruction.src == Instruction::R10 => below(instruction.offset.into()),
        (_, ST | STX) if instruction.dst == Instruction::R10 => below(instruction.offset.into()),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(code: &[[u8; 8]]) -> u64 {
        let mut pointers = BTreeSet::new();
        code.iter()
            .map(|bytes| super::reach(Instruction::decode(bytes), &mut pointers))
            .max()
            .unwrap_or_default()
    }

    #[test]
    fn a_store_below_the_frame_pointer_reaches_as_far_as_its_offset() {
        // *(u64 *)(r10 - 16) = r1
        assert_eq!(reach(&[[0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0]]), 16);
    }

    #[test]
    fn a_pointer_into_the_frame_reaches_as_far_as_it_points() {
        // r2 = r10; r2 += -40
        assert_eq!(reach(&[[0xbf, 0xa2, 0, 0, 0, 0, 0, 0], [0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff]]), 40);
    }

    #[test]
    fn an_addition_to_any_other_register_reaches_nothing() {
        assert_eq!(reach(&[[0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff]]), 0);
    }

    #[test]
    fn the_deepest_chain_counts_and_every_frame_is_rounded_up() {
        let function =
            |frame, calls: &[u64]| Function { frame, calls: calls.iter().map(|&at| (0, at)).collect() };
        let functions = BTreeMap::from([
            ((0, 0), function(40, &[8, 16])),
            ((0, 8), function(1, &[])),
            ((0, 16), function(65, &[8, 24])),
            ((0, 24), function(0, &[])),
        ]);
        assert_eq!(depth(&functions, (0, 0)), 64 + 96 + 32);
        assert_eq!(depth(&functions, (0, 24)), 32);
    }
}
