//! Default sizes; the daemon's configuration changes those of flows and publishes.

/// `FLOW4`: two entries a flow.
pub const FLOW4: u32 = 262_144;
/// `FLOW6`.
pub const FLOW6: u32 = 65_536;
/// `PENDING4`: as many as flows.
pub const PENDING4: u32 = FLOW4 / 2;
/// `PENDING6`.
pub const PENDING6: u32 = FLOW6 / 2;
/// `ENDPOINT`, `USAGE`, `PACE`: interface indexes below this.
pub const ENDPOINT: u32 = 65_536;
/// `ADDRESS4`, `ADDRESS6`.
pub const ADDRESS: u32 = 16_384;
/// `NETWORK`.
pub const NETWORK: u32 = 4_096;
/// `SUBNET4`, `SUBNET6`.
pub const SUBNET: u32 = 8_192;
/// `LOCAL4`, `LOCAL6`.
pub const LOCAL: u32 = 8_192;
/// `PUBLISH4`, `PUBLISH6`: every port of both protocols once.
pub const PUBLISH: u32 = 131_072;
/// `OPEN4`, `OPEN6`.
pub const OPEN: u32 = 131_072;
/// `ALLOW4`, `ALLOW6`.
pub const ALLOW: u32 = 65_536;
/// `ASKED4`, `ASKED6`.
pub const ASKED: u32 = 8_192;
/// `HANDED4`, `HANDED6`: entries live for the moment that the stack takes.
pub const HANDED: u32 = 1_024;
/// `INPUT4`, `INPUT6`: entries have to outlive the packets between a program and the host's sockets, of which a processor has some
/// thousand at most (`netdev_max_backlog`).
pub const INPUT: u32 = 8_192;
/// `DENY4`, `DENY6`.
pub const DENY: u32 = 65_536;
/// `OPENINGS4`, `OPENINGS6`: sources that open connections at the same time.
pub const OPENINGS: u32 = 8_192;
/// `LINK4`, `LINK6`.
pub const LINK: u32 = 65_536;
/// `TRUST`.
pub const TRUST: u32 = 4_096;
/// `VIA`.
pub const VIA: u32 = 16_384;
/// `UPLINK`.
pub const UPLINK: u32 = 256;
/// `RULE6`: the verifier walks them all.
pub const RULE6: u32 = 32;
/// `LONGER6`: the routes of a host, not of a router of the Internet.
pub const LONGER6: u32 = 16_384;
/// `DIALLED`.
pub const DIALLED: u32 = 65_536;
/// `DATAGRAM4`, `DATAGRAM6`.
pub const DATAGRAM: u32 = 16_384;
/// `HELD`, `HELD_BYTES`.
pub const HELD: u32 = super::fragment::held::SHELVES * super::fragment::held::PLACES;
