//! `cargo xtask verify`: what every program costs the verifier, beside the committed budget.

mod instruction;
mod loops;
mod stack;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{build, command, layout::Layout, ui};

/// Load every program into the running kernel and compare its cost with the budget
///
/// Prints, per program: instructions the verifier processed, instructions after translation, and bytes of stack, each
/// with its difference to netd-ebpf/budget.json. Fails when one is more than half over (of instructions: a quarter), and
/// when the oldest kernel would refuse a program for its stack or for a loop.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write what was found to netd-ebpf/budget.json
    #[arg(long)]
    update: bool,
}

/// Bytes of stack that all frames of a program have together.
const STACK: u64 = 512;

/// A program as `netd debug programs` tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Program {
    name: String,
    r#type: String,
    instructions: u64,
    verified_instructions: u64,
    /// Not told by the kernel: found in the object.
    #[serde(skip)]
    stack_bytes: u64,
    load_micros: u64,
}

/// What a program may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    verified_instructions: u64,
    instructions: u64,
    stack_bytes: u64,
}

type Budget = BTreeMap<String, Cost>;

/// Runs `cargo xtask verify`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let layout = Layout::find();
    if !args.update {
        return check(&layout)?.map(|()| ExitCode::SUCCESS);
    }
    let (programs, _) = programs(&layout)?;
    let file = budget_file(&layout);
    print(&programs, &read(&file)?);
    let found: Budget = programs.iter().map(|program| (program.name.clone(), program.cost())).collect();
    let text = serde_json::to_string_pretty(&found).context("write JSON")? + "\n";
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    ui::note(&format!("wrote {}", file.display()));
    Ok(ExitCode::SUCCESS)
}

/// Prints what every program costs beside the budget. The inner result says whether all are within it, and acceptable to the oldest kernel.
///
/// # Errors
/// When the programs cannot be built, read or loaded.
pub fn check(layout: &Layout) -> Result<Result<()>> {
    let (programs, object) = programs(layout)?;
    let budget = read(&budget_file(layout))?;
    print(&programs, &budget);
    Ok(judge(&programs, &budget, &object))
}

fn judge(programs: &[Program], budget: &Budget, object: &[u8]) -> Result<()> {
    let deep = programs.iter().find(|program| program.stack_bytes > STACK);
    if let Some(Program { name, stack_bytes, .. }) = deep {
        bail!("{name} needs {stack_bytes} bytes of stack, and Linux 6.1 gives {STACK} (MAX_BPF_STACK)");
    }
    let refused = loops::refused(object)?;
    if !refused.is_empty() {
        let functions: Vec<String> =
            refused.into_iter().map(|(name, at)| format!("{name} at {at}")).collect();
        bail!(
            "the verifier of Linux 6.1 refuses a loop whose body falls through into its head (\"back-edge\"): {}. \
             `llvm-objdump -dl` tells the line; write the loop out, or give its body one way back",
            functions.join(", ")
        );
    }
    let over = over_budget(programs, budget);
    if !over.is_empty() {
        bail!(
            "over budget: {}. Explain it in the commit and run cargo xtask verify --update",
            over.join(", ")
        );
    }
    Ok(())
}

fn budget_file(layout: &Layout) -> PathBuf {
    layout.ebpf().join("budget.json")
}

/// Builds the programs and loads them, and returns them with the object they come from.
fn programs(layout: &Layout) -> Result<(Vec<Program>, Vec<u8>)> {
    let netd = build::netd(layout, false)?;
    let object = object(layout)?;
    Ok((load(&netd, &object)?, object))
}

/// Reads the object that is inside `netd`.
fn object(layout: &Layout) -> Result<Vec<u8>> {
    let file = std::env::var_os("NETD_BPF_OBJ").map_or_else(|| layout.object(), PathBuf::from);
    fs::read(&file).with_context(|| format!("read {}", file.display()))
}

