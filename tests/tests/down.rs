//! Rung: namespaces, reliability P6, I11. `netd down` gives the host back as it was, also after a crash and after damage.

use std::{fs, path::Path, process::Command};

use netd_tests::{crash::Subject, invariants};

/// What may have happened to an instance whose daemon is dead.
type Damage = (&'static str, fn(&Subject));

/// Names of the links that netd made.
fn own_links(subject: &Subject) -> Vec<String> {
    let links = subject.host().links();
    links.into_iter().filter(|name| !["lo", "eth0", "eth1"].contains(&name.as_str())).collect()
}

fn delete_links(subject: &Subject, which: fn(&str) -> bool) {
    let gone: Vec<String> = own_links(subject).into_iter().filter(|name| which(name)).collect();
    assert!(!gone.is_empty(), "something is deleted");
    for name in gone {
        subject.host().ip_batch(&format!("link del {name}"));
    }
}

fn remove(path: &Path) {
    fs::remove_dir_all(path).unwrap_or_else(|e| panic!("remove {}: {e}", path.display()));
}

/// Overwrites every file below a directory.
fn spoil(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            spoil(&entry.path());
        } else {
            fs::write(entry.path(), b"\0\0\0\0not what was written").expect("spoil a file");
        }
    }
}

/// Removes every pin below a directory whose name is so.
fn unpin(dir: &Path, which: &dyn Fn(&str) -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unpin(&entry.path(), which);
        } else if entry.file_name().to_str().is_some_and(which) {
            fs::remove_file(entry.path()).expect("remove a pin");
        }
    }
}

/// Whether nothing is there but damaged files, which are kept for people to look at.
fn only_set_aside(dir: &Path) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().all(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().contains(".json.bad-")
            || (entry.file_type().is_ok_and(|kind| kind.is_dir()) && only_set_aside(&entry.path()))
            || name.to_string_lossy().contains(".prev.bad-")
    })
}

const DAMAGES: [Damage; 10] = [
    ("nothing more", |_| ()),
    ("the state directory is gone", |subject| remove(&subject.dirs().path("state"))),
    ("the state and its copies are gone", |subject| {
        remove(&subject.dirs().path("state"));
        remove(&subject.dirs().run().join("state"));
    }),
    ("no file of the state can be read", |subject| spoil(&subject.dirs().path("state"))),
    ("the bridges were deleted", |subject| delete_links(subject, |name| !name.starts_with("veth"))),
    ("the sandboxes' links were deleted", |subject| delete_links(subject, |name| name.starts_with("veth"))),
    ("every pin is gone", |subject| unpin(subject.dirs().bpffs(), &|_| true)),
    ("the maps' pins are gone", |subject| {
        unpin(subject.dirs().bpffs(), &|name| name.starts_with(|first: char| first.is_ascii_uppercase()));
    }),
    ("the namespaces were unmounted", |subject| {
        for entry in fs::read_dir(subject.dirs().run().join("netns")).expect("namespaces").flatten() {
            nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH)
                .expect("unmount a namespace");
        }
    }),
    ("the hooks were emptied", |subject| {
        for name in own_links(subject) {
            // Fails where there is none, as on kernels with links of programs.
            drop(subject.host().output(Command::new("tc").args(["qdisc", "del", "dev", &name, "clsact"])));
        }
        unpin(&subject.dirs().bpffs().join("links"), &|_| true);
    }),
];

#[test]
fn down_gives_the_host_back_after_a_crash_and_after_damage() {
    let mut faults = Vec::new();
    for (what, damage) in DAMAGES {
        let mut subject = Subject::new(false);
        let programs = invariants::program_ids(subject.dirs());
        let links = own_links(&subject);
        assert!(
            !programs.is_empty() && links.len() > 4,
            "there is something to remove: {programs:?}, {links:?}"
        );
        subject.kill();
        damage(&subject);
        let down = subject.host().output(&mut subject.down());
        if !down.status.success() {
            faults.push(format!("{what}: netd down: {}", String::from_utf8_lossy(&down.stderr)));
        }
        let mut left = subject.remains(&programs);
        let state = subject.dirs().path("state");
        if only_set_aside(&state) {
            left.retain(|line| *line != format!("left: {}", state.display()));
        }
        faults.extend(left.into_iter().take(8).map(|line| format!("{what}: {line}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
