//! A host and the outside world, joined by one cable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::netns::Netns;

/// The host's end of the cable: RFC 5737 and RFC 3849 addresses, which exist nowhere else.
pub const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The outside machine's IPv4 address.
pub const OUTSIDE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The host's IPv6 address.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The outside machine's IPv6 address.
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Name of the host's end.
pub const UPLINK: &str = "uplink0";

/// A host with an uplink to one outside machine.
#[derive(Debug)]
pub struct World {
    /// The host that runs sandboxes.
    pub host: Netns,
    /// A machine beyond the uplink.
    pub outside: Netns,
    /// Whether this kernel speaks IPv6.
    pub ipv6: bool,
}

impl World {
    /// Joins `host` and a new outside machine; each has the other as its way out or not at all.
    pub fn around(host: Netns) -> Result<Self> {
        let world =
            Self { host, outside: Netns::new()?, ipv6: std::path::Path::new("/proc/net/if_inet6").exists() };
        world.host.ip(&["link", "set", "lo", "up"])?;
        join(&world.host, UPLINK, &world.outside, "cable0")?;
        world.host.address(UPLINK, HOST4.into(), 24)?;
        world.outside.address("cable0", OUTSIDE4.into(), 24)?;
        world.host.ip(&["route", "add", "default", "via", &OUTSIDE4.to_string()])?;
        if world.ipv6 {
            world.host.address(UPLINK, HOST6.into(), 64)?;
            world.outside.address("cable0", OUTSIDE6.into(), 64)?;
            world.host.ip(&["-6", "route", "add", "default", "via", &OUTSIDE6.to_string()])?;
        }
        Ok(world)
    }

    /// The host's addresses, of every family there is.
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        self.families(HOST4.into(), HOST6.into())
    }

    /// The outside machine's addresses, of every family there is.
    pub fn outside_addresses(&self) -> Vec<IpAddr> {
        self.families(OUTSIDE4.into(), OUTSIDE6.into())
    }

    fn families(&self, v4: IpAddr, v6: IpAddr) -> Vec<IpAddr> {
        if self.ipv6 { vec![v4, v6] } else { vec![v4] }
    }
}

/// Puts a veth pair between two namespaces, both ends up.
pub fn join(one: &Netns, one_end: &str, other: &Netns, other_end: &str) -> Result<()> {
    let pid = other.pid().to_string();
    one.ip(&["link", "add", one_end, "type", "veth", "peer", "name", other_end, "netns", &pid])?;
    one.ip(&["link", "set", one_end, "up"])?;
    other.ip(&["link", "set", other_end, "up"])
}
