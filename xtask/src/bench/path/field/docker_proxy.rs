//! docker-proxy: a process that carries every byte between a socket of the host and one to the container.

use std::{process::Stdio, thread, time::Duration};

use anyhow::{Context, Result};

use super::{
    Kit, PORT, PUBLISHED, Places, STREAM_PORT, STREAM_PUBLISHED,
    bridged::{self, first},
    server::Ended,
};
use crate::bench::{
    docker,
    path::plan::{Contender, Family},
};

/// The program's name.
pub const PROGRAM: &str = "docker-proxy";

/// A bridge without rules, and a proxy for each published port and family.
pub fn build(kit: Kit) -> Result<Places> {
    let mut places = bridged::bridge(&[first()], Contender::DockerProxy)?;
    let program = docker::program(kit.layout, PROGRAM).context("docker-proxy is not installed")?;
    for (family, any) in [(Family::V4, "0.0.0.0"), (Family::V6, "::")] {
        for (protocol, host_port, port) in
            [("tcp", PUBLISHED, PORT), ("udp", PUBLISHED, PORT), ("tcp", STREAM_PUBLISHED, STREAM_PORT)]
        {
            // It tells its parent by descriptor 3 whether it listens, and ends when it cannot.
            let mut proxy = places.host.command("sh")?;
            proxy.args(["-c", r#"exec "$@" 3> /dev/null"#, "sh"]).arg(&program);
            let container = first().address(family, 2).to_string();
            proxy.args(["-proto", protocol, "-host-ip", any, "-host-port", &host_port.to_string()]);
            proxy.args(["-container-ip", &container, "-container-port", &port.to_string()]);
            let child = proxy.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            places.proxies.push(Ended(child.context("start docker-proxy")?));
        }
    }
    // What connects before they listen is tried again by the warm-up round.
    thread::sleep(Duration::from_millis(200));
    Ok(places)
}
