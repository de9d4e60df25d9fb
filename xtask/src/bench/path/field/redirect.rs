//! What programs on netd's hooks can reach at best: two sandboxes on veths, and programs that hand packets over and know beforehand where to.
//! No bridge, no look-up, no check, no translation.

use std::{
    io::{BufRead as _, BufReader},
    net::IpAddr,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};

use super::{Addresses, Kit, Places, server::Ended};
use crate::{
    bench::path::plan::Family,
    build::cargo,
    command,
    layout::Layout,
    stage::{
        cable::{self, HOST4, HOST6, OUTSIDE4, OUTSIDE6, UPLINK, World},
        netns::Netns,
    },
};

/// Name of a veth's sandbox side.
const INSIDE: &str = "eth0";
/// Link address of the host's side of every veth.
const GATEWAY: &str = "02:00:00:00:00:01";

/// Whether the programs and what attaches them were built.
pub fn is_built(layout: &Layout) -> bool {
    layout.redirect_object().is_file() && layout.redirect().is_file()
}

/// Builds what attaches the programs; they come with netd's.
pub fn compile(layout: &Layout) -> Result<()> {
    let mut build = cargo(layout);
    build.args(["build", "--locked", "--quiet", "--package", "netd-tests", "--bin", "redirect"]);
    command::run(&mut build)
}

/// Makes the sandboxes, and starts the process that holds the programs.
pub fn build(kit: Kit) -> Result<Places> {
    let World { host, outside, .. } = World::around(Netns::new()?)?;
    let sandboxes: [(Netns, String); 2] = [sandbox(&host, 0)?, sandbox(&host, 1)?];
    for number in 0..2 {
        for (address, via) in addresses(number).into_iter().zip([IpAddr::from(HOST4), HOST6.into()]) {
            outside.ip(&["route", "add", &address.to_string(), "via", &via.to_string()])?;
        }
    }
    let mut hold = host.command(&kit.layout.redirect().to_string_lossy())?;
    hold.arg("--object").arg(kit.layout.redirect_object()).args(["--uplink", UPLINK]);
    hold.args(["--beyond4", &OUTSIDE4.to_string(), "--beyond6", &OUTSIDE6.to_string()]);
    hold.arg("--veths").args(sandboxes.iter().map(|(_, veth)| veth));
    hold.arg("--addresses").args((0..2).flat_map(addresses).map(|address| address.to_string()));
    let mut holder =
        Ended(hold.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start redirect")?);
    let mut line = String::new();
    let out = holder.0.stdout.take().context("what redirect says")?;
    BufReader::new(out).read_line(&mut line).context("read from redirect")?;
    ensure!(line.trim() == "ready", "redirect ended before its programs were attached");
    let [serving, asking] = sandboxes.map(|(sandbox, _)| sandbox);
    Ok(Places {
        _daemon: None,
        proxies: vec![holder],
        host,
        outside,
        serving: Some(serving),
        asking: Some(asking),
        addresses: Addresses { serving: addresses(0), asking: addresses(1), gateway: Vec::new() },
    })
}

/// A sandbox and its veth's host side. It has one neighbour, which is everybody's next hop.
fn sandbox(host: &Netns, number: u8) -> Result<(Netns, String)> {
    let sandbox = Netns::new()?;
    let port = format!("veth{number}");
    cable::join(host, &port, &sandbox, INSIDE)?;
    host.ip(&["link", "set", &port, "address", GATEWAY])?;
    for (address, (length, hop)) in addresses(number).into_iter().zip([(32, "169.254.1.1"), (128, "fe80::1")])
    {
        sandbox.address(INSIDE, address, length)?;
        sandbox.ip(&["neigh", "add", hop, "lladdr", GATEWAY, "dev", INSIDE, "nud", "permanent"])?;
        sandbox.ip(&["route", "add", "default", "via", hop, "dev", INSIDE, "onlink"])?;
    }
    Ok((sandbox, port))
}

/// A sandbox's addresses; their last words are nobody else's.
fn addresses(number: u8) -> Vec<IpAddr> {
    [Family::V4, Family::V6].map(|family| super::bridged::first().address(family, 82 + number)).to_vec()
}
