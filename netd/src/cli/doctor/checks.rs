//! The checks, each a file or two in `/proc` and `/sys`.

use std::{fs, path::Path};

use super::{Finding, Status};
use crate::{api::Client, kernel_release};

/// Capabilities that the daemon works with, by their number (linux/capability.h); `tests/tests/privileges.rs` shows that they suffice. Who has
/// `CAP_SYS_ADMIN` needs neither `CAP_BPF` nor `CAP_PERFMON`.
const CAPABILITIES: [(u8, &str); 5] = [
    (10, "CAP_NET_BIND_SERVICE"),
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
];

pub(super) fn of_machine() -> Vec<Finding> {
    let mut findings = kernel();
    findings.push(bpffs());
    findings.push(cgroup2());
    findings.push(btf());
    findings.push(capabilities());
    findings.push(mounts());
    findings.push(memory_lock());
    findings.extend(sysctls());
    findings.push(forward_policy());
    findings
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn kernel() -> Vec<Finding> {
    let release = kernel_release::text();
    let Some(version) = kernel_release::parse(&release) else {
        return vec![Finding::new(Status::Warning, "kernel", format!("{release:?} cannot be understood"))];
    };
    let kernel = if version >= kernel_release::FLOOR {
        Finding::new(Status::Ok, "kernel", &release)
    } else {
        Finding::new(Status::Missing, "kernel", format!("{release}, netd needs 6.1 or later"))
            .hint("on Debian, install linux-image-amd64 from backports")
    };
    let attach = if version >= kernel_release::TCX {
        Finding::new(Status::Ok, "attachment", "TCX links")
    } else {
        Finding::new(Status::Note, "attachment", "clsact filters: this kernel has no TCX links (6.6)")
    };
    vec![kernel, attach]
}

/// Returns the mount points of a file system type (proc(5): the type is the first field after `-`).
fn mounted(mountinfo: &str, kind: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        (file_system.split(' ').next()? == kind).then(|| mount.split(' ').nth(4).map(str::to_owned))?
    };
    mountinfo.lines().filter_map(of_line).collect()
}

fn mountinfo() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
}

fn bpffs() -> Finding {
    match mounted(&mountinfo(), "bpf").first() {
        Some(path) => Finding::new(Status::Ok, "bpffs", format!("mounted at {path}")),
        None => Finding::new(Status::Note, "bpffs", "not mounted; the daemon mounts it")
            .hint("mount -t bpf bpf /sys/fs/bpf"),
    }
}

fn cgroup2() -> Finding {
    match mounted(&mountinfo(), "cgroup2").first() {
        Some(path) => Finding::new(Status::Ok, "cgroup2", format!("mounted at {path}")),
        None => Finding::new(
            Status::Missing,
            "cgroup2",
            "not mounted: host processes cannot reach published ports",
        )
        .hint("mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"),
    }
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Finding::new(Status::Ok, "kernel types (BTF)", "/sys/kernel/btf/vmlinux")
    } else {
        Finding::new(Status::Note, "kernel types (BTF)", "not there; netd works, traces say less")
    }
}

fn capabilities() -> Finding {
    let status = read("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if missing.is_empty() {
        return Finding::new(Status::Ok, "capabilities", "all that the daemon needs");
    }
    Finding::new(Status::Missing, "capabilities", format!("without {}", missing.join(", ")))
        .hint("run as root, or give them to the service (AmbientCapabilities=)")
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, _)| mask & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

fn mounts() -> Finding {
    match crate::netns::mounts_are_private(Path::new("/run")) {
        Ok(true) => {
            Finding::new(Status::Warning, "mounts", "private: others will not see the namespaces netd makes")
                .hint("remove ProtectSystem=, PrivateTmp= and their like from the service")
        }
        Ok(false) => Finding::new(Status::Ok, "mounts", "visible to the host"),
        Err(error) => Finding::new(Status::Note, "mounts", error.to_string()),
    }
}

fn memory_lock() -> Finding {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((RLIM_INFINITY, _)) => Finding::new(Status::Ok, "locked memory", "unlimited"),
        // Since 5.11 the kernel accounts eBPF memory to the cgroup; the floor is above that.
        Ok((bytes, _)) => {
            Finding::new(Status::Ok, "locked memory", format!("{bytes} bytes; eBPF is not bound by it"))
        }
        Err(error) => Finding::new(Status::Note, "locked memory", error.to_string()),
    }
}

