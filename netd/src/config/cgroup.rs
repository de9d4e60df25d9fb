//! Finds the root of the cgroup2 hierarchy among the mounts.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf};

/// The mounts that this process sees.
pub(super) const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Returns where cgroup2 is mounted: a mount of the whole hierarchy before one of a part, short paths first.
///
/// Format: man page `proc_pid_mountinfo`; the optional fields end with a lone `-`, the file system's type follows.
pub(super) fn cgroup2_root(mountinfo: &str) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        (file_system.split(' ').next() == Some("cgroup2")).then(|| (root != "/", unescape(mount_point)))
    });
    mounts.min_by_key(|(part, path)| (*part, path.as_os_str().len())).map(|(_, path)| path)
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped =
            (byte == b'\\').then(|| tail.split_at_checked(3)).flatten().and_then(|(digits, after)| {
                let value = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
                Some((value, after))
            });
        let (byte, tail) = escaped.unwrap_or((byte, tail));
        bytes.push(byte);
        rest = tail;
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_hierarchy_is_found_on_every_layout() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:2 - cgroup2 cgroup2 rw\n";
        let unified = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let part_first = "50 24 0:30 /system.slice /s rw - cgroup2 none rw\n\
                          51 24 0:30 / /mnt/control\\040groups rw - cgroup2 none rw\n";
        for (mountinfo, expected) in [
            (hybrid, Some("/sys/fs/cgroup/unified")),
            (unified, Some("/sys/fs/cgroup")),
            (part_first, Some("/mnt/control groups")),
            ("", None),
            ("garbage\n1 2 - cgroup2\n", None),
        ] {
            assert_eq!(cgroup2_root(mountinfo), expected.map(PathBuf::from));
        }
    }
}
