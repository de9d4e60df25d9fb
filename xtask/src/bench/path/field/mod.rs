//! Playing fields: the same host, outside machine, two sandboxes, server and client for every contender, in namespaces of their own.
//!
//! The server runs in the first sandbox (for host networking: in the host) and another one outside; clients run outside, in
//! the host and in the second sandbox.

mod bridged;
pub mod docker_proxy;
mod nftables;
mod own;
pub mod redirect;
mod server;
mod tables;

use std::net::IpAddr;

use anyhow::{Context, Result};

use super::{
    plan::{Contender, Family, Way},
    results::Runner,
};
use crate::stage::{Stage, cable, netns::Netns};
pub use own::has_netkit;
pub use server::Server;

/// What a published port leads to, and where host networking serves.
pub const PORT: u16 = 80;
/// The same of iperf3.
pub const STREAM_PORT: u16 = 5202;
/// What [`PORT`] is published as, by TCP and UDP.
pub const PUBLISHED: u16 = 5080;
/// What [`STREAM_PORT`] is published as.
pub const STREAM_PUBLISHED: u16 = 5201;
/// Highest number of further ports: those above the measured ones.
pub const MOST_PORTS: u32 = 60_000;

/// The processor of every server.
pub const SERVER_CPU: usize = 0;

/// What fields are made of.
#[derive(Debug, Clone, Copy)]
pub struct Kit<'a> {
    /// The binary.
    pub netd: &'a std::path::Path,
    /// Where everything lives.
    pub stage: &'a Stage,
    /// The tree, for tools below `target/`.
    pub layout: &'a crate::layout::Layout,
    /// iperf3 is there.
    pub iperf: bool,
}

/// A contender's field. Its parts end in the order of the struct.
#[derive(Debug)]
pub struct Field {
    /// Whose it is, and what else is there.
    pub runner: Runner,
    /// Serves in the sandbox, or in the host.
    inside: Server,
    /// Serves outside.
    beyond: Server,
    places: Places,
}

/// The namespaces, addresses and whatever keeps them going.
#[derive(Debug)]
pub struct Places {
    /// Never asked, but it ends with the field.
    _daemon: Option<crate::stage::daemon::Daemon>,
    proxies: Vec<server::Ended>,
    host: Netns,
    outside: Netns,
    /// The sandbox that serves; for host networking there is none.
    serving: Option<Netns>,
    /// The sandbox that asks.
    asking: Option<Netns>,
    addresses: Addresses,
}

/// Addresses of both families.
#[derive(Debug, Default)]
struct Addresses {
    serving: Vec<IpAddr>,
    asking: Vec<IpAddr>,
    gateway: Vec<IpAddr>,
}

/// A client, a target, and what the server has to see.
#[derive(Debug)]
pub struct Road<'a> {
    /// Where the client runs.
    pub client: &'a Netns,
    /// Who answers.
    pub server: &'a Server,
    /// Whom the client calls.
    pub target: IpAddr,
    /// Port of the responder.
    pub port: u16,
    /// Port of iperf3.
    pub stream_port: u16,
    /// Where the server sees the client.
    pub source: IpAddr,
}

impl Field {
    /// Builds a contender's field.
    pub fn build(runner: Runner, kit: Kit) -> Result<Self> {
        let Runner { contender, setting } = runner;
        let build = || {
            let places = match contender {
                Contender::Host => bridged::host()?,
                Contender::Netd => own::build(&own::VETH, setting, kit)?,
                Contender::NetdNetkit => own::build(&own::NETKIT, setting, kit)?,
                Contender::NetdClsact => own::build(&own::CLSACT, setting, kit)?,
                Contender::NetdInternal => own::build(&own::INTERNAL, setting, kit)?,
                Contender::DockerProxy => docker_proxy::build(kit)?,
                Contender::Redirect => redirect::build(kit)?,
                _ => bridged::build(contender, setting)?,
            };
            let inside = Server::start(places.serving.as_ref().unwrap_or(&places.host), kit.iperf)?;
            let beyond = Server::start(&places.outside, kit.iperf)?;
            anyhow::Ok(Self { runner, inside, beyond, places })
        };
        build().with_context(|| format!("build the field of {runner}"))
    }

