//! What a drop reason means, and what may help.

use netd_common::verdict::DropReason;
use serde::{Deserialize, Serialize};

/// The page of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Page {
    /// Its stable number.
    pub number: u8,
    /// Its name.
    pub reason: String,
    /// What it means.
    pub meaning: String,
    /// What may help.
    pub hint: String,
}

/// Returns the page of a reason, by its number or name.
pub fn page(word: &str) -> Option<Page> {
    let is_it = |reason: &&DropReason| {
        reason.as_str().eq_ignore_ascii_case(word) || word.parse() == Ok(**reason as u8)
    };
    let reason = *DropReason::ALL.iter().find(is_it)?;
    Some(Page {
        number: reason as u8,
        reason: reason.as_str().to_owned(),
        meaning: reason.meaning().to_owned(),
        hint: hint(reason).to_owned(),
    })
}

/// Returns what may help against a reason.
pub fn hint(reason: DropReason) -> &'static str {
    match reason {
        DropReason::SpoofMac => {
            "a sandbox may use the MAC address alone that `netd sandbox inspect` shows; give another by --mac-address"
        }
        DropReason::SpoofIp => {
            "a sandbox may use the addresses alone that `netd sandbox inspect` shows; give others by --ip and --ip6"
        }
        DropReason::Isolation => {
            "connect one of them to the other's network (`netd network connect`), or publish the port"
        }
        DropReason::Icc => "`netd policy add` says who may talk to whom; --link does on the default network",
        DropReason::Unpublished => "publish the port: `netd publish SANDBOX PORT`",
        DropReason::DirectAccess => {
            "dial a published port of the host, or create the network with gateway mode routed \
             (-o com.docker.network.bridge.gateway_mode_ipv4=routed)"
        }
        DropReason::RemoteLoopback => {
            "loopback addresses are the host's own; publish on an address that the outside can reach"
        }
        DropReason::Internal => {
            "the network was created with --internal; connect the sandbox to another network for the way out"
        }
        DropReason::CtInvalid => {
            "the connection is over or unknown (`netd flow ls`); it has to be opened anew"
        }
        DropReason::NatExhausted => {
            "widen [nat] port_range in the configuration, or end connections (`netd flow flush`)"
        }
        DropReason::NatConflict => {
            "a protocol without ports has one user towards each destination; use another host address (host_ipv4)"
        }
        DropReason::TableFull => {
            "raise [flows] entries in the configuration; `netd status` shows how full the table is"
        }
        DropReason::FragNoFirst => "the first fragment was lost or dropped; see `netd drops` for its reason",
        DropReason::Malformed => {
            "the sender's header contradicts itself; look at it with a capture on the interface"
        }
        DropReason::Ttl => "there is a loop of routes, or the sender counts hops (traceroute)",
        DropReason::Mtu => {
            "lower the sender's MTU, or create the network with -o com.docker.network.driver.mtu=N"
        }
        DropReason::UnknownL4 => {
            "netd translates TCP, UDP, ICMP, SCTP, UDP-Lite, DCCP and portless protocols; use a routed network for others"
        }
        DropReason::NoRoute => {
            "the host has no route by an uplink, or the uplink no address of this family: `ip route get`, `netd status`"
        }
        DropReason::EndpointDown => "the sandbox is being made or removed: `netd ps`",
        DropReason::LeakGuard => {
            "no connection translates this address; a program in front of netd's may have changed the packet"
        }
        DropReason::RogueControl => {
            "sandboxes may not speak for the router (router advertisements, redirects, DHCP answers)"
        }
        DropReason::UnknownL3 => "networks carry IPv4, IPv6 and ARP; VLAN tags are not passed on",
        DropReason::KernelRefused => {
            "the kernel had no memory for the packet, or another program left it in a form netd cannot change"
        }
        DropReason::FragOverlap => "no honest sender does this (RFC 5722, RFC 8900)",
        DropReason::FragTiny => "no honest sender does this (RFC 1858)",
        DropReason::SourceRoute => "source routes are refused (RFC 7126, RFC 5095)",
        DropReason::NotAllowed => {
            "add the source to the port's list: `netd publish SANDBOX HOST:PORT,allow=CIDR`"
        }
        DropReason::HostAccess => "open the service to the network: -o netd.host_access",
        DropReason::HostFirewall => {
            "let the port in by the host's input rules, or switch [publish] respect_host_firewall off"
        }
        DropReason::DeniedSource => "take the source off the list: [guard] deny in the configuration",
        DropReason::TooFast => "raise [guard] connections_per_second in the configuration",
        DropReason::OverQuota => {
            "raise [flows] per_endpoint in the configuration; `netd flow ls --filter sandbox=NAME` shows what it has"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_page_by_number_and_by_name() {
        for reason in DropReason::ALL {
            let by_number = page(&(*reason as u8).to_string()).expect("a page");
            assert_eq!(Some(&by_number), page(&reason.as_str().to_lowercase()).as_ref());
            assert!(by_number.meaning.ends_with('.') && !by_number.meaning.starts_with(' '), "{by_number:?}");
            assert!(!by_number.hint.is_empty());
        }
        assert_eq!(page("0"), None);
        assert_eq!(page("NOTHING"), None);
    }
}