fn load(netd: &Path, object: &[u8]) -> Result<Vec<Program>> {
    let mut debug = Command::new(netd);
    debug.args(["debug", "programs", "--format", "json"]);
    let text = command::capture(&mut command::as_root(debug)?)?;
    let mut programs: Vec<Program> = serde_json::from_str(&text).context("parse netd debug programs")?;
    let depths = stack::depths(object)?;
    for program in &mut programs {
        let depth = depths.get(&program.name).copied();
        program.stack_bytes =
            depth.with_context(|| format!("the object has no function {}", program.name))?;
    }
    Ok(programs)
}

fn read(file: &PathBuf) -> Result<Budget> {
    match fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("parse {}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Budget::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

impl Program {
    fn cost(&self) -> Cost {
        Cost {
            verified_instructions: self.verified_instructions,
            instructions: self.instructions,
            stack_bytes: self.stack_bytes,
        }
    }
}

impl Cost {
    fn figures(self) -> [u64; 3] {
        [self.verified_instructions, self.instructions, self.stack_bytes]
    }
}

fn print(programs: &[Program], budget: &Budget) {
    println!(
        "{:<14} {:<8} {:>18} {:>16} {:>12} {:>9}",
        "program", "type", "processed", "instructions", "stack", "load"
    );
    for program in programs {
        let allowed = budget.get(&program.name).map(|cost| cost.figures());
        let cells: Vec<String> = program
            .cost()
            .figures()
            .into_iter()
            .enumerate()
            .map(|(n, found)| cell(found, allowed.map(|all| all[n])))
            .collect();
        let millis = format!("{:.1} ms", Duration::from_micros(program.load_micros).as_secs_f64() * 1e3);
        println!(
            "{:<14} {:<8} {:>18} {:>16} {:>12} {millis:>9}",
            program.name, program.r#type, cells[0], cells[1], cells[2]
        );
    }
    for name in budget.keys().filter(|name| programs.iter().all(|program| program.name != **name)) {
        println!("{name:<22} is in the budget, but not in the object");
    }
}

/// A figure with its difference to the budget, such as `1218 (+14)`.
fn cell(found: u64, allowed: Option<u64>) -> String {
    match allowed {
        None => format!("{found} (new)"),
        Some(allowed) if allowed == found => found.to_string(),
        Some(allowed) if found > allowed => format!("{found} (+{})", found - allowed),
        Some(allowed) => format!("{found} (-{})", allowed - found),
    }
}

/// Names programs of which something is past its budget: instructions by a quarter; the verifier's walk and the stack by half, because the
/// walk depends on the kernel, and of the stack the kernel says itself what is too much.
fn over_budget(programs: &[Program], budget: &Budget) -> Vec<String> {
    let over = |program: &&Program| {
        budget.get(&program.name).is_some_and(|allowed| {
            let found = program.cost();
            found.instructions * 4 > allowed.instructions * 5
                || found.verified_instructions * 2 > allowed.verified_instructions * 3
                || found.stack_bytes * 2 > allowed.stack_bytes * 3
        })
    };
    programs.iter().filter(over).map(|program| program.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(instructions: u64) -> Program {
        let [name, r#type] = ["from_endpoint", "SchedClassifier"].map(str::to_owned);
        Program { name, r#type, instructions, verified_instructions: 10, stack_bytes: 0, load_micros: 1 }
    }

    #[test]
    fn a_program_may_be_a_quarter_over_its_budget_and_not_more() {
        let budget = Budget::from([("from_endpoint".to_owned(), program(100).cost())]);
        assert!(over_budget(&[program(125)], &budget).is_empty());
        assert_eq!(over_budget(&[program(126)], &budget), ["from_endpoint"]);
    }

    #[test]
    fn a_program_without_a_budget_is_new_and_not_over() {
        assert!(over_budget(&[program(1_000_000)], &Budget::new()).is_empty());
        assert_eq!(cell(7, None), "7 (new)");
    }
}
