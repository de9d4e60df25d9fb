//! I1, I7: namespaces, mounts and files of sandboxes in the run directory.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{
    Faults,
    state::{State, text},
};
use crate::Dirs;

/// Compares the run directory with the state.
pub fn check(state: &State, dirs: &Dirs, faults: &mut Faults) {
    let run = dirs.run();
    let owned: BTreeSet<String> = state
        .sandboxes
        .iter()
        .filter(|sandbox| sandbox["netns"]["owned"] == true)
        .map(|sandbox| text(sandbox, "name").to_owned())
        .collect();
    faults.same("namespace", &owned, &names(&run.join("netns")));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for name in &owned {
        let path = run.join("netns").join(name);
        let point = path.display().to_string();
        let count = mounts.lines().filter(|line| line.split(' ').nth(4) == Some(&point)).count();
        faults.check(count == 1, || format!("wrong: {count} mounts at {point}"));
    }
    let below = format!("{}/", run.display());
    for line in
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&below))
    {
        let known = owned.iter().any(|name| Path::new(line) == run.join("netns").join(name));
        faults.check(known, || format!("too much: mount {line}"));
    }
    let with_files: BTreeSet<String> = state
        .sandboxes
        .iter()
        .filter(|sandbox| sandbox["mode"]["sandbox"].is_null())
        .map(|sandbox| text(sandbox, "id").to_owned())
        .collect();
    faults.same("files of sandbox", &with_files, &names(&run.join("sandboxes")));
    for id in &with_files {
        for name in ["hosts", "resolv.conf"] {
            let path = run.join("sandboxes").join(id).join(name);
            let size = fs::metadata(&path).map(|file| file.size()).unwrap_or_default();
            faults.check(size > 0, || format!("damaged: {} is missing or empty", path.display()));
        }
    }
    for sandbox in &state.sandboxes {
        let inode = sandbox["netns"]["inode"].as_u64().filter(|inode| *inode != 0);
        let path = text(&sandbox["netns"], "path");
        if let Some(inode) = inode {
            let found = fs::metadata(path).map(|file| file.ino()).unwrap_or_default();
            faults.check(found == inode, || format!("wrong: another namespace at {path}"));
        }
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
