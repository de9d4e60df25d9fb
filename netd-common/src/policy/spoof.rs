//! Anti-spoofing: a sandbox uses its own addresses, and sends no control message that only a router may send.
//!
//! Where a network has it switched off (`endpoint_flags::ANY_SOURCE`), its sandboxes may use every address that is nobody's: not the host's, not one of
//! another network. What only routers and DHCP servers say stays refused.

use super::has;
use crate::{
    env::{Env, Packet},
    family::{Address, Ip},
    maps::{Endpoint, endpoint_flags},
    net::{Addr4, Be16, Mac},
    verdict::DropReason,
    wire::{
        Headers, L4, arp, ethernet,
        headers::L3,
        l4::{self, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, REDIRECT, ROUTER_ADVERTISEMENT},
    },
};

/// Port of DHCP servers, to which a client without an address yet may send.
const DHCP_SERVER: u16 = 67;
/// Port of DHCP clients.
const DHCP_CLIENT: u16 = 68;
/// The same for IPv6 (RFC 8415 §7.2).
const DHCP6_SERVER: u16 = 547;
/// The same for IPv6.
const DHCP6_CLIENT: u16 = 546;

/// Refuses a frame whose Ethernet source is not the endpoint's.
///
/// # Errors
/// `SpoofMac`.
#[inline(always)]
pub fn check_mac<P: Packet>(packet: &P, endpoint: &Endpoint) -> Result<(), DropReason> {
    let source = Mac::from(packet.load::<6>(ethernet::SOURCE)?);
    if source == endpoint.mac || has(endpoint.flags, endpoint_flags::ANY_SOURCE) {
        Ok(())
    } else {
        Err(DropReason::SpoofMac)
    }
}

/// Refuses a packet whose IP source is not the endpoint's, but for what an address configuration needs.
///
/// # Errors
/// `SpoofIp`; `UnknownL3` when the network does not carry the family; `RemoteLoopback` for a loopback destination.
#[inline(always)]
pub fn check_source<F: Ip, E: Env<F>>(
    env: &E,
    endpoint: &Endpoint,
    headers: &Headers<F>,
) -> Result<(), DropReason> {
    let own = F::addr(endpoint);
    if own == F::Addr::UNSPECIFIED {
        return Err(DropReason::UnknownL3);
    }
    if headers.dst.is_loopback() {
        return Err(DropReason::RemoteLoopback);
    }
    if headers.src == own || (headers.src.is_link_local() && !headers.src.is_of_other(&endpoint.mac)) {
        return Ok(());
    }
    // IPv4: a DHCP client. IPv6: duplicate address detection and MLD reports (RFC 4862 §5.4, RFC 3590).
    let asks_dhcp = !F::V6 && headers.l4 == L4::Udp && headers.dport == Be16::from(DHCP_SERVER);
    let joins = F::V6 && headers.dst.is_multicast();
    if headers.src == F::Addr::UNSPECIFIED && (asks_dhcp || joins) {
        return Ok(());
    }
    if has(endpoint.flags, endpoint_flags::ANY_SOURCE) && is_free(env, endpoint, &headers.src) {
        return Ok(());
    }
    Err(DropReason::SpoofIp)
}

/// Whether an address is neither the host's nor one of another network, and may be a sender's at all.
#[inline(always)]
fn is_free<F: Ip, E: Env<F>>(env: &E, endpoint: &Endpoint, addr: &F::Addr) -> bool {
    let unusable = *addr == F::Addr::UNSPECIFIED || addr.is_multicast() || addr.is_loopback();
    !unusable && !env.is_local(addr) && env.subnet(addr).is_none_or(|slot| slot == endpoint.network)
}

/// Whether a packet that passed [`check_source`] has an address of no network here: the host's stack routes it as it is, as under Docker, whose rules
/// masquerade a network's own addresses alone (truth table T69).
#[inline(always)]
pub fn is_foreign<F: Ip>(endpoint: &Endpoint, src: &F::Addr) -> bool {
    has(endpoint.flags, endpoint_flags::ANY_SOURCE) && !F::addr(endpoint).matches(src, &F::mask(endpoint))
}

/// Refuses an ARP packet that claims an address the endpoint does not have, or probes for one (RFC 5227: sender address zero).
///
/// A probe teaches nobody a link address, but who is about to take the address it asks for gives it up (RFC 5227 §2.1.1), as a duplicate's
/// detection in IPv6.
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
    if has(endpoint.flags, endpoint_flags::ANY_SOURCE) {
        return Ok(());
    }
    if Mac::from(packet.load::<6>(L3 + arp::SENDER)?) != endpoint.mac {
        return Err(DropReason::SpoofMac);
    }
    let mut claimed = Addr4::from_wire(packet.load::<4>(L3 + arp::SENDER_IP)?);
    if claimed == Addr4::UNSPECIFIED {
        claimed = Addr4::from_wire(packet.load::<4>(L3 + arp::TARGET_IP)?);
    }
    if claimed == endpoint.addr4 { Ok(()) } else { Err(DropReason::SpoofIp) }
}

/// Whether an address may be the endpoint's: the one that it was given, or a link-local one that is nobody's else.
fn may_own<F: Ip, E: Env<F>>(env: &E, endpoint: &Endpoint, addr: &F::Addr) -> bool {
    let link_local = addr.is_link_local() && !addr.is_of_other(&endpoint.mac) && !env.is_local(addr);
    *addr == F::addr(endpoint) || link_local
}

/// Whether it says what only a DHCP server says to its clients.
#[inline(always)]
pub fn serves_dhcp<F: Ip>(headers: &Headers<F>) -> bool {
    let (server, client) = if F::V6 { (DHCP6_SERVER, DHCP6_CLIENT) } else { (DHCP_SERVER, DHCP_CLIENT) };
    headers.sport == Be16::from(server) && headers.dport == Be16::from(client) && headers.l4 == L4::Udp
}

/// Refuses control messages that only a router or the network's DHCP server may send, and those of neighbour discovery that claim others' addresses.
///
/// # Errors
/// `RogueControl`, `SpoofIp`.
#[inline(always)]
pub fn check_control<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &P,
    endpoint: &Endpoint,
    headers: &Headers<F>,
) -> Result<(), DropReason> {
    if headers.src.is_link_local() && env.is_local(&headers.src) {
        return Err(DropReason::SpoofIp); // the gateway's own
    }
    if serves_dhcp(headers) {
        return Err(DropReason::RogueControl);
    }
    if !F::V6 || headers.l4 != L4::Icmp {
        return Ok(());
    }
    match headers.icmp_type {
        ROUTER_ADVERTISEMENT | REDIRECT => Err(DropReason::RogueControl),
        // What asks without an address asks whether it may have one (RFC 4862 §5.4).
        NEIGHBOUR_SOLICITATION if headers.src != F::Addr::UNSPECIFIED => Ok(()),
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => {
            let at = headers.l4_offset + l4::ND_TARGET;
            let target = F::load_address(packet, at).ok_or(DropReason::Malformed)?;
            if has(endpoint.flags, endpoint_flags::ANY_SOURCE) {
                return Ok(());
            }
            if may_own(env, endpoint, &target) { Ok(()) } else { Err(DropReason::SpoofIp) }
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
        && matches!(headers.icmp_type, NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT)
}
