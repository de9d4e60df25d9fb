//! What happens to a packet, and why it is dropped.

use core::convert::Infallible;

use crate::net::IfIndex;

/// What happens to a packet. The packet's bytes were already rewritten where the verdict needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict<A> {
    /// The next program, then the stack or the bridge.
    Pass,
    /// Into the sandbox behind this veth, without the host's stack.
    ToSandbox(IfIndex),
    /// To the host behind this bridge, and to none of its ports.
    ToBridge(IfIndex),
    /// Out by this device, to this next hop on the link (unspecified: the destination itself).
    ToNeighbour(IfIndex, A),
    /// Nowhere and counted; a TCP segment's sender gets a reset.
    Refuse(DropReason),
    /// Nowhere until the first fragment of its datagram has come.
    Hold,
    /// To the host's stack, which answers or fragments it, with the destination that its flow leads to. From a part that decides, where there is no
    /// flow: as it is, for the host's rules to judge, and behind it a copy that arrives anew.
    HandOver,
    /// Nowhere, and counted.
    Drop(DropReason),
}

/// A verdict that sends nothing out by a device: what is decided without a flow. It fits into a register, also for IPv6, where a larger one would
/// lie on the stack, in slots that held pointers before ("invalid size of register fill").
pub type Judgement = Verdict<Infallible>;

impl Judgement {
    /// Returns the same verdict where one with a next hop is expected.
    #[inline(always)]
    pub fn widened<A>(self) -> Verdict<A> {
        match self {
            Self::Pass => Verdict::Pass,
            Self::ToSandbox(ifindex) => Verdict::ToSandbox(ifindex),
            Self::ToBridge(ifindex) => Verdict::ToBridge(ifindex),
            Self::ToNeighbour(_, never) => match never {},
            Self::Refuse(reason) => Verdict::Refuse(reason),
            Self::Hold => Verdict::Hold,
            Self::HandOver => Verdict::HandOver,
            Self::Drop(reason) => Verdict::Drop(reason),
        }
    }
}

