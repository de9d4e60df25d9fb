//! Loops that old verifiers refuse.
//!
//! Up to Linux 6.1 a loop may go back by a jump alone: where the last instruction of its body falls through into its head, which lies behind
//! the body, `check_cfg` (kernel/bpf/verifier.c) says "back-edge". LLVM lays out a loop so when its body has several ways back.

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use super::instruction::{INSTRUCTION, Instruction};

/// Returns the functions of an object that have such a loop, and the instruction of each that falls back.
pub fn refused(object: &[u8]) -> Result<Vec<(String, usize)>> {
    let file = object::File::parse(object).context("parse the eBPF object")?;
    let mut refused = Vec::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let Some(section) = symbol.section_index() else { continue };
        let section = file.section_by_index(section).context("find a function's section")?;
        let code = section.data_range(symbol.address(), symbol.size()).context("read a function")?;
        let code = code.context("a function ends behind its section")?;
        if let Some(at) = falls_back(code) {
            refused.push((symbol.name().context("read a symbol's name")?.to_owned(), at));
        }
    }
    Ok(refused)
}

/// How control leaves an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// By just going on.
    Falls,
    /// By a jump, taken or not.
    Jumps,
}

/// How far the walk has come with an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unseen,
    OnPath,
    Done,
}

/// Walks a function as the kernel does, depth first, and returns the first instruction that falls through to one on the way to it.
fn falls_back(code: &[u8]) -> Option<usize> {
    let code: Vec<Instruction> = code.chunks_exact(INSTRUCTION).map(Instruction::decode).collect();
    let mut marks = vec![Mark::Unseen; code.len()];
    let mut path = vec![(0, successors(&code, 0))];
    while let Some((at, open)) = path.last_mut() {
        let at = *at;
        *marks.get_mut(at)? = Mark::OnPath;
        let Some((next, edge)) = open.pop() else {
            *marks.get_mut(at)? = Mark::Done;
            path.pop();
            continue;
        };
        match marks.get(next) {
            Some(Mark::Unseen) => path.push((next, successors(&code, next))),
            Some(Mark::OnPath) if edge == Edge::Falls => return Some(at),
            _ => {}
        }
    }
    None
}

/// Returns where control goes from an instruction, what the kernel follows first last.
fn successors(code: &[Instruction], at: usize) -> Vec<(usize, Edge)> {
    const JUMPS: [u8; 2] = [5, 6];
    const ALWAYS: u8 = 0;
    const CALL: u8 = 0x80;
    const EXIT: u8 = 0x90;
    let Some(instruction) = code.get(at) else { return Vec::new() };
    let target = |offset: i64| usize::try_from(i64::try_from(at).unwrap_or_default() + 1 + offset).ok();
    let jump = |offset: i64| target(offset).map(|target| (target, Edge::Jumps));
    match (instruction.opcode & 7, instruction.opcode & 0xf0) {
        (class, EXIT) if JUMPS.contains(&class) => Vec::new(),
        (5, ALWAYS) => jump(instruction.offset.into()).into_iter().collect(),
        (6, ALWAYS) => jump(instruction.immediate.into()).into_iter().collect(),
        (class, operation) if JUMPS.contains(&class) && operation != CALL => {
            jump(instruction.offset.into()).into_iter().chain([(at + 1, Edge::Jumps)]).collect()
        }
        _ => vec![(at + 1, Edge::Falls)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: [u8; 8] = [0x07, 0, 0, 0, 1, 0, 0, 0];
    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

    /// `if r0 == 0 goto offset`.
    fn branch(offset: i16) -> [u8; 8] {
        let [low, high] = offset.to_le_bytes();
        [0x15, 0, low, high, 0, 0, 0, 0]
    }

    fn jump(offset: i16) -> [u8; 8] {
        let [low, high] = offset.to_le_bytes();
        [0x05, 0, low, high, 0, 0, 0, 0]
    }

    #[test]
    fn a_loop_that_goes_back_by_a_jump_is_fine() {
        assert_eq!(falls_back(&[ADD, branch(-2), EXIT].concat()), None);
        assert_eq!(falls_back(&[branch(2), ADD, jump(-3), EXIT].concat()), None);
    }

    #[test]
    fn a_body_that_falls_into_the_head_behind_it_is_named() {
        // goto head; body: r0 += 1; head: if r0 == 0 goto body; exit
        assert_eq!(falls_back(&[jump(1), ADD, branch(-2), EXIT].concat()), Some(1));
    }

    #[test]
    fn two_ways_to_one_place_are_no_loop() {
        assert_eq!(falls_back(&[branch(1), ADD, ADD, EXIT].concat()), None);
    }
}