    /// Returns how a client goes here; none where the contender has no such path.
    pub fn road(&self, way: Way, family: Family) -> Option<Road<'_>> {
        let Places { host, outside, asking, addresses, .. } = &self.places;
        let [host_address, outside_address] = match family {
            Family::V4 => [cable::HOST4.into(), cable::OUTSIDE4.into()],
            Family::V6 => [cable::HOST6.into(), cable::OUTSIDE6.into()],
        };
        let of = |list: &[IpAddr]| list.iter().copied().find(|address| family.has(*address));
        let inside = |client, target, source| Road {
            client,
            server: &self.inside,
            target,
            port: PORT,
            stream_port: STREAM_PORT,
            source,
        };
        let published = |client, target, source| Road {
            port: PUBLISHED,
            stream_port: STREAM_PUBLISHED,
            ..inside(client, target, source)
        };
        let beyond =
            |client, source| Road { server: &self.beyond, ..inside(client, outside_address, source) };
        let gateway = of(&addresses.gateway);
        let contender = self.runner.contender;
        let proxied = contender == Contender::DockerProxy;
        match (contender, way) {
            (Contender::Host, Way::Egress) => Some(beyond(host, host_address)),
            (Contender::Host, Way::Published | Way::Sandbox | Way::Hairpin) => {
                Some(inside(outside, host_address, outside_address))
            }
            // Nothing is published there: who calls the server's own address comes by the same hooks.
            (Contender::Route | Contender::Redirect, Way::Published) => {
                Some(inside(outside, of(&addresses.serving)?, outside_address))
            }
            (Contender::Route, Way::Loopback) => self.road(Way::Direct, family),
            (Contender::Route | Contender::Redirect, Way::Egress) => {
                Some(beyond(asking.as_ref()?, of(&addresses.asking)?))
            }
            (Contender::NetdInternal, way) if way != Way::Sandbox => None,
            (Contender::DockerProxy, Way::Egress | Way::Sandbox)
            | (Contender::Host, _)
            | (Contender::Route, Way::Hairpin)
            | (Contender::Redirect, Way::Loopback | Way::Hairpin | Way::Direct) => None,
            (_, Way::Published) => {
                Some(published(outside, host_address, if proxied { gateway? } else { outside_address }))
            }
            (_, Way::Egress) => Some(beyond(asking.as_ref()?, host_address)),
            (_, Way::Sandbox) => {
                Some(inside(asking.as_ref()?, of(&addresses.serving)?, of(&addresses.asking)?))
            }
            (_, Way::Direct) => Some(inside(host, of(&addresses.serving)?, gateway?)),
            (contender, Way::Loopback) => {
                // Docker without its proxy and netavark reach [::1] not at all: the kernel routes no ::1 (docker-semantics E18).
                let none = family == Family::V6
                    && !proxied
                    && !matches!(contender, Contender::Netd | Contender::NetdNetkit | Contender::NetdClsact);
                (!none).then_some(published(host, family.loopback(), gateway?))
            }
            (contender, Way::Hairpin) => {
                let source = match contender {
                    Contender::Netavark | Contender::DockerProxy => gateway?,
                    _ => of(&addresses.asking)?,
                };
                Some(published(asking.as_ref()?, host_address, source))
            }
        }
    }

    /// Opens flows of other clients to the published port.
    pub fn fill(&self) -> Result<()> {
        let flows = self.runner.setting.flows;
        if flows == 0 {
            return Ok(());
        }
        let outside = &self.places.outside;
        outside.ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"])?;
        let target = match self.runner.contender {
            Contender::Host => (cable::HOST4, PORT),
            _ => (cable::HOST4, PUBLISHED),
        };
        let target = format!("{}:{}", target.0, target.1);
        let mut spray = outside.peer(&["spray", &target, &flows.to_string()])?;
        let answered: u32 = crate::command::capture(&mut spray)?.trim().parse().context("parse a count")?;
        anyhow::ensure!(answered == flows, "{answered} of {flows} flows were answered");
        Ok(())
    }

    /// Offload settings of every interface of the field, as `ip -d -j link` tells them.
    pub fn links(&self) -> Result<Vec<serde_json::Value>> {
        let Places { host, outside, serving, asking, .. } = &self.places;
        let all = [
            ("host", Some(host)),
            ("outside", Some(outside)),
            ("server", serving.as_ref()),
            ("client", asking.as_ref()),
        ];
        let mut links = Vec::new();
        for (place, netns) in all.into_iter().filter_map(|(place, netns)| Some((place, netns?))) {
            let text = crate::command::capture(netns.command("ip")?.args(["-d", "-j", "link", "show"]))?;
            let list: Vec<serde_json::Value> = serde_json::from_str(&text).context("parse ip -j link")?;
            // With hundreds of networks the first few say it all.
            for link in list.iter().filter(|link| link["ifname"] != "lo").take(8) {
                let mut short = serde_json::json!({ "in": place });
                for key in [
                    "ifname",
                    "mtu",
                    "qdisc",
                    "num_tx_queues",
                    "gso_max_size",
                    "gro_max_size",
                    "gso_ipv4_max_size",
                    "gro_ipv4_max_size",
                ] {
                    short[key] = link[key].clone();
                }
                links.push(short);
            }
        }
        Ok(links)
    }
}
