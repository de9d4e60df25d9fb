//! What must be true of an instance at rest (reliability 6.2), read from the kernel, the file system and the API, and by none of the daemon's code.
//!
//! The stored state says what there should be; links, addresses, routes, forwarding entries, programs, maps, mounts and files say what there is. Each
//! difference is a line: something missing, something too much, or something wrong. The daemon may be up or dead.

mod files;
mod links;
mod logs;
mod maps;
mod process;
mod programs;
mod sources;
mod state;

pub use maps::MapDump;
pub use programs::Holdings;
pub use state::{get, stored};

use crate::{Dirs, Ns, promotion::until_promoted};

/// One instance as the checker finds it.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// The namespace that the daemon works in.
    pub ns: &'a Ns,
    /// Its directories.
    pub dirs: &'a Dirs,
    /// The daemon's process, while it runs.
    pub pid: Option<u32>,
    /// Whether this process holds the programs of dead daemons, as a lab does that reads their counts.
    pub held: bool,
}

/// Lists everything that is not as it must be, once nothing is on its way.
pub fn violations(instance: Instance<'_>) -> Vec<String> {
    until_promoted(instance.ns, instance.dirs);
    let mut faults = Faults::default();
    let state = check_files(instance, &mut faults);
    let indexes = links::check(&state, instance, &mut faults);
    programs::check(&state, &indexes, instance, &mut faults);
    maps::check(&state, &indexes, instance.dirs, &mut faults);
    faults.0
}

/// The same of files, the API and the daemon's process alone.
pub fn violations_of_files(instance: Instance<'_>) -> Vec<String> {
    let mut faults = Faults::default();
    check_files(instance, &mut faults);
    faults.0
}

fn check_files(instance: Instance<'_>, faults: &mut Faults) -> state::State {
    let state = state::read(instance.dirs, faults);
    if let Some(pid) = instance.pid {
        state::compare_with_api(&state, instance.dirs, faults);
        process::check(pid, &state, faults);
    }
    files::check(&state, instance.dirs, faults);
    logs::check(instance.dirs, faults);
    state
}

/// Lists what is left of an instance that was taken down, which had these programs (I11).
pub fn remains(instance: Instance<'_>, programs: &[u32]) -> Vec<String> {
    let mut left: Vec<String> =
        instance.dirs.leftovers().into_iter().map(|path| format!("left: {path}")).collect();
    left.extend(programs::loaded(programs).into_iter().map(|name| format!("still loaded: program {name}")));
    for dir in ["state", "run"] {
        let path = instance.dirs.path(dir);
        if path.exists() {
            left.push(format!("left: {}", path.display()));
        }
    }
    left.extend(
        links::labelled(instance.ns, instance.dirs.instance()).map(|name| format!("left: link {name}")),
    );
    left
}

/// Returns the ids of the programs that an instance has loaded.
pub fn program_ids(dirs: &Dirs) -> Vec<u32> {
    programs::of_instance(dirs).into_iter().map(|program| program.id()).collect()
}

/// What was found to be wrong.
#[derive(Debug, Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }

    fn check(&mut self, holds: bool, line: impl FnOnce() -> String) {
        if !holds {
            self.0.push(line());
        }
    }

    /// Compares what there should be with what there is.
    fn same<T: Ord + std::fmt::Debug>(
        &mut self,
        what: &str,
        wanted: &std::collections::BTreeSet<T>,
        found: &std::collections::BTreeSet<T>,
    ) {
        self.0.extend(wanted.difference(found).map(|item| format!("missing: {what} {item:?}")));
        self.0.extend(found.difference(wanted).map(|item| format!("too much: {what} {item:?}")));
    }
}
