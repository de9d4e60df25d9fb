//! docker-proxy: a process that carries every byte between a socket of the host and one to the container.

use std::{path::PathBuf, process::Stdio, thread, time::Duration};

use anyhow::{Context, Result};

use super::{
    Kit, PORT, PUBLISHED, Places, STREAM_PORT, STREAM_PUBLISHED,
    bridged::{self, first},
    server::Ended,
};
use crate::{
    bench::path::plan::{Contender, Family},
    command,
    layout::Layout,
};

/// The program's name.
pub const PROGRAM: &str = "docker-proxy";

/// Finds docker-proxy where Debian's package puts it, also unpacked below `target/tools/docker`.
pub fn program(layout: &Layout) -> Option<PathBuf> {
    let unpacked = layout.root().join("target/tools/docker");
    let dirs = ["usr/bin", "usr/sbin", "usr/libexec/docker", "usr/libexec"];
    let roots = [PathBuf::from("/"), unpacked];
    let dirs: Vec<PathBuf> = roots.iter().flat_map(|root| dirs.map(|dir| root.join(dir))).collect();
    command::find(PROGRAM, &dirs)
}

/// A bridge without rules, and a proxy for each published port and family.
pub fn build(kit: Kit) -> Result<Places> {
    let mut places = bridged::bridge(&[first()], Contender::DockerProxy)?;
    let program = program(kit.layout).context("docker-proxy is not installed")?;
    for (family, any) in [(Family::V4, "0.0.0.0"), (Family::V6, "::")] {
        for (protocol, host_port, port) in
            [("tcp", PUBLISHED, PORT), ("udp", PUBLISHED, PORT), ("tcp", STREAM_PUBLISHED, STREAM_PORT)]
        {
            let mut proxy = places.host.command(&program.to_string_lossy())?;
            let container = first().address(family, 2).to_string();
            proxy.args(["-proto", protocol, "-host-ip", any, "-host-port", &host_port.to_string()]);
            proxy.args(["-container-ip", &container, "-container-port", &port.to_string()]);
            // It tells its parent by descriptor 3 whether it listens; without one nobody is told.
            let child = proxy.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            places.proxies.push(Ended(child.context("start docker-proxy")?));
        }
    }
    // What connects before they listen is tried again by the warm-up round.
    thread::sleep(Duration::from_millis(200));
    Ok(places)
}
