//! Which of a kernel's modules a guest gets, and in which order they load.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// What netd and its tests ask of a kernel.
const REQUIRED: &[&str] = &["af_packet", "bridge", "cls_bpf", "sch_ingress", "tun", "veth"];

/// What tests and benchmarks use where the kernel has it.
const OPTIONAL: &[&str] = &[
    "8021q",
    "act_mirred",
    "bonding",
    "br_netfilter",
    "crc32c_generic",
    "dummy",
    "ext4",
    "inet_diag",
    "ip6_tables",
    "ip6table_filter",
    "ip6table_nat",
    "ip6table_raw",
    "ip_tables",
    "iptable_filter",
    "iptable_nat",
    "ipip",
    "iptable_raw",
    "ipvlan",
    "macvlan",
    "nf_conntrack",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_masq",
    "nft_nat",
    "overlay",
    "ppp_async",
    "sch_fq_codel",
    "sch_netem",
    "sctp",
    "tcp_diag",
    "udp_diag",
    "virtio_blk",
    "virtio_pci",
    "vrf",
    "vxlan",
    "wireguard",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_conntrack",
    "xt_nat",
    "xt_tcpudp",
];

/// A kernel's `modules.dep` and `modules.builtin`; names have underscores, as in `/proc/modules`.
#[derive(Debug, Default)]
struct Index {
    /// By name: the file, and the files that it depends on.
    modules: BTreeMap<String, (PathBuf, Vec<PathBuf>)>,
    builtin: BTreeSet<String>,
}

/// Returns the files to load, relative to `lib/modules/RELEASE`, each after those that it depends on.
pub fn to_load(dir: &Path) -> Result<Vec<PathBuf>> {
    let read =
        |name: &str| fs::read_to_string(dir.join(name)).with_context(|| format!("read {name} of a kernel"));
    let index = Index::parse(&read("modules.dep")?, &read("modules.builtin")?);
    let mut order = Vec::new();
    for name in REQUIRED {
        let known = index.load(name, &mut order);
        known.with_context(|| format!("the kernel has no module {name}"))?;
    }
    for name in OPTIONAL {
        // Without it, what needs it says so.
        let _ = index.load(name, &mut order);
    }
    Ok(order)
}

impl Index {
    fn parse(dep: &str, builtin: &str) -> Self {
        let line = |line: &str| {
            let (file, needs) = line.split_once(':')?;
            Some((name(file.as_ref()), (file.into(), needs.split_whitespace().map(PathBuf::from).collect())))
        };
        Self {
            modules: dep.lines().filter_map(line).collect(),
            builtin: builtin.lines().map(|file| name(file.as_ref())).collect(),
        }
    }

    /// Appends a module behind what it depends on; none when the kernel does not have it at all.
    fn load(&self, module: &str, order: &mut Vec<PathBuf>) -> Option<()> {
        if self.builtin.contains(module) {
            return Some(());
        }
        let (file, needs) = self.modules.get(module)?;
        // `modules.dep` lists the whole closure, what comes first last.
        for file in needs.iter().rev().chain([file]) {
            if !order.contains(file) {
                order.push(file.clone());
            }
        }
        Some(())
    }
}

/// Returns `br_netfilter` of `kernel/net/bridge/br_netfilter.ko.xz`.
fn name(file: &Path) -> String {
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/net/802/stp.ko: kernel/net/llc/llc.ko
kernel/net/llc/llc.ko:
kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/net/bridge/br_netfilter.ko: kernel/net/bridge/bridge.ko kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/net/sched/act-mirred.ko:
";

    #[test]
    fn modules_load_behind_what_they_depend_on_and_once() {
        let index = Index::parse(DEP, "kernel/drivers/net/tun.ko\n");
        let mut order = Vec::new();
        assert_eq!(index.load("bridge", &mut order), Some(()));
        assert_eq!(index.load("br_netfilter", &mut order), Some(()));
        let names: Vec<String> = order.iter().map(|file| name(file)).collect();
        assert_eq!(names, ["llc", "stp", "bridge", "br_netfilter"]);
    }

    #[test]
    fn builtin_modules_need_no_file_and_unknown_ones_are_none() {
        let index = Index::parse(DEP, "kernel/drivers/net/tun.ko\n");
        let mut order = Vec::new();
        assert_eq!(index.load("tun", &mut order), Some(()));
        assert_eq!(index.load("act_mirred", &mut order), Some(()));
        assert_eq!(index.load("veth", &mut order), None);
        assert_eq!(order, [Path::new("kernel/net/sched/act-mirred.ko")]);
    }
}
