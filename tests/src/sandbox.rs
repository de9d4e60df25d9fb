//! A sandbox as tests use it: its namespace, its addresses, a server in it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Deref,
};

use crate::{Capture, Family, Ns, Server};

/// A sandbox with its namespace open; dereferences to the namespace, so that it dials as hosts do.
#[derive(Debug)]
pub struct Sandbox {
    ns: Ns,
    /// Its first IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its first IPv6 address.
    pub v6: Option<Ipv6Addr>,
    server: Option<Server>,
}

impl Sandbox {
    pub(crate) fn new(ns: Ns, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Self {
        Self { ns, v4, v6, server: None }
    }

    /// Starts a server on these ports, TCP and UDP.
    #[must_use]
    pub fn serving(mut self, ports: &[u16]) -> Self {
        self.server = Some(Server::start(&self.ns, ports));
        self
    }

    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        let ip = match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        };
        ip.unwrap_or_else(|| panic!("{} has no {family:?} address", self.ns.name()))
    }

    /// Captures on its first interface from now on.
    pub fn capture(&self) -> Capture {
        Capture::start(&self.ns, "eth0")
    }
}

impl Deref for Sandbox {
    type Target = Ns;
    fn deref(&self) -> &Ns {
        &self.ns
    }
}
