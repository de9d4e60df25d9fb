//! netd's field: a daemon in the host, a network, two sandboxes.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Result;

use super::{Addresses, Kit, PORT, PUBLISHED, Places, STREAM_PORT, STREAM_PUBLISHED, tables::others};
use crate::{
    bench::path::plan::Setting,
    stage::{cable::World, daemon::Daemon, netns::Netns},
};

const NETWORK: &str = "front";
const SERVING: &str = "serving";
const ASKING: &str = "asking";
/// Seconds that a flow of another client lives at least: longer than a benchmark.
const KEEP: u32 = 7200;

/// Whether the kernel makes netkit pairs.
pub fn has_netkit() -> bool {
    let made = |netns: Netns| netns.ip(&["link", "add", "kit0", "type", "netkit"]);
    Netns::new().and_then(made).is_ok()
}

/// What is not netd's default: options of the network, and lines at the head of the configuration.
#[derive(Debug)]
pub struct Variant {
    network: &'static [&'static str],
    config: &'static str,
}

/// The defaults.
pub const VETH: Variant = Variant { network: &[], config: "" };
/// Netkit pairs.
pub const NETKIT: Variant = Variant { network: &["-o", "netd.device=netkit"], config: "" };
/// Filters in place of links.
pub const CLSACT: Variant = Variant { network: &[], config: "attach = \"tc\"\n" };
/// No way out, and therefore segments as large as the kernel makes them.
pub const INTERNAL: Variant = Variant { network: &["--internal"], config: "" };

/// Starts a daemon and makes everything by its command line.
pub fn build(variant: &Variant, setting: Setting, kit: Kit) -> Result<Places> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("netd-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let World { host, outside, .. } = World::around(Netns::new()?)?;
    let daemon = Daemon::start_in(kit.netd, kit.stage, &name, &host, &config(variant, setting))?;
    let host = host.in_cgroup(daemon.cgroup().to_path_buf());
    for number in 1..setting.networks {
        let [high, low] = u16::try_from(number)?.to_be_bytes();
        let (v4, v6) = (format!("10.{high}.{low}.0/24"), format!("fd00:be:0:{number:x}::/64"));
        daemon.run(&[
            "network",
            "create",
            "--subnet",
            &v4,
            "--ipv6",
            "--subnet",
            &v6,
            &format!("more{number}"),
        ])?;
    }
    daemon.run(&[&["network", "create", "--ipv6"], variant.network, &[NETWORK]].concat())?;
    let publish = [
        format!("{PUBLISHED}:{PORT}"),
        format!("{PUBLISHED}:{PORT}/udp"),
        format!("{STREAM_PUBLISHED}:{STREAM_PORT}"),
    ];
    let mut create = vec!["sandbox", "create", "--network", NETWORK];
    for spec in &publish {
        create.extend(["-p", spec]);
    }
    create.push(SERVING);
    daemon.run(&create)?;
    daemon.run(&["sandbox", "create", "--network", NETWORK, ASKING])?;
    if let Some(range) = others(setting.ports) {
        let range = format!("{}-{}", range.start(), range.end());
        daemon.run(&["publish", SERVING, &format!("{range}:{range}")])?;
    }
    let inspected = daemon.inspect("sandbox", SERVING)?;
    let endpoint = &inspected["NetworkSettings"]["Networks"][NETWORK];
    let gateway: Vec<IpAddr> = ["Gateway", "IPv6Gateway"]
        .iter()
        .filter_map(|field| endpoint[field].as_str()?.parse().ok())
        .collect();
    let addresses = Addresses {
        serving: daemon.addresses(SERVING, NETWORK)?,
        asking: daemon.addresses(ASKING, NETWORK)?,
        gateway,
    };
    let (serving, asking) = (Some(daemon.sandbox(SERVING)), Some(daemon.sandbox(ASKING)));
    Ok(Places { _daemon: Some(daemon), proxies: Vec::new(), host, outside, serving, asking, addresses })
}

/// The defaults but for the variant, and room for flows that stay where there are many.
fn config(variant: &Variant, setting: Setting) -> String {
    let head = variant.config;
    if setting.flows == 0 {
        return head.to_owned();
    }
    // Two entries a flow, and a table that is not full.
    let entries = (setting.flows.next_power_of_two() * 4).max(1 << 18);
    format!(
        "{head}[flows]\nentries = {entries}\nper_endpoint = {entries}\n[timeouts]\nudp = {KEEP}\nudp_replied = {KEEP}\n"
    )
}
