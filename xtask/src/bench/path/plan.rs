//! The words of the benchmark: contenders, paths, workloads, families, settings.

use std::{fmt, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr};

use clap::ValueEnum;
use serde::Serialize;

/// Who carries the packets. `bridge-nf-call-iptables` is on for Docker's rules, which need it without docker-proxy, and off
/// for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Host networking: one veth, no NAT. The limit
    Host,
    /// Routing through a bridge, no filter at all
    Route,
    /// Docker's rules, by iptables-legacy
    IptablesLegacy,
    /// Docker's rules, by iptables-nft
    IptablesNft,
    /// The nftables layout of Docker 29
    DockerNft,
    /// The nftables layout of netavark
    Netavark,
    /// Docker's proxy process
    DockerProxy,
    /// Veths and programs that hand packets over without a look at them: what any program on netd's hooks can reach
    Redirect,
    /// netd
    Netd,
    /// netd on a network of netkit pairs; only where it is asked for
    NetdNetkit,
    /// netd whose programs are all clsact filters, as on kernels without TCX; only where it is asked for
    NetdClsact,
    /// netd on an internal network, where segments are as large as the kernel makes them: between sandboxes, and only where it is asked for
    NetdInternal,
}

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Outside → a published port of the host
    Published,
    /// Sandbox → outside
    Egress,
    /// Sandbox → sandbox of the same network
    Sandbox,
    /// The host → a published port on its loopback address; compared with the host → sandbox directly
    Loopback,
    /// Sandbox → a published port of the host, whose server is the other sandbox
    Hairpin,
    /// The host → the sandbox's own address
    Direct,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// One TCP stream by iperf3
    Stream,
    /// 64 bytes there, 64 bytes back, on one connection
    Rr,
    /// Connect, ask, read the answer, close; again and again
    Connect,
    /// Datagrams of 64 bytes, as many as arrive
    Udp,
    /// Requests and responses while a stream runs on the same path
    Latency,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// What a measurement yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Gigabits per second.
    Gbits,
    /// Requests, connections or packets per second.
    Rate,
    /// Median time of an exchange, in microseconds.
    P50,
    /// 99th percentile of it.
    P99,
}

/// How much there is besides what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Setting {
    /// Published ports.
    pub ports: u32,
    /// Networks.
    pub networks: u32,
    /// Live flows of other clients.
    pub flows: u32,
}

impl Setting {
    /// One of each, no other flow.
    pub const LEAST: Self = Self { ports: 1, networks: 1, flows: 0 };
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ports, networks, flows } = *self;
        let mut parts = Vec::new();
        if ports > 1 {
            parts.push(format!("{ports} ports"));
        }
        if networks > 1 {
            parts.push(format!("{networks} networks"));
        }
        if flows > 0 {
            parts.push(format!("{flows} flows"));
        }
        f.write_str(&parts.join(", "))
    }
}

macro_rules! named {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value();
                f.pad(value.as_ref().map_or("", |value| value.get_name()))
            }
        }
    )*};
}
named!(Contender, Way, Workload, Family);

impl Way {
    /// From where to where, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Published => "outside → published port",
            Self::Egress => "sandbox → outside",
            Self::Sandbox => "sandbox → sandbox",
            Self::Loopback => "host → published port on loopback",
            Self::Hairpin => "sandbox → published port",
            Self::Direct => "host → sandbox",
        }
    }

    /// Who is the limit here.
    pub fn reference(self) -> Contender {
        match self {
            // A host process that talks to itself passes no veth at all: no limit for one that does.
            Self::Loopback | Self::Direct => Contender::Route,
            _ => Contender::Host,
        }
    }
}

impl Workload {
    /// What it yields; the first is what tables show.
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Stream => &[Metric::Gbits],
            Self::Rr => &[Metric::Rate, Metric::P50, Metric::P99],
            Self::Connect | Self::Udp => &[Metric::Rate],
            Self::Latency => &[Metric::P50, Metric::P99],
        }
    }

    /// Column title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Rr => "request/response",
            Self::Connect => "connect rate",
            Self::Udp => "UDP 64 B",
            Self::Latency => "p50 under load",
        }
    }
}

impl Metric {
    /// A value of this metric, for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Gbits => format!("{value:.1} Gbit/s"),
            Self::Rate if value < 1e4 => format!("{value:.0}/s"),
            Self::Rate => format!("{:.1} k/s", value / 1e3),
            Self::P50 | Self::P99 => format!("{value:.0} µs"),
        }
    }
}

impl Family {
    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The loopback address.
    pub fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// Whether an address is of this family.
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}
