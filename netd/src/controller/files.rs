//! The files of each sandbox, rendered from the world and the host's own files.

use std::fs;

use super::{World, flows::addresses, object::Files};
use crate::{
    etc_files::{self, Link},
    model::{DnsConfig, Sandbox, SandboxMode},
};

/// Renders `/etc/hosts` and `/etc/resolv.conf`.
#[derive(Debug, Clone, Default)]
pub struct Renderer {
    defaults: DnsConfig,
    hosts: String,
    resolv: String,
    /// The servers behind a stub resolver, which a namespace of its own can't reach.
    resolv_behind_stub: Option<String>,
}

impl Renderer {
    /// Makes a renderer with the daemon's own defaults for name resolution.
    pub fn new(defaults: DnsConfig) -> Self {
        let mut renderer = Self { defaults, ..Self::default() };
        renderer.refresh();
        renderer
    }

    /// Reads the host's files again; what can't be read counts as empty.
    pub fn refresh(&mut self) {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        self.hosts = read("/etc/hosts");
        self.resolv = read("/etc/resolv.conf");
        self.resolv_behind_stub = etc_files::is_systemd_stub(&self.resolv)
            .then(|| fs::read_to_string(etc_files::SYSTEMD_RESOLV_CONF).ok())
            .flatten();
    }

    /// Returns the files of a sandbox; None: it uses another's.
    pub fn render(&self, world: &World, sandbox: &Sandbox) -> Option<Files> {
        let resolv = match sandbox.mode {
            SandboxMode::Sandbox(_) => return None,
            SandboxMode::Host => &self.resolv,
            SandboxMode::Endpoints | SandboxMode::None => {
                self.resolv_behind_stub.as_ref().unwrap_or(&self.resolv)
            }
        };
        let targets = sandbox.links.iter().filter_map(|link| Some((world.linked(link)?, &link.alias)));
        let links: Vec<Link<'_>> = targets
            .map(|(target, alias)| Link {
                addresses: shared(sandbox, target),
                alias,
                hostname: &target.hostname,
                name: target.name.as_str(),
            })
            .collect();
        Some(Files {
            sandbox: sandbox.id.clone(),
            hosts: etc_files::hosts(sandbox, &self.hosts, &links),
            resolv: etc_files::resolv_conf(sandbox, resolv, &self.defaults),
        })
    }
}

/// Returns the target's addresses on the networks that both are on.
fn shared(sandbox: &Sandbox, target: &Sandbox) -> Vec<std::net::IpAddr> {
    let both = target.endpoints.iter().filter(|endpoint| sandbox.endpoint_on(&endpoint.network).is_some());
    both.flat_map(addresses).collect()
}
