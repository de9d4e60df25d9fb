//! Anti-spoofing: a sandbox uses its own addresses, and sends no control message that only a router may send.

use crate::{
    env::Packet,
    family::{Address, Ip},
    maps::Endpoint,
    net::{Addr4, Be16, Mac},
    verdict::DropReason,
    wire::{
        Headers, L4, arp, ethernet,
        headers::L3,
        l4::{self, NEIGHBOUR_ADVERTISEMENT, REDIRECT, ROUTER_ADVERTISEMENT},
    },
};

/// Port of DHCP servers, to which a client without an address yet may send.
const DHCP_SERVER: u16 = 67;

/// Refuses a frame whose Ethernet source is not the endpoint's.
///
/// # Errors
/// `SpoofMac`.
#[inline(always)]
pub fn check_mac<P: Packet>(packet: &P, endpoint: &Endpoint) -> Result<(), DropReason> {
    let source = Mac::from(packet.load::<6>(ethernet::SOURCE)?);
    if source == endpoint.mac { Ok(()) } else { Err(DropReason::SpoofMac) }
}

/// Refuses a packet whose IP source is not the endpoint's, but for what an address configuration needs.
///
/// # Errors
/// `SpoofIp`; `UnknownL3` when the network does not carry the family; `RemoteLoopback` for a loopback destination.
#[inline(always)]
pub fn check_source<F: Ip>(endpoint: &Endpoint, headers: &Headers<F>) -> Result<(), DropReason> {
    let own = F::addr(endpoint);
    if own == F::Addr::UNSPECIFIED {
        return Err(DropReason::UnknownL3);
    }
    if headers.dst.is_loopback() {
        return Err(DropReason::RemoteLoopback);
    }
    if headers.src == own || headers.src.is_link_local() {
        return Ok(());
    }
    // IPv4: a DHCP client. IPv6: duplicate address detection and MLD reports (RFC 4862 §5.4, RFC 3590).
    let asks_dhcp = !F::V6 && headers.l4 == L4::Udp && headers.dport == Be16::from(DHCP_SERVER);
    let joins = F::V6 && headers.dst.is_multicast();
    if headers.src == F::Addr::UNSPECIFIED && (asks_dhcp || joins) {
        Ok(())
    } else {
        Err(DropReason::SpoofIp)
    }
}

/// Refuses an ARP packet that claims an address the endpoint does not have. Probes (RFC 5227: sender address zero) pass.
///
/// # Errors
/// `SpoofMac`, `SpoofIp`, `UnknownL3` when the network has no IPv4.
#[inline(always)]
pub fn check_arp<P: Packet>(packet: &P, endpoint: &Endpoint) -> Result<(), DropReason> {
    if endpoint.addr4 == Addr4::UNSPECIFIED {
        return Err(DropReason::UnknownL3);
    }
    if packet.load::<6>(L3)? != arp::ETHERNET_IPV4 {
        return Err(DropReason::UnknownL3);
    }
    if Mac::from(packet.load::<6>(L3 + arp::SENDER)?) != endpoint.mac {
        return Err(DropReason::SpoofMac);
    }
    let claimed = Addr4::from_wire(packet.load::<4>(L3 + arp::SENDER_IP)?);
    if claimed == endpoint.addr4 || claimed == Addr4::UNSPECIFIED { Ok(()) } else { Err(DropReason::SpoofIp) }
}

/// Refuses control messages of IPv6 that only a router may send, and advertisements of others' addresses.
///
/// # Errors
/// `RogueControl`, `SpoofIp`.
#[inline(always)]
pub fn check_control<F: Ip, P: Packet>(
    packet: &P,
    endpoint: &Endpoint,
    headers: &Headers<F>,
) -> Result<(), DropReason> {
    if !F::V6 || headers.l4 != L4::Icmp {
        return Ok(());
    }
    match headers.icmp_type {
        ROUTER_ADVERTISEMENT | REDIRECT => Err(DropReason::RogueControl),
        NEIGHBOUR_ADVERTISEMENT => {
            let target = packet.load::<16>(headers.l4_offset + l4::ND_TARGET)?;
            let link_local = target[0] == 0xfe && target[1] & 0xc0 == 0x80;
            let own = target == endpoint.addr6.to_wire();
            if own || link_local { Ok(()) } else { Err(DropReason::SpoofIp) }
        }
        _ => Ok(()),
    }
}

/// Whether it is neighbour discovery (RFC 4861): like ARP, it passes between sandboxes that may not talk, so that replies by way of a published
/// port find their neighbour.
#[inline(always)]
pub fn is_neighbour_discovery<F: Ip>(headers: &Headers<F>) -> bool {
    F::V6
        && headers.l4 == L4::Icmp
        && matches!(headers.icmp_type, l4::NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT)
}