macro_rules! drop_reasons {
    ($( $(#[doc = $doc:literal])+ $number:literal $name:ident $text:literal; )*) => {
        /// Why a packet was dropped. The numbers are stable: counter index, event field, CLI and documentation share them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $( $(#[doc = $doc])+ $name = $number, )* }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &'static [Self] = &[$( Self::$name, )*];

            /// Returns what it means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$name => concat!($($doc),+).trim_ascii(), )* }
            }

            /// Returns the name that the CLI, events and metrics use.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }
    };
}

drop_reasons! {
    /// The Ethernet source is not the endpoint's.
    1 SpoofMac "SPOOF_MAC";
    /// The IP or ARP source is not an address of the endpoint.
    2 SpoofIp "SPOOF_IP";
    /// Direct traffic between two networks.
    3 Isolation "ISOLATION";
    /// Traffic between sandboxes of a network whose inter-container communication is off.
    4 Icc "ICC";
    /// A port that is not published, of a sandbox whose published ports may be addressed directly.
    5 Unpublished "UNPUBLISHED";
    /// A sandbox's address used from outside its network.
    6 DirectAccess "DIRECT_ACCESS";
    /// A loopback address used from outside the host.
    7 RemoteLoopback "REMOTE_LOOPBACK";
    /// Traffic into or out of an internal network.
    8 Internal "INTERNAL";
    /// A TCP segment or ICMP error that belongs to no known flow.
    9 CtInvalid "CT_INVALID";
    /// No port is left for a masqueraded flow to this destination.
    10 NatExhausted "NAT_EXHAUSTED";
    /// Another sandbox already uses a protocol without ports towards this destination.
    11 NatConflict "NAT_CONFLICT";
    /// The flow table is full.
    12 TableFull "TABLE_FULL";
    /// A later fragment came without its first one.
    13 FragNoFirst "FRAG_NO_FIRST";
    /// A header does not fit in the packet or contradicts itself.
    14 Malformed "MALFORMED";
    /// The time to live ran out.
    15 Ttl "TTL";
    /// The packet is larger than the way out takes.
    16 Mtu "MTU";
    /// A protocol that netd cannot translate.
    17 UnknownL4 "UNKNOWN_L4";
    /// No route leads to the destination by an uplink.
    18 NoRoute "NO_ROUTE";
    /// The endpoint is not ready, or gone.
    19 EndpointDown "EP_DOWN";
    /// A sandbox's address was about to leave by an uplink.
    20 LeakGuard "LEAK_GUARD";
    /// A router advertisement, redirect or other control message that a sandbox may not send.
    21 RogueControl "ROGUE_CONTROL";
    /// An address family or link protocol that the network does not carry.
    22 UnknownL3 "UNKNOWN_L3";
    /// The kernel refused to change or read the packet.
    23 KernelRefused "KERNEL_REFUSED";
    /// A fragment repeats or rewrites part of its datagram that has been seen.
    24 FragOverlap "FRAG_OVERLAP";
    /// A fragment splits or rewrites the transport header.
    25 FragTiny "FRAG_TINY";
    /// The sender prescribes the packet's way (IPv4 source route, IPv6 routing header).
    26 SourceRoute "SOURCE_ROUTE";
    /// A published port that is closed to this source (`allow=`).
    27 NotAllowed "NOT_ALLOWED";
    /// A service of the host, from a network that may not reach it (`netd.host_access`).
    28 HostAccess "HOST_ACCESS";
    /// The endpoint has as many flows as it may have.
    29 OverQuota "OVER_QUOTA";
    /// A published port that the host's own input rules close to this packet (`respect_host_firewall`).
    30 HostFirewall "HOST_FIREWALL";
    /// A source that the guard of an uplink denies (`[guard] deny`).
    31 DeniedSource "DENIED_SOURCE";
    /// A source that opens more connections than the guard of an uplink lets it (`[guard] connections_per_second`).
    32 TooFast "TOO_FAST";
}

/// Slots of the counter array: more than reasons exist, so that a new reason does not change the map.
pub const COUNTERS: u32 = 64;

/// Slots of the counter array that are no reasons: how many ports were tried until a masqueraded flow had one.
pub mod tries {
    /// Most tries of each slot, in the slots' order from [`FIRST`] on. When that many have failed too, the flow is dropped (`NAT_EXHAUSTED`).
    pub const AT_MOST: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
    /// The first slot.
    pub const FIRST: u32 = 44;
    /// The sum of all tries.
    pub const SUM: u32 = FIRST + AT_MOST.len() as u32;
    const _: () = assert!(SUM < super::tally::PASSED);

    /// Returns the slot of so many tries.
    #[inline(always)]
    pub const fn slot(tries: u32) -> u32 {
        // The place of the highest bit of what is one less; the verifier knows no instruction for it.
        let above = tries.saturating_sub(1);
        let mut slot = FIRST;
        let mut bit = 1;
        while bit < AT_MOST[AT_MOST.len() - 1] {
            slot += (above >= bit) as u32;
            bit <<= 1;
        }
        slot
    }
}

/// Slots of the counter array that are no reasons: what became of packets, counted where the programs were loaded to do so.
///
/// Nothing vanishes: a program's runs are `PASSED` + `FORWARDED` + `STOPPED`, and `STOPPED` + `ANSWERED` + `DISCARDED` is the sum of all
/// reasons + `HELD`.
pub mod tally {
    /// Left to the next program, then the stack or the bridge.
    pub const PASSED: u32 = 56;
    /// Redirected: into a sandbox, out by an uplink, or back to where it arrived.
    pub const FORWARDED: u32 = 57;
    /// The program's action was to stop it.
    pub const STOPPED: u32 = 58;
    /// Dropped for a reason, and made the reset that answers it, which was forwarded.
    pub const ANSWERED: u32 = 59;
    /// Stopped without a reason: its bytes wait for the first fragment, or arrive again as a copy.
    pub const HELD: u32 = 60;
    /// Dropped for a reason while it waited, not by a run of its own.
    pub const DISCARDED: u32 = 61;
    /// All of them.
    pub const ALL: [u32; 6] = [PASSED, FORWARDED, STOPPED, ANSWERED, HELD, DISCARDED];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_counted_where_their_limit_is_the_next() {
        for tries in 1..=128 {
            let slot = tries::AT_MOST.iter().position(|most| tries <= *most).expect("within the last");
            assert_eq!(tries::slot(tries) - tries::FIRST, u32::try_from(slot).expect("few"), "{tries}");
        }
    }

    #[test]
    fn reasons_are_numbered_without_gaps_and_fit_the_counters() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index + 1);
            assert!((*reason as u32) < tries::FIRST);
        }
    }
}
