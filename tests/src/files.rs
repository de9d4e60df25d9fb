//! What is below a directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Lists every file, pin and mount point below a directory; of no directory there are none.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    tree(dir)
        .into_iter()
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir()))
        .collect()
}

/// Lists a directory and everything below it.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(tree(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all
}
