//! Dropped packets as `netd monitor` shows them.

use serde::{Deserialize, Serialize};

/// A line of `GET /netd/v1/monitor`: a packet that was dropped, or how many the reader has missed. What does not apply is empty or 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Sighting {
    /// When: RFC 3339, UTC.
    pub time: String,
    /// The same in nanoseconds since the epoch.
    pub time_nano: i64,
    /// `drop`; or `lost`: the reader was too slow for `Lost` packets.
    pub verdict: String,
    /// Stable word for the reason.
    pub reason: String,
    /// What the reason means.
    pub meaning: String,
    /// The sandbox whose interface it met, else the one that it was for.
    pub sandbox: String,
    /// That sandbox's network.
    pub network: String,
    /// 4 or 6; 0: no IP packet.
    pub family: u8,
    /// `tcp`, `udp`, `icmp`, `arp`, ..., or a number.
    pub protocol: String,
    /// Source address.
    pub source: String,
    /// Source port.
    pub source_port: u16,
    /// The sandbox that has the source address.
    pub source_name: String,
    /// Destination address.
    pub destination: String,
    /// Destination port.
    pub destination_port: u16,
    /// The sandbox that has the destination address, or publishes that port.
    pub destination_name: String,
    /// Ethernet source.
    pub source_mac: String,
    /// Ethernet destination.
    pub destination_mac: String,
    /// TCP flags, the type of an ICMP message, or which fragment it is.
    pub flags: String,
    /// Its length in bytes.
    pub length: u32,
    /// Firewall mark.
    pub mark: u32,
    /// The interface that it arrived on, or was to leave by.
    pub interface: String,
    /// The interface by which it entered the host; empty: the host made it.
    pub ingress: String,
    /// The program that dropped it.
    pub program: String,
    /// Packets with this reason on this interface that went unseen before it: the programs tell so many a second and no more.
    pub unseen: u32,
    /// Packets that the reader has missed, being too slow.
    pub lost: u64,
}