/// Judges `kernel.unprivileged_bpf_disabled`: 0 is open to everybody, 1 closed for good, 2 closed (reliability S34).
fn unprivileged_bpf(value: Option<&str>) -> Finding {
    let finding = |status, text: &str| Finding::new(status, "unprivileged eBPF", text);
    match value {
        Some("1" | "2") => finding(Status::Ok, "not allowed"),
        None => finding(Status::Note, "whether it is allowed cannot be told"),
        Some(_) => finding(Status::Warning, "allowed").hint("sysctl kernel.unprivileged_bpf_disabled=2"),
    }
}

fn sysctls() -> Vec<Finding> {
    let value = |name: &str| read(&format!("/proc/sys/{}", name.replace('.', "/")));
    let mut findings = Vec::new();
    for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        findings.push(match value(name).as_deref() {
            Some("1") => Finding::new(Status::Ok, name, "1"),
            Some(other) => {
                Finding::new(Status::Note, name, format!("{other}; the daemon sets what it needs"))
            }
            None => Finding::new(Status::Note, name, "not there"),
        });
    }
    findings.push(unprivileged_bpf(value("kernel.unprivileged_bpf_disabled").as_deref()));
    findings.push(match value("net.core.bpf_jit_enable").as_deref() {
        Some("0") => Finding::new(Status::Warning, "eBPF compiler", "off: every packet is interpreted")
            .hint("sysctl net.core.bpf_jit_enable=1"),
        _ => Finding::new(Status::Ok, "eBPF compiler", "on"),
    });
    if value("net.bridge.bridge-nf-call-iptables").as_deref() == Some("1") {
        findings.push(
            Finding::new(Status::Warning, "br_netfilter", "bridged packets pass the host's firewall")
                .hint("sysctl net.bridge.bridge-nf-call-iptables=0, unless something else needs it"),
        );
    }
    findings
}

/// netd reads no firewall's rules: it needs none, and their tools may not be there.
fn forward_policy() -> Finding {
    let tables = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
    let used = tables.iter().filter_map(|path| read(path)).any(|names| !names.is_empty());
    let found = if used {
        "iptables is in use; its FORWARD policy is not read"
    } else {
        "no iptables tables are loaded"
    };
    let finding = Finding::new(Status::Note, "FORWARD policy", found);
    if used {
        finding.hint("`iptables -S FORWARD`: a DROP policy blocks what netd leaves to the kernel's routing")
    } else {
        finding
    }
}

pub(super) async fn of_daemon(client: &Client) -> Finding {
    match client.status().await {
        Ok(status) if status.state == "ready" => Finding::new(Status::Ok, "daemon", "ready"),
        Ok(status) => Finding::new(Status::Warning, "daemon", status.state),
        Err(error) => {
            Finding::new(Status::Note, "daemon", error.to_string()).hint("start it with `netd daemon`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_found_in_mountinfo() {
        let table = "31 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n32 23 0:28 / /sys/fs/bpf rw - bpf none rw\n";
        assert_eq!(mounted(table, "cgroup2"), ["/sys/fs/cgroup"]);
        assert_eq!(mounted(table, "bpf"), ["/sys/fs/bpf"]);
        assert!(mounted(table, "ext4").is_empty());
    }

    #[test]
    fn s34_ebpf_that_is_open_to_everybody_is_warned_of() {
        for (value, status, hint) in [
            (Some("0"), Status::Warning, true),
            (Some("1"), Status::Ok, false),
            (Some("2"), Status::Ok, false),
            (Some("7"), Status::Warning, true),
            (None, Status::Note, false),
        ] {
            let finding = unprivileged_bpf(value);
            assert_eq!((finding.status, finding.hint.is_some()), (status, hint), "{value:?}");
        }
        let real = read("/proc/sys/kernel/unprivileged_bpf_disabled").expect("every kernel with eBPF has it");
        assert_eq!(unprivileged_bpf(Some(&real)).status == Status::Warning, real == "0", "{real:?}");
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert!(missing_capabilities("CapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(missing_capabilities("CapEff:\t000001ffffffefff\n"), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities("").len(), CAPABILITIES.len());
    }
}
